"""A linear probe for "I will refuse": fitted at one position, its penalty chosen by folds, read at any other.

Two questions have their own objects: `fit_probe` asks what one position tells; `token_contrast` is the baseline that a
probe must differ from, because the direction may be nothing but the words a refusal begins with.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.inside.cliff import sigmoid
from demur.stats.ranking import auroc, auroc_interval

Floats = NDArray[np.float64]
Space = Literal["normed", "residual"]
PENALTIES = (0.01, 0.1, 1.0, 10.0, 100.0)
FOLDS = 5
STEPS = 100
BIAS = 10.0  # the constant feature is large, so that the penalty hardly touches the intercept


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """Logit of refusing = state · weight + bias.

    Attributes:
        weight: (d,), float64.
        bias: Logit at the zero state.
        space: 'normed' reads the state after the final norm, 'residual' the residual stream as it is.
        layer: Residual index l of h^l (`demur.activations`).
        span: Position it was fitted at.
        penalty: Strength of the quadratic penalty, chosen by folds; 0 for directions that were not fitted.
    """

    weight: Floats
    bias: float
    space: Space
    layer: int
    span: str
    penalty: float = 0.0

    def logits(self, states: NDArray[np.floating]) -> Floats:
        """Logits of states; (..., d) to (...)."""
        return np.asarray(np.asarray(states, dtype=np.float64) @ self.weight + self.bias, dtype=np.float64)

    @property
    def direction(self) -> Floats:
        """Unit vector of the weight."""
        return np.asarray(self.weight / np.linalg.norm(self.weight), dtype=np.float64)


@dataclass(frozen=True, slots=True, kw_only=True)
class ProbeQuality:
    """How well a probe tells refusals apart, on prompts it was not fitted on.

    Attributes:
        span: Where it was read.
        accuracy: Mean of the accuracies of both sides at probability one half.
        auroc: Tie-aware; None where one side is missing.
        low: Lower bound of its interval.
        high: Upper bound.
        n_refused: Refused items.
        n_complied: Complied items.
    """

    span: str
    accuracy: float | None
    auroc: float | None
    low: float | None
    high: float | None
    n_refused: int
    n_complied: int


def fit_probe(
    states: NDArray[np.floating],
    refused: Sequence[bool],
    *,
    space: Space,
    layer: int,
    span: str,
    penalties: Sequence[float] = PENALTIES,
    seed: int = 0,
) -> Probe:
    """Logistic regression with both sides weighted alike; exact Newton steps in the space of the items.

    Args:
        states: (n_items, d); few items and many coordinates cost nothing.
        refused: Which items were refused.
        space: Where the states come from.
        layer: Their residual index.
        span: Their position.
        penalties: Tried in folds; the one with the least held-out loss is taken.
        seed: Of the folds.

    Raises:
        ValueError: One side is missing, or a state is not finite.

    Source:
        Newton in the dual: Rasmussen and Williams (2006), "Gaussian Processes for Machine Learning", algorithm 3.1.
    """
    x, y = np.asarray(states, dtype=np.float64), np.asarray(refused, dtype=bool)
    if y.all() or not y.any():
        raise ValueError(f"expected refused and answered items, got {int(y.sum())} and {int((~y).sum())}")
    if not np.isfinite(x).all():
        raise ValueError("expected finite states; the model overflowed (use float32)")
    centre = x.mean(axis=0)
    scale = float(np.sqrt(((x - centre) ** 2).sum(axis=1).mean())) or 1.0
    scaled = (x - centre) / scale
    penalty = penalties[0] if len(penalties) == 1 else _best_penalty(scaled, y, penalties, seed)
    weight, bias = _fitted(scaled, y, penalty)
    weight = weight / scale
    return Probe(weight, bias - float(centre @ weight), space, layer, span, penalty)


def token_contrast(
    unembedding: NDArray[np.floating], refusal_ids: Sequence[int], answer_ids: Sequence[int], *, layer: int
) -> Probe:
    """The baseline: mean unembedding row of the tokens refusals begin with, minus that of answers.

    On a normed state its logit is the difference of the mean first-token logits, without any fit.

    Args:
        unembedding: Rows of the output table; (vocabulary, d).
        refusal_ids: First tokens of refusals.
        answer_ids: First tokens of answers.
        layer: Index of the last residual, L.

    Raises:
        ValueError: A side has no token of its own.
    """
    ours = [i for i in dict.fromkeys(refusal_ids) if i not in set(answer_ids)]
    theirs = [i for i in dict.fromkeys(answer_ids) if i not in set(refusal_ids)]
    if not ours or not theirs:
        raise ValueError(
            f"expected first tokens that only refusals, and some that only answers begin with, got {len(ours)} and "
            f"{len(theirs)}"
        )
    table = np.asarray(unembedding, dtype=np.float64)
    return Probe(table[ours].mean(axis=0) - table[theirs].mean(axis=0), 0.0, "normed", layer, "unembedding")


def centred(probe: Probe, states: NDArray[np.floating], refused: Sequence[bool]) -> Probe:
    """The probe with its bias moved half-way between the sides' mean logits: for directions without a threshold."""
    logits, y = probe.logits(states), np.asarray(refused, dtype=bool)
    middle = (float(logits[y].mean()) + float(logits[~y].mean())) / 2
    return replace(probe, bias=probe.bias - middle)


