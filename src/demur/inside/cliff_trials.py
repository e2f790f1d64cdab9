"""What is tried on a cliff: heads ranked and taken out, random heads beside them, thinking cut short."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from demur.activations.subject import Subject
from demur.core.cliff import AblationRow, HeadRow, MeanRow, TruncationRow
from demur.core.profile import Interval
from demur.core.verdict import Outcome
from demur.inside.ablation import Head, Rescale, random_heads, scaled_heads
from demur.inside.cliff import Estimate, cliff_statistics, item_cliff, mean_estimate, sigmoid
from demur.inside.cliff_probes import ANSWERED, mean_row
from demur.inside.heads import HeadContributions, HeadEffect, HeadScore
from demur.inside.probe import Probe
from demur.inside.rollouts import reply_losses, rollouts
from demur.inside.thinking import ThinkingSpan, truncated
from demur.inside.traces import ReasonedTokens, span_logits, token_traces
from demur.stats.rates import interval

Judge = Callable[[Sequence[str], Sequence[str]], list[Outcome]]
Progress = Callable[[int, int], None]
SHOWN = 16  # heads at either end of the ranking
FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
DECLINING = ("refused", "partial")


@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """What every trial needs.

    Attributes:
        subject: The model.
        probe: What is read.
        fallen: Items whose score is looked at; heads were not ranked on them.
        replied: Items that are answered again; of any group.
        judge: Outcomes of (prompts, replies).
        prompts: Prompt of each item by key.
        answer_tokens: Longest answer; 0 = nothing is answered.
        factor: What heads are multiplied with.
        rescale: What is made up for.
    """

    subject: Subject
    probe: Probe
    fallen: tuple[ReasonedTokens, ...]
    replied: tuple[ReasonedTokens, ...]
    judge: Judge
    prompts: Mapping[str, str]
    answer_tokens: int
    factor: float = 0.0
    rescale: Rescale = "token"


def head_rows(
    ranking: Sequence[HeadScore],
    found: HeadContributions,
    effects: Sequence[HeadEffect],
    ablated: Sequence[Head],
) -> list[HeadRow]:
    """Both ends of the ranking, with what taking single heads out did."""
    by_head = {effect.head: effect for effect in effects}
    shown = [s for i, s in enumerate(ranking) if i < max(SHOWN, len(ablated)) or i >= len(ranking) - SHOWN]
    return [
        HeadRow(
            block=score.head.block,
            head=score.head.head,
            contribution=MeanRow(mean=score.mean, low=_known(score.low), high=_known(score.high)),
            final=float(found.final[:, score.head.block, score.head.head].mean()),
            causal=_causal(by_head.get(score.head)),
            causal_final=by_head[score.head].final if score.head in by_head else None,
            ablated=score.head in set(ablated),
        )
        for score in shown
    ]


def agreement(ranking: Sequence[HeadScore], effects: Sequence[HeadEffect]) -> float | None:
    """Rank correlation (Spearman) of what heads were credited with and what taking them out did to the final logit.

    A head that pushes down lifts the logit when it goes, so the second is negated; None for fewer than three heads.
    """
    credited = {score.head: score.mean for score in ranking}
    if len(effects) < 3:
        return None
    ranks = [np.argsort(np.argsort(v)) for v in ([credited[e.head] for e in effects], [-e.final for e in effects])]
    return float(np.corrcoef(ranks[0], ranks[1])[0, 1])


def ablation_rows(
    trial: Trial, top: Sequence[Head], *, draws: int, seed: int = 0, progress: Progress | None = None
) -> list[AblationRow]:
    """The model as it is, without the top heads, and without as many random ones, drawn anew each time.

    Args:
        trial: Items and judge.
        top: The heads under suspicion.
        draws: Random draws from all blocks, and as many from the top heads' own blocks.
        seed: Of the draws.
        progress: Called with (rows done, rows).
    """
    parts = trial.subject.parts
    wanted: list[tuple[str, list[Head]]] = [("none", []), ("top heads", list(top))]
    wanted += [("random heads", random_heads(parts, top, seed=seed + i)) for i in range(draws)]
    beside = "random heads of the same blocks"
    wanted += [(beside, random_heads(parts, top, seed=seed + i, same_blocks=True)) for i in range(draws)]
    before = _answers(trial, [i for i in trial.replied if i.group == ANSWERED])
    rows = []
    for name, heads in wanted:
        with scaled_heads(trial.subject, heads, factor=trial.factor, rescale=trial.rescale):
            rows.append(_ablated(trial, name, heads, before, replies=name != beside))
        if progress is not None:
            progress(len(rows), len(wanted))
    return rows


def random_p(rows: Sequence[AblationRow]) -> float | None:
    """Share of random draws, with one added, that lift the final logit at least as far as the top heads do."""
    top = next((row for row in rows if row.name == "top heads"), None)
    others = [row.final_logit for row in rows if row.name.startswith("random")]
    if top is None or not others:
        return None
    return (1 + sum(other >= top.final_logit for other in others)) / (1 + len(others))


def truncation_rows(trial: Trial, *, fractions: Sequence[float] = FRACTIONS, seed: int = 0) -> list[TruncationRow]:
    """Scores and refusals when the items' thinking is cut short and closed."""
    rows = []
    for fraction in fractions:
        cut = [_cut(item, fraction) for item in trial.fallen]
        logits = span_logits(trial.subject, cut, trial.probe, ["final"])[:, 0]
        outcomes = _outcomes(trial, cut)
        final = mean_estimate(sigmoid(logits), seed=seed)
        declined = _share(outcomes, DECLINING) if outcomes else None
        rows.append(TruncationRow(fraction=fraction, n=len(cut), final=mean_row(final), refusal=declined))
    return rows


