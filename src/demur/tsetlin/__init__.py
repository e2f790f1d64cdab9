"""Tsetlin machines: classifiers whose votes are readable and-rules over binary features.

Importing this package is cheap; scikit-learn and Numba (the `classify` extra) load when a name is used.
"""

from demur.core.lazy import lazy_names

_HOMES = {
    "TsetlinMachineClassifier": "demur.tsetlin.estimator",
    "Rule": "demur.tsetlin.rules",
    "tune": "demur.tsetlin.tuning",
    "Tuned": "demur.tsetlin.tuning",
    "paper_2018": "demur.tsetlin.presets",
    "readable": "demur.tsetlin.presets",
    "text_rules": "demur.tsetlin.presets",
}

__all__ = sorted(_HOMES)


__getattr__ = lazy_names(
    __name__, _HOMES, extra="classify", modules=frozenset({"sklearn", "scipy", "numba", "llvmlite"})
)