def quality(probe: Probe, states: NDArray[np.floating], refused: Sequence[bool], *, span: str = "") -> ProbeQuality:
    """Accuracy and AUROC of a probe on items it has not seen."""
    logits, y = probe.logits(states), np.asarray(refused, dtype=bool)
    both = bool(y.any() and not y.all())
    interval = auroc_interval(logits.tolist(), y.tolist())
    return ProbeQuality(
        span=span or probe.span,
        accuracy=float(((logits[y] > 0).mean() + (logits[~y] <= 0).mean()) / 2) if both else None,
        auroc=auroc(logits.tolist(), y.tolist()),
        low=interval[0] if interval else None,
        high=interval[1] if interval else None,
        n_refused=int(y.sum()),
        n_complied=int((~y).sum()),
    )


def split_by_group(groups: Sequence[str], *, share: float = 0.5, seed: int = 0) -> NDArray[np.bool_]:
    """Mask of the fitting half; rows of one group (a prompt, a contrast pair) fall on the same side."""
    names = sorted(set(groups))
    order = np.random.default_rng(seed).permutation(len(names))
    chosen = {names[i] for i in order[: round(share * len(names))]}
    return np.array([group in chosen for group in groups], dtype=bool)


def _best_penalty(x: Floats, y: NDArray[np.bool_], penalties: Sequence[float], seed: int) -> float:
    folds = _folds(y, seed)
    losses = []
    for penalty in penalties:
        loss = 0.0
        for fold in np.unique(folds):
            held = folds == fold
            if y[~held].all() or not y[~held].any():
                continue
            weight, bias = _fitted(x[~held], y[~held], penalty)
            logits = x[held] @ weight + bias
            loss += float(np.logaddexp(0, np.where(y[held], -logits, logits)) @ _weights(y)[held])
        losses.append(loss)
    return float(penalties[int(np.argmin(losses))])


def _folds(y: NDArray[np.bool_], seed: int) -> NDArray[np.int64]:
    """Fold of each row, both sides spread evenly."""
    rng = np.random.default_rng(seed)
    folds = np.zeros(len(y), dtype=np.int64)
    for side in (True, False):
        rows = rng.permutation(np.flatnonzero(y == side))
        folds[rows] = np.arange(len(rows)) % FOLDS
    return folds


def _weights(y: NDArray[np.bool_]) -> Floats:
    return np.where(y, 0.5 / max(1, int(y.sum())), 0.5 / max(1, int((~y).sum()))) * len(y)


def _fitted(x: Floats, y: NDArray[np.bool_], penalty: float) -> tuple[Floats, float]:
    """Weight and bias that minimise the weighted loss plus penalty / 2 · |weight|²."""
    share = _weights(y)
    kernel = (x @ x.T + BIAS**2) / penalty
    latent, target = np.zeros(len(x)), y.astype(np.float64)
    dual = np.zeros(len(x))
    for _ in range(STEPS):
        p = sigmoid(latent)
        curvature = np.maximum(share * p * (1 - p), 1e-10)
        root = np.sqrt(curvature)
        pull = curvature * latent + share * (target - p)
        system = np.eye(len(x)) + root[:, None] * kernel * root
        dual = pull - root * np.linalg.solve(system, root * (kernel @ pull))
        step = kernel @ dual - latent
        latent = latent + step
        if float(np.abs(step).max()) < 1e-9:
            break
    return x.T @ dual / penalty, float(BIAS**2 * dual.sum() / penalty)
