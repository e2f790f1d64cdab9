"""Directions from states of two sides: difference in means, pairwise PCA, logistic regression.

Sums run in float64: half-precision means of hundreds of large states lose the small difference that matters.
PCA is never centred across prompts: centring differences removes their mean, which is the very thing looked for.
"""

from collections.abc import Callable
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.core.errors import BadInputError

Vector = NDArray[np.float32]
Estimator = Callable[[ArrayLike, ArrayLike], tuple[Vector, float]]
Method = Literal["difference_in_means", "pairwise_pca", "logistic"]
# Below this share of the typical norm, a difference of float32 means is rounding.
SMALLEST_DIFFERENCE = 1e-6
_NEWTON_STEPS = 50
_STEP_SHARES = tuple(0.5**k for k in range(12))


def difference_in_means(positive: ArrayLike, negative: ArrayLike) -> tuple[Vector, float]:
    """Direction from the mean state of one side to that of the other.

    Args:
        positive: States of the side that the direction points to; (n, d).
        negative: States of the other side; (m, d).

    Returns:
        Unit vector (d,), and the distance of the means in residual-stream units.

    Raises:
        BadInputError: An empty side, other widths, states that are not finite, or means that coincide.

    Source:
        Arditi et al. (2024), "Refusal in Language Models Is Mediated by a Single Direction", section 2.3.
    """
    up, down = _sides(positive, negative)
    return _unit(up.mean(axis=0) - down.mean(axis=0), up, down)


def pairwise_pca(positive: ArrayLike, negative: ArrayLike) -> tuple[Vector, float]:
    """First principal component of states centred pair by pair; row i of one side belongs to row i of the other.

    Centring each pair and stacking both halves is the same as PCA of the differences *without* centring them.

    Args:
        positive: States of the side that the direction points to; (n, d).
        negative: Their partners; (n, d).

    Returns:
        Unit vector (d,) along which most positive states lie higher, and the mean distance of partners along it.

    Raises:
        BadInputError: As for `difference_in_means`, or sides of unequal size.

    Source:
        Lee et al. (2025), "Programming Refusal with Conditional Activation Steering", section 3.2 and appendix C.
    """
    up, down = _sides(positive, negative)
    if len(up) != len(down):
        raise BadInputError(f"pairwise PCA: expected as many states on each side, got {len(up)} and {len(down)}")
    differences = up - down
    if not differences.any():
        raise BadInputError("states of both sides are equal: expected a difference; is it the span you meant?")
    component = np.linalg.svd(differences, full_matrices=False)[2][0]
    along = differences @ component
    sign = np.sign(np.sign(along).sum()) or np.sign(along.sum()) or 1.0
    return (component * sign).astype(np.float32), abs(float(along.mean()))


def logistic(positive: ArrayLike, negative: ArrayLike, *, penalty: float = 10.0) -> tuple[Vector, float]:
    """Normal of a logistic regression on coordinates scaled by their spread within sides, back in those of the states.

    Solved in the space of prompts by Newton's method, so that width costs little; coordinates that do not vary get no
    weight.

    Args:
        positive: States of the side that the direction points to; (n, d).
        negative: States of the other side; (m, d).
        penalty: Weight of half the squared norm of the coefficients against the summed loss.

    Returns:
        Unit vector (d,), and the distance of the means along it.

    Raises:
        BadInputError: As for `difference_in_means`.
    """
    up, down = _sides(positive, negative)
    rows = np.concatenate([up, down])
    # Spread within sides: scaling by the whole spread would shrink the very coordinates that tell the sides apart.
    within = np.concatenate([up - up.mean(axis=0), down - down.mean(axis=0)]).std(axis=0)
    smallest = SMALLEST_DIFFERENCE * _typical_norm(up, down)
    varies = rows.std(axis=0) > smallest
    scale = np.where(varies, np.where(within > smallest, within, rows.std(axis=0)), 1.0)
    standard = np.where(varies, (rows - rows.mean(axis=0)) / scale, 0.0)
    wanted = np.concatenate([np.ones(len(up)), np.zeros(len(down))])
    weights = standard.T @ _dual_logistic(standard @ standard.T, wanted, penalty) / scale
    vector, _ = _unit(weights, up, down, check=False)
    return vector, abs(float((up.mean(axis=0) - down.mean(axis=0)) @ vector))


