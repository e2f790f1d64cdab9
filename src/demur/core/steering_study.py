"""What steering does to a model, measured strength by strength: the contract between a measurement and its report.

Verdicts are three-way: at large strengths replies turn to nonsense, which a count of refusals alone would hide.
"""

from typing import Literal

from pydantic import JsonValue

from demur.core.exchange import Frozen
from demur.core.profile import Interval

Side = Literal["to decline", "to answer"]
DoseKind = Literal["direction", "random directions", "ablation", "gated"]


class Dose(Frozen):
    """What a model did with one kind of prompts at one strength.

    Attributes:
        strength: In median norms of the state at the steered layer; of an ablation, its share (1 = all).
        side: What should be done with these prompts.
        declined: Share of judged replies that decline wholly or in part.
        degenerate: Share of judged replies that are degenerate.
        outcomes: Replies by outcome, where they were kept.
        unjudged: Replies nobody could read; in no share.
    """

    strength: float
    side: Side
    declined: Interval
    degenerate: Interval
    outcomes: dict[str, int] = {}
    unjudged: int = 0


class DoseCurve(Frozen):
    """Doses of one intervention; random directions have one curve for each draw.

    Attributes:
        name: What is added, in words; for a draw of random directions the name of what it is the control of.
        kind: Kind of intervention.
        layer: Residual index it acts at; None = at all of them.
        doses: By strength, both sides.
        note: What a reader must know.
    """

    name: str
    kind: DoseKind
    layer: int | None
    doses: tuple[Dose, ...]
    note: str = ""


class SteeringStudy(Frozen):
    """Everything measured about steering one model.

    Attributes:
        model: Identity of the model.
        curves: Directions, their ablation and gated forms, and random directions of the same length.
        notes: What a reader must know.
        manifest: Versions, data hashes, settings.
    """

    schema_version: int = 1
    model: str
    curves: tuple[DoseCurve, ...]
    notes: tuple[str, ...] = ()
    manifest: dict[str, JsonValue] = {}
