"""The report of a run by recipe: readable while it runs, honest at the end, safe with any text."""

import pytest

from demur.core.errors import BadInputError
from demur.report.training_run import render_training_run
from demur.train.training_recipe import read_training_recipe

HOSTILE = "</script><img src=x onerror=alert(1)>"


def rate(estimate):
    return {"estimate": estimate, "low": estimate - 0.05, "high": estimate + 0.05, "n": 100, "hits": 100 * estimate}


def run(**changes):
    audits = {
        when: {"folder": when, "suite": "quick", "should_refuse": rate(a), "contrast": rate(b)}
        for when, a, b in (("before", 0.3, 0.9), ("after", 0.6, 0.7))
    }
    ability = {"name": "perplexity by token", "before": "20.0", "after": "24.0", "change": "× 1.2", "verdict": "worse"}
    return {
        "kind": "training",
        "state": "finished",
        "recipe": read_training_recipe("preset:small-lora").model_dump(mode="json"),
        "losses": {"all": [3.0 - 0.1 * i for i in range(20)], "refusal": [2.0] * 20},
        "audits": audits,
        "ability": [ability],
        "gates": [{"gate": "contrast.answered >= 0.9 * before", "passed": False, "value": 0.7, "limit": 0.81}],
        "passed": False,
        "sources": {"refusals": 1564},
        "seconds": {"training": 60.0},
        "n_lessons": 1564,
    } | changes


def test_a_failed_gate_and_a_lost_ability_are_the_first_things_said():
    page = render_training_run(run())
    assert "1 gate failed" in page
    assert "General ability fell, by more than chance: perplexity by token" in page
    assert "Over-refusal rose" in page
    assert "81.0%" in page


def test_a_page_of_a_running_run_looks_again_and_warns_of_nothing_yet():
    page = render_training_run(
        run(state="running", progress={"done": 5, "steps": 90}, audits={}, gates=[], ability=[], passed=None)
    )
    assert "step 5 of 90" in page
    assert "location.reload" in page
    assert "Read with care" not in page
    assert "location.reload" not in render_training_run(run())


def test_nothing_measured_is_said_and_not_left_blank():
    page = render_training_run({"kind": "training", "state": "finished", "recipe": {"method": "sft"}})
    assert "no audit before and after" in page
    assert "General ability was not measured" in page
    assert "None were set." in page


@pytest.mark.parametrize("field", ["model", "note", "source"])
def test_hostile_text_stays_text(field):
    recipe = run()["recipe"] | {field: HOSTILE}
    page = render_training_run(run(recipe=recipe, opens=HOSTILE, notes=[HOSTILE], sources={HOSTILE: 3}))
    assert "<img src=x" not in page


def test_a_summary_of_another_kind_is_named():
    with pytest.raises(BadInputError, match="kind"):
        render_training_run(run(kind="scan"))
