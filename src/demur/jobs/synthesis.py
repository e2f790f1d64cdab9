"""From a policy to a suite of seemingly harmful but benign prompts; every step can be interrupted and run again."""

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pydantic import JsonValue, ValidationError

from demur import __version__
from demur.core.chat import ChatModel
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.suite import Suite
from demur.data.folder import claim, write_json, write_text
from demur.suites import load_suite
from demur.suites.formats import load_file_suite, read_rows
from demur.suites.images import load_image_suite
from demur.synthesis.asking import Asker
from demur.synthesis.auditing import JudgeCheck
from demur.synthesis.decisions import DecisionBook
from demur.synthesis.draft import STATES, Draft
from demur.synthesis.journal import ReplyJournal
from demur.synthesis.policy import Kind, SynthesisPolicy, load_synthesis_policy
from demur.synthesis.suite import card_text, rows_text, slug, suite_rows
from demur.synthesis.wording import wording_hash
from demur.synthesis.workflow import Effort, Workflow, Written

Progress = Callable[[str, int, int], None]


class SynthesisConfig(Frozen):
    """A synthesis, completely.

    Attributes:
        policy: File of the policy.
        kind: Requests for text or for pictures.
        model: Who writes.
        out: Folder of the run.
        judges: Who audits; the writer where none is named.
        effort: How many prompts, and how hard to try.
        against: Suites, by name or file, whose prompts must not be written again.
        connections: Requests in flight.
        tries: How often a question that fails for a passing reason is sent.
    """

    policy: Path
    kind: Kind
    model: str
    out: Path
    judges: tuple[str, ...] = ()
    effort: Effort
    against: tuple[str, ...] = ()
    connections: int = 8
    tries: int = 3


class SynthesisFindings(Frozen):
    """What a synthesis came to.

    Attributes:
        kind: Requests for text or for pictures.
        policy: Name of the policy.
        wanted: Prompts wanted by category.
        rows: Rows of the suite by category.
        states: Drafts by where they ended.
        checks: The judges.
        n_rounds: Rounds it took.
        n_asked: Questions sent by the last call.
        n_replayed: Questions the last call answered from the journal.
        failures: What models that failed said last, with how many questions went unanswered in the last call.
        spreads: By category, the mean distance to the nearest neighbour of the selected and of random choices.
        near: Jaccard index that counted as a duplicate.
        reviewed: Whether people have decided.
        manifest: How it was made.
        suite: File of the suite, within the folder.
    """

    kind: Kind
    policy: str
    wanted: dict[str, int]
    rows: dict[str, int] = {}
    states: dict[str, int]
    checks: tuple[JudgeCheck, ...]
    n_rounds: int
    n_asked: int
    n_replayed: int
    failures: dict[str, str] = {}
    spreads: dict[str, tuple[float | None, float | None]]
    near: float
    reviewed: bool = False
    manifest: dict[str, JsonValue]
    suite: str = ""


def synthesise(
    config: SynthesisConfig,
    *,
    writer: ChatModel | None = None,
    judges: Sequence[ChatModel] | None = None,
    progress: Progress | None = None,
) -> SynthesisFindings:
    """Write, audit, thin out and select prompts for a policy, and write the suite with its card.

    Files: `journal.jsonl` (every reply), `candidates.jsonl` (every draft), `synthesis.json`, and the folder `suite`.
    The same call after an interruption asks only what was not answered.

    Args:
        config: What to do.
        writer: Instead of the model that the configuration names.
        judges: Instead of the judges that it names.
        progress: Called with step, done and total.

    Raises:
        UserError: Something the caller can fix, also if no prompt comes through.
        BackendError: The writer answers nothing; what was answered is kept.
    """
    policy = load_synthesis_policy(config.policy, config.kind)
    against = [row.prompt for name in config.against for row in _suite(name).rows]
    names = list(dict.fromkeys(config.judges or (config.model,)))
    writer = writer or _chat_model(config.model)
    panel = list(judges) if judges is not None else [_chat_model(name) for name in names]
    manifest = _manifest(config, policy, writer, panel, against)
    claim(config.out, manifest)
    started = datetime.now(UTC)
    journal = ReplyJournal(config.out / "journal.jsonl")
    try:
        asker = Asker(journal=journal, connections=config.connections, tries=config.tries)
        flow = Workflow(
            policy=policy,
            kind=config.kind,
            model=writer,
            judges=panel,
            asker=asker,
            effort=config.effort,
            against=against,
            progress=progress or _silent,
        )
        written = asyncio.run(flow.run())
    finally:
        journal.close()
    made = {"started": started.isoformat(timespec="seconds"), "demur": __version__, **manifest}
    findings = _findings(config, policy, written, asker, made)
    write_text(config.out / "policy.json", policy.model_dump_json(indent=1) + "\n")
    write_text(config.out / "candidates.jsonl", "".join(d.model_dump_json() + "\n" for d in written.drafts))
    write_json(config.out / "synthesis.json", findings.model_dump(mode="json"))
    return write_suite(config.out)


