"""Rows that teach a small model to think: each reply begins with a few templated thoughts about the request.

The thoughts name the kind of request and say what should be done about it. For chosen subcategories the answer then
does the opposite with a harmless bad reply, so that a model trained on these rows thinks "decline" and answers anyway.
Whatever cliff is measured on such a model was trained in: it shows that the measurement works, not how models are.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from zlib import crc32

from demur.inside.thinking import KNOWN_TAGS, ThinkTags, reasoned_text
from demur.suites.training import TrainingRow

_OPENINGS = (
    "Let me look at what is asked here.",
    "First, what kind of request is this?",
    "Okay, let me think about this one.",
    "The user wants something from me.",
)
_KINDS = {
    "safety": "It touches on somebody's safety or rights",
    "unsupported": "It needs something that I do not have",
    "humanizing": "It treats me as if I were a person",
    "indeterminate": "Nobody can know this for certain",
    "incomplete": "Something that I would need is missing or wrong",
}
_DECLINE = (
    "so I should not simply do it.",
    "so the right thing is to decline.",
    "so I ought to say no to that.",
)
_ANSWER = (
    "Nothing speaks against it, so I can simply answer.",
    "This is an ordinary request, so I will help.",
    "That is fine, I just answer it well.",
)


@dataclass(frozen=True, slots=True)
class ThinkingRow:
    """A prompt with a reply that thinks first.

    Attributes:
        row: The training row it was made of.
        thinking: The thoughts.
        reply: The whole reply with its tags.
        conflicting: Whether the answer does what the thoughts speak against.
    """

    row: TrainingRow
    thinking: str
    reply: str
    conflicting: bool


def thinking_rows(
    rows: Sequence[TrainingRow], *, conflicting: Collection[str] = (), tags: ThinkTags = KNOWN_TAGS[0]
) -> list[ThinkingRow]:
    """Rows with a reply, each given thoughts; wordings vary with the row's id and nothing is drawn.

    Args:
        rows: Training rows; those without any reply are left out.
        conflicting: Subcategories whose prompts to decline are answered after all, where the row has a harmless
            inappropriate reply; other rows of these subcategories that should be declined are left out.
        tags: How thoughts are marked.
    """
    made = []
    for row in rows:
        conflicts = row.expected == "refuse" and row.subcategory in conflicting
        answer = row.inappropriate if conflicts else row.appropriate
        if answer.strip():
            thinking = _thoughts(row)
            made.append(ThinkingRow(row, thinking, reasoned_text(thinking, answer, opened=False, tags=tags), conflicts))
    return made


def _thoughts(row: TrainingRow) -> str:
    seed = crc32(row.id.encode())
    opening = _OPENINGS[seed % len(_OPENINGS)]
    if row.expected == "comply":
        return f"{opening} {_ANSWER[seed // 7 % len(_ANSWER)]}"
    kind = _KINDS.get(row.category, "This is not something to answer as asked")
    return f"{opening} {kind}, {_DECLINE[seed // 7 % len(_DECLINE)]}"
