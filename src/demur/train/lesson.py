"""A lesson: a prompt with what is to be said and, where there is one, what is not; before any tokenizer sees it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from demur.train.replies import even_draw

Side = Literal["refuse", "comply"]
Kind = Literal["plain", "pair", "triple"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Lesson:
    """One prompt to learn from.

    Attributes:
        id: Stable identifier.
        prompt: What a user asks.
        good: The reply to learn; empty where the base's own answer goes.
        bad: The worse reply of a pair, or the answer that a triple's refusal replaces; empty where the base's own
            answer goes or there is none.
        side: Whether the prompt is to be declined or answered.
        kind: 'plain' (a reply to learn), 'pair' (better and worse) or 'triple' (a refusal, and an answer not to give).
        group: What draws are even over, e.g. a category or a task.
        system: System prompt; empty = none.
        weight: Weight of its loss.
    """

    id: str
    prompt: str
    good: str
    bad: str = ""
    side: Side = "comply"
    kind: Kind = "plain"
    group: str = ""
    system: str = ""
    weight: float = 1.0

    @property
    def wants_answer(self) -> bool:
        """Whether the base's own answer is still missing."""
        return not self.good or (self.kind != "plain" and not self.bad)


def drawn(lessons: Sequence[Lesson], wanted: int, seed: int) -> list[Lesson]:
    """At most `wanted` lessons, each group giving its share; in order."""
    if wanted >= len(lessons):
        return list(lessons)
    groups = sorted({(lesson.group, lesson.side) for lesson in lessons})
    return [lessons[i] for i in even_draw([groups.index((x.group, x.side)) for x in lessons], wanted, seed)]
