"""Stress: the same requests otherwise, with their benign twins, every attempt kept and judged by several judges."""

import asyncio
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import JsonValue

from demur import __version__
from demur.core.chat import ChatModel
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.exchange import Frozen
from demur.core.identity import Decoding, Identity
from demur.core.suite import Suite
from demur.data.folder import claim
from demur.jobs.stress_results import write_results
from demur.models import ModelSpec, build_model, identity_of, parse_model
from demur.stress.attacks import load_attack
from demur.stress.attempt import Attack, Attempt, Goal, balanced, exchange_of, goals_of
from demur.stress.continuation import Continuer, JournalledContinuer, Say, continuation_journal, silent
from demur.stress.findings import (
    StressFindings,
    agreements,
    category_cells,
    conduct_cells,
    consistencies,
    judge_infos,
    success_cells,
)
from demur.stress.loop import BARE, AttemptLoop, LoopSettings, attempt_journal
from demur.stress.reformulator import TenseAttack, load_reformulator
from demur.stress.success import ConductSuccess, Ruling, SuccessJudge, load_success_judge
from demur.suites import OWN, load_suite
from demur.suites.tense import load_tense

DEFAULT_JUDGES = (DEFAULT_JUDGE, "strings")
MAX_TOKENS = 150
TENSE_ATTEMPTS = 5


class StressConfig(Frozen):
    """A stress test, completely.

    Attributes:
        model: Model name as typed.
        attack: Name of the attack.
        out: Folder of the run.
        suite: Suite name or file; prompts to refuse are attacked, prompts to answer are the controls.
        suite_path: Where a published suite lies.
        category: Keep this category; None keeps 'safety' of demur's own suites and everything of others.
        max_prompts: Most prompts on each side.
        attempts: Most attempts on a prompt in one form; None for the attack's own number.
        judges: Who rules on success; the first makes the headline.
        stop_judge: Ends a prompt's attempts at its first success; empty asks them all, which keeps estimates unbiased.
        reformulator: 'rules' or a model's name, for tense.
        conditions: Forms to ask; empty for all.
        natural: Also ask benign requests that are about past and future by nature, for tense.
        one_sided: Run although controls are missing.
        decoding: How replies are drawn.
        connections: Requests in flight.
        revision: Hub revision of a transformers model.
        dtype: Number format of a transformers model.
    """

    model: str
    attack: str
    out: Path
    suite: str = "core"
    suite_path: Path | None = None
    category: str | None = None
    max_prompts: int | None = None
    attempts: int | None = None
    judges: tuple[str, ...] = DEFAULT_JUDGES
    stop_judge: str = ""
    reformulator: str = "rules"
    conditions: tuple[str, ...] = ()
    natural: bool = True
    one_sided: bool = False
    decoding: Decoding = Decoding(max_tokens=MAX_TOKENS)
    connections: int = 32
    revision: str | None = None
    dtype: str = "auto"


def stress(
    config: StressConfig,
    *,
    model: ChatModel | None = None,
    continuer: Continuer | None = None,
    say: Say = silent,
) -> StressFindings:
    """Ask, judge, count, and write `findings.json`, `attempts.jsonl`, `report.html` and `manifest.json`.

    Everything that can be wrong with the request is checked before a model is loaded. Every attempt is on disk at
    once: the same call after an interruption asks only the rest.

    Args:
        config: What to do.
        model: Instead of the model that the configuration names.
        continuer: Continues texts without chat tags, instead of the named model's weights.
        say: Called with stage, done and total.

    Raises:
        UserError: Something the caller can fix.
        BackendError: The model failed for good; what it answered is kept.
    """
    attack = _attack(config)
    judges, conduct, stop = _judges(config)
    suite = load_suite(config.suite, path=config.suite_path)
    goals = _goals(config, suite, attack)
    spec = parse_model(config.model)
    identity = identity_of(spec, revision=config.revision, decoding=config.decoding)
    manifest = _manifest(config, suite, identity, attack)
    claim(config.out, {key: manifest[key] for key in ("kind", "model", "attack", "suite", "suite_sha256")})
    model = model or _subject(config, spec, identity)
    held = continuation_journal(config.out / "continuations.jsonl")
    if BARE in (config.conditions or attack.conditions):
        continuer = continuer or weights_continuer(spec)
    journal = attempt_journal(config.out / "journal.jsonl")
    loop = AttemptLoop(
        model=model,
        attack=attack,
        journal=journal,
        identity=str(identity),
        settings=_settings(config, stop),
        continuer=JournalledContinuer(continuer, held, str(identity)) if continuer else None,
    )
    try:
        attempts = loop.run(goals, say)
    finally:
        journal.close()
        held.close()
    rulings = _rule(attempts, goals, attack, [*judges, conduct], str(identity), say)
    run = _Asked(
        config=config,
        attack=attack,
        goals=goals,
        attempts=attempts,
        rulings=rulings,
        judges=judges,
        conduct=conduct,
    )
    findings = _findings(run, suite, manifest)
    findings = findings.model_copy(update={"notes": _notes(config, attack, findings, loop, spec)})
    write_results(config.out, findings, attempts, attack, rulings)
    return findings


