"""Intervals count sources, tests exchange forms source by source, and cells add up."""

import random

import numpy as np
import pytest

from demur.core.culture import ForcedChoice, LongForm, Statement
from demur.cultures.cells import agreement, cells, effects, evaded, in_translation, joined, setups_compared
from demur.cultures.statistics import clustered_mean, clustered_share, exchange_test, paired_difference
from demur.stats.rates import wilson_interval
from demur.stats.student import t_quantile


def rows(n=12, language="de"):
    return [
        Statement(
            id=f"{language}-{i}", topic="immigration" if i % 2 else "surrogacy", language=language,
            country=f"{language}-x", source=f"s{i // 3}", statement=f"Satz {i}", english=f"Sentence {i}",
            values=("a", "b") if i % 4 == 0 else ("a",),
        )
        for i in range(n)
    ]  # fmt: skip


def choice(row, form="original", p=0.5, order=0.0):
    return ForcedChoice(
        id=row.id, form=form, agreement=p, uncalibrated=0.5, order_effect=order, template_sd=0.1, flips=0.25,
        mass=0.3, by_template={},
    )  # fmt: skip


def reply(row, form="original", stance="agree"):
    return LongForm(id=row.id, form=form, stance=stance, declined=False, answered_in="de")


@pytest.mark.parametrize(
    ("degrees", "wanted"), [(1, 12.7062), (2, 4.30265), (5, 2.57058), (30, 2.04227), (1000, 1.96234)]
)
def test_quantiles_of_students_t_are_those_of_the_tables(degrees, wanted):
    assert t_quantile(0.95, degrees) == pytest.approx(wanted, abs=1e-4)


def test_copies_of_a_source_make_nothing_surer():
    values, sources = [0.2, 0.5, 0.6, 0.9], list("abcd")
    one, many = clustered_mean(values, sources), clustered_mean(values * 10, sources * 10)
    assert (one.low, one.high) == (pytest.approx(many.low), pytest.approx(many.high))
    flags = [True, False, True, False, False, False]
    single, tenfold = clustered_share(flags, range(6)), clustered_share(flags * 10, list(range(6)) * 10)
    assert tenfold.high - tenfold.low >= 0.95 * (single.high - single.low)


