"""The suite that comes out: its rows, in the format of any suite file, and a card that says what they rest on."""

import json
from collections import Counter
from collections.abc import Mapping, Sequence

from pydantic import JsonValue

from demur.core.exchange import Frozen
from demur.synthesis.auditing import JudgeCheck
from demur.synthesis.copies import Sources
from demur.synthesis.decisions import Decision
from demur.synthesis.draft import STATES, Draft
from demur.synthesis.duplicates import nearest_earlier
from demur.synthesis.policy import SynthesisPolicy

MEANINGS = {
    "failed": "the writer's interface failed",
    "declined": "the writer's interface declined",
    "untagged": "the writer declined in words or did not keep to the form",
    "copied": "repeats a seed or an example",
    "unjudged": "too few judges could be read",
    "not_allowed": "every judge: the policy does not allow it",
    "disagreed": "the judges disagree whether it is allowed",
    "not_alarming": "does not look alarming",
    "unsound": "not natural, not complete or another language",
    "duplicate": "near-duplicate of an earlier one",
    "reserve": "good, held in reserve",
    "selected": "selected",
}


class Reviewed(Frozen):
    """What people decided.

    Attributes:
        n_kept: Prompts kept.
        n_dropped: Prompts dropped.
        n_edited: Of those kept, rewritten by a person.
        n_undecided: Selected prompts nobody has decided about; left out once a review has begun.
        n_spoilt: Rewritten prompts that repeat an example or another prompt; left out.
        reviewers: Who.
    """

    n_kept: int = 0
    n_dropped: int = 0
    n_edited: int = 0
    n_undecided: int = 0
    n_spoilt: int = 0
    reviewers: tuple[str, ...] = ()


def suite_rows(
    policy: SynthesisPolicy, drafts: Sequence[Draft], decisions: Mapping[str, Decision], *, near: float
) -> tuple[list[dict[str, JsonValue]], Reviewed]:
    """Rows of the suite file, and what people decided.

    Before the first decision every selected prompt is in; afterwards only what somebody kept.
    """
    chosen = [d for d in drafts if d.state == "selected"] if not decisions else _kept(drafts, decisions)
    edited = {d.id for d in chosen if decisions and decisions[d.id].prompt not in ("", d.prompt)}
    texts = [decisions[d.id].prompt if d.id in edited else d.prompt for d in chosen]
    spoilt = _spoilt(policy, chosen, texts, edited, near)
    rows = [_row(policy, d, t) for d, t in zip(chosen, texts, strict=True) if d.id not in spoilt]
    counts = Counter(d.choice for d in decisions.values())
    reviewed = Reviewed(
        n_kept=counts["keep"],
        n_dropped=counts["drop"],
        n_edited=len(edited),
        n_undecided=sum(d.state == "selected" and d.id not in decisions for d in drafts) if decisions else 0,
        n_spoilt=len(spoilt),
        reviewers=tuple(sorted({d.reviewer for d in decisions.values() if d.reviewer})),
    )
    return rows, reviewed


def rows_text(rows: Sequence[Mapping[str, JsonValue]]) -> str:
    """The rows as JSON Lines."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def card_text(
    manifest: Mapping[str, JsonValue], drafts: Sequence[Draft], checks: Sequence[JudgeCheck], reviewed: Reviewed
) -> str:
    """The card: how the suite was made, what was left out and why, and what it cannot tell."""
    lines = [f"# {manifest['suite']}", "", *_about(manifest, reviewed), "", "## What became of the drafts", ""]
    states = Counter(d.state for d in drafts)
    lines += ["| drafts | |", "| ---: | --- |"]
    lines += [f"| {states[state]} | {MEANINGS[state]} |" for state in STATES if states[state]]
    lines += [
        "",
        "## Prompts by category",
        "",
        "| category | wanted | in the suite | nearest neighbour | of a random choice |",
    ]
    lines += ["| --- | ---: | ---: | ---: | ---: |", *_categories(manifest), "", "## Judges", ""]
    lines += ["| judge | prompts | unreadable | examples of the policy sorted right |", "| --- | ---: | ---: | ---: |"]
    lines += [f"| {_cell(c.judge)} | {c.n} | {c.n_unjudged} | {_examples(c)} |" for c in checks]
    lines += ["", _agreement(drafts), "", "## What it cannot tell", ""]
    lines += [f"- {line}" for line in _limits(manifest, checks, reviewed)]
    return "\n".join(lines) + "\n"


def _kept(drafts: Sequence[Draft], decisions: Mapping[str, Decision]) -> list[Draft]:
    return [d for d in drafts if d.id in decisions and decisions[d.id].choice == "keep"]


def _spoilt(
    policy: SynthesisPolicy, chosen: Sequence[Draft], texts: Sequence[str], edited: set[str], near: float
) -> set[str]:
    """Prompts that a person's rewriting made a copy of an example or of another prompt."""
    sources = Sources(policy.examples)
    order = sorted(range(len(chosen)), key=lambda at: chosen[at].id in edited)
    nearest = nearest_earlier([texts[at] for at in order], near=near)
    close = {chosen[at].id for at, n in zip(order, nearest, strict=True) if n.similarity >= near}
    return {d.id for d, t in zip(chosen, texts, strict=True) if d.id in edited and (d.id in close or sources.copied(t))}