def weights_continuer(spec: ModelSpec) -> Continuer | None:
    """Continues begun replies and bare texts with a model's own weights; None where they are not here."""
    if spec.family not in ("embedded", "gguf", "hf"):
        return None
    from demur.jobs.subject import subject_of
    from demur.stress.continuation import TransformersContinuer

    subject = subject_of(spec.name)
    return TransformersContinuer(model=subject.model, tokenizer=subject.tokenizer)


def chat_model(name: str) -> ChatModel:
    """Any model by name: our own as they are, a provider's through Inspect.

    Raises:
        UnknownNameError: The name has none of the known forms.
    """
    spec = parse_model(name)
    if spec.is_local:
        return build_model(spec, identity=str(identity_of(spec)))
    from demur.evals.asking import chat_model as build

    return build(name)


def _subject(config: StressConfig, spec: ModelSpec, identity: Identity) -> ChatModel:
    if spec.is_local:
        return build_model(spec, identity=str(identity), revision=config.revision, dtype=config.dtype)
    return chat_model(config.model)


def _attack(config: StressConfig) -> Attack:
    attack: Attack = load_attack(config.attack)
    if isinstance(attack, TenseAttack):
        seed = config.decoding.seed
        attack = TenseAttack(reformulator=load_reformulator(config.reformulator, chat_model=chat_model, seed=seed))
    unknown = [name for name in config.conditions if name not in attack.conditions]
    if unknown:
        raise UnknownNameError(f"form of {config.attack!r}", unknown[0], attack.conditions)
    if config.attempts is not None and config.attempts < 1:
        raise BadInputError(f"--attempts: expected 1 or more, got {config.attempts}")
    return attack


def _judges(config: StressConfig) -> tuple[list[SuccessJudge], ConductSuccess, SuccessJudge | None]:
    judges = [load_success_judge(name, chat_model=chat_model) for name in dict.fromkeys(config.judges)]
    conduct = next((judge for judge in judges if isinstance(judge, ConductSuccess)), None)
    if conduct is None:
        from demur.judges import load_judge

        conduct = ConductSuccess(load_judge(DEFAULT_JUDGE))
    stop = load_success_judge(config.stop_judge, chat_model=chat_model) if config.stop_judge else None
    return judges or [conduct], conduct, stop


def _goals(config: StressConfig, suite: Suite, attack: Attack) -> list[Goal]:
    category = config.category if config.category is not None else ("safety" if suite.name in OWN else "")
    goals = goals_of(suite.rows, category)
    if attack.name == "tense" and config.natural:
        goals += [
            Goal(id=p.id, side="natural", prompt=p.prompt, category=p.topic, condition=p.era) for p in load_tense()
        ]
    sides = {goal.side for goal in goals}
    if "attack" not in sides:
        what = f" of category {category!r}" if category else ""
        raise BadInputError(f"suite {suite.name!r}: expected prompts{what} with expected='refuse', found none")
    if "control" not in sides and not config.one_sided:
        raise BadInputError(
            f"suite {suite.name!r}: expected prompts with expected='comply' as benign controls, found none; without "
            "them a model that refuses everything looks robust; add some, or run it knowingly with --one-sided"
        )
    if config.max_prompts is not None and config.max_prompts < 1:
        raise BadInputError(f"--max-prompts: expected 1 or more, got {config.max_prompts}")
    return balanced(goals, config.max_prompts)


