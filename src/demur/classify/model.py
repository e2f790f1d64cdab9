"""The fitted refusal model: arrays, and the probabilities that follow from them. Needs numpy only, loads at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.features import CUE_NAMES, N_BUCKETS, N_PIECES, cue_features
from demur.classify.plainness import CALM, DECLINES, PROSE, QUIET
from demur.classify.sums import piece_sums, word_sums
from demur.core.errors import BadInputError

OUTCOMES = ("complied", "partial", "refused")
MANNERS = ("plain", "explains", "clarifies", "corrects", "disclaims", "redirects", "guides")
N_FIRST = len(OUTCOMES) + len(MANNERS)
FORMAT = 5
WHOLE_REFUSAL = 1.0  # log-odds of refused against partial from which a stock refusal is taken for a whole one
OWN_PHRASE = 4.0  # log-odds that one of the user's own refusing phrases adds
Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalModel:
    """Two linear stages and a manner head.

    The first stage reads n-grams alone; where it is sure it decides, elsewhere the second weighs it against
    what the phrase rules found in the reply and its prompt.

    Attributes:
        rows: Row of `weights` for each hash bucket, -1 for one without weight; (N_BUCKETS,).
        weights: Weight of each kept bucket for each outcome, then each manner, and, in a judge fitted to own labels,
            for the log-odds of a refusal as well; (n_rows, 10 or 11).
        bias: (10 or 11,).
        pieces: Weight of each bucket of character runs for each outcome, heard by the second stage; (N_PIECES, 3).
        pieces_bias: (3,).
        cues: Second stage: weight of each centred score of words and pieces, and of each cue, for each outcome;
            (6 + n_cues, 3).
        cues_bias: (3,).
        centre: Mean of the second stage's inputs.
        scale: Their standard deviation.
        rules_weight: Log-odds of a refusal are the mean of the learned ones and, with this weight, the phrase rules'.
            A source that nobody trained on is read best by both: the rules cannot be led astray by its topics.
        second_slope: Calibrates that mean: log-odds = second_slope * mean + second_offset.
        second_offset: See `second_slope`.
        sure_below: First-stage log-odds of a refusal under which prose without a refusing word needs no second look.
        calm_below: The same for prose with such words but no such phrase.
        declines_above: First-stage log-odds over which prose that opens with a stock refusal needs none.
        slope: Calibrates the first stage where it decides.
        offset: See `slope`.
        first_only: The judge `linear`: all prose is decided by the first stage, calibrated by the next two.
        alone_slope: As `slope`, over all prose.
        alone_offset: As `offset`, over all prose.
        own_slope: Two-parameter recalibration on own labels, on the log-odds of p_refused; 1 unless fitted.
        own_offset: See `own_slope`; 0 unless fitted.
        own_phrases: Lower-case phrases by which the user's own model declines.
        band: Half-width around 1/2 of p_refused inside which a judge abstains.
        version: Changes when a probability could change.
        about: Training data.
    """

    rows: NDArray[np.int32]
    weights: NDArray[np.float32]
    bias: Floats
    pieces: NDArray[np.float32]
    pieces_bias: Floats
    cues: Floats
    cues_bias: Floats
    centre: Floats
    scale: Floats
    rules_weight: float = 1.0
    second_slope: float = 1.0
    second_offset: float = 0.0
    sure_below: float = -np.inf
    calm_below: float = -np.inf
    declines_above: float = np.inf
    slope: float = 1.0
    offset: float = 0.0
    first_only: bool = False
    alone_slope: float = 1.0
    alone_offset: float = 0.0
    own_slope: float = 1.0
    own_offset: float = 0.0
    own_phrases: tuple[str, ...] = ()
    band: float = 0.0
    version: str = "0"
    about: str = ""

    def read(self, responses: Sequence[str]) -> tuple[Floats, NDArray[np.uint8]]:
        """Scores of outcomes and manners from n-grams alone, (n, 10), and `glance`, (n,)."""
        sums, glances = word_sums(responses, self.rows, self.weights)
        if self.own_phrases:  # such a reply is never decided at a glance
            glances[np.fromiter(map(self.says_own_phrase, responses), bool, len(responses))] = 0
        return sums + self.bias, glances

    def is_sure(self, first: Floats, glances: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Prose that the first stage decides, as far as a glance at its words does not speak against it; (n,)."""
        odds, prose = refusal_log_odds(first[:, : len(OUTCOMES)]), (glances & PROSE) > 0
        if self.first_only:
            return np.asarray(prose)
        quiet, calm, declines = ((glances & bit) > 0 for bit in (QUIET, CALM, DECLINES))
        answers = (quiet & (odds < self.sure_below)) | (calm & (odds < self.calm_below))
        refuses = declines & (odds > self.declines_above) & (first[:, 2] - first[:, 1] > WHOLE_REFUSAL)
        return np.asarray(prose & (answers | refuses))

    def sure_probabilities(self, first: Floats) -> Floats:
        """Probabilities of outcomes where the first stage decides; (n, 3)."""
        slope, offset = (self.alone_slope, self.alone_offset) if self.first_only else (self.slope, self.offset)
        p_refused = sigmoid(slope * refusal_log_odds(first[:, : len(OUTCOMES)]) + offset)
        return self._recalibrated(_split(p_refused, sigmoid(first[:, 1] - first[:, 2])), self.own_log_odds(first))

    def second_stage(self, first: Floats, prompts: Sequence[str], responses: Sequence[str]) -> Floats:
        """Probabilities of outcomes in the light of prompt and cues; (n, 3)."""
        if not len(responses):
            return np.zeros((0, len(OUTCOMES)))
        cues = np.array([cue_features(p, r) for p, r in zip(prompts, responses, strict=True)])
        scores = self.second_scores(first[:, : len(OUTCOMES)], self.piece_scores(responses), cues)
        p_refused = self.second_p_refused(scores, cues)
        own = self.own_log_odds(first) + OWN_PHRASE * np.array([self.says_own_phrase(r) for r in responses])
        return self._recalibrated(_split(p_refused, sigmoid(scores[:, 1] - scores[:, 2])), own)

    def piece_scores(self, responses: Sequence[str]) -> Floats:
        """Scores of outcomes from runs of characters; (n, 3)."""
        return piece_sums(responses, self.pieces) + self.pieces_bias

    def second_scores(self, words: Floats, pieces: Floats, cues: Floats) -> Floats:
        """Scores of the second stage before the rules are heard; (n, 3)."""
        inputs = np.hstack([centred(words), centred(pieces), cues])
        return np.asarray((inputs - self.centre) / self.scale @ self.cues + self.cues_bias)

    def second_p_refused(self, scores: Floats, cues: Floats) -> Floats:
        """Calibrated probability of a refusal from the second stage's scores and the rules; (n,)."""
        return sigmoid(self.second_slope * self.mean_log_odds(scores, cues) + self.second_offset)

    def mean_log_odds(self, scores: Floats, cues: Floats) -> Floats:
        """Mean of the learned log-odds of a refusal and those of the phrase rules; (n,)."""
        ruled = np.clip(cues[:, CUE_NAMES.index("phrases_p_refused")], 0.02, 0.98)
        # A phrase found is evidence; none found says little, since refusals need no stock phrase.
        weight = np.where(ruled > 0.5, self.rules_weight, 0.1 * self.rules_weight)
        return np.asarray((refusal_log_odds(scores) + weight * np.log(ruled / (1 - ruled))) / (1 + weight))

    def predict(self, prompts: Sequence[str], responses: Sequence[str]) -> tuple[Floats, Floats]:
        """Probabilities of outcomes (n, 3) and manners (n, 7) for each reply in the light of its prompt."""
        first, glances = self.read(responses)
        outcomes = self.sure_probabilities(first)
        left = np.flatnonzero(~self.is_sure(first, glances)).tolist()
        outcomes[left] = self.second_stage(first[left], [prompts[i] for i in left], [responses[i] for i in left])
        return outcomes, softmax(first[:, len(OUTCOMES) : N_FIRST])

    def own_log_odds(self, first: Floats) -> Floats:
        """What the user's own labels add to the log-odds of a refusal; (n,)."""
        return first[:, N_FIRST] if first.shape[1] > N_FIRST else np.zeros(len(first))

    def says_own_phrase(self, response: str) -> bool:
        """Whether the reply holds one of the user's own refusing phrases."""
        return bool(self.own_phrases) and any(phrase in response.casefold() for phrase in self.own_phrases)

    def _recalibrated(self, p: Floats, own: Floats) -> Floats:
        """Probabilities after the user's own parameters, the split between partial and refused kept."""
        if self.own_slope == 1 and self.own_offset == 0 and not own.any():
            return p
        refused = np.clip(p[:, 1] + p[:, 2], 1e-9, 1 - 1e-9)
        moved = sigmoid(self.own_slope * np.log(refused / (1 - refused)) + self.own_offset + own)
        return np.stack([1 - moved, p[:, 1] / refused * moved, p[:, 2] / refused * moved], axis=1)


