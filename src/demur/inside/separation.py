"""Harmfulness and refusal apart: maps of directions, cluster scores, layer averages, cosines.

States are arrays (n_prompts, n_spans, n_layers, width), or (n_prompts, n_layers, width) at one span.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.core.errors import BadInputError
from demur.inside.buckets import Buckets, Rows
from demur.inside.estimators import SMALLEST_DIFFERENCE, Method, checked_states, difference_in_means, logistic
from demur.inside.estimators import pairwise_pca as pca

Floats = NDArray[np.float64]
# "crossed": within each side, averaged; "plain": as published, refused-harmful against accepted-harmless for refusal.
Design = Literal["crossed", "plain"]


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contrast:
    """Which rows a direction is the difference of: the mean over strata of (up - down) within each.

    Attributes:
        strata: Pairs of row indices (up, down), none of them empty.
        design: How they were chosen.
    """

    strata: tuple[tuple[Rows, Rows], ...]
    design: Design

    @property
    def up(self) -> Rows:
        """Rows of the side that the direction points to."""
        return np.sort(np.concatenate([up for up, _ in self.strata]))

    @property
    def down(self) -> Rows:
        """Rows of the other side."""
        return np.sort(np.concatenate([down for _, down in self.strata]))


def harm_contrast(buckets: Buckets, *, design: Design = "crossed") -> Contrast:
    """Harmful against harmless.

    The crossed design compares them once among refused and once among accepted prompts, so that what the model is
    about to do cannot be what the direction finds. It needs all four buckets; without them the plain one is used.
    """
    r = buckets.rows
    crossed = ((r["refused_harmful"], r["refused_harmless"]), (r["accepted_harmful"], r["accepted_harmless"]))
    plain = (
        buckets.of("refused_harmful", "accepted_harmful"),
        buckets.of("refused_harmless", "accepted_harmless"),
    )
    return _contrast(buckets, crossed, plain, design)


def refusal_contrast(buckets: Buckets, *, design: Design = "crossed") -> Contrast:
    """Refused against accepted; crossed: once among harmful, once among harmless prompts."""
    r = buckets.rows
    crossed = ((r["refused_harmful"], r["accepted_harmful"]), (r["refused_harmless"], r["accepted_harmless"]))
    return _contrast(buckets, crossed, (r["refused_harmful"], r["accepted_harmless"]), design)


def contrast_map(states: ArrayLike, contrast: Contrast, *, method: Method = "difference_in_means") -> Floats:
    """Raw direction at every place; zero where the two sides coincide.

    Args:
        states: (n, ..., d), e.g. with spans and layers between.
        contrast: Rows to compare.
        method: 'difference_in_means' honours the strata; the others pool them, pairwise PCA with as many rows of
            either side as the smaller has.

    Returns:
        (..., d), of the length that the difference has along it.
    """
    rows = np.asarray(states)
    if method == "difference_in_means":
        return difference_map(rows, contrast)
    up, down = contrast.up, contrast.down
    if method == "pairwise_pca":
        up, down = up[: len(down)], down[: len(up)]
    found = np.zeros(rows.shape[1:])
    for place in np.ndindex(*rows.shape[1:-1]):
        one, other = rows[(up, *place)], rows[(down, *place)]
        try:
            difference_in_means(one, other)  # where the means coincide, nothing else is meant either
            vector, norm = (pca if method == "pairwise_pca" else logistic)(one, other)
        except BadInputError:
            checked_states(one), checked_states(other)
            continue
        found[place] = norm * vector
    return found


def difference_map(states: ArrayLike, contrast: Contrast) -> Floats:
    """Difference in means at every place, averaged over strata; zero where it is rounding; (..., d)."""
    rows = np.asarray(states)
    total = np.zeros(rows.shape[1:])
    for up, down in contrast.strata:
        total += (mean_state(rows, up) - mean_state(rows, down)) / len(contrast.strata)
    checked_states(total)
    typical = local_norms(rows, np.concatenate([contrast.up, contrast.down]))
    norms = np.linalg.norm(total, axis=-1)
    total[norms <= SMALLEST_DIFFERENCE * typical] = 0.0
    return total


def mean_state(states: NDArray[np.floating], rows: Sequence[int] | Rows) -> Floats:
    """Mean of some rows, summed one by one in float64 so that a memory-mapped array is read once; (..., d)."""
    total = np.zeros(states.shape[1:])
    for i in rows:
        total += states[int(i)]
    return total / max(len(rows), 1)


def local_norms(states: NDArray[np.floating], rows: Sequence[int] | Rows) -> Floats:
    """Median length of a state at every place: the unit of steering strengths; (...)."""
    lengths = np.stack([np.linalg.norm(states[int(i)].astype(np.float64), axis=-1) for i in rows])
    return np.asarray(np.median(lengths, axis=0))


def unit(raw: ArrayLike) -> Floats:
    """Vectors at length 1; those of length 0 stay 0."""
    vectors = np.asarray(raw, dtype=np.float64)
    norms = np.linalg.norm(vectors, axis=-1, keepdims=True)
    return np.asarray(vectors / np.where(norms > 0, norms, 1.0))


def projections(states: ArrayLike, raw: ArrayLike) -> Floats:
    """Length of each state along the direction of its own place; (n, ..., d), (..., d) -> (n, ...)."""
    directions = unit(raw)
    rows = np.asarray(states)
    return np.stack([np.einsum("...d,...d->...", row.astype(np.float64), directions) for row in rows])


def cosines(one: ArrayLike, other: ArrayLike) -> Floats:
    """Cosine of vectors at each place, nan where either is zero; (..., d) -> (...)."""
    a, b = unit(one), unit(other)
    found = np.einsum("...d,...d->...", a, b)
    empty = ~a.any(axis=-1) | ~b.any(axis=-1)
    return np.asarray(np.where(empty, np.nan, np.clip(found, -1.0, 1.0)))


def cluster_scores(states: ArrayLike, up: ArrayLike, down: ArrayLike) -> Floats:
    """How much closer states lie to one centroid than to the other, by cosine, at each layer.

    Args:
        states: (n, n_layers, d).
        up: Centroid of the one side; (n_layers, d).
        down: Centroid of the other.

    Returns:
        (n, n_layers), within [-2, 2]; positive means nearer to `up`.

    Source:
        Zhao et al. (2025), "LLMs Encode Harmfulness and Refusal Separately", equation 2.
    """
    rows = np.asarray(states)
    return np.stack([np.nan_to_num(cosines(row, up)) - np.nan_to_num(cosines(row, down)) for row in rows])


def layer_average(scores: ArrayLike, *, layers: Sequence[int] | None = None) -> Floats:
    """Mean of cluster scores over layers: the published Δ_harm and Δ_ref; (n, n_layers) -> (n,).

    Args:
        scores: From `cluster_scores`.
        layers: Columns to average; all by default, the embedding's included, as published.
    """
    found = np.asarray(scores, dtype=np.float64)
    return np.asarray(found.mean(axis=1) if layers is None else found[:, list(layers)].mean(axis=1))


def category_directions(
    states: ArrayLike, harmful: Mapping[str, Sequence[int]], harmless: Sequence[int], *, fewest: int = 10
) -> tuple[tuple[str, ...], Floats]:
    """Harmfulness direction of each category against the same harmless rows, raw.

    Args:
        states: (n, n_layers, d).
        harmful: Rows of each harmful category.
        harmless: Rows of the other side.
        fewest: Categories with fewer rows are left out.

    Returns:
        Names, and directions (n_categories, n_layers, d).
    """
    rows = np.asarray(states)
    down = mean_state(rows, harmless)
    names = tuple(sorted(name for name, members in harmful.items() if len(members) >= fewest))
    found = [mean_state(rows, harmful[name]) - down for name in names]
    return names, np.stack(found) if found else np.zeros((0, *rows.shape[1:]))


def _contrast(
    buckets: Buckets, crossed: tuple[tuple[Rows, Rows], ...], plain: tuple[Rows, Rows], design: Design
) -> Contrast:
    if design == "crossed" and buckets.is_crossed:
        return Contrast(strata=crossed, design="crossed")
    if not len(plain[0]) or not len(plain[1]):
        raise BadInputError(
            f"directions: expected prompts of both kinds in the buckets, got {buckets.sizes}; give prompts that the "
            "model refuses and prompts that it answers"
        )
    return Contrast(strata=(plain,), design="plain")
