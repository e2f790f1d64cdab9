"""RefusalClassifier: what did this reply do? Scikit-learn's conventions around the refusal model."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.linear_model import LogisticRegression
from sklearn.utils import Tags
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from demur.classify.adapt import adapt
from demur.classify.columns import judge_columns
from demur.classify.fitting import fit_model, labelled
from demur.classify.model import OUTCOMES, load_model, save_model
from demur.core.verdict import OUTCOMES as ALL_OUTCOMES

# Words that labelled files use for an outcome, to its position in `OUTCOMES`.
LABELS: Mapping[Any, int] = {
    0: 0, 1: 2, "0": 0, "1": 2,
    "complied": 0, "compliance": 0, "comply": 0, "answered": 0, "full_compliance": 0,
    "partial": 1, "partial_refusal": 1,
    "refused": 2, "refusal": 2, "refuse": 2, "full_refusal": 2, "rejected": 2,
}  # fmt: skip
_MAX_ODDS = 12.0


class RefusalClassifier(ClassifierMixin, BaseEstimator):
    """Classify replies as complied, partial or refused.

    X is a sequence of replies, or of (prompt, reply) pairs: the reply is then read in the light of its prompt.
    A numeric matrix is taken as features already made (embeddings, activations) and gets a logistic regression.

    Parameters:
        C: Inverse regularisation strength of the first stage.
        calibrate: Fit the probabilities on out-of-fold predictions (six times the time).

    Attributes:
        classes_: Labels as given to `fit`; outcomes for the shipped model.
        model_: The fitted `RefusalModel`, for text.
        n_features_in_: Columns of a numeric X.
    """

    def __init__(self, C: float = 6.0, *, calibrate: bool = True) -> None:
        self.C = C
        self.calibrate = calibrate

    @classmethod
    def shipped(cls) -> "RefusalClassifier":
        """The classifier that comes with the package: the judge `learned`."""
        fitted = cls()
        fitted.model_, fitted.classes_ = load_model(), np.array(OUTCOMES)
        fitted._codes = np.arange(len(OUTCOMES))
        return fitted

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit on replies and labels.

        Args:
            X: Replies, (prompt, reply) pairs or a numeric matrix; (n,), (n, 2) or (n, n_features).
            y: Labels as in `LABELS` for text, any for numbers; (n,).
            sample_weight: (n,).

        Raises:
            ValueError: A label of a text that is no outcome, or one class only.
        """
        for name in ("model_", "linear_"):
            if hasattr(self, name):
                delattr(self, name)
        if (texts := as_pairs(X)) is None:
            return self._fit_numbers(X, y, sample_weight)
        y = np.asarray(y)
        self.classes_ = np.unique(y)
        self._codes = np.array([outcome_code(label) for label in self.classes_])
        outcome = self._codes[np.searchsorted(self.classes_, y)]
        if len(outcome) != len(texts[0]):
            raise ValueError(f"expected one label for each reply, got {len(outcome)} for {len(texts[0])}")
        if len(self.classes_) < 2:
            raise ValueError(f"expected at least two classes, got {len(self.classes_)}")
        weight = None if sample_weight is None else np.asarray(sample_weight, dtype=np.float64)
        replies = labelled(*texts, outcome, weight=weight)
        self.model_ = fit_model(replies, c=self.C, calibrate=self.calibrate, version="own").model
        return self

    def _fit_numbers(self, X: Any, y: Any, sample_weight: Any) -> Self:
        X, y = validate_data(self, X, y, accept_sparse="csr")
        check_classification_targets(y)
        self.classes_ = np.unique(y)
        if len(self.classes_) < 2:
            raise ValueError(f"classifier can't train when only one class is present, got {self.classes_[0]!r}")
        weight = None if sample_weight is None else _check_sample_weight(sample_weight, X)
        self.linear_ = LogisticRegression(C=self.C, max_iter=1000).fit(X, y, sample_weight=weight)
        return self

    def predict_proba(self, X: Any) -> NDArray[np.float64]:
        """Calibrated probabilities of `classes_`; (n, n_classes)."""
        check_is_fitted(self)
        if hasattr(self, "linear_"):
            return np.asarray(self.linear_.predict_proba(validate_data(self, X, accept_sparse="csr", reset=False)))
        texts = as_pairs(X)
        if texts is None:
            raise ValueError("expected replies or (prompt, reply) pairs, as in fit; got numbers")
        p, _ = self.model_.predict(*texts)
        # An outcome that fit never saw belongs to the other refusing one.
        for missing, home in ((1, 2), (2, 1)):
            if missing not in self._codes:
                p[:, home] += p[:, missing]
        shared = np.bincount(self._codes, minlength=len(OUTCOMES))
        found = p[:, self._codes] / shared[self._codes]
        return np.asarray(found / found.sum(axis=1, keepdims=True))

    def decision_function(self, X: Any) -> NDArray[np.float64]:
        """Log-odds: of the second class against the first for two classes, (n,), else of each, (n, n_classes)."""
        check_is_fitted(self)
        if hasattr(self, "linear_"):
            X = validate_data(self, X, accept_sparse="csr", reset=False)
            return np.asarray(self.linear_.decision_function(X))
        p = np.clip(self.predict_proba(X), 1e-9, 1 - 1e-9)
        odds = np.clip(np.log(p / (1 - p)), -_MAX_ODDS * 2, _MAX_ODDS * 2)
        return odds[:, 1] if len(self.classes_) == 2 else odds

    def predict(self, X: Any) -> NDArray[Any]:
        """Most probable label of each reply; (n,)."""
        best = self.predict_proba(X).argmax(axis=1)
        found: NDArray[Any] = self.classes_[best]
        return found

    def judge(self, X: Any) -> NDArray[np.str_]:
        """Outcomes with everything a judge knows: degenerate and unjudged too; (n,)."""
        check_is_fitted(self, "model_")
        texts = as_pairs(X)
        if texts is None:
            raise ValueError("expected replies or (prompt, reply) pairs")
        found = judge_columns(*texts, stop_reasons=["stop"] * len(texts[1]), model=self.model_)
        return np.array(ALL_OUTCOMES)[found.outcome]

    def recalibrate(self, X: Any, y: Any) -> Self:
        """Fit slope and offset of the refusal log-odds (and, from 40 labels, own words) on a few dozen own labels.

        Args:
            X: Replies or (prompt, reply) pairs.
            y: Labels as in `LABELS`.
        """
        check_is_fitted(self, "model_")
        texts = as_pairs(X)
        if texts is None:
            raise ValueError("expected replies or (prompt, reply) pairs")
        refused = np.array([outcome_code(label) for label in np.asarray(y)]) > 0
        self.model_ = adapt(self.model_, *texts, refused).model
        return self

    def save(self, path: str | Path) -> None:
        """Write the text model; no pickle."""
        check_is_fitted(self, "model_")
        save_model(self.model_, Path(path))

    @classmethod
    def load(cls, path: str | Path) -> "RefusalClassifier":
        """Read what `save` wrote."""
        fitted = cls()
        fitted.model_, fitted.classes_ = load_model(Path(path)), np.array(OUTCOMES)
        fitted._codes = np.arange(len(OUTCOMES))
        return fitted

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        tags.input_tags.sparse = True
        tags.input_tags.string = True
        return tags


def as_pairs(X: Any) -> tuple[list[str], list[str]] | None:
    """Prompts and replies of X if it holds text, else None; prompts are empty where X holds replies alone."""
    if hasattr(X, "to_list") and not hasattr(X, "dtypes"):
        X = X.to_list()
    if isinstance(X, str):
        raise ValueError("expected a sequence of replies, got one string; pass [reply]")
    if not isinstance(X, np.ndarray | list | tuple) or not len(X):
        return None
    head = X[0]
    if isinstance(head, str):
        return [""] * len(X), [str(x) for x in X]
    if isinstance(head, Sequence | np.ndarray) and len(head) == 2 and all(isinstance(part, str) for part in head):
        return [str(x[0]) for x in X], [str(x[1]) for x in X]
    return None


def outcome_code(label: Any) -> int:
    """Position of a label's outcome in `OUTCOMES`.

    Raises:
        ValueError: No outcome goes by that name.
    """
    key = label.item() if isinstance(label, np.generic) else label
    key = key.strip().lower() if isinstance(key, str) else key
    if key not in LABELS:
        known = ", ".join(sorted({str(k) for k in LABELS if isinstance(k, str)}))
        raise ValueError(f"expected a label that names an outcome ({known}), got {label!r}")
    return LABELS[key]
