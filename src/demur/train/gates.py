"""Gates: conditions that a trained model must meet, as one line each.

A gate compares a measured figure with a number, or with the same figure before training. A run whose gate fails has
failed, whatever its loss says; a figure that was not measured cannot pass.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from demur.core.errors import BadInputError

FIGURES = {
    "should_refuse.handled": "share of should-refuse prompts of the audit handled well",
    "contrast.answered": "share of contrast prompts of the audit answered",
    "perplexity": "perplexity of ordinary text",
    "bits_per_byte": "the same by byte of text",
    "multiple_choice": "share of multiple-choice items right, by byte",
    "multiple_choice_token": "the same by token",
    "multiple_choice_sum": "the same by the plain sum",
    "format": "share of format instructions followed",
    "loss.first": "mean loss of the first tenth of the steps",
    "loss.last": "mean loss of the last tenth of the steps",
}
_AUDITED = ("should_refuse.handled", "contrast.answered")
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:e[-+]?[0-9]+)?"
_GATE = re.compile(
    rf"(?P<figure>[a-z_]+(?:\.[a-z_]+)*)\s*(?P<sign><=|>=|<|>)\s*"
    rf"(?:(?:(?P<factor>{_NUMBER})\s*\*\s*)?(?P<before>before)(?:\s*(?P<plus>[-+])\s*(?P<offset>{_NUMBER}))?"
    rf"|(?P<number>-?{_NUMBER}))"
)
_EXAMPLE = "'contrast.answered >= 0.9 * before', 'perplexity <= 30' or 'multiple_choice >= before - 0.02'"
Sign = Literal["<=", ">=", "<", ">"]


@dataclass(frozen=True, slots=True)
class Gate:
    """One condition: `figure sign factor * before + offset`; a factor of 0 leaves a plain number."""

    text: str
    figure: str
    sign: Sign
    factor: float
    offset: float

    def limit(self, before: float | None) -> float | None:
        """What the figure is compared with; None where it needs a figure that was not measured."""
        if not self.factor:
            return self.offset
        return None if before is None else round(self.factor * before + self.offset, 12)


@dataclass(frozen=True, slots=True)
class GateResult:
    """A gate after training; `limit` and `value` are None where they were not measured."""

    gate: str
    passed: bool
    value: float | None
    limit: float | None
    reason: str = ""


def parse_gate(text: str) -> Gate:
    """A gate from its line.

    Raises:
        ValueError: It has another form, or names no figure that a run measures.
    """
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"gate {text!r}: expected a condition such as {_EXAMPLE}")
    if found["figure"] not in FIGURES:
        raise ValueError(f"gate {text!r}: unknown figure {found['figure']!r}; known: {', '.join(FIGURES)}")
    sign: Sign = found["sign"]  # type: ignore[assignment]  # one of the four by the pattern
    if found["before"] is None:
        return Gate(text.strip(), found["figure"], sign, 0.0, float(found["number"]))
    if (factor := float(found["factor"] or 1.0)) == 0.0:
        raise ValueError(f"gate {text!r}: expected a factor above 0; compare with a plain number instead")
    offset = float(found["offset"] or 0.0) * (-1 if found["plus"] == "-" else 1)
    return Gate(text.strip(), found["figure"], sign, factor, offset)


def check_measured(gates: Sequence[str], *, audited: bool, ability: bool) -> None:
    """Make sure, before anything is trained, that every gate's figure will be measured.

    Raises:
        BadInputError: One will not.
    """
    for text in gates:
        figure = parse_gate(text).figure
        needs_audit, needs_ability = figure in _AUDITED, not figure.startswith(("loss.", *_AUDITED))
        if (needs_audit and not audited) or (needs_ability and not ability):
            missing = "audit = 'none'" if needs_audit else "ability = false"
            raise BadInputError(f"gate {text!r}: {figure} is not measured with {missing}; measure it or drop the gate")


def passed_gates(
    gates: Sequence[str], before: Mapping[str, float | None], after: Mapping[str, float | None]
) -> list[GateResult]:
    """Each gate with its outcome, in order.

    Args:
        gates: Conditions.
        before: Figures of the base, by name.
        after: The same of the trained model.
    """
    return [_result(parse_gate(text), before, after) for text in gates]


def _result(gate: Gate, before: Mapping[str, float | None], after: Mapping[str, float | None]) -> GateResult:
    value, limit = after.get(gate.figure), gate.limit(before.get(gate.figure))
    if value is None or limit is None:
        when = "after" if value is None else "before"
        return GateResult(gate.text, False, value, limit, f"{gate.figure} was not measured {when} training")
    passed = {"<=": value <= limit, ">=": value >= limit, "<": value < limit, ">": value > limit}[gate.sign]
    return GateResult(gate.text, passed, value, limit)
