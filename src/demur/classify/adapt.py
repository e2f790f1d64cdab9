"""Fit the shipped judge to a few dozen of the user's own labels: slope, offset, and words of their own."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold

from demur.classify.features import N_BUCKETS, buckets, tokens
from demur.classify.fitting import hashed_matrix
from demur.classify.model import Floats, RefusalModel, sigmoid

LEAST_LABELS = 10
WORDS_FROM = 40  # labels under which words of one's own are not tried
WORD_STRENGTHS = (0.3, 1.0, 3.0)
_SEEDS = 3


@dataclass(frozen=True, slots=True)
class Adapted:
    """A judge's model fitted to own labels, and how it and the model before it do on labels not fitted to.

    Attributes:
        model: The adapted model.
        p_before: p_refused of the model before; (n,).
        p_after: Cross-validated p_refused of the adapted one; (n,).
        uses_words: Whether words of one's own made held-out predictions better.
    """

    model: RefusalModel
    p_before: Floats
    p_after: Floats
    uses_words: bool


def adapt(model: RefusalModel, prompts: Sequence[str], responses: Sequence[str], refused: NDArray[np.bool_]) -> Adapted:
    """Fit slope and offset, and words where they help on held-out labels.

    Raises:
        ValueError: Fewer than `LEAST_LABELS` labels, or one side only.
    """
    smaller = min(int(refused.sum()), int((~refused).sum()))
    if len(refused) < LEAST_LABELS or smaller < 3:
        raise ValueError(
            f"expected at least {LEAST_LABELS} labels with three of each side, "
            f"got {len(refused)} with {int(refused.sum())} refusals"
        )
    bare = replace(model, own_slope=1.0, own_offset=0.0)
    p = np.clip(bare.predict(prompts, responses)[0][:, 1:].sum(axis=1), 1e-6, 1 - 1e-6)
    odds = np.log(p / (1 - p))
    words = hashed_matrix([buckets(tokens(text)) for text in responses], N_BUCKETS)
    tried = [None, *WORD_STRENGTHS] if len(refused) >= WORDS_FROM else [None]
    held_out = {strength: _held_out(odds, words, refused, strength) for strength in tried}
    losses = {strength: _log_loss(p_held, refused) for strength, p_held in held_out.items()}
    best = min(losses, key=lambda strength: losses[strength])
    if best is not None and losses[best] > 0.98 * losses[None]:
        best = None
    slope, offset, weights = _fit(odds, words, refused, best)
    return Adapted(_with_words(bare, slope, offset, weights), p, held_out[best], best is not None)


def _fit(
    odds: Floats, words: sp.csr_matrix, refused: NDArray[np.bool_], strength: float | None
) -> tuple[float, float, Floats]:
    """Slope, offset and word weights; the slope is drawn towards one and the rest towards nothing."""
    slope, offset = newton(odds, refused)
    if strength is None:
        return slope, offset, np.zeros(N_BUCKETS)
    used = np.flatnonzero(words.getnnz(axis=0) >= 3)
    # The shipped log-odds stay in as a column so large that the penalty does not touch it.
    scale = 30.0
    x = sp.hstack([sp.csr_matrix((slope * odds + offset)[:, None] * scale), words[:, used]]).tocsr()
    fitted = LogisticRegression(C=strength, max_iter=300).fit(x, refused)
    gain = float(np.clip(fitted.coef_[0, 0] * scale, 0.2, 5.0))
    weights = np.zeros(N_BUCKETS)
    weights[used] = fitted.coef_[0, 1:]
    return slope * gain, offset * gain + float(fitted.intercept_[0]), weights


def _held_out(odds: Floats, words: sp.csr_matrix, refused: NDArray[np.bool_], strength: float | None) -> Floats:
    n_folds = min(5, int(refused.sum()), int((~refused).sum()))
    p = np.zeros(len(odds))
    for seed in range(_SEEDS):
        folds = StratifiedKFold(n_folds, shuffle=True, random_state=seed)
        for train, test in folds.split(odds, refused):
            slope, offset, weights = _fit(odds[train], words[train], refused[train], strength)
            p[test] += sigmoid(slope * odds[test] + offset + words[test] @ weights) / _SEEDS
    return p


def newton(odds: Floats, refused: NDArray[np.bool_]) -> tuple[float, float]:
    """Slope and offset by Newton's method, penalised as by a few prior observations of 'nothing changes'."""
    slope, offset = 1.0, 0.0
    for _ in range(100):
        fitted = sigmoid(slope * odds + offset)
        gradient = np.array([((fitted - refused) * odds).sum() + 4 * (slope - 1), (fitted - refused).sum() + offset])
        spread = fitted * (1 - fitted)
        cross = (spread * odds).sum()
        hessian = np.array([[(spread * odds**2).sum() + 4, cross], [cross, spread.sum() + 1]])
        step = np.linalg.solve(hessian, gradient)
        slope, offset = slope - step[0], offset - step[1]
        if np.abs(step).max() < 1e-8:
            break
    return float(max(slope, 0.05)), float(offset)


def _log_loss(p: Floats, refused: NDArray[np.bool_]) -> float:
    p = np.clip(p, 1e-6, 1 - 1e-6)
    return float(-np.mean(np.where(refused, np.log(p), np.log(1 - p))))


def _with_words(model: RefusalModel, slope: float, offset: float, own: Floats) -> RefusalModel:
    moved = replace(model, own_slope=slope, own_offset=offset)
    if not own.any():
        return moved
    old = np.flatnonzero(model.rows >= 0)
    used = np.flatnonzero((model.rows >= 0) | (own != 0))
    weights = np.zeros((len(used), model.weights.shape[1] + 1), dtype=np.float32)
    weights[np.searchsorted(used, old), :-1] = model.weights[model.rows[old]]
    weights[:, -1] = own[used].astype(np.float16)
    rows = np.full(N_BUCKETS, -1, dtype=np.int32)
    rows[used] = np.arange(len(used))
    return replace(moved, rows=rows, weights=weights, bias=np.append(model.bias, 0.0))
