"""Construct: queries in, constructive replies out, by text-level optimisation; every step kept, nothing asked twice."""

import asyncio
import json
import os
import platform
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from pydantic import JsonValue

from demur import __version__
from demur.constructive.asking import KeptModel
from demur.constructive.critics import Critic, ModelCritic
from demur.constructive.findings import ConstructFindings, edit_counts, findings_of, optimised, problems_of
from demur.constructive.lessons import Lesson, preference_rows, sft_rows
from demur.constructive.lexical import OfflineCritic
from demur.constructive.lingo_bp import ROUNDS, LingoBP
from demur.constructive.projection import ProjectionMode
from demur.constructive.prompts import prompts_hash
from demur.constructive.risk import PolicyTable, load_policy_table, policy_hash
from demur.constructive.rubric import rubric_hash
from demur.constructive.score import ALPHA, BETA, BETAS, Weights
from demur.constructive.template_writer import LABEL, TemplateWriter
from demur.constructive.trajectory import Mode, Trajectory
from demur.constructive.writers import ModelWriter, Writer
from demur.core.chat import ChatModel
from demur.core.errors import BackendError, BadInputError
from demur.core.exchange import Frozen
from demur.data.folder import claim, write_json, write_text
from demur.data.journal import KeyedJournal, ReplyJournal
from demur.report.constructive import write_construct
from demur.suites.constructive import Query, load_constructive, read_queries

OFFLINE = "offline"
SUITE = "constructive"
JOURNAL, TRAJECTORIES, SUMMARY = "journal.jsonl", "trajectories.jsonl", "construct.json"
SFT, PREFERENCES, PAGE = "sft.jsonl", "preferences.jsonl", "report.html"
Say = Callable[[str, int, int], None]


class ConstructConfig(Frozen):
    """An optimisation, completely.

    Attributes:
        prompts: File of queries, or 'constructive' for demur's own suite.
        model: Who writes, by name; 'offline' for templates.
        judge: Who judges, by name; 'offline' for the lexical critic.
        out: Folder of the run.
        rounds: Backward and forward passes.
        mode: What they may touch.
        alpha: Weight of satisfaction.
        beta: Weight of risk.
        projection: How a proposed set of strategies is cut down.
        policy: The user's own policy table.
        early_stop: End a query once the scores its mode is about have reached 1.
        thoughts: Put thoughts before the replies of the SFT rows.
        max_prompts: Keep this many queries.
        connections: Requests in flight.
        seed: Sent with every request.
    """

    prompts: str
    model: str
    judge: str
    out: Path
    rounds: int = ROUNDS
    mode: Mode = "both"
    alpha: float = ALPHA
    beta: float = BETA
    projection: ProjectionMode = "one-edit"
    policy: Path | None = None
    early_stop: bool = True
    thoughts: bool = False
    max_prompts: int | None = None
    connections: int = 8
    seed: int = 0


def construct(
    config: ConstructConfig,
    *,
    model: ChatModel | None = None,
    judge: ChatModel | None = None,
    say: Say | None = None,
) -> ConstructFindings:
    """Optimise every query and write the folder; the same call after an interruption goes on where it ended.

    Files: `journal.jsonl` (every reply of every model), `trajectories.jsonl` (the full history of each query),
    `construct.json`, `report.html`, and unless the writer is offline `sft.jsonl` and `preferences.jsonl`.

    Args:
        config: What to do.
        model: Instead of the model that the configuration names.
        judge: Instead of the judge that it names.
        say: Told stage, done, total.

    Raises:
        UserError: Something the caller can fix.
        BackendError: The model answered no query; what was answered is kept.
    """
    weights = Weights(config.alpha, config.beta)
    policy = load_policy_table(config.policy)
    queries = _queries(config)
    with ExitStack() as stack:
        journal = ReplyJournal(config.out / JOURNAL)
        stack.callback(journal.close)
        loop = LingoBP(
            writer=_writer(config, model, journal, policy),
            critic=_critic(config, judge, journal),
            modes=(config.mode,) * config.rounds,
            projection=config.projection,
            policy=policy,
            early_stop=config.early_stop,
        )
        manifest = _manifest(config, queries, loop, policy)
        claim(config.out, manifest)
        done = KeyedJournal[Trajectory](
            config.out / TRAJECTORIES,
            field="trajectory",
            read=Trajectory.model_validate,
            write=lambda one: one.model_dump(mode="json"),
        )
        stack.callback(done.close)
        trajectories = asyncio.run(_optimised(loop, queries, done, config.connections, say or _silent))
    if all(one.stopped == "failed" for one in trajectories):
        raise BackendError(f"{config.model}: no query was answered: {trajectories[0].problem}", retriable=True)
    made: dict[str, JsonValue] = {**_circumstances(), **manifest}
    return _written(config, trajectories, weights, made)


