"""Published ability tasks: the package, the network and the task are each missed by name; figures keep their errors."""

from types import SimpleNamespace

import pytest

pytest.importorskip("inspect_ai")

from demur.ability.harness import fetching
from demur.core.errors import BackendError, BadInputError
from demur.evals.published_tasks import check_installed, run_inspect_tasks, scores_of


def log(status="success", error=None, **metrics):
    held = {name: SimpleNamespace(name=name, value=value) for name, value in metrics.items()}
    score = SimpleNamespace(name="choice", metrics=held)
    results = SimpleNamespace(scores=[score], completed_samples=7) if status == "success" else None
    return SimpleNamespace(status=status, results=results, error=error)


def test_figures_come_with_their_standard_error_and_count():
    (score,) = scores_of("mmlu", log(accuracy=0.5, stderr=0.1))
    assert (score.task, score.metric, score.value, score.stderr, score.n) == (
        "inspect:mmlu",
        "choice accuracy",
        0.5,
        0.1,
        7,
    )


def test_a_failed_evaluation_is_no_result():
    failed = log("error", SimpleNamespace(message="no samples\ntraceback"))
    with pytest.raises(BackendError, match="no samples"):
        list(scores_of("mmlu", failed))


def test_a_missing_package_is_named_with_its_remedy(tmp_path):
    for task, package in (("x/y", "x"), ("no_such_package_here/task", "no-such-package-here")):
        with pytest.raises(BadInputError, match=f"pip install {package}"):
            check_installed([task])
    with pytest.raises(BadInputError, match="pip install"):
        run_inspect_tasks("corner/refuse", ["nowhere_at_all/task"], log_dir=tmp_path)


@pytest.mark.parametrize(
    ("raised", "kind", "told"),
    [
        (ConnectionError("Couldn't reach the hub"), BadInputError, "go online"),
        (OSError("offline mode is enabled"), BadInputError, "go online"),
        (KeyError("arc_hard"), BadInputError, "expected names it knows"),
        (ValueError("bad gold index"), BackendError, "bad gold index"),
    ],
)
def test_what_a_package_raises_is_told_apart(raised, kind, told):
    with pytest.raises(kind, match=told), fetching("lm-eval", ["arc_hard"]):
        raise raised


def test_a_cause_deep_down_still_tells_that_the_network_is_missing():
    def deep():
        try:
            raise TimeoutError("timed out")
        except TimeoutError as error:
            raise RuntimeError("dataset failed") from error

    with pytest.raises(BadInputError, match="go online"), fetching("lm-eval", ["arc"]):
        deep()
