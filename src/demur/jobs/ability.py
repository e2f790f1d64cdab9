"""Ability: what a model can do beside saying no, alone or against another; with published tasks when online."""

import asyncio
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pydantic import JsonValue

from demur import __version__
from demur.ability.check import Examinee, examine
from demur.ability.comparison import AbilityChange, ability_changes
from demur.ability.formats import MAX_TOKENS, Answer
from demur.ability.harness import PREFIX, PublishedScore
from demur.ability.memory import AbilityMemory
from demur.ability.result import PARTS, AbilityResult, Part
from demur.core.chat import ChatModel, ChatRequest
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.exchange import Frozen, Message
from demur.core.identity import Decoding
from demur.data.folder import claim, write_json
from demur.models import ModelSpec, identity_of, parse_model
from demur.models.answer_logprobs import load_reader
from demur.models.embedded import cache_dir
from demur.report.ability import render_ability
from demur.report.document import write_document
from demur.suites.ability import AbilityItems, load_ability

INSPECT = "inspect:"
LOCAL = ("embedded", "gguf", "hf")
Progress = Callable[[str, int, int], None]


class AbilityConfig(Frozen):
    """An ability check, completely.

    Attributes:
        model: Model name as typed.
        against: Another model, asked the same; the change is from it to `model`.
        tasks: Parts ('choices', 'prose', 'formats') and published tasks ('lm-eval:NAME', 'inspect:NAME').
        items: Folder of the user's own items; None = ours.
        limit: Items of each part, and of each published task; None = all.
        system: System prompt put before every question and instruction.
        out: Folder for the result and its report; None = nothing is written.
        remember: Keep numbers by model revision in the cache, and use those of earlier runs.
        command: How the job was started.
    """

    model: str
    against: str | None = None
    tasks: tuple[str, ...] = PARTS
    items: Path | None = None
    limit: int | None = None
    system: str = ""
    out: Path | None = None
    remember: bool = True
    command: tuple[str, ...] = ()


class AbilityReport(Frozen):
    """What was found.

    Attributes:
        result: The model's check.
        against: The other model's check.
        changes: From the other to the model, item by item.
        published: Figures of published tasks, by model.
        manifest: How it was made.
    """

    result: AbilityResult
    against: AbilityResult | None = None
    changes: tuple[AbilityChange, ...] = ()
    published: dict[str, tuple[PublishedScore, ...]] = {}
    manifest: dict[str, JsonValue] = {}


def check_ability(config: AbilityConfig, *, progress: Progress | None = None) -> AbilityReport:
    """Check a model's ability, and another's beside it; write `ability.json` and `report.html` where asked to.

    Raises:
        UserError: Something the caller can fix; the message says what. Nothing is loaded before all names are checked.
    """
    say = progress or (lambda *_: None)
    parts, lm_eval, inspect = _sorted_tasks(config.tasks)
    names = [config.model, *([config.against] if config.against else [])]
    specs = [_checked(parse_model(name), parts, lm_eval) for name in names]
    _check_packages(lm_eval, inspect)
    items = load_ability(config.items, limit=config.limit) if parts else AbilityItems()
    started = datetime.now(UTC)
    if config.out is not None:
        claim(config.out, {"kind": "ability", "models": names, "items": items.sha256, "tasks": list(config.tasks)})
    results = [_examined(spec, items, parts, config, say) for spec in specs]
    published = {spec.name: tuple(_published(spec, lm_eval, inspect, config)) for spec in specs if lm_eval or inspect}
    other = results[1] if len(results) > 1 else None
    report = AbilityReport(
        result=results[0],
        against=other,
        changes=tuple(ability_changes(other, results[0])) if other else (),
        published=published,
        manifest=_manifest(config, items, started),
    )
    if config.out is not None:
        write_json(config.out / "ability.json", report.model_dump(mode="json"))
        write_json(config.out / "manifest.json", report.manifest)
        html = render_ability(report.result, report.against, report.published, report.manifest)
        write_document(config.out / "report.html", html)
    return report


def _sorted_tasks(tasks: Sequence[str]) -> tuple[list[Part], list[str], list[str]]:
    """Parts of our own check, tasks of lm-eval, tasks of Inspect.

    Raises:
        UnknownNameError: None of these.
    """
    parts: list[Part] = []
    for task in tasks:
        own = next((part for part in PARTS if part == task), None)
        if own is not None:
            parts.append(own)
        elif not any(task.startswith(prefix) and task != prefix for prefix in (PREFIX, INSPECT)):
            raise UnknownNameError("task", task, [*PARTS, f"{PREFIX}NAME", f"{INSPECT}NAME"])
    if not tasks:
        raise BadInputError(f"--tasks: expected {', '.join(PARTS)}, {PREFIX}NAME or {INSPECT}NAME, got none")
    named = [[t.removeprefix(p) for t in tasks if t.startswith(p)] for p in (PREFIX, INSPECT)]
    return parts, named[0], named[1]


