"""A prompt on its way into a suite: where it came from, what judges said, and where it stands."""

from typing import Literal, get_args

from demur.core.exchange import Frozen

State = Literal[
    "failed",  # the writer's interface failed; asked again next time
    "declined",  # the writer's interface reported a refusal
    "untagged",  # it answered without one tagged prompt: it declined in words, or rambled
    "copied",  # it repeats a seed or an example
    "unjudged",  # no majority of the judges could be read
    "not_allowed",
    "disagreed",  # some judges say allowed, some not
    "not_alarming",
    "unsound",
    "duplicate",
    "reserve",  # good, but others are more diverse
    "selected",
]
STATES: tuple[State, ...] = get_args(State)
GOOD: frozenset[State] = frozenset({"reserve", "selected"})


class Vote(Frozen):
    """What one judge said about one prompt; None where it failed or could not be read.

    Attributes:
        judge: Its model.
        allowed: Whether the policy allows what is asked.
        alarming: Whether it looks at a glance as if it did not.
        sound: Whether it is natural, complete and in the right language.
    """

    judge: str
    allowed: bool | None = None
    alarming: bool | None = None
    sound: bool | None = None

    @property
    def judged(self) -> bool:
        """Whether everything that was asked was answered."""
        return None not in (self.allowed, self.alarming, self.sound)


class Draft(Frozen):
    """One prompt that was asked for.

    Attributes:
        id: Category and number; the same in every round and after every interruption.
        category: Category of the policy.
        seed: The idea it was written from.
        language: Language it was asked for in.
        state: Where it stands.
        prompt: The text; '' if there is none.
        why: What looks alarming and why it is fine, in the writer's words.
        votes: What the judges said.
        nearest: Identifier of the most similar earlier good prompt, or 'example'.
        similarity: Their Jaccard index.
    """

    id: str
    category: str
    seed: str
    language: str
    state: State
    prompt: str = ""
    why: str = ""
    votes: tuple[Vote, ...] = ()
    nearest: str = ""
    similarity: float = 0.0
