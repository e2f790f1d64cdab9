"""What a scoped model does with asks to answer, asks it learnt to decline, and asks it never saw: rates with intervals.

Acceptance is a real answer, rejection a reply that declines; empty, looping or meaningless replies are neither and are
counted beside them, in the denominator: a model that breaks down has answered nothing and declined nothing.
"""

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from demur.core.exchange import Exchange, Frozen, Message
from demur.core.judge import Judge
from demur.core.profile import Interval
from demur.core.verdict import Verdict
from demur.judges.safely import judge_safely
from demur.judges.scope_cues import ScopeCueJudge
from demur.stats.rates import interval

PUBLISHED = (ScopeCueJudge(), ScopeCueJudge(count_gibberish=True))
ACCEPTED, REJECTED, HELD_OUT = "accepted in training", "rejected in training", "held out"


@dataclass(frozen=True, slots=True)
class ScopeReply:
    """A reply to one ask.

    Attributes:
        task: Task of the ask.
        group: What training made of the task: ACCEPTED, REJECTED or HELD_OUT.
        prompt: The ask.
        reply: What the model said.
        cut_off: Whether the token limit ended it.
    """

    task: str
    group: str
    prompt: str
    reply: str
    cut_off: bool = False


class ScopeRates(Frozen):
    """Rates over one group of replies, by one judge; the three add up to 1 but for unjudged replies.

    Attributes:
        accepted: Answers, whatever manner.
        rejected: Replies that decline, in whole or in part.
        degenerate: Empty, looping or meaningless replies.
    """

    accepted: Interval
    rejected: Interval
    degenerate: Interval


class ScopeFindings(Frozen):
    """All rates: by judge, then by group or task."""

    by_group: dict[str, dict[str, ScopeRates]]
    by_task: dict[str, dict[str, ScopeRates]]

    def cells(self, judge: str) -> list[tuple[str, str, str, str, str]]:
        """Rows of a table: group, accepted, rejected, degenerate, replies."""
        return [
            (group, *(_percent(getattr(r, name)) for name in ("accepted", "rejected", "degenerate")), str(r.accepted.n))  # type: ignore[misc]
            for group, r in self.by_group[judge].items()
        ]


def scope_findings(replies: Sequence[ScopeReply], judge: Judge, *, also: Sequence[Judge] = PUBLISHED) -> ScopeFindings:
    """Judge replies with our judge and, for comparison, the published detectors.

    Args:
        replies: Replies to asks of every group.
        judge: The judge to go by.
        also: Further judges, reported under their own names.
    """
    exchanges = [
        Exchange(
            id=str(number),
            messages=(Message(role="user", text=one.prompt),),
            response=one.reply,
            stop_reason="max_tokens" if one.cut_off else "stop",
        )
        for number, one in enumerate(replies)
    ]
    by_group: dict[str, dict[str, ScopeRates]] = {}
    by_task: dict[str, dict[str, ScopeRates]] = {}
    for one in (judge, *also):
        verdicts = asyncio.run(judge_safely(one, exchanges))
        by_group[one.name] = _grouped([reply.group for reply in replies], verdicts)
        by_task[one.name] = _grouped([reply.task for reply in replies], verdicts)
    return ScopeFindings(by_group=by_group, by_task=by_task)


def scope_rates(verdicts: Sequence[Verdict]) -> ScopeRates:
    """Rates from verdicts; unjudged ones leave every denominator and are counted beside it."""
    counts = {outcome: sum(v.outcome == outcome for v in verdicts) for outcome in ("complied", "degenerate")}
    unjudged = sum(v.outcome == "unjudged" for v in verdicts)
    n = len(verdicts) - unjudged
    hits: Mapping[str, int] = {
        "accepted": counts["complied"],
        "rejected": n - counts["complied"] - counts["degenerate"],
        "degenerate": counts["degenerate"],
    }
    return ScopeRates(
        **{name: interval(k, n, unjudged=unjudged, degenerate=counts["degenerate"]) for name, k in hits.items()}
    )


def _grouped(names: Sequence[str], verdicts: Sequence[Verdict]) -> dict[str, ScopeRates]:
    return {
        name: scope_rates([v for v, held in zip(verdicts, names, strict=True) if held == name])
        for name in dict.fromkeys(names)
    }


def _percent(rate: Interval) -> str:
    if rate.estimate is None or rate.low is None or rate.high is None:
        return "–"
    return f"{rate.estimate:.1%} [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
