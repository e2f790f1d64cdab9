"""Forced prefixes: the first m tokens of a wrong answer are put into the model's mouth; does it still decline?

A model that learnt only to *begin* with a refusal goes on with whatever was begun. The same on good answers to
requests that should be answered gives the false-interruption rate, without which a model that says "sorry"
everywhere would look perfect.

Source:
    Yuan et al. (2024), "Refuse Whenever You Feel Unsafe: Improving Safety in LLMs via Decoupled Refusal Training",
    section 3; the benign side is demur's.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Exchange, Frozen, Message
from demur.core.judge import Judge
from demur.core.profile import Interval
from demur.core.verdict import Outcome
from demur.judges.phrases import PhraseJudge
from demur.judges.safely import judge_safely
from demur.stats.rates import interval
from demur.stress.continuation import Begun, Continuer, Say, TransformersContinuer, Unit, silent
from demur.stress.positions import histogram, phrase_position, refusal_position

LENGTHS = (0, 4, 8, 16, 32)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForcedSettings:
    """How a study decodes and judges.

    Attributes:
        max_tokens: Longest continuation.
        rows: Most rows decoded together.
        system: System prompt before every request.
        judge: Reads the continuation alone: what the model did after what was forced.
        at_least: Fewest prompts that must be long enough for the longest prefix.
        paired: The same prompts at every length, those whose answer is longer than the longest prefix; False takes at
            each length every answer longer than it, so that short prefixes keep more prompts.
    """

    max_tokens: int = 64
    rows: int = 16
    system: str = ""
    judge: Judge = field(default_factory=PhraseJudge)
    at_least: int = 1
    paired: bool = True


class ForcedReply(Frozen):
    """One continuation.

    Attributes:
        row: Number of the prompt.
        forced: Tokens (or words) forced.
        prefix: The forced text.
        text: What the model wrote after it.
        outcome: The judge's, of `text` alone.
        position: Words of `text` before the judge's refusal; None without one.
        phrase: Words of `text` before the first refusal phrase; None without one.
    """

    row: int
    forced: int
    prefix: str
    text: str
    outcome: Outcome
    position: int | None = None
    phrase: int | None = None


class ForcedStudy(Frozen):
    """Replies after every prefix length.

    Attributes:
        unit: What lengths count.
        lengths: Prefix lengths.
        n_short: Prompts whose answer is no longer than the longest prefix.
        replies: One for each prompt and length.
    """

    unit: Unit
    lengths: tuple[int, ...]
    n_short: int
    replies: tuple[ForcedReply, ...]

    def refusal_rate(self, length: int) -> Interval:
        """Share of continuations refused or partly refused; degenerate ones stay in the proportion."""
        return self._share(length, lambda reply: reply.outcome in ("refused", "partial"))

    def phrase_rate(self, length: int) -> Interval:
        """Share of continuations with a refusal phrase anywhere, whatever the judge says."""
        return self._share(length, lambda reply: reply.phrase is not None)

    def positions(self, length: int) -> dict[str, int]:
        """Refusals by the number of words before them, counted after what was forced."""
        return histogram(reply.position for reply in self.at(length))

    def at(self, length: int) -> list[ForcedReply]:
        """Replies after a prefix of this length."""
        return [reply for reply in self.replies if reply.forced == length]

    def _share(self, length: int, hit: Any) -> Interval:
        found = self.at(length)
        judged = [reply for reply in found if reply.outcome != "unjudged"]
        return interval(
            sum(map(hit, judged)),
            len(judged),
            unjudged=len(found) - len(judged),
            degenerate=sum(reply.outcome == "degenerate" for reply in judged),
        )


def forced_prefix_study(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    answers: Sequence[str],
    lengths: Sequence[int] = LENGTHS,
    settings: ForcedSettings | None = None,
    say: Say = silent,
) -> ForcedStudy:
    """Force beginnings of answers on a transformers model in memory; greedy.

    Call it once with prompts to decline and their wrong answers, and once with prompts to answer and their good ones:
    `refusal_rate` of the second is the false-interruption rate. Not to be called inside a running event loop.

    Args:
        model: Causal language model; its mode is left as it was.
        tokenizer: With a chat template.
        prompts: Requests.
        answers: One for each prompt; its first m tokens are forced after the generation prompt.
        lengths: The m; 0 forces nothing.
        settings: Length of continuations, batch, judge.
        say: Called with stage, done and total.

    Raises:
        BadInputError: Prompts and answers differ in number, or too few answers are long enough.
    """
    settings = settings or ForcedSettings()
    continuer = TransformersContinuer(model=model, tokenizer=tokenizer, rows=settings.rows)
    return study(continuer, prompts, answers, lengths, settings, say)


def study(
    continuer: Continuer,
    prompts: Sequence[str],
    answers: Sequence[str],
    lengths: Sequence[int] = LENGTHS,
    settings: ForcedSettings | None = None,
    say: Say = silent,
) -> ForcedStudy:
    """The same through any engine; see `forced_prefix_study`."""
    settings = settings or ForcedSettings()
    wanted = _checked_lengths(lengths)
    if len(prompts) != len(answers):
        raise BadInputError(f"forced prefixes: expected one answer a prompt, got {len(answers)} for {len(prompts)}")
    where = _places(continuer, answers, wanted, settings)
    system = (Message(role="system", text=settings.system),) if settings.system else ()
    begun = [
        Begun(messages=(*system, Message(role="user", text=prompts[i])), answer=answers[i], forced=m) for i, m in where
    ]
    continued = continuer.go_on(begun, max_tokens=settings.max_tokens, say=say)
    exchanges = [
        Exchange(
            id=f"{i}/{m}",
            messages=(Message(role="user", text=prompts[i]),),
            response=one.text,
            stop_reason=one.stop_reason,
        )
        for (i, m), one in zip(where, continued, strict=True)
    ]
    verdicts = asyncio.run(judge_safely(settings.judge, exchanges))
    replies = tuple(
        ForcedReply(
            row=i,
            forced=m,
            prefix=one.prefix,
            text=one.text,
            outcome=verdict.outcome,
            position=refusal_position(verdict, one.text),
            phrase=phrase_position(one.text),
        )
        for (i, m), one, verdict in zip(where, continued, verdicts, strict=True)
    )
    longest = sum(m == wanted[-1] for _, m in where)
    return ForcedStudy(unit=continuer.unit, lengths=wanted, n_short=len(prompts) - longest, replies=replies)


def _places(
    continuer: Continuer, answers: Sequence[str], lengths: tuple[int, ...], settings: ForcedSettings
) -> list[tuple[int, int]]:
    """Number of the prompt and length of the prefix, for everything that is to be continued."""
    sizes = [continuer.length(answer) for answer in answers]
    n_long = sum(size > lengths[-1] for size in sizes)
    if n_long < max(1, settings.at_least):
        raise BadInputError(
            f"forced prefixes: expected at least {max(1, settings.at_least)} answers longer than {lengths[-1]} "
            f"{continuer.unit}, got {n_long} of {len(answers)}; give longer answers or shorter lengths"
        )
    return [(i, m) for m in lengths for i, size in enumerate(sizes) if size > (lengths[-1] if settings.paired else m)]


def _checked_lengths(lengths: Sequence[int]) -> tuple[int, ...]:
    wanted = tuple(sorted(set(lengths)))
    if not wanted or wanted[0] < 0:
        raise BadInputError(f"forced prefixes: expected lengths of 0 or more, got {list(lengths)}")
    return wanted