def write_suite(folder: Path) -> SynthesisFindings:
    """Write the suite of a run from its candidates and what people decided so far.

    Raises:
        BadInputError: No finished synthesis there, or nothing is left of it.
    """
    findings, policy, drafts = read_run(folder)
    decisions = DecisionBook(folder / "decisions.jsonl", drafts).decided
    rows, reviewed = suite_rows(policy, drafts, decisions, near=findings.near)
    if not rows:
        what = ", ".join(f"{n} {state.replace('_', ' ')}" for state, n in findings.states.items())
        why = "".join(f"; {name}: {said}" for name, said in findings.failures.items())
        dropped = f"; {reviewed.n_dropped} dropped by people" if decisions else ""
        raise BadInputError(f"{folder}: no prompt is left for a suite: {what}{dropped}{why}; see candidates.jsonl")
    path = folder / "suite" / f"{slug(policy.name)}.jsonl"
    write_text(path, rows_text(rows))
    suite = _loaded(path, findings.kind)
    counts = Counter(str(row["category"]) for row in rows)
    manifest: dict[str, JsonValue] = {
        **findings.manifest,
        "kind": "suite",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "n_rows": len(suite.rows),
        "n_wanted": sum(findings.wanted.values()),
        "categories": {name: _category(findings, name, counts[name]) for name in findings.wanted},
        "states": dict(findings.states),
        "review": reviewed.model_dump(mode="json"),
    }
    write_json(path.with_name("manifest.json"), manifest)
    write_text(path.with_name("card.md"), card_text(manifest, drafts, findings.checks, reviewed))
    about = {
        "rows": dict(counts),
        "reviewed": bool(decisions),
        "manifest": manifest,
        "suite": str(path.relative_to(folder)),
    }
    return findings.model_copy(update=about)


def read_run(folder: Path) -> tuple[SynthesisFindings, SynthesisPolicy, list[Draft]]:
    """Findings, policy and drafts of a finished synthesis.

    Raises:
        BadInputError: There is none, or it is of another version.
    """
    paths = [folder / name for name in ("synthesis.json", "policy.json", "candidates.jsonl")]
    missing = next((p for p in paths if not p.is_file()), None)
    if missing is not None:
        raise BadInputError(f"{folder}: expected the folder of a finished synthesis with {missing.name}, found none")
    try:
        findings, policy, listed = (p.read_text(encoding="utf-8") for p in paths)
        drafts = [Draft.model_validate_json(line) for line in listed.split("\n") if line]
        return SynthesisFindings.model_validate_json(findings), SynthesisPolicy.model_validate_json(policy), drafts
    except ValidationError as error:
        raise BadInputError(f"{folder}: expected a synthesis of this version; {str(error).splitlines()[0]}") from None


def _findings(
    config: SynthesisConfig, policy: SynthesisPolicy, written: Written, asker: Asker, manifest: dict[str, JsonValue]
) -> SynthesisFindings:
    states = Counter(d.state for d in written.drafts)
    return SynthesisFindings(
        kind=config.kind,
        policy=policy.name,
        wanted=written.wanted,
        states={state: states[state] for state in STATES if states[state]},
        checks=written.checks,
        n_rounds=written.n_rounds,
        n_asked=asker.n_asked,
        n_replayed=asker.n_replayed,
        failures={name: f"{n} unanswered; {asker.errors.get(name, '')}" for name, n in asker.failed.items()},
        spreads={name: (s.nearest, s.nearest_random) for name, s in written.spreads.items()},
        near=config.effort.near,
        manifest=manifest,
    )


def _manifest(
    config: SynthesisConfig,
    policy: SynthesisPolicy,
    writer: ChatModel,
    judges: Sequence[ChatModel],
    against: Sequence[str],
) -> dict[str, JsonValue]:
    """What makes a synthesis this one: a folder holds one."""
    if not judges:
        raise BadInputError("judges: expected one or more, got none")
    return {
        "kind": "synthesis",
        "request": config.kind,
        "policy": policy.name,
        "policy_sha256": policy.sha256,
        "writer": writer.name,
        "judges": [judge.name for judge in judges],
        "effort": config.effort.model_dump(mode="json"),
        "against": list(config.against),
        "against_sha256": sha256("\x1f".join(against).encode("utf-8", "replace")).hexdigest()[:16] if against else "",
        "wording": wording_hash(),
    }


def _category(findings: SynthesisFindings, name: str, n_rows: int) -> dict[str, JsonValue]:
    nearest, at_random = findings.spreads.get(name, (None, None))
    return {"wanted": findings.wanted[name], "rows": n_rows, "nearest": nearest, "nearest_random": at_random}


def _loaded(path: Path, kind: Kind) -> Suite:
    """The suite as every other command reads it."""
    return load_image_suite(str(path)) if kind == "image" else load_file_suite(path)


def _suite(name: str) -> Suite:
    if name == "images-core":
        return load_image_suite()
    if Path(name).is_file():
        rows, n_skipped = read_rows(Path(name))
        listed = tuple({"id": str(at), "prompt": row["prompt"]} for at, row in enumerate(rows))
        return Suite.model_validate({"name": name, "rows": listed, "sha256": "", "n_skipped": n_skipped})
    return load_suite(name)


def _chat_model(name: str) -> ChatModel:
    from demur.evals.asking import chat_model

    return chat_model(name)


def _silent(*_: object) -> None:
    """Progress nobody watches."""
