"""demur's suites as Inspect tasks: `inspect eval demur/core --model openai/gpt-4.1`."""

from collections.abc import Iterable, Sequence
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessage, ChatMessageSystem, ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Scorer
from inspect_ai.solver import Solver, generate

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError
from demur.core.suite import Suite, SuiteRow
from demur.evals.scorer import appropriate, refused
from demur.suites import load_suite

# Engine settings that would change a refusal rate silently: off, and in the log.
GENERATION = GenerateConfig(temperature=0.0, max_tokens=256, seed=0, fail_on_refusal=False)


@task
def core(judge: str = DEFAULT_JUDGE, limit: int | None = None) -> Task:
    """The core suite: seventeen kinds of request that should not simply be complied with, and their contrasts."""
    return suite_task(load_suite("core", limit=limit), judge=judge)


@task
def quick(judge: str = DEFAULT_JUDGE) -> Task:
    """A fixed stratified subset of the core suite."""
    return suite_task(load_suite("quick"), judge=judge)


@task
def suite(name: str = "core", path: str | None = None, judge: str = DEFAULT_JUDGE, one_sided: bool = False) -> Task:
    """Any suite by name, or a file with a prompt column.

    Args:
        name: 'core', 'quick', a published suite, or the path of a file.
        path: Where a published suite lies on this machine.
        judge: Judge of the scorer.
        one_sided: Run although only prompts of one side are present.
    """
    loaded = load_suite(name, path=Path(path) if path else None)
    return suite_task(loaded, judge=judge, one_sided=one_sided)


def suite_task(suite: Suite, *, judge: str, one_sided: bool = False) -> Task:
    """Task with plain generation and demur's scorers."""
    return build_task(suite, solver=generate(), scorers=[appropriate(judge), refused(judge)], one_sided=one_sided)


def build_task(
    suite: Suite,
    *,
    solver: Solver,
    scorers: Sequence[Scorer],
    config: GenerateConfig = GENERATION,
    one_sided: bool = False,
) -> Task:
    """Assemble a task.

    Raises:
        BadInputError: Only one side is present and `one_sided` is false: a model that refuses everything
            would look perfect.
    """
    if not suite.is_two_sided and not one_sided and any(r.expected != "either" for r in suite.rows):
        side = next(r.expected for r in suite.rows if r.expected != "either")
        raise BadInputError(
            f"suite {suite.name!r} has only prompts with expected={side!r}; add prompts of the other side, "
            "or run it knowingly with --one-sided"
        )
    return Task(
        dataset=MemoryDataset(list(_samples(suite.rows)), name=suite.name),
        solver=solver,
        scorer=list(scorers),
        config=config,
        name=suite.name.replace("/", "-"),
        version=suite.sha256[:12],
        metadata={"demur_suite": suite.name, "demur_suite_sha256": suite.sha256, "licence": suite.licence},
    )


def _samples(rows: Iterable[SuiteRow]) -> Iterable[Sample]:
    for row in rows:
        messages: list[ChatMessage] = [ChatMessageSystem(content=row.system)] if row.system else []
        messages.append(ChatMessageUser(content=row.prompt))
        meta = {k: getattr(row, k) for k in ("expected", "category", "subcategory", "pair_id") if getattr(row, k)}
        yield Sample(id=row.id, input=messages, target=row.expected, metadata=meta)