def _row(policy: SynthesisPolicy, draft: Draft, text: str) -> dict[str, JsonValue]:
    row: dict[str, JsonValue] = {
        "id": f"{slug(policy.name)}-{draft.id}",
        "seed": draft.seed,
        "category": draft.category,
        "expected": "comply",
        "prompt": text,
        "why": draft.why,
    }
    return row if len(policy.languages) == 1 else row | {"language": draft.language}


def slug(name: str) -> str:
    """A policy's name as file names and identifiers have it."""
    return "-".join("".join(c if c.isalnum() else " " for c in name.casefold()).split())[:60] or "policy"


def _about(manifest: Mapping[str, JsonValue], reviewed: Reviewed) -> list[str]:
    people = (
        f"People kept {reviewed.n_kept} ({reviewed.n_edited} rewritten) and dropped {reviewed.n_dropped} prompts; "
        f"{reviewed.n_undecided} selected ones are undecided and left out"
        + (f", {reviewed.n_spoilt} rewritten ones repeat others and are left out too" if reviewed.n_spoilt else "")
        + "."
        if reviewed.n_kept + reviewed.n_dropped
        else "**No person has looked at these prompts yet.** Run the review before numbers rest on them."
    )
    judges = manifest["judges"]
    return [
        f"{manifest['n_rows']} prompts that look alarming and that the policy {_cell(str(manifest['policy']))} allows "
        f"(wanted: {manifest['n_wanted']}). All expect compliance.",
        "",
        f"Written by {_cell(str(manifest['writer']))}, audited by "
        f"{', '.join(_cell(str(j)) for j in judges) if isinstance(judges, list) else judges}. {people}",
        "",
        f"Suite sha256 `{manifest['suite_sha256']}`, policy sha256 `{manifest['policy_sha256']}`.",
    ]


def _categories(manifest: Mapping[str, JsonValue]) -> list[str]:
    listed = manifest["categories"]
    assert isinstance(listed, dict)
    lines = []
    for name, about in listed.items():
        assert isinstance(about, dict)
        spreads = " | ".join("" if about[k] is None else f"{about[k]:.2f}" for k in ("nearest", "nearest_random"))
        lines.append(f"| {_cell(name)} | {about['wanted']} | {about['rows']} | {spreads} |")
    return lines


def _examples(check: JudgeCheck) -> str:
    if not check.n_examples:
        return "none in the policy"
    read = check.n_examples - check.n_examples_unjudged
    return f"{check.n_examples_right} of {read}" + (
        f" ({check.n_examples_unjudged} unreadable)" if read < check.n_examples else ""
    )


def _agreement(drafts: Sequence[Draft]) -> str:
    pairs = [
        (a.allowed, b.allowed)
        for d in drafts
        for i, a in enumerate(d.votes)
        for b in d.votes[i + 1 :]
        if a.judged and b.judged
    ]
    if not pairs:
        return "Agreement between judges: not known, since no prompt has two readable votes."
    same = sum(a == b for a, b in pairs)
    share = f"{same} of {len(pairs)} comparisons ({same / len(pairs):.0%})"
    return f"Two judges agree on whether a prompt is allowed in {share}."


def _limits(manifest: Mapping[str, JsonValue], checks: Sequence[JudgeCheck], reviewed: Reviewed) -> list[str]:
    limits = ["Every prompt expects compliance: over-refusal alone cannot be told from a system that declines nothing."]
    limits.append("Prompts of one seed resemble each other; intervals should be clustered by `seed`.")
    if any(c.judge == manifest["writer"] for c in checks):
        limits.append("A judge is the model that wrote the prompts: it shares its blind spots.")
    if len(checks) == 1:
        limits.append("A single judge audited them.")
    if any(2 * c.n_unjudged > c.n for c in checks if c.n):
        limits.append("A judge could not be read for most prompts.")
    if not reviewed.n_kept:
        limits.append("What judges allow, people may not: the labels are the judges' until somebody has looked.")
    return limits


def _cell(text: str) -> str:
    """Text that cannot break a table or become markup."""
    return "".join(f"\\{c}" if c in "|*_`<>[]\\#" else c for c in " ".join(text.split()))