def drop_shares(found: HeadContributions) -> dict[str, float]:
    """Mean change of the logit from plateau to end, split over what wrote it."""
    changes = {
        "heads": found.change.sum(axis=(1, 2)),
        "embedding": found.embedding[:, 0] - found.embedding[:, 1],
        "feed-forward and biases": found.rest[:, 0] - found.rest[:, 1],
        "total": found.total[:, 0] - found.total[:, 1],
    }
    return {name: float(values.mean()) for name, values in changes.items()}


def _ablated(
    trial: Trial, name: str, heads: Sequence[Head], before: Mapping[str, tuple[int, ...]], *, replies: bool
) -> AblationRow:
    scores = _scores(trial)
    outcomes = _outcomes(trial, trial.replied) if replies else []
    sides = [item.group.startswith("to decline") for item in trial.replied]
    kept = [item for item in trial.replied if before.get(item.key)]
    losses = (
        reply_losses(trial.subject, [_start(item) for item in kept], [before[item.key] for item in kept]).tolist()
        if replies
        else []
    )
    return AblationRow(
        name=name,
        heads=tuple(map(str, heads)),
        factor=trial.factor,
        rescale=trial.rescale,
        plateau=mean_row(scores[0]),
        final=mean_row(scores[1]),
        drop=mean_row(scores[2]),
        final_logit=scores[3],
        refusal=_share([o for o, s in zip(outcomes, sides, strict=True) if s], DECLINING) if outcomes else None,
        over_refusal=_share([o for o, s in zip(outcomes, sides, strict=True) if not s], DECLINING)
        if outcomes
        else None,
        degenerate=_share(outcomes, ("degenerate",)) if outcomes else None,
        perplexity=float(np.exp(np.mean(losses))) if len(losses) else None,
    )


def _scores(trial: Trial) -> tuple[Estimate, Estimate, Estimate, float]:
    """Plateau, final and drop of the fallen items, and their mean final logit.

    An item without thinking has its last token for a plateau.
    """
    traces = token_traces(trial.subject, trial.fallen, trial.probe, after=0)
    logit = float(np.mean([trace.logits[trace.final] for trace in traces]))
    if all(item.thinks for item in trial.fallen):
        found = cliff_statistics([item_cliff(trace) for trace in traces])
        return found.plateau, found.final, found.drop, logit
    final = mean_estimate(np.array([trace.probabilities[trace.final] for trace in traces]))
    return final, final, Estimate(0.0, 0.0, 0.0), logit


def _outcomes(trial: Trial, items: Sequence[ReasonedTokens]) -> list[Outcome]:
    if not trial.answer_tokens or not items:
        return []
    made = rollouts(trial.subject, [_start(item) for item in items], max_tokens=trial.answer_tokens)
    replies = [trial.subject.tokenizer.decode(list(r.ids), skip_special_tokens=True) for r in made]
    return trial.judge([trial.prompts[item.key] for item in items], replies)


def _answers(trial: Trial, items: Sequence[ReasonedTokens]) -> dict[str, tuple[int, ...]]:
    """The items' own answers, as far as answers are written here."""
    n = trial.answer_tokens
    return {item.key: item.ids[item.final + 1 :][:n] for item in items if n}


def _start(item: ReasonedTokens) -> tuple[int, ...]:
    return item.ids[: item.final + 1]


def _cut(item: ReasonedTokens, fraction: float) -> ReasonedTokens:
    ids = truncated(item.ids, item.span, fraction)
    gone = item.final + 1 - len(ids)
    span = ThinkingSpan(
        status=item.span.status,
        start=item.span.start,
        end=item.span.end - gone,
        final=len(ids) - 1,
        opened=item.span.opened,
    )
    return replace(item, ids=ids, span=span)


def _share(outcomes: Sequence[Outcome], counted: Sequence[str]) -> Interval:
    judged = [o for o in outcomes if o != "unjudged"]
    return interval(
        sum(o in counted for o in judged),
        len(judged),
        unjudged=len(outcomes) - len(judged),
        degenerate=sum(o == "degenerate" for o in judged),
    )


def _causal(effect: HeadEffect | None) -> MeanRow | None:
    if effect is None:
        return None
    return MeanRow(mean=effect.drop, low=_known(effect.low), high=_known(effect.high))


def _known(value: float) -> float | None:
    return None if np.isnan(value) else value