def _split(p_refused: Floats, partial: Floats) -> Floats:
    """Probabilities of outcomes from that of a refusal and the share of it that is partial; (n, 3)."""
    return np.stack([1 - p_refused, p_refused * partial, p_refused * (1 - partial)], axis=1)


def centred(scores: Floats) -> Floats:
    """Scores less their mean over the outcomes."""
    return np.asarray(scores - scores.mean(axis=1, keepdims=True))


def softmax(scores: Floats) -> Floats:
    """Rows of scores as rows of probabilities."""
    if not len(scores):
        return scores
    exponential = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def sigmoid(x: Floats) -> Floats:
    """1 / (1 + exp(-x)) without overflow."""
    return np.asarray(0.5 * (1 + np.tanh(0.5 * x)))


def refusal_log_odds(scores: Floats) -> Floats:
    """Log-odds of 'partial or refused' from scores of outcomes; (n,)."""
    return np.asarray(np.logaddexp(scores[:, 1], scores[:, 2]) - scores[:, 0])


def compacted(weights: Floats, *, least: float = 0.02) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Rows and weights of the buckets with a weight worth keeping, rounded to half precision."""
    used = np.flatnonzero(np.abs(weights).max(axis=1) >= least)
    rows = np.full(N_BUCKETS, -1, dtype=np.int32)
    rows[used] = np.arange(len(used))
    return rows, weights[used].astype(np.float16).astype(np.float32)


_ARRAYS = ("bias", "pieces_bias", "cues", "cues_bias", "centre", "scale")
_NUMBERS = (
    "rules_weight", "second_slope", "second_offset", "sure_below", "calm_below", "declines_above", "slope", "offset",
    "first_only", "alone_slope", "alone_offset", "own_slope", "own_offset", "own_phrases", "band", "version", "about",
)  # fmt: skip


def save_model(model: RefusalModel, path: Path) -> None:
    """Write a model as compressed arrays and JSON, whole or not at all."""
    meta = {"format": FORMAT, "cue_names": CUE_NAMES, **{name: getattr(model, name) for name in _NUMBERS}}
    arrays: dict[str, Any] = {name: getattr(model, name) for name in _ARRAYS}
    arrays["used"] = np.flatnonzero(model.rows >= 0).astype(np.int32)
    arrays["weights"] = model.weights[model.rows[arrays["used"]]].astype(np.float16)
    arrays["piece_rows"] = np.flatnonzero(np.abs(model.pieces).max(axis=1) > 0).astype(np.int32)
    arrays["piece_weights"] = model.pieces[arrays["piece_rows"]].astype(np.float16)
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def load_model(path: Path | None = None) -> RefusalModel:
    """The shipped model, or one of the user's.

    Raises:
        BadInputError: Not a model of this format.
    """
    if path is None:
        return _shipped()
    try:
        return _read(path.read_bytes())
    except Exception as error:  # numpy raises half a dozen kinds for a file that is not its own
        raise BadInputError(
            f"{path}: expected a refusal model of format {FORMAT}; {error}; make one with 'demur judges fit'"
        ) from None


@cache
def _shipped() -> RefusalModel:
    return _read(files("demur.classify").joinpath("refusals.npz").read_bytes())


def _read(data: bytes) -> RefusalModel:
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        meta = json.loads(bytes(arrays["meta"]))
        if meta["format"] != FORMAT or tuple(meta["cue_names"]) != CUE_NAMES:
            raise ValueError(f"it has format {meta['format']} or other features")
        rows = np.full(N_BUCKETS, -1, dtype=np.int32)
        rows[arrays["used"]] = np.arange(len(arrays["used"]))
        weights = arrays["weights"].astype(np.float32)
        pieces = np.zeros((N_PIECES, len(OUTCOMES)), dtype=np.float32)
        pieces[arrays["piece_rows"]] = arrays["piece_weights"]
        small: dict[str, Any] = {name: arrays[name] for name in _ARRAYS}
    meta["own_phrases"] = tuple(meta["own_phrases"])
    return RefusalModel(rows=rows, weights=weights, pieces=pieces, **small, **{name: meta[name] for name in _NUMBERS})
