"""How a guard compares states: with two means as published, or where what tells sides apart is not drowned.

A few coordinates of a language model are hundreds of times louder than the rest. Cosines hear nothing else, and a
difference of means points wherever the noise is largest; both are cured by looking from the middle of the two means,
in units of each coordinate's own spread, along the normal of a logistic regression.
"""

from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError
from demur.inside.estimators import SMALLEST_DIFFERENCE, logistic

# "cosine": two cosines, as published; "centred": the same from the middle of the two means; "standard": that, each
# coordinate in units of its spread within sides; "learned": that, along a regression's normal rather than the means.
Metric = Literal["cosine", "centred", "standard", "learned"]
METRICS: tuple[Metric, ...] = get_args(Metric)
PENALTY = 10.0  # of the regression, on standardised coordinates; 1 to 100 differ little
Doubles = NDArray[np.float64]
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Geometry:
    """How states are placed before they are compared.

    Attributes:
        centre: Subtracted; (n_layers, d).
        scale: Divided by; (n_layers, d).
        normals: Compared with instead of the placed means, for 'learned'; (n_layers, d), else (0, d).
    """

    centre: Doubles
    scale: Doubles
    normals: Doubles

    def placed(self, states: Doubles) -> Doubles:
        """States where they are compared, at length 1; (..., n_layers, d)."""
        return unit_rows((states - self.centre) / self.scale)


def geometry(states: Doubles, up: Rows, down: Rows, metric: Metric) -> Geometry:
    """Fit a geometry.

    Args:
        states: (n, n_layers, d).
        up: Rows of the harmful side.
        down: Rows of the harmless one.
        metric: Which.

    Raises:
        BadInputError: The means of both sides coincide at every layer.
    """
    high, low = states[up].mean(axis=0), states[down].mean(axis=0)
    typical = float(np.median(np.linalg.norm(states[np.concatenate([up, down])], axis=-1)))
    if float(np.abs(high - low).max()) <= SMALLEST_DIFFERENCE * typical:
        raise BadInputError("guard: the mean states of both sides coincide; is it the span you meant?")
    none = np.zeros((0, states.shape[2]))
    if metric == "cosine":
        return Geometry(centre=np.zeros_like(high), scale=np.ones_like(high), normals=none)
    centre = (high + low) / 2
    if metric == "centred":
        return Geometry(centre=centre, scale=np.ones_like(centre), normals=none)
    squares = ((states[up] - high) ** 2).sum(axis=0) + ((states[down] - low) ** 2).sum(axis=0)
    spread = np.sqrt(squares / max(1, len(up) + len(down) - 2))
    # Coordinates that hardly vary must not decide: no spread is taken for smaller than a tenth of the layer's typical.
    floor = 0.1 * np.median(spread, axis=1, keepdims=True)
    scale = np.where(spread > floor, spread, np.where(floor > 0, floor, 1.0))
    found = Geometry(centre=centre, scale=scale, normals=none)
    if metric == "standard":
        return found
    placed = (states - centre) / scale
    normals = [_normal(placed[up, i], placed[down, i]) for i in range(states.shape[1])]
    return Geometry(centre=centre, scale=scale, normals=np.stack(normals))


def unit_rows(rows: Doubles) -> Doubles:
    """Vectors at length 1; those of length 0 stay 0."""
    lengths = np.linalg.norm(rows, axis=-1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1.0))


def _normal(up: Doubles, down: Doubles) -> Doubles:
    """Normal of a regression at one layer; 0 where the sides coincide, as at the template's embeddings."""
    if np.abs(up.mean(axis=0) - down.mean(axis=0)).max() <= SMALLEST_DIFFERENCE:
        return np.zeros(up.shape[1])
    return logistic(up, down, penalty=PENALTY)[0].astype(np.float64)
