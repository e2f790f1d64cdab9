"""Steering as a whole: gates that say when, interventions that say what, and which of them goes with which decision."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from hashlib import sha256

from demur.core.errors import BadInputError
from demur.core.signal import ANY, RESPOND
from demur.steer.gates import Gate
from demur.steer.interventions import AddDirection, Intervention, TokenRanges, is_idle

DECLINED = ""


@dataclass(frozen=True, slots=True, eq=False)
class Step:
    """One intervention and the decisions it goes with.

    Attributes:
        intervention: What to do; without a gate of its own, since the plan's gates decide.
        when: '' for every request that is declined, a category for those declined for it, 'respond' for those that
            are answered.
    """

    intervention: Intervention
    when: str = DECLINED

    def __post_init__(self) -> None:
        if self.intervention.gate is not None:
            raise BadInputError("steering plan: expected interventions without gates; put the gate into `gates`")
        if isinstance(self.intervention.where.positions, TokenRanges):
            raise BadInputError("steering plan: expected positions that hold for every prompt, not one for each row")


@dataclass(frozen=True, slots=True, eq=False)
class SteeringPlan:
    """What to do to a model's replies, and when.

    Attributes:
        model: Identity of the model that its directions are of.
        steps: What is done.
        gates: By category ('any' for one without categories): the signal that policies decide on. Empty where another
            signal decides.
        hash: Eight hex digits over everything in it.
        gate_hash: The same over the gates alone: what scores depend on.
        follows: Measured share of steered replies that decline; None = never measured.
    """

    model: str
    steps: tuple[Step, ...]
    gates: Mapping[str, Gate] = field(default_factory=dict)
    follows: float | None = None

    def __post_init__(self) -> None:
        known = {DECLINED, RESPOND, *(self.gates or ())}
        unknown = [step.when for step in self.steps if self.gates and step.when not in known]
        if unknown:
            raise BadInputError(
                f"steering plan: when: expected one of {', '.join(sorted(self.gates))}, respond or nothing, "
                f"got {unknown[0]!r}"
            )

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of the gates' signal."""
        return tuple(self.gates) or (ANY,)

    @property
    def interventions(self) -> tuple[Intervention, ...]:
        """What is done, in order; idle steps left out."""
        return tuple(step.intervention for step in self.active)

    @property
    def active(self) -> tuple[Step, ...]:
        """Steps that change anything."""
        return tuple(step for step in self.steps if not is_idle(step.intervention))

    @property
    def hash(self) -> str:
        """Eight hex digits over gates and steps."""
        return _digest([*_gate_parts(self.gates), *(part for step in self.steps for part in _step_parts(step))])

    @property
    def gate_hash(self) -> str:
        """Eight hex digits over the gates alone."""
        return _digest(_gate_parts(self.gates))

    def weights(self, column: int, categories: tuple[str, ...], *, dial: float = 1.0) -> tuple[float, ...]:
        """How much of each active step a reply gets.

        Args:
            column: Column of the decision, `len(categories)` for answering, -1 for no decision.
            categories: Columns of the signal that decided.
            dial: Factor on all of them.
        """
        if column < 0:
            return (0.0,) * len(self.active)
        decided = categories[column] if column < len(categories) else RESPOND
        goes_with = {decided} if decided == RESPOND else {decided, DECLINED}
        return tuple(dial if step.when in goes_with else 0.0 for step in self.active)

    def at_strength(self, strength: float) -> "SteeringPlan":
        """The plan with every addition at another strength, its sign kept; ablations stay."""
        return replace(self, steps=tuple(_at_strength(step, strength) for step in self.steps))


def _at_strength(step: Step, strength: float) -> Step:
    found = step.intervention
    if not isinstance(found, AddDirection):
        return step
    return Step(replace(found, strength=-strength if found.strength < 0 else strength), step.when)


def _digest(parts: list[bytes]) -> str:
    digest = sha256()
    for part in parts:
        digest.update(len(part).to_bytes(8, "little") + part)
    return digest.hexdigest()[:8]


def _gate_parts(gates: Mapping[str, Gate]) -> list[bytes]:
    parts = []
    for category, gate in gates.items():
        parts.append(f"{category}: {gate.expression} / {gate.scale!r}".encode())
        for name, c in gate.conditions.items():
            d = c.direction
            parts += [f"{name} {c.where} {c.measure} {d.residual_index} {d.local_norm!r}".encode(), d.vector.tobytes()]
    return parts


def _step_parts(step: Step) -> list[bytes]:
    found, d = step.intervention, step.intervention.direction
    how = f"add {found.strength!r} {sorted(found.norms.items())}" if isinstance(found, AddDirection) else "ablate"
    where = f"{found.where.blocks} {found.where.positions} {step.when} {d.residual_index} {d.local_norm!r}"
    return [f"{how} {where}".encode(), d.vector.tobytes()]