def _checked(spec: ModelSpec, parts: Sequence[Part], lm_eval: Sequence[str]) -> ModelSpec:
    needs = [part for part in parts if part != "formats"] + ["lm-eval"] * bool(lm_eval)
    if needs and spec.family not in LOCAL:
        raise BadInputError(
            f"model {spec.name!r}: {', '.join(needs)}: log-probabilities of whole answers need a local model "
            "(smollm2, gguf/PATH, hf/ID); use --tasks formats"
        )
    return spec


def _check_packages(lm_eval: Sequence[str], inspect: Sequence[str]) -> None:
    if lm_eval:
        from demur.ability.harness import check_installed

        check_installed()
    if inspect:
        from demur.evals.compat import require_inspect

        require_inspect()
        from demur.evals.published_tasks import check_installed as check_inspect

        check_inspect(inspect)


def _examined(
    spec: ModelSpec, items: AbilityItems, parts: Sequence[Part], config: AbilityConfig, say: Progress
) -> AbilityResult:
    identity = identity_of(spec, decoding=Decoding(max_tokens=MAX_TOKENS, system=config.system))
    if not parts:
        return AbilityResult(model=str(identity))
    memory = _memory(str(identity)) if config.remember and identity.revision else AbilityMemory()
    examinee = Examinee(
        load=lambda: load_reader(spec.name, system=config.system, instead="use --tasks formats"),
        answer=None if spec.family in LOCAL else _chat_answers(spec.name, config.system),
    )
    try:
        found = examine(
            examinee, items, parts=parts, memory=memory, say=lambda part, a, b: say(f"{spec.name}: {part}", a, b)
        )
    finally:
        memory.close()
    return found.model_copy(update={"model": str(identity)})


def _memory(identity: str) -> AbilityMemory:
    """Where a revision's numbers are kept."""
    name = sha256(identity.encode("utf-8", "surrogatepass")).hexdigest()[:24]
    return AbilityMemory(cache_dir() / "ability" / f"{name}.jsonl", identity=identity)


def _chat_answers(name: str, system: str) -> Answer:
    """Greedy replies of a model that is not run by transformers here."""

    def answer(asked: Sequence[tuple[str, int]], progress: Callable[[int, int], None]) -> Sequence[tuple[str, bool]]:
        from demur.evals.asking import chat_model

        return asyncio.run(_asked(chat_model(name), system, asked, progress))

    return answer


async def _asked(
    model: ChatModel, system: str, asked: Sequence[tuple[str, int]], progress: Callable[[int, int], None]
) -> list[tuple[str, bool]]:
    done = 0

    async def one(prompt: str, most: int) -> tuple[str, bool]:
        nonlocal done
        before = (Message(role="system", text=system),) if system else ()
        messages = (*before, Message(role="user", text=prompt))
        reply = await model.complete(ChatRequest(messages=messages, max_tokens=most, temperature=0.0))
        done += 1
        progress(done, len(asked))
        return reply.text, reply.stop_reason == "max_tokens"

    return list(await asyncio.gather(*(one(prompt, most) for prompt, most in asked)))


def _published(
    spec: ModelSpec, lm_eval: Sequence[str], inspect: Sequence[str], config: AbilityConfig
) -> list[PublishedScore]:
    found: list[PublishedScore] = []
    if lm_eval:
        from demur.ability.harness import run_lm_eval

        found += run_lm_eval(spec.name, lm_eval, limit=config.limit)
    if inspect:
        from demur.evals.published_tasks import run_inspect_tasks

        logs = (config.out or cache_dir() / "ability") / "logs"
        found += run_inspect_tasks(spec.name, inspect, log_dir=logs, limit=config.limit)
    return found


def _manifest(config: AbilityConfig, items: AbilityItems, started: datetime) -> dict[str, JsonValue]:
    return {
        "kind": "ability",
        "created": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "command": list(config.command),
        "models": [config.model, *([config.against] if config.against else [])],
        "items": str(config.items or "demur's own"),
        "items_sha256": items.sha256,
        "config": {"tasks": list(config.tasks), "limit": config.limit, "system": config.system},
    }
