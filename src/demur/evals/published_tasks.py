"""Tasks of the package inspect_evals by name, on any model that demur or Inspect knows."""

from collections.abc import Iterator, Sequence
from importlib.util import find_spec
from pathlib import Path

import inspect_ai
from inspect_ai.log import EvalLog

from demur.ability.harness import PublishedScore, fetching
from demur.core.errors import BackendError, BadInputError
from demur.models import parse_model

PREFIX, PACKAGE = "inspect:", "inspect_evals"


def run_inspect_tasks(
    model: str, tasks: Sequence[str], *, log_dir: Path, limit: int | None = None
) -> list[PublishedScore]:
    """Run published tasks on a model.

    Args:
        model: Model name as typed; demur's own provider runs local ones, with their adapter.
        tasks: Names as inspect_evals knows them, or PACKAGE/NAME of another package.
        log_dir: Folder of Inspect's logs.
        limit: Samples of each task.

    Raises:
        BadInputError: The package is not installed, knows no such task, or its data cannot be fetched.
        BackendError: The evaluation failed.
    """
    check_installed(tasks)
    name = f"demur/{model}" if parse_model(model).is_local else model
    with fetching(PACKAGE, tasks):
        logs = inspect_ai.eval(
            [_qualified(task) for task in tasks], model=name, limit=limit, log_dir=str(log_dir), display="none"
        )
    return [score for task, log in zip(tasks, logs, strict=True) for score in scores_of(task, log)]


def check_installed(tasks: Sequence[str]) -> None:
    """Make sure that the packages of tasks are there, before a model is loaded.

    Raises:
        BadInputError: One is not.
    """
    for task in tasks:
        package = _qualified(task).partition("/")[0]
        if find_spec(package) is None:
            raise BadInputError(
                f"{PREFIX}{task} needs the package {package.replace('_', '-')}, which is not installed; run: "
                f"pip install {package.replace('_', '-')}; the parts choices, prose and formats need neither it nor a "
                "network"
            )


def scores_of(task: str, log: EvalLog) -> Iterator[PublishedScore]:
    """Figures of a finished log.

    Raises:
        BackendError: It did not finish.
    """
    if log.status != "success" or log.results is None:
        reason = log.error.message.splitlines()[0] if log.error and log.error.message else log.status
        raise BackendError(f"{PREFIX}{task}: {reason}", retriable=False)
    for score in log.results.scores:
        error = next((m.value for m in score.metrics.values() if m.name == "stderr"), None)
        for metric in score.metrics.values():
            if metric.name != "stderr":
                yield PublishedScore(
                    task=f"{PREFIX}{task}",
                    metric=f"{score.name} {metric.name}",
                    value=float(metric.value),
                    stderr=None if error is None else float(error),
                    n=log.results.completed_samples,
                )


def _qualified(task: str) -> str:
    return task if "/" in task else f"{PACKAGE}/{task}"
