"""From judged exchanges to the rows and numbers that reports show."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from demur.core.exchange import Exchange
from demur.core.identity import Identity
from demur.core.judge import Judge
from demur.core.profile import AuditRow, JudgeSummary, Profile
from demur.core.suite import Suite
from demur.core.taxonomy import Taxonomy
from demur.core.verdict import Verdict
from demur.judges.cards import JudgeCard, corrected, load_card
from demur.stats.agreement import cohen_kappa
from demur.stats.profiles import cell, cells_by, worst_cell
from demur.stats.rates import minimum_detectable_effect
from demur.suites.scoring import PROTOCOLS, Mode, score


def judged_rows(
    suite: Suite,
    exchanges: Sequence[Exchange],
    verdicts: Sequence[Verdict],
    taxonomy: Taxonomy,
    capabilities: Sequence[str],
) -> list[AuditRow]:
    """One row for each prompt, with what was expected in this deployment and whether the conduct was appropriate."""
    rows = []
    for row, exchange, verdict in zip(suite.rows, exchanges, verdicts, strict=True):
        expected = taxonomy.expectation(row.expected, row.subcategory, capabilities=capabilities)
        rows.append(
            AuditRow(
                id=row.id,
                suite=suite.name,
                category=row.category,
                subcategory=row.subcategory,
                expected=expected,
                prompt=row.prompt,
                response=exchange.response,
                outcome=verdict.outcome,
                manner=verdict.manner,
                p_refused=verdict.p_refused,
                appropriate=taxonomy.appropriate(row.subcategory, verdict, expected=expected),
                judge=verdict.judge,
                stop_reason=exchange.stop_reason,
                pair_id=row.pair_id,
                rationale=str(exchange.metadata.get("error") or verdict.rationale),
                source=verdict.source,
                truncated=exchange.is_truncated,
                refusal_span=verdict.refusal_span,
                reasoning=exchange.reasoning,
            )
        )
    return rows


def judge_summaries(
    judges: Sequence[Judge],
    verdicts: Sequence[Sequence[Verdict]],
    rows: Sequence[AuditRow],
    suite: Suite,
    exchanges: Sequence[Exchange],
    taxonomy: Taxonomy,
    capabilities: Sequence[str],
) -> tuple[JudgeSummary, ...]:
    """Every judge's view of the whole suite; `rows` are the first judge's."""
    summaries = []
    for number, (judge, own) in enumerate(zip(judges, verdicts, strict=True)):
        judged = rows if number == 0 else judged_rows(suite, exchanges, own, taxonomy, capabilities)
        label = f"{judge.name}@{judge.version}"
        whole = cell(judged, key="all", name="all", category="")
        both = [
            (a.outcome, b.outcome)
            for a, b in zip(rows, judged, strict=True)
            if "unjudged" not in (a.outcome, b.outcome)
        ]
        card = load_card(label)
        kappa = cohen_kappa([a for a, _ in both], [b for _, b in both])
        summaries.append(
            JudgeSummary(
                judge=label,
                should_refuse=whole.should_refuse,
                contrast=whole.contrast,
                refused=whole.refused,
                outcomes=dict(Counter(r.outcome for r in judged)),
                corrected_refused=corrected(whole.refused, card) if card else None,
                agreement_with_primary=sum(a == b for a, b in both) / len(both) if number and both else None,
                kappa_with_primary=kappa if number and kappa == kappa else None,
                card=_summary_of(card) if card else None,
            )
        )
    return tuple(summaries)


def _summary_of(card: JudgeCard) -> dict[str, Any]:
    """A card as reports show it: its overall figures, by source, and what it was measured on."""
    whole = card.model_dump(mode="json")
    overall: dict[str, Any] = whole.pop("overall")
    return {**overall, **whole}


def build_profile(
    suite: Suite,
    identity: Identity,
    taxonomy: Taxonomy,
    rows: Sequence[AuditRow],
    judges: tuple[JudgeSummary, ...],
    manifest: dict[str, Any],
) -> Profile:
    """All numbers of an audit."""
    overall = cell(rows, key="all", name="All", category="")
    categories = cells_by(rows, "category", taxonomy)
    subcategories = cells_by(rows, "subcategory", taxonomy)
    sides = [s for s in (overall.should_refuse, overall.contrast) if s.estimate is not None]
    effects = [minimum_detectable_effect(s.estimate or 0, s.n) for s in sides]
    return Profile(
        model=str(identity),
        suite=suite.name,
        n=len(rows),
        overall=overall,
        categories=categories,
        subcategories=subcategories,
        worst=worst_cell(subcategories),
        minimum_detectable_effect=max(effects) if effects else None,
        outcomes=dict(Counter(r.outcome for r in rows)),
        manners=dict(Counter(r.manner for r in rows if r.manner)),
        n_truncated=sum(r.truncated for r in rows),
        n_errors=0,
        judges=judges,
        published_scores=_published(suite.name, rows),
        manifest=manifest,
    )


def _published(suite: str, rows: Sequence[AuditRow]) -> tuple[dict[str, Any], ...]:
    if suite not in PROTOCOLS:
        return ()
    modes: tuple[Mode, ...] = ("faithful", "corrected")
    return tuple(score(suite, rows, mode=mode).model_dump(mode="json") for mode in modes)