ESTIMATORS: dict[Method, Estimator] = {
    "difference_in_means": difference_in_means,
    "pairwise_pca": pairwise_pca,
    "logistic": logistic,
}


def checked_states(states: ArrayLike, *, what: str = "states") -> NDArray[np.float64]:
    """States as float64.

    Raises:
        BadInputError: Infinity or not-a-number among them, as half precision leaves where it overflows.
    """
    found = np.asarray(states, dtype=np.float64)
    if not np.isfinite(found).all():
        raise BadInputError(
            f"{what}: expected finite numbers, got infinity or nan; float16 overflows at 65,504 and some models write "
            "larger states: record in float32 or bfloat16"
        )
    return found


def _sides(positive: ArrayLike, negative: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    up, down = checked_states(positive, what="positive states"), checked_states(negative, what="negative states")
    if up.ndim != 2 or down.ndim != 2 or up.shape[1] != down.shape[1] or not len(up) or not len(down):
        raise BadInputError(
            f"states: expected (n, width) for both sides with at least one row each, got {up.shape} and {down.shape}"
        )
    return up, down


def _typical_norm(up: NDArray[np.float64], down: NDArray[np.float64]) -> float:
    return float(np.median(np.linalg.norm(np.concatenate([up, down]), axis=1)))


def _unit(
    raw: NDArray[np.float64], up: NDArray[np.float64], down: NDArray[np.float64], *, check: bool = True
) -> tuple[Vector, float]:
    norm = float(np.linalg.norm(raw))
    if norm <= (SMALLEST_DIFFERENCE * _typical_norm(up, down) if check else 0.0):
        raise BadInputError(
            "means of both sides coincide: expected a difference; at the tokens of a template, the embeddings of all "
            "prompts are equal: take a later layer"
        )
    return (raw / norm).astype(np.float32), norm


def _dual_logistic(kernel: NDArray[np.float64], wanted: NDArray[np.float64], penalty: float) -> NDArray[np.float64]:
    """Coefficients of the rows in an L2-penalised logistic regression with a free intercept; (n,)."""
    n = len(wanted)
    system = np.zeros((n + 1, n + 1))
    system[:n, n] = system[n, :n] = 1.0
    alpha, bias = np.zeros(n), 0.0
    loss = _loss(kernel, alpha, bias, wanted, penalty)
    for _ in range(_NEWTON_STEPS):
        margin = kernel @ alpha + bias
        p = 1 / (1 + np.exp(-np.clip(margin, -30, 30)))
        curvature = np.clip(p * (1 - p), 1e-9, None)
        system[:n, :n] = kernel + np.diag(penalty / curvature)
        solved = np.linalg.solve(system, np.append(margin + (wanted - p) / curvature, 0.0))
        gained = 0.0
        for share in _STEP_SHARES:
            ahead, ahead_bias = alpha + share * (solved[:n] - alpha), bias + share * (solved[n] - bias)
            tried = _loss(kernel, ahead, ahead_bias, wanted, penalty)
            if tried < loss:
                gained, alpha, bias, loss = loss - tried, ahead, ahead_bias, tried
                break
        if gained <= 1e-10 * max(1.0, loss):
            break
    return np.asarray(alpha)


def _loss(
    kernel: NDArray[np.float64], alpha: NDArray[np.float64], bias: float, wanted: NDArray[np.float64], penalty: float
) -> float:
    margin = kernel @ alpha + bias
    return float(np.logaddexp(0, margin).sum() - wanted @ margin + penalty / 2 * alpha @ (margin - bias))
