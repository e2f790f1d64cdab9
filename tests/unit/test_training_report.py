"""The report of a training run: honest about what changed, complete, safe, and readable with parts missing."""

import json
import math
import random
import re

import pytest

from demur.core.errors import BadInputError
from demur.report.training import duration, render_training
from demur.stats.rates import wilson_interval
from demur.train.recipe import TokenRecipe

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\u0000 {{ 7 * 7 }}"


def rate(hits, n, **changes):
    low, high = wilson_interval(hits, n)
    return {"estimate": hits / n, "low": low, "high": high, "n": n, "hits": hits, "method": "wilson"} | changes


def audits(before=(60, 78), after=(120, 77), **changes):
    def one(when, handled, answered):
        sides = {"should_refuse": rate(handled, 150), "contrast": rate(answered, 80)}
        return {"folder": f"audit-{when}", "suite": "quick"} | sides

    return {"before": one("before", *before), "after": one("after", *after)} | changes


def run(**changes):
    rng = random.Random(0)
    recipe = TokenRecipe(model="smollm2").model_dump(mode="json") | changes.pop("recipe", {})
    auroc = {"all": 0.912, "incomplete": 0.86, "unsupported": 0.9, "humanizing": None, "safety": 0.95}
    return {
        "kind": "refusal tokens",
        "created": "2025-05-01T10:00:00+00:00",
        "demur": "0.1.0",
        "python": "3.11.7",
        "machine": "Linux x86_64",
        "recipe": recipe,
        "n_rows": 5000,
        "n_refuse": 2700,
        "first_block": 15,
        "n_trained": 2_442_240,
        "losses": {
            "control rows": [9 * math.exp(-i / 30) + 0.4 + 0.1 * rng.random() for i in range(468)],
            "adapter": [1.2 * math.exp(-i / 40) + 1.3 + 0.2 * rng.random() for i in range(125)],
        },
        "mass": {"after control rows": 0.99, "held out": 0.991},
        "signal": {"data": "built-in calibration split", "n": 950, "auroc": auroc},
        "seconds": {"control rows": 60.1, "adapter": 800.0, "measuring": 40.0, "audits": 150.0},
        "audits": audits(),
    } | changes


def warnings_of(page):
    found = re.search(r'aria-labelledby="notes-title">(.*?)</section>', page, re.DOTALL)
    return found.group(1) if found else ""


def test_a_good_run_has_nothing_to_be_read_with_care():
    page = render_training(run())
    assert "0.912" in page
    assert "99.1%" in page
    assert "18 min" in page
    assert "+40.0 points; the intervals lie apart" in page
    assert warnings_of(page) == ""


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"mass": {"held out": 0.02}}, "thresholds over the full vocabulary will fail"),
        ({"signal": {"auroc": {"all": 0.8, "safety": 0.61}}}, "Requests with safety concerns (0.610)"),
        ({"signal": {"auroc": {"all": 0.55}}}, "No threshold will separate"),
        ({"signal": {}}, "The AUROC was not measured"),
        ({"audits": {}}, "There was no audit"),
        ({"audits": audits(after=(120, 40))}, "Over-refusal rose"),
        ({"audits": audits(after=(120, 74))}, "Over-refusal may have risen"),
        ({"audits": audits(after=(64, 78))}, "do not show that it declines better"),
        ({"audits": audits(after=(10, 78))}, "declines worse than before"),
        ({"losses": {"adapter": [1.0] * 5 + [2.0] * 15}}, "did not fall in the stage “adapter”"),
    ],
)
def test_what_went_wrong_is_said_first(changes, said):
    assert said in warnings_of(render_training(run(**changes)))


def test_overlapping_intervals_are_never_called_a_change():
    page = render_training(run(audits=audits(before=(60, 78), after=(68, 77))))
    assert "+5.3 points, which may be chance" in page
    assert "intervals lie apart." not in page
    assert page.count("intervals overlap</span>") == 2


def test_more_degenerate_replies_after_training_are_named_in_whatever_order_the_audits_come():
    both = audits()
    both["after"]["contrast"]["degenerate"] = 7
    for order in (("before", "after"), ("after", "before")):
        page = render_training(run(audits={when: both[when] for when in order}))
        assert "Degenerate replies rose from 0 to 7" in warnings_of(page)


