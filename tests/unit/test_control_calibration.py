"""Calibration: targets in, thresholds and promises out."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.control.calibration import calibrate
from demur.control.coverage import coverage, is_broken, synthetic_population
from demur.control.decision import decide
from demur.control.labelled import labelled, rate
from demur.control.paths import gap_below
from demur.control.presets import preset
from demur.control.targets import parse_targets
from demur.core.errors import BadInputError, OutOfRangeError
from demur.core.policy import SignalSource
from demur.core.signal import scores_from_probabilities
from demur.stats.binomial import lower_tail, upper_tail

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
SOURCE = SignalSource(name="fake", identity="fake@1")
ROWS = synthetic_population(330, CATEGORIES, seed=3)


def base(kind="per_category", categories=CATEGORIES, **actions):
    made = preset("default", SOURCE, categories, kind=kind)
    rules = {c: rule.model_copy(update={"action": actions.get(c, rule.action)}) for c, rule in made.rules.items()}
    return made.model_copy(update={"rules": rules})


def targets(*texts):
    return parse_targets(texts, known=(*CATEGORIES, "ordinary"))


def made(*texts, rows=ROWS, delta=0.1, kind="per_category", **actions):
    return calibrate(targets(*texts), rows, base(kind, rows.scores.categories, **actions), delta=delta)


def observed(policy, metric, category="all", rows=ROWS):
    return rate(decide(policy, rows.scores).refused, rows.cell(metric, category))


@pytest.mark.parametrize("kind", ["per_category", "sum"])
def test_a_ceiling_declines_as_much_as_the_binomial_tail_allows_and_no_more(kind):
    policy = made("over_refusal<=0.1", kind=kind)
    cell = ROWS.cell("over_refusal")
    n, hits = int(cell.sum()), int(decide(policy, ROWS.scores).refused[cell].sum())
    assert lower_tail(hits, n, 0.1) <= 0.1 < lower_tail(hits + 1, n, 0.1)
    (certificate,) = policy.certificates
    assert (certificate.n, certificate.achieved, certificate.delta, certificate.relation) == (n, hits / n, 0.1, "<=")


@pytest.mark.parametrize("kind", ["per_category", "sum"])
def test_a_floor_declines_as_little_as_the_binomial_tail_allows(kind):
    policy = made("refusal>=0.8", kind=kind)
    cell = ROWS.cell("refusal")
    n, hits = int(cell.sum()), int(decide(policy, ROWS.scores).refused[cell].sum())
    assert upper_tail(hits, n, 0.8) <= 0.1 < upper_tail(hits - 1, n, 0.8)


def test_a_floor_of_one_category_moves_its_threshold_alone():
    policy = made("safety:refusal>=0.9")
    assert policy.threshold_of("humanizing") == base().threshold_of("humanizing")
    own = ROWS.scores.p()[ROWS.cell("refusal", "safety"), CATEGORIES.index("safety")] >= policy.threshold_of("safety")
    assert upper_tail(int(own.sum()), len(own), 0.9) <= 0.1
    assert observed(policy, "refusal", "safety") >= own.mean()  # other categories can only add


def test_a_lone_equality_uses_every_prompt_and_says_how_near_it_is():
    policy = made("safety:refusal>=0.7", "humanizing:refusal=0.3")
    _, certificate = policy.certificates
    assert certificate.n == ROWS.cell("refusal", "humanizing").sum()
    assert abs(observed(policy, "refusal", "humanizing") - 0.3) < 1 / certificate.n
    assert 0.05 < certificate.tolerance < 0.25


def test_equalities_that_depend_on_each_other_are_certified_on_prompts_that_set_nothing():
    alone = made("humanizing:refusal=0.5").certificates[0]
    policy = made("humanizing:refusal=0.5", "over_refusal<=0.2")
    beside = policy.certificates[0]
    assert beside.n < alone.n
    assert beside.tolerance > alone.tolerance
    assert "one half" in beside.method


def test_several_targets_share_delta_out():
    assert [c.delta for c in made("over_refusal<=0.2", "refusal>=0.5").certificates] == [0.05, 0.05]


def test_a_ceiling_beside_a_floor_keeps_both():
    policy = made("safety:refusal>=0.6", "over_refusal<=0.2", "refusal>=0.4")
    assert observed(policy, "refusal", "safety") > 0.6
    assert observed(policy, "over_refusal") < 0.2
    assert observed(policy, "refusal") > 0.4


def test_categories_that_the_signal_lacks_can_be_bounded_too():
    policy = made("ordinary:over_refusal<=0.15")
    assert observed(policy, "over_refusal", "ordinary") < 0.15
    assert policy.certificates[0].n == ROWS.cell("over_refusal", "ordinary").sum()


def test_a_single_token_can_be_calibrated_by_category():
    pooled = scores_from_probabilities(("any",), ROWS.scores.p_any[:, None])
    rows = labelled(pooled, ROWS.refuse, ROWS.category)
    policy = made("safety:refusal>=0.6", "over_refusal<=0.3", rows=rows)
    assert observed(policy, "refusal", "safety", rows) > 0.6
    assert observed(policy, "over_refusal", rows=rows) < 0.3


def test_a_category_that_is_answered_never_declines():
    policy = made("over_refusal<=0.1", humanizing="answer")
    only = decide(policy, ROWS.scores).category[decide(policy, ROWS.scores).refused]
    assert CATEGORIES.index("humanizing") not in only
    assert policy.rules["humanizing"].action == "answer"
    with pytest.raises(BadInputError, match="drop one of the two"):
        made("humanizing:refusal>=0.5", humanizing="answer")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["over_refusal<=0.001"], r"cannot show it.*reachable: from 0\.0\d+ up; 2302 prompts would do"),
        (["safety:refusal>=0.999"], r"reachable: up to 0\.9\d+; 2302 prompts would do"),
        (["refusal>=1"], "no number of prompts would do"),
        (["over_refusal<=0.02", "refusal>=0.95"], r"refusal>=0\.95: out of reach .* beside over_refusal<=0\.02"),
        (["safety:refusal>=0.9", "over_refusal<=0.05"], r"over_refusal<=0\.05: .*reachable: from 0\.\d+ up"),
    ],
)
def test_targets_out_of_reach_say_how_far_they_could_go(texts, says):
    with pytest.raises(OutOfRangeError, match=says) as caught:
        made(*texts)
    assert "\n" not in str(caught.value)


def test_what_is_said_to_be_reachable_is():
    with pytest.raises(OutOfRangeError) as caught:
        made("safety:refusal>=0.9", "over_refusal<=0.05")
    least = str(caught.value).split("reachable: from ")[1].split(" up")[0]
    policy = made("safety:refusal>=0.9", f"over_refusal<={least}")
    assert observed(policy, "over_refusal") < float(least)
    with pytest.raises(OutOfRangeError):
        made("safety:refusal>=0.9", f"over_refusal<={float(least) - 0.01:.4f}")


@pytest.mark.parametrize(
    ("texts", "says"),
    [
        (["humanizing:refusal=0.3", "humanizing:over_refusal=0.1"], "one '=' target for each threshold"),
        (["refusal=0.3", "over_refusal=0.1"], "one '=' target for each threshold"),
        (["ordinary:refusal>=0.3"], "prompts to decline of category ordinary"),
    ],
)
def test_contradictions_and_missing_rows_are_errors(texts, says):
    with pytest.raises(BadInputError, match=says):
        made(*texts)


def test_delta_is_a_chance():
    for delta in (0.0, 1.0, float("nan")):
        with pytest.raises(BadInputError, match="--delta"):
            made("refusal>=0.5", delta=delta)


def test_rules_without_a_threshold_of_their_own_cannot_be_calibrated():
    with pytest.raises(BadInputError, match="per_category or sum"):
        made("refusal>=0.5", kind="bias")


def test_ties_break_no_promise():
    # Eleven values only: thresholds can decline a whole step or nothing of it.
    rng = np.random.default_rng(0)
    p = rng.integers(0, 11, 5_000) / 10
    refuse = rng.random(5_000) < p
    population = labelled(scores_from_probabilities(("any",), p[:, None]), refuse, ["any"] * 5_000)
    for text in ("over_refusal<=0.2", "refusal>=0.7", "refusal=0.6"):
        found = coverage(population, targets(text), base("sum", ("any",)), n_groups=120, draws=100, delta=0.1)
        assert found.holds, (text, found)


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12, unique=True), st.data())
@settings(max_examples=200, deadline=None)
def test_a_gap_lets_exactly_k_values_through(values, data):
    k = data.draw(st.integers(0, len(values)))
    found = gap_below(np.array(values), k)
    if found is None:
        assert k == 0
        assert max(values) == 1.0
    else:
        assert 0 <= found <= 1
        assert sum(v >= found for v in values) == k


def test_what_breaks_a_promise():
    ceiling, floor = (made(t).certificates[0] for t in ("over_refusal<=0.2", "refusal>=0.5"))
    (equal,) = made("refusal=0.5").certificates
    assert [is_broken(ceiling, r) for r in (0.2, 0.21)] == [False, True]
    assert [is_broken(floor, r) for r in (0.5, 0.49)] == [False, True]
    assert [is_broken(equal, 0.5 + s * equal.tolerance) for s in (-1.1, -0.9, 0.9, 1.1)] == [True, False, False, True]
