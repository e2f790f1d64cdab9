"""Prompts as numbers, and one linear model over each kind of number: what the stacked predictor rests on.

A view is one way to look at a prompt (words, characters, an encoder, another model's conduct) with a logistic
regression of its own, kept as plain arrays so that it can be saved and explained.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

Array = NDArray[np.float64]
HEAD, TAIL = 6_000, 2_000  # characters read of a long prompt
MAX_GRAMS = 300_000
_RARE_FROM = 3_000  # prompts from which n-grams seen only once are dropped
LOGIT_LIMIT = 8.0
RATE_EDGE = 0.01  # a regression of rates may leave [0, 1]
MAX_LANDMARKS = 2_000
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f]")
TOKEN = r"(?u)[^\W_]+(?:['’][^\W_]+)*|[?!]"
GRAMS: dict[str, dict[str, Any]] = {
    "words": {"analyzer": "word", "ngram_range": (1, 2), "token_pattern": TOKEN},
    "characters": {"analyzer": "char_wb", "ngram_range": (2, 5)},
}


def readable(prompt: str) -> str:
    """A prompt as the views read it: lone surrogates replaced, controls as spaces, the middle of a long one cut."""
    if len(prompt) > HEAD + TAIL:
        prompt = f"{prompt[:HEAD]} {prompt[-TAIL:]}"
    return _CONTROL.sub(" ", prompt.encode("utf-8", "replace").decode("utf-8"))


@dataclass(frozen=True, slots=True, kw_only=True)
class Counted:
    """n-gram counts of some prompts: the vocabulary and a matrix (n_prompts, n_grams)."""

    grams: tuple[str, ...]
    counts: sp.csr_matrix


def count_grams(kind: str, prompts: Sequence[str]) -> Counted:
    """Count the n-grams of prompts, learning the vocabulary."""
    from sklearn.feature_extraction.text import CountVectorizer

    # A vocabulary may be empty: prompts of nothing but punctuation are prompts too.
    rare = 2 if len(prompts) >= _RARE_FROM else 1
    vectorizer = CountVectorizer(**GRAMS[kind], min_df=rare, max_features=MAX_GRAMS, dtype=np.float64)
    try:
        counts = vectorizer.fit_transform([readable(p) for p in prompts])
    except ValueError:
        return Counted(grams=(), counts=sp.csr_matrix((len(prompts), 0)))
    return Counted(grams=tuple(map(str, vectorizer.get_feature_names_out())), counts=counts)


def recount(kind: str, grams: Sequence[str], prompts: Sequence[str]) -> sp.csr_matrix:
    """Counts of known n-grams in other prompts."""
    from sklearn.feature_extraction.text import CountVectorizer

    if not grams:
        return sp.csr_matrix((len(prompts), 0))
    vectorizer = CountVectorizer(**GRAMS[kind], vocabulary={g: i for i, g in enumerate(grams)}, dtype=np.float64)
    return vectorizer.transform([readable(p) for p in prompts])


@dataclass(frozen=True, slots=True, kw_only=True)
class GramView:
    """A logistic regression over TF-IDF of n-grams.

    Attributes:
        kind: 'words' or 'characters'.
        grams: Vocabulary.
        idf: Inverse document frequency of each; 0 for those no training prompt had.
        coefficients: Weight of each.
        intercept: Of the regression.
    """

    kind: str
    grams: tuple[str, ...]
    idf: Array
    coefficients: Array
    intercept: float

    def values(self, counts: sp.csr_matrix) -> sp.csr_matrix:
        """TF-IDF values (n_prompts, n_grams), rows of length 1: (1 + ln count) * idf."""
        return tf_idf(counts, self.idf)

    def logits(self, counts: sp.csr_matrix) -> Array:
        """Log-odds of a refusal from this view alone; (n_prompts,)."""
        return np.asarray(self.values(counts) @ self.coefficients + self.intercept)


def tf_idf(counts: sp.csr_matrix, idf: Array) -> sp.csr_matrix:
    """(1 + ln count) * idf, each row scaled to length 1; rows without a known n-gram stay zero."""
    values = sp.csr_matrix(counts, copy=True)
    values.data = 1 + np.log(values.data)
    values = sp.csr_matrix(values.multiply(idf[None, :])) if values.shape[1] else values
    length = np.sqrt(np.asarray(values.multiply(values).sum(axis=1)).ravel())
    return sp.csr_matrix(sp.diags(1 / np.where(length > 0, length, 1.0)) @ values)


def fit_grams(kind: str, counted: Counted, rows: NDArray[np.int64], labels: "Labels", c: float) -> GramView:
    """Fit a gram view on some rows of counted prompts."""
    counts = counted.counts[rows]
    n, frequency = len(rows), np.bincount(counts.indices, minlength=counts.shape[1])
    idf = np.where(frequency > 0, np.log((1 + n) / (1 + frequency)) + 1, 0.0)
    coefficients, intercept = fit_logistic(tf_idf(counts, idf), labels.of(rows), c)
    return GramView(kind=kind, grams=counted.grams, idf=idf, coefficients=coefficients, intercept=intercept)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseView:
    """A logistic regression over standardised numbers.

    Attributes:
        kind: Name of the view.
        centre: Mean of each number; where a value is missing it is taken.
        scale: Standard deviation of each.
        coefficients: Weight of each standardised number.
        intercept: Of the regression.
    """

    kind: str
    centre: Array
    scale: Array
    coefficients: Array
    intercept: float

    def logits(self, values: NDArray[Any]) -> Array:
        """Log-odds of a refusal from this view alone; (n_prompts,)."""
        filled = np.where(np.isnan(values), self.centre, values)
        return np.asarray((filled - self.centre) / self.scale @ self.coefficients + self.intercept)


def fit_dense(kind: str, values: NDArray[Any], rows: NDArray[np.int64], labels: "Labels", c: float) -> DenseView:
    """Fit a dense view on some rows of an array (n_prompts, width); not-a-number is a missing value."""
    known = values[rows].astype(float)
    counted = np.maximum(1, (~np.isnan(known)).sum(axis=0))
    centre = np.nansum(known, axis=0) / counted
    filled = np.where(np.isnan(known), centre, known)
    scale = filled.std(axis=0) + 1e-6
    # Divided by the root of the width, so that c means the same for 2 numbers and for 1,000.
    scale = scale * np.sqrt(values.shape[1])
    coefficients, intercept = fit_logistic((filled - centre) / scale, labels.of(rows), c)
    return DenseView(kind=kind, centre=centre, scale=scale, coefficients=coefficients, intercept=intercept)


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelView:
    """Kernel ridge regression of the refusal rate over rows of length 1: near prompts have like rates.

    Attributes:
        kind: Name of the view.
        landmarks: Training prompts that new ones are compared with; (n_landmarks, width).
        coefficients: What each adds to the rate; (n_landmarks,).
        intercept: Mean rate.
    """

    kind: str
    landmarks: NDArray[np.float32]
    coefficients: Array
    intercept: float

    def logits(self, values: NDArray[Any]) -> Array:
        """Log-odds of a refusal from this view alone; (n_prompts,)."""
        rate = self.intercept + similarity(values, self.landmarks) @ self.coefficients
        return logit(np.clip(rate, RATE_EDGE, 1 - RATE_EDGE))


def similarity(values: NDArray[Any], landmarks: NDArray[Any]) -> Array:
    """exp(-squared distance) of rows of length 1; (n, n_landmarks)."""
    return np.asarray(np.exp(2 * (np.asarray(values, dtype=float) @ landmarks.T.astype(float)) - 2), dtype=np.float64)


def fit_kernel(kind: str, values: NDArray[Any], rows: NDArray[np.int64], labels: "Labels", c: float) -> KernelView:
    """Fit a kernel view on some rows of an array (n_prompts, width); at most 2,000 of them become landmarks."""
    chosen = rows
    if len(rows) > MAX_LANDMARKS:
        chosen = np.random.default_rng(0).choice(rows, MAX_LANDMARKS, replace=False)
    landmarks = values[chosen].astype(np.float32)
    own, n = labels.of(rows), len(chosen)
    total = max(float(own.weight.sum()), 1e-9)
    mean = float((own.rate * own.weight).sum() / total)
    left, right = np.zeros((n, n)), np.zeros(n)
    for start in range(0, len(rows), MAX_LANDMARKS):
        part = slice(start, start + MAX_LANDMARKS)
        near = similarity(values[rows[part]], landmarks)
        weighted = near * own.weight[part, None]
        left += near.T @ weighted
        right += weighted.T @ (own.rate[part] - mean)
    left += (similarity(landmarks, landmarks) + 1e-6 * np.eye(n)) / c
    solved = np.asarray(np.linalg.solve(left, right), dtype=np.float64)
    return KernelView(kind=kind, landmarks=landmarks, coefficients=solved, intercept=mean)


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """How often each prompt was refused, and how much it counts.

    Attributes:
        n_refused: Refused replies; (n,).
        n_replies: Labelled replies; (n,).
        weight: Weight of the prompt: that of the sample times its replies, less what repeating one prompt tells less.
    """

    n_refused: Array
    n_replies: Array
    weight: Array

    def of(self, rows: NDArray[np.int64]) -> "Labels":
        """The same for some rows."""
        return Labels(n_refused=self.n_refused[rows], n_replies=self.n_replies[rows], weight=self.weight[rows])

    @property
    def rate(self) -> Array:
        """Share of replies refused; (n,)."""
        return self.n_refused / self.n_replies


def fit_logistic(x: Any, labels: Labels, c: float) -> tuple[Array, float]:
    """Binomial logistic regression with an L2 penalty: coefficients and intercept.

    A prompt refused y times in k is two rows, refused with weight y/k and answered with (k - y)/k, times its weight.
    """
    from sklearn.linear_model import LogisticRegression

    rate = labels.rate
    refused, answered = np.flatnonzero(rate > 0), np.flatnonzero(rate < 1)
    both = np.concatenate([refused, answered])
    y = np.repeat([1, 0], [len(refused), len(answered)])
    weight = np.concatenate([(rate * labels.weight)[refused], ((1 - rate) * labels.weight)[answered]])
    if len(refused) == 0 or len(answered) == 0 or x.shape[1] == 0:
        total = np.bincount(y, weight, 2)
        return np.zeros(x.shape[1]), float(np.log((total[1] + 0.5) / (total[0] + 0.5)))
    solver = "liblinear" if sp.issparse(x) else "lbfgs"
    model = LogisticRegression(C=c, solver=solver, max_iter=1000, random_state=0)
    model.fit(x[both], y, sample_weight=weight)
    return np.asarray(model.coef_[0], dtype=float), float(model.intercept_[0])


def logit(p: Array) -> Array:
    """Log-odds, cut where a probability says no more than 'surely'."""
    edge = 1 / (1 + np.exp(LOGIT_LIMIT))
    inside = np.clip(p, edge, 1 - edge)
    return np.asarray(np.log(inside / (1 - inside)))


def sigmoid(x: Array) -> Array:
    """Probability of log-odds."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -50, 50))))
