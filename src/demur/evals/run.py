"""One audit's evaluation: ask every prompt once, judge every reply, keep what was done whatever happens."""

import errno
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import inspect_ai
from inspect_ai.log import EvalLog
from inspect_ai.model import (
    CachePolicy,
    ChatCompletionChoice,
    ChatMessageAssistant,
    GenerateConfig,
    Model,
    ModelOutput,
    ModelUsage,
    get_model,
)
from inspect_ai.solver import Generate, Solver, TaskState, solver

from demur.core.chat import ChatReply
from demur.core.errors import BackendError, DemurError
from demur.core.exchange import Exchange
from demur.core.identity import Identity
from demur.core.judge import Judge
from demur.core.run import RunSettings
from demur.core.suite import Suite
from demur.core.taxonomy import Taxonomy, load_taxonomy
from demur.core.verdict import Verdict
from demur.evals.convert import to_reply
from demur.evals.journal import Journal
from demur.evals.provider import PREPARED
from demur.evals.scorer import REPLY_KEY, judge_scorer, verdict_of
from demur.evals.tasks import build_task
from demur.models import ModelSpec, build_model

MAX_FAILURES_IN_A_ROW = 10
PROVIDER_SAMPLES = 32
LOCAL_SAMPLES = 128
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """What came back: exchanges in the suite's order, and each judge's verdicts in the same order."""

    exchanges: list[Exchange]
    verdicts: dict[str, list[Verdict]]
    log: str
    n_errors: int
    n_replayed: int


@dataclass(slots=True)
class _Watch:
    """What the solver counts while the run goes on."""

    total: int
    progress: Progress
    done: int = 0
    replayed: int = 0
    errors: int = 0
    failures_in_a_row: int = 0
    fatal: DemurError | None = None
    replies: dict[str, tuple[ChatReply, str | None]] = field(default_factory=dict)


def run_suite(
    suite: Suite,
    spec: ModelSpec,
    judges: Sequence[Judge],
    *,
    identity: Identity,
    settings: RunSettings,
    out: Path,
    progress: Progress,
) -> RunResult:
    """Ask a model every prompt of a suite and let every judge read every reply.

    Raises:
        BackendError: The model failed again and again; what it answered before is kept in `out`.
        UserError: The model cannot be loaded, or the suite has one side only.
        KeyboardInterrupt: The user stopped it; the same call resumes.
    """
    journal = Journal(out / "journal.jsonl", identity=str(identity))
    watch = _Watch(total=len(suite.rows), progress=progress)
    task = build_task(
        suite,
        solver=_ask_once(journal, watch, cache=settings.cache and not spec.is_local, identity=str(identity)),
        scorers=[judge_scorer_named(judge, load_taxonomy()) for judge in judges],
        config=_config(identity),
        one_sided=settings.one_sided,
    )
    model = _model(spec, identity, settings)
    try:
        log = _evaluate(task, model, spec, out)
    finally:
        journal.close()
    if watch.fatal is not None:
        raise watch.fatal
    if log.status == "cancelled":
        raise KeyboardInterrupt
    if log.status != "success" or log.samples is None:
        why = log.error.message.splitlines()[0] if log.error and log.error.message else log.status
        if "No space left" in why:
            raise OSError(errno.ENOSPC, why)
        raise BackendError(
            f"the evaluation ended with status {log.status!r}: {why}; run the same command to resume", retriable=True
        )
    return _collect(suite, judges, log, watch, str(identity))


def _evaluate(task: inspect_ai.Task, model: Model, spec: ModelSpec, out: Path) -> EvalLog:
    logs = inspect_ai.eval(
        task,
        model=model,
        log_dir=str(out / "logs"),
        display="none",
        log_level="error",
        max_samples=LOCAL_SAMPLES if spec.is_local else PROVIDER_SAMPLES,
        fail_on_error=True,
        log_realtime=False,
        score_display=False,
    )
    if not logs:  # interrupted before the task was closed
        raise KeyboardInterrupt
    return logs[0]


@solver
def _ask_once(journal: Journal, watch: _Watch, *, cache: bool, identity: str) -> Solver:
    """Generate unless the journal has the reply; a prompt that fails is recorded and the run goes on."""

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        key = journal.key(str(state.sample_id), "\x1e".join(m.text for m in state.messages))
        reply, error = journal.replies.get(key), None
        if reply is not None:
            watch.replayed += 1
            state.output = _as_output(str(state.model), reply)
        else:
            policy = CachePolicy(expiry=None, scopes={"demur_identity": identity}) if cache else False
            try:
                state = await generate(state, cache=policy)
                reply = to_reply(state.output)
                error = state.output.error
            except Exception as failure:  # each provider's client raises its own exceptions
                reply, error = _failed(failure, watch)
            if error is None:
                watch.failures_in_a_row = 0
                journal.add(key, reply)
        if error is not None:
            watch.errors += 1
            state.metadata["demur_error"] = error
        state.metadata[REPLY_KEY] = reply.model_dump(mode="json")
        watch.replies[str(state.sample_id)] = (reply, error)
        watch.done += 1
        watch.progress(watch.done, watch.total)
        return state

    return solve


