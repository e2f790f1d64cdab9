"""Explain the refusal cliff of a model: replies in; a probe along their tokens, heads and training rows out."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import JsonValue

from demur import __version__
from demur.activations.subject import Subject
from demur.core.cliff import CliffResult, SelectionSummary
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.identity import Decoding
from demur.core.verdict import Outcome
from demur.data.folder import write_json
from demur.inside.ablation import head_count
from demur.inside.cliff import TokenTrace, item_cliff
from demur.inside.cliff_probes import (
    ANSWERED,
    DECLINED,
    FELL,
    FEWEST,
    EndProbe,
    control_rows,
    curve_rows,
    end_probe,
    first_words,
    group_rows,
    probe_rows,
)
from demur.inside.cliff_selection import (
    Candidate,
    Ranked,
    RankRule,
    overlap,
    ranked,
    selected,
    write_ranking,
    write_training,
)
from demur.inside.cliff_trials import Trial, ablation_rows, agreement, drop_shares, head_rows, random_p, truncation_rows
from demur.inside.heads import RankBy, causal_effects, head_contributions, rank_heads
from demur.inside.probe import split_by_group
from demur.inside.traces import ReasonedTokens, token_traces
from demur.jobs.cliff_rows import CliffRow, cliff_rows, judged, rolled_out, write_rows
from demur.jobs.following import outcomes
from demur.jobs.subject import cleaner, subject_of
from demur.report.inside import InsideFindings, write_inside

Progress = Callable[[str, int, int], None]
ROWS_FILE, RESULT_FILE, RANKING_FILE, PAGE = "rows.jsonl", "cliff.json", "ranking.jsonl", "report.html"
REPLIES_FILE = "replies.jsonl"
RULES: dict[RankRule, str] = {
    "drop": "selected.jsonl", "final": "selected_by_final.jsonl", "random": "selected_at_random.jsonl"
}  # fmt: skip


class CliffConfig(Frozen):
    """A study of the refusal cliff, completely.

    Attributes:
        model: Model as typed.
        out: Folder of what is written.
        prompts: Rows with prompt and expected; those with a response are not asked. None = the built-in ones.
        heads: Heads to take out: a share ('3%') or a number.
        rank_by: What heads are ranked by: 'change' between thinking and answer, or the contribution at the end.
        select: Rows to choose for training; 0 = none.
        limit: Most prompts of a side.
        max_tokens: Longest reply, thinking included.
        temperature: Of the replies; 0 = greedy.
        judge: Says what an answer did.
        factor: What the heads' outputs are multiplied with.
        rescale: What the other heads make up for: none, token, released.
        draws: Random draws of heads and directions.
        most: Items of a group that the model is run on again, for each ablation.
        answer_tokens: Longest answer after an ablation; 0 = only scores.
        seed: Of splits and draws.
        command: As typed.
    """

    model: str
    out: Path
    prompts: Path | None = None
    heads: str = "3%"
    rank_by: Literal["change", "final"] = "change"
    select: int = 0
    limit: int = 150
    max_tokens: int = 160
    temperature: float = 0.0
    judge: str = DEFAULT_JUDGE
    factor: float = 0.0
    rescale: Literal["none", "token", "released"] = "token"
    draws: int = 10
    most: int = 24
    answer_tokens: int = 40
    seed: int = 0
    command: tuple[str, ...] = ()


def cliff(config: CliffConfig, *, progress: Progress | None = None) -> CliffResult:
    """Run the study and write `cliff.json`, `report.html`, the rows and, if asked for, the rankings.

    Args:
        config: What is asked.
        progress: Called with (stage, done, all).

    Raises:
        BadInputError: A flag or row is wrong, or the model declines or answers too little to fit a probe.
    """
    _check(config)
    rows = cliff_rows(config.prompts, limit=config.limit)
    return cliff_of(subject_of(config.model), rows, config, progress=progress)


def cliff_of(
    subject: Subject, rows: Sequence[CliffRow], config: CliffConfig, *, progress: Progress | None = None
) -> CliffResult:
    """`cliff` for a model that is open already and rows that are read."""
    report = progress or (lambda *_: None)
    _check(config)
    n_heads = head_count(subject.parts, config.heads)
    decoding = Decoding(max_tokens=config.max_tokens, temperature=config.temperature, seed=config.seed)
    found = rolled_out(
        subject, rows, clean=cleaner(subject.tokenizer), decoding=decoding, journal=config.out / REPLIES_FILE,
        progress=lambda i, n: report("replies", i, n),
    )  # fmt: skip
    rows = judged([row for row, _ in found], config.judge)
    config.out.mkdir(parents=True, exist_ok=True)
    write_rows(config.out / ROWS_FILE, rows)
    items = [replace(item, group=row.group) for row, (_, item) in zip(rows, found, strict=True)]
    study = _Study(subject, {row.id: row for row in rows}, items, config, report)
    result = study.run(n_heads)
    write_json(config.out / RESULT_FILE, result.model_dump(mode="json"))
    write_inside(config.out / PAGE, InsideFindings(cliff=result))
    return result


class _Study:
    """One run: what its steps share."""

    def __init__(
        self,
        subject: Subject,
        rows: Mapping[str, CliffRow],
        items: Sequence[ReasonedTokens],
        config: CliffConfig,
        report: Progress,
    ) -> None:
        self.subject, self.rows, self.config, self.report = subject, rows, config, report
        usable = [item for item in items if item.group]
        thinking = [item for item in usable if item.thinks]
        self.thinks = len(thinking) >= max(2 * FEWEST, len(usable) // 4)
        self.items = thinking if self.thinks else [i for i in usable if i.span.status in ("none", "empty")]
        self.attrition = _attrition(items, self.items)

    def run(self, n_heads: int) -> CliffResult:
        """Every step, in order."""
        config, seed = self.config, self.config.seed
        pairs = {key: row.pair_id for key, row in self.rows.items() if row.pair_id}
        probe = end_probe(self.subject, self.items, pairs=pairs, seed=seed, progress=self._stage("probe"))
        fitted_on = {item.key for item in probe.fit}
        unseen = [item for item in self.items if item.key not in fitted_on]
        traces = token_traces(self.subject, unseen, probe.probe, progress=self._stage("traces"))
        fell = [item for item in unseen if item.group == FELL]
        contrast = first_words(self.subject, probe)
        texts = {key: (row.prompt, row.thinking or "") for key, row in self.rows.items()}
        ranked_on, tried_on, about = self._halves(fell, probe)
        rank_by: RankBy = config.rank_by if self.thinks else "final"
        contributions = head_contributions(self.subject, ranked_on, probe.probe, progress=self._stage("heads"))
        ranking = rank_heads(contributions, by=rank_by)
        top = [score.head for score in ranking[:n_heads]]
        trial = self._trial(probe, tried_on, unseen)
        effects = causal_effects(self.subject, trial.fallen, probe.probe, top, progress=self._stage("single heads"))
        ablations = ablation_rows(trial, top, draws=config.draws, seed=seed, progress=self._stage("ablations"))
        values = contributions.change if rank_by == "change" else contributions.final
        return CliffResult(
            model=self.subject.name,
            kind="cliff" if self.thinks else "boundary",
            attrition=self.attrition,
            probe_penalty=probe.probe.penalty,
            contrast_cosine=contrast[1] if contrast else None,
            probes=(*probe_rows(self.subject, probe, fell, seed=seed), *([contrast[0]] if contrast else [])),
            controls=tuple(control_rows(self.subject, probe, texts, draws=max(10, config.draws), seed=seed)),
            groups=tuple(group_rows(traces, seed=seed)) if self.thinks else (),
            curves=tuple(curve_rows(traces, thinks=self.thinks, seed=seed)),
            rank_by=rank_by,
            n_heads=self.subject.parts.n_heads,
            n_blocks=self.subject.parts.n_layers,
            heads=tuple(head_rows(ranking, contributions, effects, top)),
            head_map=tuple(tuple(float(v) for v in row) for row in values.mean(axis=0)),
            drop_shares=drop_shares(contributions),
            causal_agreement=agreement(ranking, effects),
            ablations=tuple(ablations),
            random_p=random_p(ablations),
            truncation=tuple(truncation_rows(trial, seed=seed)) if self.thinks else (),
            selection=self._selection(traces) if self.thinks and config.select else None,
            notes=tuple(self._notes(about, fell)),
            manifest=self._manifest(n_heads),
        )

    def _halves(
        self, fell: Sequence[ReasonedTokens], probe: EndProbe
    ) -> tuple[list[ReasonedTokens], list[ReasonedTokens], str]:
        """Items that heads are ranked on, items they are tried on, and what they are, in words."""
        enough = len(fell) >= 2 * FEWEST
        used = list(fell) if enough else [i for i in (*fell, *probe.held) if i.group in (FELL, DECLINED)]
        first = split_by_group([item.key for item in used], seed=self.config.seed)
        sides = ([i for i, f in zip(used, first, strict=True) if bool(f) is side] for side in (True, False))
        ranked_on, tried_on = sides
        return ranked_on, tried_on, FELL if enough else "to decline"

    def _trial(self, probe: EndProbe, tried_on: Sequence[ReasonedTokens], unseen: Sequence[ReasonedTokens]) -> Trial:
        most = self.config.most
        tried = {item.key for item in tried_on}
        others = [i for i in unseen if i.group == DECLINED and i.key not in tried]
        answered = [i for i in unseen if i.group == ANSWERED]
        return Trial(
            subject=self.subject,
            probe=probe.probe,
            fallen=tuple(tried_on[:most]),
            replied=(*tried_on[:most], *others[:most], *answered[:most]),
            judge=self._judge,
            prompts={key: row.prompt for key, row in self.rows.items()},
            answer_tokens=self.config.answer_tokens,
            factor=self.config.factor,
            rescale=self.config.rescale,
        )

    def _judge(self, prompts: Sequence[str], replies: Sequence[str]) -> list[Outcome]:
        return [verdict.outcome for verdict in outcomes(prompts, replies, judge=self.config.judge)]

    def _selection(self, traces: Sequence[TokenTrace]) -> SelectionSummary:
        candidates = [
            Candidate(
                key=trace.key,
                prompt=(row := self.rows[trace.key]).prompt,
                thinking=row.thinking or "",
                safe_reply=row.safe_reply,
                category=row.category,
                cliff=item_cliff(trace),
            )
            for trace in traces
            if trace.group == FELL
        ]
        order, n = ranked(candidates), self.config.select
        chosen = {rule: selected(order, n, by=rule, seed=self.config.seed) for rule in RULES}
        write_ranking(self.config.out / RANKING_FILE, order)
        for rule, of in chosen.items():
            write_training(self.config.out / RULES[rule], of)
        both = overlap(order, n)
        return SelectionSummary(
            n_candidates=len(order),
            n_with_reply=sum(bool(c.safe_reply.strip()) for c in candidates),
            n_selected=len(chosen["drop"]),
            misalignment={"all": _mean(order), **{rule: _mean(of) for rule, of in chosen.items()}},
            overlap=None if np.isnan(both) else both,
            files={**{str(rule): file for rule, file in RULES.items()}, "ranking": RANKING_FILE},
        )

    def _notes(self, about: str, fell: Sequence[ReasonedTokens]) -> list[str]:
        notes = []
        if not self.thinks:
            notes.append(
                "The model does not think before it answers: the curve is a trace across the border of the turns, and "
                "no cliff can be declared."
            )
        if about != FELL:
            notes.append(
                f"Only {len(fell)} prompts to decline were answered; heads were ranked and tried on all prompts to "
                "decline, and an ablation can lift little."
            )
        if self.config.prompts is None:
            notes.append("Prompts are demur's own; other prompts may be thought about differently.")
        notes.append(
            "The probe was fitted at one position: along the thinking it is read where it was not fitted; the rows "
            "'own probe' tell whether the same could be read there."
        )
        return notes

    def _manifest(self, n_heads: int) -> dict[str, JsonValue]:
        config = self.config
        prompts = "\n".join(f"{row.id}\t{row.declinable}\t{row.prompt}" for row in self.rows.values())
        settings = config.model_dump(mode="json", exclude={"command", "out", "model"})
        return {
            "kind": "cliff",
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "demur": __version__,
            "command": list(config.command),
            "config": settings | {"n_heads_ablated": n_heads},
            "inputs": {str(config.prompts or "built-in"): sha256(prompts.encode("utf-8", "replace")).hexdigest()},
            "models": {config.model: self.subject.name},
        }

    def _stage(self, name: str) -> Callable[[int, int], None]:
        return lambda done, total: self.report(name, done, total)


def _attrition(items: Sequence[ReasonedTokens], used: Sequence[ReasonedTokens]) -> dict[str, int]:
    """How many items there are, how their thinking ended, and how many of each group are left."""
    thinking = Counter(f"thinking {item.span.status}" for item in items)
    groups = Counter(item.group for item in used)
    judged_away = sum(not item.group for item in items)
    return {"prompts": len(items), **thinking, "degenerate or unjudged": judged_away, "used": len(used), **groups}


def _mean(rows: Sequence[Ranked]) -> float | None:
    return float(np.mean([row.candidate.misalignment for row in rows])) if rows else None


def _check(config: CliffConfig) -> None:
    for flag, value, low in (
        ("--select", config.select, 0),
        ("--limit", config.limit, 2 * FEWEST),
        ("--max-tokens", config.max_tokens, 1),
        ("--draws", config.draws, 1),
        ("--items", config.most, 2),
        ("--answer-tokens", config.answer_tokens, 0),
    ):
        if value < low:
            raise BadInputError(f"{flag}: expected at least {low}, got {value}")
    if config.factor < 0 or config.temperature < 0:
        raise BadInputError("--factor and --temperature: expected numbers from 0 on")