def test_the_mode_says_whether_the_text_follows_the_token():
    lora, rows = render_training(run()), render_training(run(recipe={"mode": "rows"}, first_block=0))
    assert "the text should follow a forced token" in lora
    assert "LoRA began at block 15" in lora
    assert "the text need not follow it" in render_training(run(recipe={"reply_share": 0.0}))
    assert "the text does not follow it" in rows
    assert "LoRA began" not in rows
    assert "not used in this mode" in rows


def test_every_field_of_the_recipe_is_shown():
    page = render_training(run())
    recipe = TokenRecipe(model="smollm2").model_dump(mode="json")
    for name in [*recipe, *recipe["rows"], *recipe["lora"]]:
        assert name in ("rows", "lora") or f"<bdi>{name}</bdi>" in page


def test_a_run_of_which_only_the_recipe_is_left_has_a_report():
    page = render_training({"kind": "refusal tokens", "recipe": {}})
    assert page.count("Not measured") == 1
    for missing in ("No loss was recorded", "No times were recorded", "No audit was made"):
        assert missing in page


@pytest.mark.parametrize(
    "losses", [[], [0.0], [3.2], [5e-324], [1e-8, 1e12], [0.7] * 10_000, [2.0**-i for i in range(40)]]
)
def test_a_curve_of_any_length_stays_within_its_frame(losses):
    page = render_training(run(losses={"adapter": losses}))
    places = [float(p) for p in re.findall(r'class="raw" cx="([^%]+)%', page)]
    heights = [float(p) for p in re.findall(r'class="raw" cx="[^"]+" cy="([^%]+)%', page)]
    assert len(places) <= 300
    assert len(places) >= min(len(losses), 1)
    assert all(0 <= p <= 100 for p in places + heights)
    assert not places or places[-1] == 100


def test_an_auroc_below_guessing_keeps_its_bar_within_the_axis():
    page = render_training(run(signal={"auroc": {"all": 0.9, "safety": 0.37}}))
    bars = re.findall(r'<rect class="mark" x="([^%]+)%" width="([^%]+)%" y="4"', page)[:2]
    assert all(float(start) >= 0 and float(start) + float(width) <= 100.01 for start, width in bars)
    assert "worse than guessing" in page


def test_text_of_strangers_stays_text_wherever_it_stands():
    strange = audits()
    strange["after"] |= {"suite": HOSTILE, "folder": HOSTILE}
    page = render_training(
        run(
            recipe={"model": HOSTILE, "mode": HOSTILE, HOSTILE: {HOSTILE: HOSTILE}},
            machine=HOSTILE,
            created=HOSTILE,
            losses={HOSTILE: [2.0, 1.0] * 10},
            mass={HOSTILE: 1.0},
            signal={"data": HOSTILE, "n": 3, "auroc": {HOSTILE: 0.6}},
            seconds={HOSTILE: 1.0},
            audits=strange | {HOSTILE: strange["after"]},
        )
    )
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x00" not in page
    assert page.count("</script>") == 2
    assert "http" not in page.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("broken", "named"),
    [
        ({}, "kind"),
        ("a text", "summary"),
        ({"kind": "predictor", "recipe": {}}, "kind"),
        ({"kind": "refusal tokens", "recipe": 3}, "recipe"),
        (run(losses={"a\nb": ["much"]}), "losses"),
        (run(losses={"adapter": [1.0, math.inf]}), "losses.adapter.1"),
        (run(signal={"auroc": {"all": 1.2}}), "signal.auroc.all"),
        (run(audits={"before": {"suite": "quick"}}), "audits.before.should_refuse"),
    ],
)
def test_what_is_no_summary_is_refused_in_one_line(broken, named):
    with pytest.raises(BadInputError, match=re.escape(named)) as caught:
        render_training(broken)
    assert "\n" not in str(caught.value)


def test_a_summary_read_back_from_its_file_gives_the_same_page():
    assert render_training(json.loads(json.dumps(run()))) == render_training(run())


def test_a_time_is_said_as_people_say_it():
    assert [duration(s) for s in (0, 8.04, 45, 99.6, 1050, 7500)] == [
        "0.0 s",
        "8.0 s",
        "45 s",
        "2 min",
        "18 min",
        "2 h 05 min",
    ]
