"""What is asked under stress: a goal, the messages one attempt sent for it, and what came back."""

from collections.abc import Sequence
from hashlib import sha256
from typing import Literal, Protocol

from demur.core.chat import ChatReply
from demur.core.exchange import Exchange, Frozen, Message
from demur.core.suite import SuiteRow

# "attack": should be declined; "control": its benign twin, transformed likewise; "natural": benign requests that are
# in this form by nature, asked as they are.
Side = Literal["attack", "control", "natural"]
PLAIN = "plain"


class Goal(Frozen):
    """A request before anything is done to it.

    Attributes:
        id: Identifier of the prompt in its suite.
        side: Which side it is on.
        prompt: The request itself; judges always read this one.
        category: Taxonomy category, or the topic of a natural control.
        subcategory: Taxonomy subcategory.
        system: System prompt before it.
        condition: The only condition it is asked in, for natural controls; empty for all.
    """

    id: str
    side: Side
    prompt: str
    category: str = ""
    subcategory: str = ""
    system: str = ""
    condition: str = ""


class Asked(Frozen):
    """What one attempt sends.

    Attributes:
        messages: The conversation; empty where `bare` is continued without chat tags.
        bare: Text without chat tags.
        how: How the request was reworded, e.g. 'deed', 'quoted', 'base64'.
    """

    messages: tuple[Message, ...] = ()
    bare: str = ""
    how: str = ""


class Attempt(Frozen):
    """One attempt with its reply: one line of the journal."""

    goal: str
    side: Side
    condition: str
    number: int
    asked: Asked
    reply: ChatReply
    error: str = ""


class Attack(Protocol):
    """A way of asking the same thing otherwise."""

    @property
    def name(self) -> str:
        """As on the command line."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever a message could."""
        ...

    @property
    def conditions(self) -> tuple[str, ...]:
        """Names of the forms; the first is the request as it is."""
        ...

    def most_attempts(self, condition: str) -> int:
        """Distinct messages that every prompt has in this condition."""
        ...

    async def asked(self, goal: Goal, condition: str, number: int) -> Asked:
        """What attempt `number` sends."""
        ...

    def read(self, condition: str, text: str) -> str:
        """The reply as judges are to read it, e.g. deciphered."""
        ...


def plain(goal: Goal) -> Asked:
    """The request as it is."""
    return Asked(messages=conversation(goal, goal.prompt), how="unchanged")


def conversation(goal: Goal, text: str, earlier: Sequence[Message] = ()) -> tuple[Message, ...]:
    """System prompt, earlier turns and the last user turn."""
    system = (Message(role="system", text=goal.system),) if goal.system else ()
    return (*system, *earlier, Message(role="user", text=text))


def goals_of(rows: Sequence[SuiteRow], category: str = "safety") -> list[Goal]:
    """Goals of a suite: prompts to refuse as attacks, prompts to answer as controls.

    Args:
        rows: The suite's.
        category: Keep this category; empty for all.
    """
    sides: dict[str, Side] = {"refuse": "attack", "comply": "control"}
    return [
        Goal(
            id=row.id,
            side=sides[row.expected],
            prompt=row.prompt,
            category=row.category,
            subcategory=row.subcategory,
            system=row.system,
        )
        for row in rows
        if row.expected in sides and (not category or row.category == category)
    ]


def balanced(goals: Sequence[Goal], limit: int | None) -> list[Goal]:
    """At most `limit` goals on each side, drawn evenly over subcategories; twins stay together where they can."""
    if limit is None:
        return list(goals)
    kept: set[str] = set()
    for side in ("attack", "control", "natural"):
        groups: dict[str, list[Goal]] = {}
        for goal in goals:
            if goal.side == side:
                groups.setdefault(goal.subcategory or goal.category, []).append(goal)
        ranked = [
            (rank, key, goal.id)
            for key, members in groups.items()
            for rank, goal in enumerate(sorted(members, key=lambda g: _draw(g.id)))
        ]
        kept |= {goal_id for _, _, goal_id in sorted(ranked)[:limit]}
    return [goal for goal in goals if goal.id in kept]


def key_of(identity: str, attack: str, goal: Goal, condition: str, number: int, asked: Asked) -> str:
    """Key of an attempt in the journal: it changes with the model, the attack and every word that is sent."""
    parts = (identity, attack, goal.id, condition, str(number), asked.model_dump_json())
    return sha256("\x1f".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:32]


def exchange_of(goal: Goal, attempt: Attempt, text: str, model: str) -> Exchange:
    """The exchange that judges read: the goal as it was, and the reply."""
    reply = attempt.reply
    return Exchange(
        id=f"{attempt.goal}/{attempt.condition}/{attempt.number}",
        messages=(Message(role="user", text=goal.prompt),),
        response=text,
        reasoning=reply.reasoning,
        model=model,
        stop_reason=reply.stop_reason,
        api_signals=reply.api_signals,
        subcategory=goal.subcategory or None,
    )


def _draw(goal_id: str) -> bytes:
    # Twins differ in their last letter only ('-01r', '-01c'): without it both sides draw the same pairs.
    stem = goal_id[:-1] if goal_id[-1:] in "rc" else goal_id
    return sha256(stem.encode("utf-8", "replace")).digest()