def _failed(failure: Exception, watch: _Watch) -> tuple[ChatReply, str]:
    """Count a failure; one that cannot pass, or many in a row, ends the run."""
    if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:  # no space left: nothing more can be kept
        raise failure
    if isinstance(failure, DemurError) and not isinstance(failure, BackendError):
        watch.fatal = failure
        raise failure
    message = f"{type(failure).__name__}: {str(failure).splitlines()[0][:300] if str(failure) else ''}"
    watch.failures_in_a_row += 1
    if watch.failures_in_a_row >= MAX_FAILURES_IN_A_ROW:
        watch.fatal = BackendError(
            f"the model failed {MAX_FAILURES_IN_A_ROW} times in a row, last with {message}; "
            f"{watch.done - watch.errors} replies are kept, run the same command to resume",
            retriable=True,
        )
        raise watch.fatal
    return ChatReply(text="", stop_reason="unknown"), message


def judge_scorer_named(judge: Judge, taxonomy: Taxonomy) -> Any:
    """A judge's scorer under the judge's own name, so that several can stand in one log."""
    from inspect_ai.scorer import mean, scorer, stderr

    return scorer(metrics=[mean(), stderr()], name=_score_name(judge))(lambda: judge_scorer(judge, taxonomy))()


def _score_name(judge: Judge) -> str:
    return "".join(c if c.isalnum() else "_" for c in judge.name)


def _config(identity: Identity) -> GenerateConfig:
    decoding = identity.decoding
    return GenerateConfig(
        max_tokens=decoding.max_tokens,
        temperature=decoding.temperature,
        seed=decoding.seed,
        system_message=decoding.system or None,
        max_retries=6,
        fail_on_refusal=False,
    )


def _model(spec: ModelSpec, identity: Identity, settings: RunSettings) -> Model:
    if spec.is_local:
        if str(identity) not in PREPARED:  # a job may have made it, under steering for one
            PREPARED[str(identity)] = build_model(
                spec, identity=str(identity), revision=settings.revision, dtype=settings.dtype
            )
        return get_model(f"demur/{identity}", memoize=False, stop="settled" if settings.settle else "full")
    # A server on one's own machine asks for no key, but the clients insist on one.
    key = os.environ.get("OPENAI_API_KEY", "none") if settings.base_url else None
    # Compatible servers speak the chat interface; for names it does not know, Inspect would use the newer one.
    own: dict[str, Any] = {"responses_api": False} if settings.base_url and spec.rest.startswith("openai/") else {}
    try:
        return get_model(spec.rest, base_url=settings.base_url, memoize=False, api_key=key, **own)
    except Exception as error:  # missing client packages and keys arrive as many types
        raise BackendError(f"model {spec.name!r}: {str(error).splitlines()[0]}", retriable=False) from None


def _as_output(model: str, reply: ChatReply) -> ModelOutput:
    stop = {"settled": "stop"}.get(reply.stop_reason, reply.stop_reason)
    message = ChatMessageAssistant(content=reply.text, source="generate")
    return ModelOutput(
        model=model,
        choices=[ChatCompletionChoice(message=message, stop_reason=stop)],
        usage=ModelUsage(input_tokens=reply.input_tokens, output_tokens=reply.output_tokens),
    )


def _collect(suite: Suite, judges: Sequence[Judge], log: EvalLog, watch: _Watch, model: str) -> RunResult:
    samples = {str(s.id): s for s in log.samples or ()}
    exchanges: list[Exchange] = []
    verdicts: dict[str, list[Verdict]] = {f"{j.name}@{j.version}": [] for j in judges}
    for row in suite.rows:
        reply, error = watch.replies[row.id]
        exchanges.append(_exchange(row.id, row.prompt, reply, model, error))
        scores = samples[row.id].scores or {}
        for judge in judges:
            verdicts[f"{judge.name}@{judge.version}"].append(verdict_of(scores[_score_name(judge)]))
    return RunResult(
        exchanges=exchanges, verdicts=verdicts, log=log.location, n_errors=watch.errors, n_replayed=watch.replayed
    )


def _exchange(sample_id: str, prompt: str, reply: ChatReply, model: str, error: str | None) -> Exchange:
    from demur.core.exchange import Message

    return Exchange(
        id=sample_id,
        messages=(Message(role="user", text=prompt),),
        response=reply.text,
        reasoning=reply.reasoning,
        model=model,
        stop_reason=reply.stop_reason,
        api_signals=reply.api_signals,
        metadata={"error": error} if error else {},
    )