def _written(
    config: ConstructConfig, trajectories: Sequence[Trajectory], weights: Weights, manifest: dict[str, JsonValue]
) -> ConstructFindings:
    n_cut, n_edits = edit_counts(trajectories)
    findings = findings_of(
        f"Constructive replies: {config.model}",
        optimised(trajectories, weights),
        weights,
        betas=sorted({*BETAS, config.beta}),
        label=LABEL if config.model == OFFLINE else "",
        stopped={
            name: sum(t.stopped == name for t in trajectories) for name in sorted({t.stopped for t in trajectories})
        },
        problems=problems_of(trajectories),
        n_cut=n_cut,
        n_edits=n_edits,
        notes=tuple(_notes(config, trajectories)),
        manifest=manifest,
    )
    if config.model != OFFLINE:  # template text is nothing to learn from
        _write_lessons(config.out / SFT, sft_rows(trajectories, with_thoughts=config.thoughts))
        _write_lessons(config.out / PREFERENCES, preference_rows(trajectories, weights))
    write_json(config.out / SUMMARY, findings.model_dump(mode="json"))
    write_construct(config.out / PAGE, findings, trajectories)
    return findings


async def _optimised(
    loop: LingoBP, queries: Sequence[Query], done: KeyedJournal[Trajectory], connections: int, say: Say
) -> list[Trajectory]:
    """Every query's trajectory; those whose model failed are not kept, so that the next run tries again."""
    gate, finished = asyncio.Semaphore(connections), 0
    missed: dict[str, Trajectory] = {}

    async def one(query: Query) -> None:
        nonlocal finished
        if query.id not in done.found:
            async with gate:
                found = await loop.run(query)
            if found.stopped == "failed":
                missed[query.id] = found
            else:
                done.add(query.id, found)
        finished += 1
        say("optimising", finished, len(queries))

    await asyncio.gather(*map(one, queries))
    return [done.found.get(query.id) or missed[query.id] for query in queries]


def _queries(config: ConstructConfig) -> list[Query]:
    if config.max_prompts is not None and config.max_prompts < 1:
        raise BadInputError(f"--max-prompts: expected 1 or more, got {config.max_prompts}")
    if config.prompts == SUITE:
        return list(load_constructive()[: config.max_prompts])
    return read_queries(Path(config.prompts), max_rows=config.max_prompts)


def _writer(config: ConstructConfig, model: ChatModel | None, journal: ReplyJournal, policy: PolicyTable) -> Writer:
    if config.model == OFFLINE and model is None:
        return TemplateWriter(policy)
    kept = KeptModel(model or _chat_model(config.model), journal, connections=config.connections)
    return ModelWriter(kept, seed=config.seed)


def _critic(config: ConstructConfig, judge: ChatModel | None, journal: ReplyJournal) -> Critic:
    if config.judge == OFFLINE and judge is None:
        return OfflineCritic()
    return ModelCritic(KeptModel(judge or _chat_model(config.judge), journal, connections=config.connections))


def _chat_model(name: str) -> ChatModel:
    from demur.evals.asking import chat_model

    return chat_model(name)


def _manifest(
    config: ConstructConfig, queries: Sequence[Query], loop: LingoBP, policy: PolicyTable
) -> dict[str, JsonValue]:
    """What makes a run this one: a folder holds one."""
    digest = sha256("\n".join(query.model_dump_json() for query in queries).encode("utf-8", "replace")).hexdigest()
    return {
        "kind": "construct",
        "config": {
            "rounds": config.rounds,
            "mode": config.mode,
            "alpha": config.alpha,
            "beta": config.beta,
            "projection": config.projection,
            "early_stop": config.early_stop,
            "seed": config.seed,
        },
        "inputs": {"prompts": config.prompts, "n_prompts": len(queries), "prompts_sha256": digest},
        "models": {"writer": loop.writer.name, "judge": loop.critic.name},
        "wording": {
            "prompts": prompts_hash(),
            "rubric": rubric_hash(),
            "policy": policy.name,
            "table": policy_hash(policy),
        },
    }


def _circumstances() -> dict[str, JsonValue]:
    return {
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.machine()}, {os.cpu_count()} cores",
    }


def _notes(config: ConstructConfig, trajectories: Sequence[Trajectory]) -> list[str]:
    """What a reader must know before believing the scores."""
    notes = []
    if config.judge == OFFLINE:
        notes.append(
            "The judge is the offline critic: a proxy by surface words. It cannot tell a harmful or false instruction "
            "from a good one, so no claim about safety follows from its scores."
        )
    elif family_of(config.judge) == family_of(config.model):
        notes.append(
            "Writer and judge seem to be of one family: models prefer their own replies. Judge with another family "
            "before believing a gain."
        )
    if config.judge != OFFLINE:
        notes.append("The judge chose what was kept, so its scores of the chosen replies are optimistic.")
    if config.model == OFFLINE:
        notes.append("Template text is nothing to learn from: no rows to train on were written.")
    guessed = sum(one.risk.guessed for one in trajectories)
    if guessed:
        notes.append(f"For {guessed} queries risk or intent was guessed from words: name them in the rows to be sure.")
    outside = sum(one.pearl is None for one in trajectories)
    if outside:
        notes.append(f"{outside} queries have no judged reply inside the safe region; they give no training rows.")
    return notes


def family_of(name: str) -> str:
    """The family a model's name suggests: its letters up to the first digit or separator, after the provider."""
    last = name.partition("+")[0].split("/")[-1].lower()
    return "".join(c if c.isalpha() else " " for c in last).split()[0] if any(c.isalpha() for c in last) else last


def _write_lessons(path: Path, rows: Sequence[Lesson]) -> None:
    write_text(path, "".join(json.dumps(row) + "\n" for row in rows))


def _silent(*_: object) -> None:
    """Progress nobody watches."""