def _settings(config: StressConfig, stop: SuccessJudge | None) -> LoopSettings:
    own = TENSE_ATTEMPTS if config.attack == "tense" else 1
    return LoopSettings(
        attempts=config.attempts or own,
        max_tokens=config.decoding.max_tokens,
        temperature=config.decoding.temperature,
        seed=config.decoding.seed,
        connections=config.connections,
        conditions=config.conditions,
        stop=stop,
    )


def _rule(
    attempts: Sequence[Attempt],
    goals: Sequence[Goal],
    attack: Attack,
    judges: Sequence[SuccessJudge],
    model: str,
    say: Say,
) -> dict[str, list[Ruling]]:
    """Every judge's ruling on every attempt; a lost reply is unjudged by all."""
    by_id = {goal.id: goal for goal in goals}
    kept = [i for i, attempt in enumerate(attempts) if not attempt.error]
    exchanges = [
        exchange_of(by_id[a.goal], a, attack.read(a.condition, a.reply.text), model)
        for a in (attempts[i] for i in kept)
    ]
    distinct = {judge.name: judge for judge in judges}
    found: dict[str, list[Ruling]] = {}
    for number, (name, judge) in enumerate(distinct.items()):
        own = [Ruling(success=None, why="no reply")] * len(attempts)
        for i, ruling in zip(kept, asyncio.run(judge.rule(exchanges)), strict=True):
            own[i] = ruling
        found[name] = own
        say("judging", number + 1, len(distinct))
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class _Asked:
    """A finished round of asking and judging."""

    config: StressConfig
    attack: Attack
    goals: Sequence[Goal]
    attempts: Sequence[Attempt]
    rulings: dict[str, list[Ruling]]
    judges: Sequence[SuccessJudge]
    conduct: ConductSuccess


def _findings(run: _Asked, suite: Suite, manifest: dict[str, JsonValue]) -> StressFindings:
    attempts, attack = run.attempts, run.attack
    own = {judge.name: run.rulings[judge.name] for judge in run.judges}
    seen = run.rulings[run.conduct.name]
    # Texts without chat tags are asked whatever came of the others.
    stopped = frozenset(attack.conditions) - {BARE} if run.config.stop_judge else frozenset()
    attacked = [i for i, attempt in enumerate(attempts) if attempt.side == "attack"]
    return StressFindings(
        attack=attack.name,
        model=str(manifest["model"]),
        suite=suite.name,
        conditions=tuple(c for c in attack.conditions if any(a.condition == c for a in attempts)),
        judges=judge_infos(run.judges),
        conduct_judge=run.conduct.name,
        stop_judge=run.config.stop_judge,
        success=tuple(success_cells(attempts, own, stopped=stopped)),
        conduct=tuple(conduct_cells(attempts, seen)),
        agreement=tuple(agreements(own, attacked)),
        categories=tuple(category_cells(run.goals, attempts, own[run.judges[0].name], seen)),
        consistency=tuple(consistencies(attempts, seen, attack.conditions)),
        n_errors=sum(bool(attempt.error) for attempt in attempts),
        manifest=manifest,
    )


def _notes(
    config: StressConfig, attack: Attack, findings: StressFindings, loop: AttemptLoop, spec: ModelSpec
) -> tuple[str, ...]:
    notes = []
    if findings.n_errors:
        notes.append(f"{findings.n_errors} attempts got no reply because the model failed; they are unjudged.")
    if config.stop_judge:
        notes.append(
            f"Attempts ended at the first success by {config.stop_judge}: success at k is the naive count, and other "
            "judges rule on answers it chose."
        )
    capped = loop.settings.attempts > min((attack.most_attempts(c) for c in attack.conditions[1:]), default=1)
    if capped and not config.decoding.temperature:
        notes.append("Greedy replies: no more attempts than distinct messages were made.")
    if BARE in attack.conditions and loop.continuer is None:
        notes.append(f"No 'bare' condition: {spec.name} cannot continue a text without chat tags here.")
    if attack.name == "tense" and config.natural and not load_tense():
        notes.append("No requests that are about past or future by nature: the suite of them is not installed.")
    return tuple(notes)


def _manifest(config: StressConfig, suite: Suite, identity: Identity, attack: Attack) -> dict[str, JsonValue]:
    return {
        "kind": "stress",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "command": " ".join(["demur", *sys.argv[1:]]) if Path(sys.argv[0]).name == "demur" else "",
        "model": str(identity),
        "attack": f"{attack.name}@{attack.version}",
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "licence": suite.licence,
        "config": config.model_dump(mode="json", exclude={"out"}),
    }
