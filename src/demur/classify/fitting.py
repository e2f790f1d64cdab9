"""Fit the refusal model from labelled replies (scikit-learn does the arithmetic).

The second stage sees only out-of-fold scores of the first, and calibration only out-of-fold scores of both,
with all replies to one prompt in one fold: a model that has seen the prompt is not a test of itself.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GroupKFold

from demur.classify.features import N_BUCKETS, N_PIECES, buckets, cue_features, piece_buckets, tokens
from demur.classify.model import (
    MANNERS,
    OUTCOMES,
    WHOLE_REFUSAL,
    Floats,
    RefusalModel,
    centred,
    compacted,
    refusal_log_odds,
)
from demur.classify.plainness import CALM, DECLINES, PROSE, QUIET, glance

N_FOLDS = 5
N_INNER_FOLDS = 3  # of the first stage's scores that the second learns from
MIN_ROWS = 3
_SURE_QUANTUM = 0.25  # thresholds are looked for on this grid of log-odds
ABSENT = -20.0  # score of a class that no row had


@dataclass(frozen=True, slots=True)
class LabelledReplies:
    """Labelled replies as arrays.

    Attributes:
        words: Hashed n-grams, rows of length one over the root of their number; (n, N_BUCKETS).
        pieces: Hashed runs of characters, scaled alike; (n, N_PIECES).
        cues: What the phrase rules found; (n, n_cues).
        outcome: Position in `OUTCOMES`, -1 if unknown; (n,).
        manner: Position in `MANNERS`, -1 if unknown; (n,).
        weight: (n,).
        group: Rows with the same number answer the same prompt; (n,).
        glances: As `plainness.glance`; (n,).
    """

    words: sp.csr_matrix
    pieces: sp.csr_matrix
    cues: Floats
    outcome: NDArray[np.int64]
    manner: NDArray[np.int64]
    weight: Floats
    group: NDArray[np.int64]
    glances: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.outcome)

    def rows(self, index: NDArray[np.intp]) -> "LabelledReplies":
        """Some of the rows."""
        return LabelledReplies(
            self.words[index],
            self.pieces[index],
            self.cues[index],
            self.outcome[index],
            self.manner[index],
            self.weight[index],
            self.group[index],
            self.glances[index],
        )


def labelled(
    prompts: Sequence[str],
    responses: Sequence[str],
    outcome: Sequence[int],
    *,
    manner: Sequence[int] | None = None,
    weight: Sequence[float] | NDArray[np.float64] | None = None,
) -> LabelledReplies:
    """Turn labelled replies into arrays; prompts that differ only in punctuation count as one."""
    n = len(responses)
    squeezed = [re.sub(r"\W+", " ", p.casefold())[:80] or str(i) for i, p in enumerate(prompts)]
    _, group = np.unique(squeezed, return_inverse=True)
    return LabelledReplies(
        words=hashed_matrix([buckets(tokens(text)) for text in responses], N_BUCKETS),
        pieces=hashed_matrix([piece_buckets(text) for text in responses], N_PIECES),
        cues=np.array([cue_features(p, r) for p, r in zip(prompts, responses, strict=True)]),
        outcome=np.asarray(outcome, dtype=np.int64),
        manner=np.asarray(manner if manner is not None else np.full(n, -1), dtype=np.int64),
        weight=np.asarray(weight if weight is not None else np.ones(n), dtype=np.float64),
        group=group,
        glances=np.array([glance(tokens(r)) for r in responses], dtype=np.uint8),
    )


def hashed_matrix(found: Sequence[NDArray[np.int64]], n_columns: int) -> sp.csr_matrix:
    """Buckets of each text as a row of length one; (n, n_columns)."""
    data = np.concatenate([np.full(len(f), 1 / np.sqrt(max(1, len(f)))) for f in found] or [np.zeros(0)])
    starts = np.concatenate([[0], np.cumsum([len(f) for f in found])]).astype(np.int64)
    columns = np.concatenate(found or [np.zeros(0, np.int64)])
    return sp.csr_matrix((data, columns, starts), shape=(len(found), n_columns))


@dataclass(frozen=True, slots=True)
class Fitted:
    """A model, and what it says of its own training rows when it has not seen their prompts.

    Attributes:
        model: Fitted on all rows.
        known: Rows with an outcome; (m,).
        p_refused: Out-of-fold probability of partial or refused for each of them, calibrated; (m,).
        p_second: The same from the second stage alone; (m,).
        is_sure: Where the first stage decided; (m,).
        p_first: p_refused of the first stage alone, for the judge `linear`; (m,).
    """

    model: RefusalModel
    known: NDArray[np.intp]
    p_refused: Floats
    p_second: Floats
    is_sure: NDArray[np.bool_]
    p_first: Floats


def fit_model(replies: LabelledReplies, *, c: float = 6.0, calibrate: bool = True, **about: Any) -> Fitted:
    """Fit both stages and the manner head, then calibrate on out-of-fold predictions.

    The calibration's handful of numbers are fitted to the out-of-fold predictions that it is reported with.

    Args:
        replies: Labelled replies; outcomes of -1 train the manner head only.
        c: Inverse regularisation of the first stage.
        calibrate: Fit temperature and the first stage's own region; five more fits.
        about: `version` and `about` of the model.
    """
    model = replace(_fit_stages(replies, c), **about)
    known = np.flatnonzero(replies.outcome >= 0)
    rows = replies.rows(known)
    if not calibrate or len(known) < 50 or len(np.unique(rows.group)) < N_FOLDS:
        nothing = np.zeros(0)
        return Fitted(model, known[:0], nothing, nothing, nothing.astype(bool), nothing)
    first, second = _out_of_fold(rows, c)
    refused, odds = rows.outcome > 0, refusal_log_odds(first)
    second_slope, second_offset = platt(model.mean_log_odds(second, rows.cues), refused, rows.weight)
    model = replace(model, second_slope=second_slope, second_offset=second_offset)
    p_second = model.second_p_refused(second, rows.cues)
    prose = (rows.glances & PROSE) > 0
    quiet, calm, declines = (prose & ((rows.glances & bit) > 0) for bit in (QUIET, CALM, DECLINES))
    declines &= first[:, 2] - first[:, 1] > WHOLE_REFUSAL
    says = p_second >= 0.5
    model = replace(
        model,
        sure_below=-_sure_beyond(-odds[quiet], says[quiet], refused[quiet]),
        calm_below=-_sure_beyond(-odds[calm], says[calm], refused[calm]),
        declines_above=_sure_beyond(odds[declines], ~says[declines], ~refused[declines]),
    )
    decided = model.is_sure(first, rows.glances)
    slope, offset = platt(odds[decided], refused[decided], rows.weight[decided])
    alone_slope, alone_offset = platt(odds[prose], refused[prose], rows.weight[prose])
    model = replace(model, slope=slope, offset=offset, alone_slope=alone_slope, alone_offset=alone_offset)
    is_sure = model.is_sure(first, rows.glances)
    p_refused = np.where(is_sure, model.sure_probabilities(first)[:, 1:].sum(axis=1), p_second)
    alone = replace(model, first_only=True).sure_probabilities(first)[:, 1:].sum(axis=1)
    return Fitted(model, known, p_refused, p_second, is_sure, np.where(prose, alone, p_second))


def platt(odds: Floats, truth: NDArray[np.bool_], weight: Floats) -> tuple[float, float]:
    """Slope and offset that calibrate log-odds (Platt 1999); unchanged where one side is missing."""
    if truth.all() or not truth.any():
        return 1.0, 0.0
    fitted = LogisticRegression(C=1e6).fit(odds[:, None], truth, sample_weight=weight)
    return float(fitted.coef_[0, 0]), float(fitted.intercept_[0])


def _fit_stages(replies: LabelledReplies, c: float, *, manners: bool = True) -> RefusalModel:
    known = replies.rows(np.flatnonzero(replies.outcome >= 0))
    y, weight, n_classes = known.outcome, known.weight, len(OUTCOMES)
    words, pieces = np.zeros((len(known), n_classes)), np.zeros((len(known), n_classes))
    for train, test in _folds(known, N_INNER_FOLDS):
        for matrix, scores in ((known.words, words), (known.pieces, pieces)):
            fold_weights, bias = _linear(matrix[train], y[train], weight[train], c, n_classes)
            scores[test] = matrix[test] @ fold_weights + bias
    inputs = np.hstack([centred(words), centred(pieces), known.cues])
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-9
    cues, cues_bias = _linear((inputs - centre) / scale, y, weight, 0.3, n_classes)
    piece_weights, pieces_bias = _linear(known.pieces, y, weight, c, n_classes)
    outcome_weights, outcome_bias = _linear(known.words, y, weight, c, n_classes)
    styled = replies.rows(np.flatnonzero(replies.manner >= 0))
    manner_weights, manner_bias = np.zeros((N_BUCKETS, len(MANNERS))), np.full(len(MANNERS), 0.0)
    if manners and len(np.unique(styled.manner)) > 1:
        manner_weights, manner_bias = _linear(styled.words, styled.manner, styled.weight, c, len(MANNERS))
    rows, weights = compacted(np.hstack([outcome_weights, manner_weights]))
    return RefusalModel(
        rows=rows,
        weights=weights,
        pieces=piece_weights.astype(np.float16).astype(np.float32),
        pieces_bias=pieces_bias,
        bias=np.concatenate([outcome_bias, manner_bias]),
        cues=cues,
        cues_bias=cues_bias,
        centre=centre,
        scale=scale,
    )


def _folds(replies: LabelledReplies, most: int) -> list[tuple[NDArray[np.intp], NDArray[np.intp]]]:
    n = min(most, len(np.unique(replies.group)))
    if n < 2:
        everything = np.arange(len(replies))
        return [(everything, everything)]
    return list(GroupKFold(n).split(replies.outcome, groups=replies.group))


def _linear(x: Any, y: NDArray[np.int64], weight: Floats, c: float, n_classes: int) -> tuple[Floats, Floats]:
    """Multinomial weights (n_features, n_classes) and biases, every class present or not."""
    weights, bias = np.zeros((x.shape[1], n_classes)), np.full(n_classes, ABSENT)
    present = np.unique(y)
    if len(present) == 1:
        bias[present] = 0.0
        return weights, bias
    # A column that only one or two rows have memorises them; without such columns the fit is far faster.
    used = np.flatnonzero(x.getnnz(axis=0) >= MIN_ROWS) if sp.issparse(x) else np.arange(x.shape[1])
    model = LogisticRegression(C=c, max_iter=150, tol=1e-3).fit(x[:, used], y, sample_weight=weight)
    if len(present) == 2:
        weights[used, present[1]], bias[present] = model.coef_[0], (0.0, model.intercept_[0])
    else:
        weights[np.ix_(used, model.classes_)], bias[model.classes_] = model.coef_.T, model.intercept_
    return weights, bias


def _out_of_fold(replies: LabelledReplies, c: float) -> tuple[Floats, Floats]:
    """First- and second-stage scores of rows that neither stage has seen; (n, 3) each."""
    first, second = np.zeros((len(replies), 3)), np.zeros((len(replies), 3))
    for train, test in _folds(replies, N_FOLDS):
        model = _fit_stages(replies.rows(train), c, manners=False)
        first[test] = first_scores(model, replies.words[test])
        pieces = np.asarray(replies.pieces[test] @ model.pieces + model.pieces_bias, dtype=np.float64)
        second[test] = model.second_scores(first[test], pieces, replies.cues[test])
    return first, second


def first_scores(model: RefusalModel, words: sp.csr_matrix) -> Floats:
    """First-stage scores of outcomes from a matrix of hashed n-grams; (n, 3)."""
    used = np.flatnonzero(model.rows >= 0)
    scores = words[:, used] @ model.weights[model.rows[used], : len(OUTCOMES)]
    return np.asarray(scores + model.bias[: len(OUTCOMES)], dtype=np.float64)


def _sure_beyond(
    odds: Floats, says_otherwise: NDArray[np.bool_], is_otherwise: NDArray[np.bool_], most_disagreeing: float = 0.004
) -> float:
    """Log-odds beyond which the first stage all but never disagrees with the second, nor errs more than it."""
    for threshold in np.arange(1.0, 9.0, _SURE_QUANTUM):
        beyond = odds > threshold
        if beyond.sum() < 50:
            break
        errs, errs_second = is_otherwise[beyond].mean(), (says_otherwise != is_otherwise)[beyond].mean()
        if says_otherwise[beyond].mean() <= most_disagreeing and errs <= errs_second + 0.002:
            return float(threshold)
    return np.inf
