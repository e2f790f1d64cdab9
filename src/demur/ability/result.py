"""What the ability check found: one frozen record, item by item, so that two runs can be compared item by item."""

from math import exp, log
from typing import Literal

from demur.core.exchange import Frozen
from demur.core.profile import Interval

Part = Literal["choices", "prose", "formats"]
PARTS: tuple[Part, ...] = ("choices", "prose", "formats")
Reading = Literal["byte", "token", "sum"]
READINGS: tuple[Reading, ...] = ("byte", "token", "sum")


class ChosenItem(Frozen):
    """One multiple-choice question: which answer each reading of the log-probabilities favours.

    Attributes:
        id: The item.
        subject: Its subject.
        answer: Number of the right answer, from 0.
        chosen: Number of the favoured answer by reading: 'sum' of the tokens' log-probabilities, their mean by
            'token', or the sum by UTF-8 'byte' of the answer.
    """

    id: str
    subject: str
    answer: int
    chosen: dict[Reading, int]

    def right(self, reading: Reading) -> bool:
        """Whether a reading favours the right answer."""
        return self.chosen[reading] == self.answer


class ChoiceResult(Frozen):
    """Accuracy of favouring the right answer, with 95% Wilson intervals.

    Attributes:
        accuracy: Share of right answers, per byte: the headline. It depends neither on the tokenizer nor much on
            how long the answers are.
        by_reading: The same for all three readings.
        by_subject: Per byte, for each subject.
        chance: What guessing would give.
        n_too_long: Items longer than the model's context; they are in no share.
        items: Every item that was read.
    """

    accuracy: Interval
    by_reading: dict[Reading, Interval]
    by_subject: dict[str, Interval]
    chance: float
    n_too_long: int = 0
    items: tuple[ChosenItem, ...] = ()


class ReadText(Frozen):
    """One text: its summed negative log-probability in nats, over so many tokens and UTF-8 bytes."""

    id: str
    nats: float
    tokens: int
    bytes: int


class ProseResult(Frozen):
    """How surprised the model is by ordinary text.

    The first token of a text is read and not predicted, and its bytes are not counted.

    Attributes:
        nats: Summed negative log-probability.
        tokens: Predicted tokens.
        bytes: UTF-8 bytes that they spell.
        texts: Every text.
    """

    nats: float
    tokens: int
    bytes: int
    texts: tuple[ReadText, ...] = ()

    @property
    def perplexity(self) -> float:
        """By token: comparable only between models that share a tokenizer."""
        return exp(self.nats / self.tokens)

    @property
    def bits_per_byte(self) -> float:
        """By byte: comparable between any two models."""
        return self.nats / log(2) / self.bytes


class CheckedReply(Frozen):
    """One reply to an instruction with a form.

    Attributes:
        id: The item.
        kind: Kind of the check.
        passed: Whether the reply has the form; a degenerate reply never passes.
        degenerate: Whether it is empty, looping or meaningless.
        cut_off: Whether the token limit ended it.
        reply: The text.
    """

    id: str
    kind: str
    passed: bool
    degenerate: bool = False
    cut_off: bool = False
    reply: str = ""


class FormatResult(Frozen):
    """Share of short greedy replies that keep to the form they were asked for, with 95% Wilson intervals."""

    rate: Interval
    by_kind: dict[str, Interval]
    replies: tuple[CheckedReply, ...] = ()


class AbilityResult(Frozen):
    """A whole ability check; a part that was not asked for is None.

    Attributes:
        model: Identity of the model; empty for one in memory.
        items_sha256: Hash of the items.
        choices: Multiple choice.
        prose: Perplexity.
        formats: Format checks.
        seconds: Time by part, on the wall.
        notes: What a reader must know.
    """

    model: str = ""
    items_sha256: str = ""
    choices: ChoiceResult | None = None
    prose: ProseResult | None = None
    formats: FormatResult | None = None
    seconds: dict[str, float] = {}
    notes: tuple[str, ...] = ()

    @property
    def metrics(self) -> dict[str, float]:
        """Headline figures by the names that gates use; what was not measured is left out.

        `multiple_choice` (per byte), `multiple_choice_token`, `multiple_choice_sum`, `perplexity`, `bits_per_byte`
        and `format`.
        """
        found: dict[str, float] = {}
        if self.choices is not None:
            for reading in READINGS:
                name = "multiple_choice" if reading == "byte" else f"multiple_choice_{reading}"
                if (estimate := self.choices.by_reading[reading].estimate) is not None:
                    found[name] = estimate
        if self.prose is not None and self.prose.tokens:
            found |= {"perplexity": self.prose.perplexity, "bits_per_byte": self.prose.bits_per_byte}
        if self.formats is not None and self.formats.rate.estimate is not None:
            found["format"] = self.formats.rate.estimate
        return found
