"""The prompts a guard was fitted on, with their states at one layer: what a new prompt is nearest to."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.core.exchange import Frozen
from demur.inside.guard import LatentGuard
from demur.inside.guard_geometry import unit_rows
from demur.stats.ranking import auroc

Doubles = NDArray[np.float64]


class Example(Frozen):
    """One prompt.

    Attributes:
        prompt: Its text.
        harmful: Its side.
        category: Its kind.
        score: The guard's score of it.
    """

    prompt: str
    harmful: bool
    category: str = ""
    score: float


class Neighbour(Frozen):
    """An example and how alike its state is: the cosine in the guard's geometry."""

    example: Example
    cosine: float


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examples:
    """Prompts with states.

    Attributes:
        rows: The prompts.
        states: Raw states at `layer`; float32 (n, d).
        layer: Residual index.
    """

    rows: tuple[Example, ...]
    states: NDArray[Any]
    layer: int

    def __post_init__(self) -> None:
        if self.states.ndim != 2 or len(self.states) != len(self.rows):
            raise ValueError(f"expected states ({len(self.rows)}, d), got {self.states.shape}")

    def nearest(self, guard: LatentGuard, state: NDArray[Any], *, n: int = 5) -> tuple[Neighbour, ...]:
        """Examples whose states point most nearly the same way, nearest first.

        Args:
            guard: Whose geometry is used.
            state: Of one prompt at all of the guard's layers; (n_layers, d).
            n: How many.
        """
        at = guard.layers.index(self.layer)
        known = _placed(guard, self.states, at)
        own = _placed(guard, np.asarray(state)[None, at], at)[0]
        found = known @ own
        order = np.argsort(-found, kind="stable")[:n]
        return tuple(Neighbour(example=self.rows[int(i)], cosine=float(found[i])) for i in order)


def examples_of(
    guard: LatentGuard,
    states: Doubles,
    prompts: Sequence[str],
    harmful: Sequence[bool],
    categories: Sequence[str],
    *,
    layer: int,
) -> Examples:
    """Examples from what a guard was fitted on.

    Args:
        guard: The guard.
        states: Their states; (n, n_layers, d).
        prompts: Their texts.
        harmful: Their sides.
        categories: Their kinds.
        layer: Residual index whose states are kept.
    """
    scores = guard.score(states)
    rows = tuple(
        Example(prompt=p, harmful=bool(h), category=c, score=float(s))
        for p, h, c, s in zip(prompts, harmful, categories, scores, strict=True)
    )
    return Examples(rows=rows, states=states[:, guard.layers.index(layer)].astype(np.float32), layer=layer)


def telling_layer(guard: LatentGuard, states: Doubles, harmful: Sequence[bool]) -> int:
    """Residual index whose score alone ranks prompts best; the embedding's only if there is no other.

    Args:
        guard: The guard.
        states: Of prompts it was not fitted on; (n, n_layers, d).
        harmful: Their sides.
    """
    scores = guard.transform(states)
    ranked = [auroc(column.tolist(), list(harmful)) or 0.0 for column in scores.T]
    allowed = [i for i, layer in enumerate(guard.layers) if layer > 0] or [0]
    return guard.layers[max(allowed, key=lambda i: (round(ranked[i], 6), -i))]


def _placed(guard: LatentGuard, states: NDArray[Any], at: int) -> Doubles:
    rows = np.asarray(states, dtype=np.float64)
    return unit_rows((rows - guard.geometry.centre[at]) / guard.geometry.scale[at])
