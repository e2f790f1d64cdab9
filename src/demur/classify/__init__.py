"""Fitted classifiers: what a reply did, whether a prompt will be refused, and rules that a person can read.

Importing this package is cheap; scikit-learn and Numba (the `classify` extra) load when a name is used.
"""

from demur.core.lazy import lazy_names

_HOMES = {
    "RefusalClassifier": "demur.classify.estimator",
    "RefusalPredictor": "demur.classify.predictor",
    "TsetlinMachineClassifier": "demur.tsetlin.estimator",
    "LearnedJudge": "demur.classify.judge",
    "judge_columns": "demur.classify.columns",
    "predict_categories": "demur.classify.categories",
}
__all__ = sorted(_HOMES)


__getattr__ = lazy_names(
    __name__, _HOMES, extra="classify", modules=frozenset({"sklearn", "scipy", "numba", "llvmlite"})
)
