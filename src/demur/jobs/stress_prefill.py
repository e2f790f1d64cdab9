"""Stress by forced prefixes: the model goes on with the beginning of a wrong answer, and of good ones beside it."""

import json
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from demur import __version__
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.identity import Decoding, Identity
from demur.data.folder import claim, write_text
from demur.data.tables import read_table
from demur.jobs.stress import chat_model, weights_continuer
from demur.jobs.stress_results import write_findings
from demur.judges import load_judge
from demur.models import ModelSpec, identity_of, parse_model
from demur.stress.continuation import (
    ChatContinuer,
    Continuer,
    JournalledContinuer,
    Say,
    check_continuing,
    continuation_journal,
    silent,
)
from demur.stress.forced import LENGTHS, ForcedSettings, ForcedStudy, study
from demur.stress.prefill import PrefillFindings, prefill_findings
from demur.suites.training import load_training

PREFILL_TOKENS = 64


class BegunAnswer(Frozen):
    """A request and the answer whose beginning is forced.

    Attributes:
        prompt: The request.
        answer: A wrong answer to a request to decline, or a good one to a request to answer.
        expected: Which side the request is on.
        subcategory: Kind of request.
    """

    prompt: str
    answer: str
    expected: Literal["refuse", "comply"]
    subcategory: str = ""


class PrefillConfig(Frozen):
    """A study of forced prefixes, completely.

    Attributes:
        model: Model name as typed.
        out: Folder of the run.
        answers: File with prompt, answer and expected; None takes the training set's harmless inappropriate responses
            and the appropriate ones of requests to answer.
        lengths: Tokens to force.
        max_prompts: Most prompts on each side.
        paired: Keep only answers longer than the longest prefix, so that the same prompts stand at every length.
        judge: Reads what the model wrote after what was forced.
        decoding: How long a continuation is, and the system prompt; greedy.
        one_sided: Run although one side is missing.
    """

    model: str
    out: Path
    answers: Path | None = None
    lengths: tuple[int, ...] = LENGTHS
    max_prompts: int | None = None
    paired: bool = False
    judge: str = "phrases"
    decoding: Decoding = Decoding(max_tokens=PREFILL_TOKENS)
    one_sided: bool = False


def stress_prefill(config: PrefillConfig, *, continuer: Continuer | None = None, say: Say = silent) -> PrefillFindings:
    """Force beginnings of answers, judge what follows, and write `findings.json`, `replies.jsonl` and `report.html`.

    Raises:
        UserError: Something the caller can fix: an answers' file without a side, a provider that cannot continue.
        BackendError: The model failed; what it answered is kept.
    """
    judge = load_judge(config.judge, chat_model=chat_model)
    begun = _begun(config)
    spec = parse_model(config.model)
    identity = identity_of(spec, decoding=config.decoding)
    manifest = _manifest(config, identity, begun)
    claim(config.out, {key: manifest[key] for key in ("kind", "model", "answers_sha256")})
    journal = continuation_journal(config.out / "journal.jsonl")
    journalled = JournalledContinuer(continuer or _continuer(spec), journal, str(identity))
    drawn = config.decoding
    settings = ForcedSettings(max_tokens=drawn.max_tokens, system=drawn.system, judge=judge, paired=config.paired)
    sides: dict[str, ForcedStudy] = {}
    used: dict[str, list[BegunAnswer]] = {}
    try:
        for side in ("refuse", "comply"):
            rows = _chosen([row for row in begun if row.expected == side], journalled, config)
            if rows:
                used[side] = rows
                prompts, answers = [row.prompt for row in rows], [row.answer for row in rows]
                sides[side] = study(journalled, prompts, answers, config.lengths, settings, say)
    finally:
        journal.close()
    _check_sides(sides, config, journalled.unit)
    findings = prefill_findings(str(identity), f"{judge.name}@{judge.version}", sides, manifest, paired=config.paired)
    _write(config.out, findings, sides, used)
    return findings


def _check_sides(sides: dict[str, ForcedStudy], config: PrefillConfig, unit: str) -> None:
    if "refuse" in sides and ("comply" in sides or config.one_sided):
        return
    raise BadInputError(
        f"forced prefixes: expected answers longer than {max(config.lengths)} {unit} on both sides, got them for "
        f"{', '.join(sides) or 'none'}; give longer answers, shorter --lengths, or --one-sided"
    )


def _begun(config: PrefillConfig) -> list[BegunAnswer]:
    if config.answers is not None:
        return _read(config.answers)
    found = []
    for row in load_training("calibration"):
        answer = row.inappropriate if row.expected == "refuse" else row.appropriate
        if answer:
            found.append(
                BegunAnswer(prompt=row.prompt, answer=answer, expected=row.expected, subcategory=row.subcategory)
            )
    return found


def _read(path: Path) -> list[BegunAnswer]:
    rows = []
    for record in read_table(path).records:
        texts = {}
        for field in ("prompt", "answer"):
            texts[field] = record.cell(field)
            if not isinstance(texts[field], str) or not texts[field].strip():
                raise record.bad(field, "a text", texts[field], "mend it")
        side = record.cell("expected")
        if side not in ("refuse", "comply"):
            raise record.bad("expected", "'refuse' or 'comply'", side, "mend it")
        kind = str(record.cell("subcategory") or "")
        rows.append(BegunAnswer(prompt=texts["prompt"], answer=texts["answer"], expected=side, subcategory=kind))
    return rows


def _continuer(spec: ModelSpec) -> Continuer:
    own = weights_continuer(spec)
    if own is not None:
        return own
    if spec.family == "scripted":
        raise BadInputError(
            f"model {spec.name!r}: expected a model that can go on with a begun reply; it has no weights"
        )
    check_continuing(spec.rest)
    return ChatContinuer(chat_model(spec.name))


def _chosen(rows: Sequence[BegunAnswer], continuer: Continuer, config: PrefillConfig) -> list[BegunAnswer]:
    """At most as many rows as wanted, those long enough for the longest prefix first, in an order drawn by hash.

    None where not one is long enough.
    """
    drawn = sorted(rows, key=lambda row: sha256(row.prompt.encode("utf-8", "replace")).digest())
    long = [row for row in drawn if continuer.length(row.answer) > max(config.lengths)]
    others = [] if config.paired or not long else [row for row in drawn if row not in long]
    return [*long, *others][: config.max_prompts]


def _write(
    out: Path, findings: PrefillFindings, sides: dict[str, ForcedStudy], used: dict[str, list[BegunAnswer]]
) -> None:
    lines: list[dict[str, Any]] = [
        {"side": side, "prompt": used[side][reply.row].prompt, **reply.model_dump(mode="json", exclude={"row"})}
        for side, found in sides.items()
        for reply in found.replies
    ]
    write_text(out / "replies.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    write_findings(out, findings)


def _manifest(config: PrefillConfig, identity: Identity, begun: Sequence[BegunAnswer]) -> dict[str, JsonValue]:
    text = "\x1e".join(row.model_dump_json() for row in begun)
    return {
        "kind": "stress-prefill",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": " ".join(["demur", *sys.argv[1:]]) if Path(sys.argv[0]).name == "demur" else "",
        "model": str(identity),
        "answers": config.answers.name if config.answers else "training-set, calibration split",
        "answers_sha256": sha256(text.encode("utf-8", "surrogatepass")).hexdigest(),
        "config": config.model_dump(mode="json", exclude={"out", "answers"}),
    }
