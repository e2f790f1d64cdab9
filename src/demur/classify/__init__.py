"""Fitted classifiers: what a reply did, whether a prompt will be refused, and rules that a person can read.

Importing this package is cheap; scikit-learn and Numba (the `classify` extra) load when a name is used.
"""

from importlib import import_module
from typing import Any

from demur.core.errors import MissingExtraError

_HOMES = {
    "RefusalClassifier": "demur.classify.estimator",
    "RefusalPredictor": "demur.classify.predictor",
    "TsetlinMachineClassifier": "demur.tsetlin.estimator",
    "LearnedJudge": "demur.classify.judge",
    "judge_columns": "demur.classify.columns",
    "predict_categories": "demur.classify.categories",
}
__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(_HOMES[name]), name)
    except ModuleNotFoundError as missing:
        if missing.name in {"sklearn", "scipy", "numba", "llvmlite"}:
            raise MissingExtraError(name, extra="classify") from missing
        raise
