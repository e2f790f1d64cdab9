"""Published ability tasks by name, through lm-evaluation-harness, where it is installed and its data can be fetched."""

import math
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from demur.core.errors import BackendError, BadInputError
from demur.core.exchange import Frozen

PREFIX = "lm-eval:"
_OFFLINE = re.compile(
    r"connect|offline|timed? ?out|resolve|unreachable|network|max retries|ssl|couldn't (?:find|reach)|"
    r"cannot find the requested files|localentrynotfound|proxy",
    re.IGNORECASE,
)


class PublishedScore(Frozen):
    """One figure of a published task.

    Attributes:
        task: As typed.
        metric: The task's own name for it.
        value: Its value.
        stderr: Standard error, where the task gives one.
        n: Items; 0 where the task does not say.
    """

    task: str
    metric: str
    value: float
    stderr: float | None = None
    n: int = 0


def run_lm_eval(model: str, tasks: Sequence[str], *, limit: int | None = None) -> list[PublishedScore]:
    """Run tasks of lm-evaluation-harness on a local model.

    Args:
        model: Model name as typed; an adapter is merged into its base first.
        tasks: Names as the harness knows them.
        limit: Items of each task.

    Raises:
        BadInputError: The harness is not installed, knows no such task, or its data cannot be fetched.
    """
    check_installed()
    with plain_folder(model) as folder, fetching("lm-eval", tasks):
        found = import_module("lm_eval").simple_evaluate(
            model="hf",
            model_args={"pretrained": str(folder)},
            tasks=list(tasks),
            limit=limit,
            apply_chat_template=False,
            log_samples=False,
        )
    return lm_eval_scores(found or {})


def check_installed() -> None:
    """Make sure that the harness is there, before a model is loaded.

    Raises:
        BadInputError: It is not.
    """
    if find_spec("lm_eval") is None:
        raise BadInputError(
            f"tasks of lm-evaluation-harness ({PREFIX}NAME) need the package lm-eval, which is not installed; "
            "run: pip install lm-eval; the parts choices, prose and formats need neither it nor a network"
        )


def lm_eval_scores(found: Mapping[str, Any]) -> list[PublishedScore]:
    """Figures from what the harness returns: `metric,filter` with `metric_stderr,filter` beside it."""
    scores = []
    counts = found.get("n-samples") or {}
    for task, values in (found.get("results") or {}).items():
        n = int((counts.get(task) or {}).get("effective", 0))
        for key, value in values.items():
            metric, comma, name = key.partition(",")
            if not comma or metric.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = values.get(f"{metric}_stderr,{name}")
            stderr = float(error) if isinstance(error, int | float) and math.isfinite(error) else None
            shown = metric if name == "none" else f"{metric} ({name})"
            scores.append(PublishedScore(task=f"{PREFIX}{task}", metric=shown, value=float(value), stderr=stderr, n=n))
    return scores


@contextmanager
def plain_folder(model: str) -> Iterator[Path]:
    """A model as a folder or hub id that transformers alone can load; an adapter is merged into a temporary one.

    Raises:
        BadInputError: The model is not local.
    """
    from demur.models import parse_model
    from demur.models.merging import base_folder

    spec = parse_model(model)
    if not spec.adapter:
        yield base_folder(spec)
        return
    from demur.models.controlled import checked_adapter, loader

    merged, tokenizer = loader(spec, checked_adapter(spec))()
    folder = Path(tempfile.mkdtemp(prefix="demur-merged-"))
    try:
        merged.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def fetching(package: str, tasks: Sequence[str]) -> Iterator[None]:
    """Say what is wrong where a package of published tasks fails: no network, no such task, or the task itself.

    Raises:
        BadInputError: The network is missing, or a task is unknown.
        BackendError: Anything else the package raised.
    """
    named = ", ".join(tasks)
    try:
        yield
    except (BadInputError, BackendError, KeyboardInterrupt):
        raise
    except Exception as error:
        told = " ".join(f"{type(one).__name__}: {one}" for one in _chain(error))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
        if _OFFLINE.search(told):
            raise BadInputError(
                f"{package} tasks {named}: their data could not be fetched ({reason}); go online, or fill the hub's "
                "cache first; the parts choices, prose and formats work offline"
            ) from error
        if isinstance(error, KeyError | LookupError) or "not found" in told.lower():
            raise BadInputError(f"{package} tasks {named}: expected names it knows; {reason}") from error
        raise BackendError(f"{package} tasks {named}: {type(error).__name__}: {reason}", retriable=False) from error


def _chain(error: BaseException) -> Iterator[BaseException]:
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__ or seen.__context__
