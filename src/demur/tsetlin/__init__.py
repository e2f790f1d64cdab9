"""Tsetlin machines: classifiers whose votes are readable and-rules over binary features.

Importing this package is cheap; scikit-learn and Numba (the `classify` extra) load when a name is used.
"""

from importlib import import_module
from typing import Any

from demur.core.errors import MissingExtraError

_HOMES = {
    "TsetlinMachineClassifier": "estimator",
    "Rule": "rules",
    "tune": "tuning",
    "Tuned": "tuning",
    "paper_2018": "presets",
    "readable": "presets",
    "text_rules": "presets",
}

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    except ModuleNotFoundError as missing:
        if missing.name in {"sklearn", "scipy", "numba", "llvmlite"}:
            raise MissingExtraError("the Tsetlin machine", extra="classify") from missing
        raise
