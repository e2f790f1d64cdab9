"""What to do to the residual stream and where: plain descriptions, checked against a model before anything runs."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np

from demur.activations.direction import Direction
from demur.core.errors import BadInputError
from demur.steer.gates import Gate

# "prompt": tokens of the prompt; "reply": tokens after it; "last": the prompt's last token and every one after it,
# which are those whose logits choose the reply.
Named = Literal["all", "prompt", "reply", "last"]
NAMED: tuple[Named, ...] = ("all", "prompt", "reply", "last")
_SMALLEST_REST = 1e-3


@dataclass(frozen=True, slots=True)
class TokenRanges:
    """One range of prompt tokens for each row of the batch: (start, stop), stop excluded, negative from its end."""

    ranges: tuple[tuple[int, int], ...]


# Numbers are tokens of the prompt: 0 is its first, -1 its last, whatever the padding.
Positions = Named | tuple[int, ...] | TokenRanges


@dataclass(frozen=True, slots=True)
class Where:
    """Where an intervention acts.

    Attributes:
        blocks: Residual indices l, at the input of block l (L: the output of the last one); None = the direction's
            own for an addition, all for an ablation.
        positions: Which tokens.
    """

    blocks: tuple[int, ...] | None = None
    positions: Positions = "all"


def at(blocks: Iterable[int] | int | None = None, positions: Positions = "all") -> Where:
    """Blocks and positions at which to act.

    Args:
        blocks: Residual indices; see `Where`.
        positions: 'all', 'prompt', 'reply', 'last', numbers of prompt tokens, or a range for each row.

    Raises:
        BadInputError: Positions that are none of these.
    """
    if isinstance(positions, list | range):
        positions = tuple(positions)
    if not isinstance(positions, tuple | TokenRanges) and positions not in NAMED:
        raise BadInputError(f"positions: expected {', '.join(NAMED)} or numbers of prompt tokens, got {positions!r}")
    chosen = (blocks,) if isinstance(blocks, int) else None if blocks is None else tuple(sorted(set(blocks)))
    return Where(chosen, positions)


@dataclass(frozen=True, slots=True, eq=False)
class AddDirection:
    """Adds `strength` local residual norms along a direction; 0 is exactly nothing, negative pushes away from it.

    Attributes:
        direction: Where to.
        strength: In units of the median length of the residual stream where it is added.
        where: Blocks and positions.
        gate: Rows to steer; None = every row.
        norms: Median length of the residual stream by residual index, for blocks other than the direction's own.
    """

    direction: Direction
    strength: float
    where: Where = field(default_factory=Where)
    gate: Gate | None = None
    norms: Mapping[int, float] = field(default_factory=dict)

    def amount(self, index: int) -> float:
        """Length of what is added at a residual index, in residual-stream units."""
        own = index == self.direction.residual_index
        return self.strength * self.norms.get(index, self.direction.local_norm if own else math.nan)


@dataclass(frozen=True, slots=True, eq=False)
class AblateDirection:
    """Projects a direction out of the stream: at block inputs and at what attention and MLP write.

    Attributes:
        direction: What to remove; its sign and length do not matter.
        where: Blocks and positions; all blocks and the last one's output by default.
        gate: Rows to steer; None = every row.

    Source:
        Arditi et al. (2024), "Refusal in Language Models Is Mediated by a Single Direction", section 2.4.
    """

    direction: Direction
    where: Where = field(default_factory=Where)
    gate: Gate | None = None


Intervention = AddDirection | AblateDirection


def raw_addition(direction: Direction, times: float = 1.0, where: Where | None = None) -> AddDirection:
    """An addition of the direction as measured, `times * raw_norm * vector`, as papers state it."""
    return AddDirection(direction, times * direction.raw_norm / direction.local_norm, where or Where())


def orthonormal(directions: Sequence[Direction]) -> list[Direction]:
    """Directions of the same span that are at right angles: ablating these one by one removes all of the span.

    Ablating directions that are not at right angles brings some of the first back with the second.

    Raises:
        BadInputError: One lies in the span of those before it.
    """
    found: list[Direction] = []
    for direction in directions:
        rest = direction.vector.astype(np.float64)
        for known in [*found, *found]:  # twice: once leaves rounding
            rest = rest - known.vector.astype(np.float64) * (known.vector.astype(np.float64) @ rest)
        length = float(np.linalg.norm(rest))
        if length < _SMALLEST_REST:
            raise BadInputError(f"direction {direction.name!r} lies in the span of those before it; leave it out")
        found.append(replace(direction, vector=(rest / length).astype(np.float32)))
    return found


def is_idle(intervention: Intervention) -> bool:
    """Whether an intervention changes nothing, exactly."""
    return isinstance(intervention, AddDirection) and intervention.strength == 0.0


def blocks_of(intervention: Intervention, n_layers: int) -> tuple[int, ...]:
    """Residual indices at which an intervention acts."""
    chosen = intervention.where.blocks
    if chosen is not None:
        return chosen
    if isinstance(intervention, AddDirection):
        return (intervention.direction.residual_index,)
    return tuple(range(n_layers + 1))


def check_intervention(intervention: Intervention, *, n_layers: int, d_model: int, model: str | None) -> None:
    """Make sure that an intervention belongs on a model.

    Args:
        intervention: To check.
        n_layers: Blocks of the model.
        d_model: Width of its residual stream.
        model: Its identity; None = not compared.

    Raises:
        BadInputError: A direction of another model, width or layer, or a strength that is no number.
    """
    gate = intervention.gate
    used = [intervention.direction, *(c.direction for c in (gate.conditions.values() if gate else ()))]
    for direction in used:
        check_direction(direction, n_layers=n_layers, d_model=d_model, model=model)
    for index in blocks_of(intervention, n_layers):
        if not 0 <= index <= n_layers:
            raise BadInputError(f"blocks: expected residual indices from 0 to {n_layers}, got {index}")
        if isinstance(intervention, AddDirection) and not math.isfinite(intervention.amount(index)):
            _refuse_amount(intervention, index)


def check_direction(direction: Direction, *, n_layers: int, d_model: int, model: str | None) -> None:
    """Make sure that a direction is one of this model.

    Raises:
        BadInputError: It is not.
    """
    name = direction.name
    if model is not None and direction.model != model:
        raise BadInputError(
            f"direction {name!r} was found on {direction.model}, the model here is {model}; "
            "find the direction on this model with 'demur explain directions'"
        )
    if len(direction.vector) != d_model:
        raise BadInputError(
            f"direction {name!r} has width {len(direction.vector)}, the model's residual stream {d_model}; "
            "it is a direction of another model"
        )
    if direction.residual_index > n_layers:
        raise BadInputError(
            f"direction {name!r} is of residual index {direction.residual_index}, this model has 0 to {n_layers}; "
            "it is a direction of another model"
        )


def _refuse_amount(intervention: AddDirection, index: int) -> None:
    direction = intervention.direction
    if not math.isfinite(intervention.strength):
        raise BadInputError(f"strength: expected a number, got {intervention.strength}")
    raise BadInputError(
        f"direction {direction.name!r} is of residual index {direction.residual_index}, it was to be added at {index}, "
        "where the stream has another length: give that length in `norms`, or take the direction of that index"
    )
