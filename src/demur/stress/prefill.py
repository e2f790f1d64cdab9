"""What forced prefixes found: refusal against the number of forced tokens, on requests to decline and to answer."""

from collections import Counter
from collections.abc import Mapping

from pydantic import JsonValue

from demur.core.exchange import Frozen
from demur.core.profile import Interval
from demur.stress.continuation import Unit
from demur.stress.forced import ForcedStudy


class PrefillPoint(Frozen):
    """One prefix length.

    Attributes:
        forced: Tokens forced.
        refused: Share of continuations that decline; on requests to answer, the false-interruption rate.
        phrase: Share with a refusal phrase anywhere.
        positions: Refusals by the number of words before them, after what was forced.
        outcomes: Continuations by outcome.
    """

    forced: int
    refused: Interval
    phrase: Interval
    positions: dict[str, int]
    outcomes: dict[str, int]


class PrefillSide(Frozen):
    """One side; `n_short` of its `n` prompts have answers too short for the longest prefix."""

    n: int
    n_short: int
    points: tuple[PrefillPoint, ...]


class PrefillFindings(Frozen):
    """Forced prefixes on both sides; `benign` is None where nothing was given to answer."""

    schema_version: int = 1
    attack: str = "prefill"
    model: str
    judge: str
    unit: Unit
    wrong: PrefillSide
    benign: PrefillSide | None
    notes: tuple[str, ...] = ()
    manifest: dict[str, JsonValue] = {}


def prefill_findings(
    model: str, judge: str, sides: Mapping[str, ForcedStudy], manifest: dict[str, JsonValue], *, paired: bool = True
) -> PrefillFindings:
    """Numbers of studies by side, 'refuse' and 'comply'; `paired` where the same prompts stand at every length."""
    wrong = sides["refuse"]
    notes = [] if paired else ["Shorter prefixes stand on more prompts: n is told at each length."]
    notes += ["Judges read only what the model wrote after what was forced; replies are greedy."]
    if wrong.unit == "words":
        notes.append("Prefixes are counted in words: a chat interface does not tell its tokens.")
    return PrefillFindings(
        model=model,
        judge=judge,
        unit=wrong.unit,
        wrong=side_of(wrong),
        benign=side_of(sides["comply"]) if "comply" in sides else None,
        notes=tuple(notes),
        manifest=manifest,
    )


def side_of(study: ForcedStudy) -> PrefillSide:
    """Numbers of one study."""
    points = tuple(
        PrefillPoint(
            forced=m,
            refused=study.refusal_rate(m),
            phrase=study.phrase_rate(m),
            positions=study.positions(m),
            outcomes=dict(Counter(reply.outcome for reply in study.at(m)).most_common()),
        )
        for m in study.lengths
    )
    return PrefillSide(n=len({reply.row for reply in study.replies}), n_short=study.n_short, points=points)