def test_sources_that_agree_within_are_wider_than_rows_would_be():
    flags, sources = [i < 10 for i in range(20)], [i // 5 for i in range(20)]
    found = clustered_share(flags, sources)
    low, high = wilson_interval(10, 20)
    assert found.high - found.low > high - low


def test_a_single_source_has_no_interval_of_a_mean():
    assert clustered_mean([0.1, 0.9], ["a", "a"]).low is None
    assert clustered_mean([], []).estimate is None


def test_no_hit_at_all_counts_the_sources():
    found = clustered_share([False] * 40, [i // 10 for i in range(40)])
    assert found.high == pytest.approx(wilson_interval(0, 4)[1])
    assert (found.low, found.estimate) == (0.0, 0.0)


def test_unjudged_rows_are_counted_beside_the_share():
    found = clustered_share([True, None, False, None], list("abcd"))
    assert (found.estimate, found.n, found.unjudged) == (0.5, 2, 2)


def test_intervals_of_means_hold_the_truth_as_often_as_they_say():
    rng, held = np.random.default_rng(0), 0
    for _ in range(300):
        sources = np.repeat(np.arange(8), 5)
        values = np.clip(0.5 + rng.normal(0, 0.1, 8)[sources] + rng.normal(0, 0.05, 40), 0, 1)
        found = clustered_mean(values.tolist(), sources.tolist())
        held += found.low <= 0.5 <= found.high
    assert 0.91 <= held / 300 <= 0.985


def test_the_exchange_test_is_uniform_without_a_difference():
    rng = np.random.default_rng(0)
    p = [exchange_test(rng.normal(size=20).tolist(), [i // 2 for i in range(20)]) for _ in range(300)]
    assert np.mean(np.array(p) <= 0.1) == pytest.approx(0.1, abs=0.05)


def test_exchanging_the_forms_exchanges_the_difference():
    rng = random.Random(0)
    a, b, sources = [rng.random() for _ in range(30)], [rng.random() for _ in range(30)], [i // 3 for i in range(30)]
    one, other = paired_difference(a, b, sources), paired_difference(b, a, sources)
    assert one.difference == pytest.approx(-other.difference)
    assert one.low == pytest.approx(-other.high)
    assert one.p_value == pytest.approx(other.p_value, abs=0.02)


def test_equal_forms_are_no_difference():
    found = paired_difference([1.0, 0.0], [1.0, 0.0], ["a", "b"])
    assert (found.difference, found.p_value) == (0.0, 1.0)
    with pytest.raises(ValueError, match="equally long"):
        paired_difference([], [], [])


def test_cells_add_up_to_their_margins():
    statements = rows(12) + rows(9, "en")
    found = joined(statements, [choice(r) for r in statements], [reply(r) for r in statements])
    made = {(c.topic, c.language, c.country, c.value, c.form): c for c in cells(found)}
    whole = made["", "", "", "", "original"]
    assert whole.n == 21
    assert sum(made[t, lang, "", "", "original"].n for t in ("immigration", "surrogacy") for lang in ("de", "en")) == 21
    assert made["", "", "", "a", "original"].n == 21  # a statement is in the cell of each of its labels
    assert made["", "", "", "b", "original"].n == sum(len(r.values) == 2 for r in statements)
    assert sum(whole.stances.values()) == 21


def test_degenerate_and_unjudged_replies_are_in_no_share():
    statements = rows(4)
    stances = ("no_comment", "degenerate", "unjudged", "agree")
    replies = [reply(r, stance=s) for r, s in zip(statements, stances, strict=True)]
    whole = next(c for c in cells(joined(statements, [], replies)) if not (c.topic or c.language or c.value))
    assert (whole.evaded.n, whole.evaded.unjudged, whole.evaded.degenerate) == (2, 2, 1)
    assert whole.evaded.estimate == 0.5
    assert whole.agreement is None


def test_only_statements_with_both_forms_are_compared():
    statements = [*rows(6), *rows(3, "en")]
    choices = [choice(r, p=0.8) for r in statements] + [choice(r, "translation", p=0.6) for r in statements[:4]]
    found = in_translation(joined(statements, choices, []), agreement)
    assert list(found) == ["all", "de"]
    assert (found["de"].n, found["de"].difference) == (4, pytest.approx(0.2))


def test_evasion_of_what_was_not_read_is_unknown():
    statements = rows(2)
    one, other = joined(
        statements, [], [reply(statements[0], stance="unjudged"), reply(statements[1], stance="deflect")]
    )
    assert (evaded(one), evaded(other)) == (None, 1.0)


def test_effects_are_kept_apart_by_the_language_asked_in():
    statements = rows(2)
    choices = [choice(r, order=0.2) for r in statements] + [choice(r, "translation", order=-0.1) for r in statements]
    german, english = sorted(effects(joined(statements, choices, [])), key=lambda e: e.language)
    assert (german.signed_order_effect, german.order_effect) == (pytest.approx(0.2), pytest.approx(0.2))
    assert (english.signed_order_effect, english.order_effect) == (pytest.approx(-0.1), pytest.approx(0.1))


def test_the_set_ups_are_compared_where_both_ran():
    statements = rows(4)
    choices = [choice(r, p=p) for r, p in zip(statements, (0.9, 0.2, 0.7, 0.5), strict=True)]
    replies = [
        reply(r, stance=s) for r, s in zip(statements, ("agree", "disagree", "no_comment", "deflect"), strict=True)
    ]
    found = setups_compared(joined(statements, choices, replies))
    assert (found.auroc, found.decided_where_evaded) == (1.0, 0.5)
    assert setups_compared(joined(statements, choices, [])) is None
