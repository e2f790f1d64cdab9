import json
from collections import Counter
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from tests.scan_rows import ANSWER, REFUSAL, batch_of

from demur.cli.scan import Speed
from demur.core.errors import BadInputError, MissingExtraError, UnknownNameError
from demur.core.verdict import OUTCOMES
from demur.scan import engines, openings, series, strata
from demur.scan.escalation import _first, planned
from demur.scan.settings import ScanSettings, parse_budget
from demur.scan.tally import MAX_VALUES, NO_TIME, OTHERS, Tally
from demur.scan.verdicts import Judged, column_names, judge_batch, scan_batch, taken

SETTINGS = ScanSettings(judge="phrases", judge_label="phrases@1")


def judged_of(p, *, outcome=None, stage=None, uncertain=None):
    p = np.array(p, dtype=np.float32)
    n = len(p)
    return Judged(
        outcome=np.array(outcome if outcome is not None else np.where(p >= 0.5, 2, 0), dtype=np.int8),
        manner=np.full(n, -1, dtype=np.int8),
        p_refused=p,
        is_uncertain=np.array(uncertain if uncertain is not None else (p > 0.1) & (p < 0.9)),
        stage=np.array(stage if stage is not None else np.ones(n), dtype=np.int8),
        label="j@1",
    )


def test_the_batch_function_keeps_the_inputs_columns_and_adds_four():
    found = scan_batch(batch_of([REFUSAL, ANSWER], extra={"answer": [REFUSAL, ANSWER], "n": [1, 2]}), SETTINGS)
    assert found.schema.names == ["answer", "n", "outcome", "manner", "p_refused", "judge"]
    assert found["outcome"].to_pylist() == ["refused", "complied"]
    assert found["judge"].to_pylist() == ["phrases@1", "phrases@1"]
    assert found["p_refused"].type == pa.float32()


def test_a_column_of_the_input_is_never_overwritten():
    extra = {"outcome": ["mine"], "judge": ["me"], "outcome_demur": ["also mine"]}
    found = scan_batch(batch_of([REFUSAL], extra=extra), SETTINGS)
    assert found["outcome"].to_pylist() == ["mine"]
    assert found["outcome_demur"].to_pylist() == ["also mine"]
    assert found["outcome_demur_demur"].to_pylist() == ["refused"]
    assert column_names(["judge"]) == ["outcome", "manner", "p_refused", "judge_demur"]


def test_the_interfaces_own_signal_decides_before_any_text():
    found = scan_batch(batch_of([ANSWER], signal="content_filter: violence", origin="provider_filter"), SETTINGS)
    assert found["outcome"].to_pylist() == ["refused"]
    assert found["judge"].to_pylist() == ["settled"]


def test_a_verdict_does_not_depend_on_its_neighbours():
    replies = [REFUSAL, ANSWER, "", "No.", "\x00\u202e", "I cannot " * 50, "a" * 100_000]
    whole = scan_batch(batch_of(replies), SETTINGS).slice(0).to_pylist()
    alone = [scan_batch(batch_of([r], first=i + 1), SETTINGS).to_pylist()[0] for i, r in enumerate(replies)]
    assert whole == alone
    backwards = scan_batch(batch_of(replies[::-1]), SETTINGS).to_pylist()
    assert backwards[::-1] == whole


def test_random_order_depends_on_file_and_line_alone():
    a = strata.priorities(batch_of(["x"] * 10))
    b = strata.priorities(batch_of(["y"] * 4, first=7))
    assert (a[6:] == b).all()
    assert len(set(a.tolist())) == 10
    many = strata.priorities(batch_of([""] * 5000)).astype(float) / 2**64
    assert abs(many.mean() - 0.5) < 0.02


def test_strata_follow_the_probability_and_settled_rows_are_apart():
    judged = judged_of([0.01, 0.5, np.nan, 1.0, 0.4], stage=[1, 1, 1, 0, 1], uncertain=[0, 1, 1, 0, 1])
    found = strata.strata_of(judged).tolist()
    names = [strata.names()[i] for i in found]
    assert names == ["0–0.02", "0.5–0.7, unsure", "not read", "settled without reading", "0.3–0.5, unsure"]
    order = np.array([2**64 - 1, 12345], dtype=np.uint64)
    back = strata.unpacked(strata.packed(order, np.array([3, 17], dtype=np.uint8)))
    assert back[1].tolist() == [3, 17]


def counts_of(tally):
    held = tally.to_json()
    held.pop("sample")
    return {k: sorted(map(str, v)) if isinstance(v, list) else v for k, v in held.items()} | {
        "tables": {kind: sorted(map(str, cells)) for kind, cells in held["tables"].items()}
    }


def test_counts_and_sample_are_the_same_in_one_piece_and_in_many():
    rng = np.random.default_rng(0)
    replies = [REFUSAL if rng.random() < 0.3 else ANSWER for _ in range(600)]
    times = [datetime(2026, 1, 1 + i // 100, i % 24, tzinfo=UTC) for i in range(600)]
    models = [f"m{i % 3}" for i in range(600)]
    whole = Tally()
    batch = batch_of(replies, times=times, models=models)
    judged = judge_batch(batch, SETTINGS)
    whole.add(batch, judged)
    parts = Tally()
    for start in range(0, 600, 37):
        rows = slice(start, start + 37)
        piece = Tally()
        piece.add(
            batch_of(replies[rows], times=times[rows], models=models[rows], first=start + 1),
            taken(judged, np.arange(600)[rows]),
        )
        parts.merge(Tally.from_json(json.loads(json.dumps(piece.to_json()))))
    assert counts_of(parts) == counts_of(whole)
    assert {s: [p for p, _ in rows] for s, rows in parts.kept.rows.items()} == {
        s: [p for p, _ in rows] for s, rows in whole.kept.rows.items()
    }
    assert sum(whole.total()[""]) == 600
    assert len(whole.total("model")) == 3


def test_taking_counts_away_undoes_adding_them():
    batch = batch_of([REFUSAL, ANSWER, ANSWER])
    judged = judge_batch(batch, SETTINGS)
    tally, extra = Tally(), Tally()
    tally.add(batch, judged)
    before = tally.total("model")
    extra.add(batch, judged, keep=False)
    tally.merge(extra)
    tally.merge(extra, sign=-1)
    assert tally.total("model") == before
    assert tally.n_rows == 3


def test_a_log_with_a_new_model_in_every_row_is_counted_in_bounded_memory():
    tally = Tally()
    for start in range(0, 3000, 500):
        replies = [ANSWER] * 500
        models = [f"model {start + i}" for i in range(500)]
        times = [datetime(2026, 1, 1 + (start + i) % 28, tzinfo=UTC) for i in range(500)]
        batch = batch_of(replies, models=models, times=times, first=start + 1)
        tally.add(batch, judged_of([0.0] * 500), language_every=1000)
    totals = tally.total("model")
    assert len(totals) == MAX_VALUES + 1
    assert sum(totals[OTHERS]) == 3000 - MAX_VALUES
    assert sum(map(sum, totals.values())) == 3000


def test_times_that_cannot_be_are_no_times():
    times = [datetime(1, 1, 2, tzinfo=UTC), datetime(9998, 1, 1, tzinfo=UTC), None, datetime(2026, 5, 1, tzinfo=UTC)]
    tally = Tally()
    tally.add(batch_of([ANSWER] * 4, times=times), judged_of([0.0] * 4))
    assert sum(tally.hours[NO_TIME]) == 3
    assert {day for _, day in tally.tables["all"]} == {NO_TIME, 20_574}


def test_openings_are_alike_whatever_case_spaces_and_digits():
    assert openings.opening("**Sorry**,  I can’t\nhelp 12 of you") == openings.opening("sorry, I CAN'T help")[:14]
    assert openings.opening("Sorry. I can't do 3 things, my friend, today") == "sorry. i can't do 0 things, my"
    assert openings.opening(" \n ") == ""


def test_frequent_openings_survive_pruning():
    counts = Counter({"i can't help": 5000})
    for i in range(20_000):
        counts[f"unique {i}"] += 1
        openings.prune(counts)
    assert len(counts) <= openings.MOST + 1
    assert openings.top_openings(counts, 1) == [("i can't help", 5000)]
    refusals, answers = {"i can't help you": 10, "sorry, i can't say": 5, "the one": 20}, {"the one": 200, "i do": 30}
    assert openings.top_phrases(refusals, answers, 1) == [("i can't", 15)]


@pytest.mark.parametrize("text", ["", "x", "-5", "0", "0%", "101%", "1e3", "nan%", "5 %%"])
def test_a_budget_that_is_none_is_refused(text):
    with pytest.raises(BadInputError, match="--budget: expected"):
        parse_budget(text, 1000)


def test_a_budget_is_rows_or_a_share_and_never_more_than_there_are():
    assert parse_budget("50", 1000) == 50
    assert parse_budget("2%", 1000) == 20
    assert parse_budget("5000", 1000) == 1000


def test_the_budget_goes_to_unsure_rows_first_and_a_quarter_to_the_sure_ones():
    sizes = [0] * strata.N_STRATA
    sizes[strata.SETTLED], sizes[2], sizes[9] = 500, 10_000, 3_000
    wanted = planned(sizes, 400)
    assert wanted.sum() == 400
    assert wanted[strata.SETTLED] == 0
    assert (wanted[2], wanted[9]) == (100, 300)
    assert planned(sizes, 20_000)[9] == 3_000
    assert planned(sizes, 20_000)[2] == 10_000


def test_the_first_rows_of_each_stratum_are_chosen_whatever_the_order_they_come_in():
    rng = np.random.default_rng(0)
    rows = np.stack([rng.integers(0, 2**63, 500), rng.integers(0, 4, 500), np.zeros(500), np.arange(500)], axis=1)
    rows = rows.astype(np.uint64)
    limits = np.array([3, 0, 50, 1000])
    found = _first(rows, limits)
    shuffled = _first(rows[rng.permutation(500)], limits)
    assert (found == shuffled).all()
    assert [int((found[:, 1] == s).sum()) for s in range(4)] == [3, 0, 50, int((rows[:, 1] == 3).sum())]
    assert found[:3, 0].tolist() == sorted(rows[rows[:, 1] == 0, 0].tolist())[:3]


def test_a_series_has_no_gaps_and_a_width_that_fits():
    one = [1] + [0] * (len(OUTCOMES) - 1)
    unit, buckets, untimed = series.series_of({480_000: one, 480_003: one, NO_TIME: one})
    assert (unit, len(buckets), untimed) == ("hour", 4, 1)
    assert [sum(b.counts) for b in buckets] == [1, 0, 0, 1]
    unit, buckets, _ = series.series_of({480_000 + 24 * d: one for d in range(300)})
    assert (unit, len(buckets)) == ("day", 300)
    unit, buckets, _ = series.series_of({480_000 + 24 * d: one for d in range(0, 3000, 3)})
    assert unit == "four weeks"
    assert series.series_of({}) == ("", [], 0)


def test_a_clock_that_was_never_set_does_not_stretch_the_series():
    many = [100] + [0] * (len(OUTCOMES) - 1)
    one = [1] + [0] * (len(OUTCOMES) - 1)
    hours = {490_000 + 24 * d: many for d in range(90)} | {180_000: one}
    unit, buckets, outside = series.series_of(hours)
    assert (unit, len(buckets), outside) == ("day", 90, 1)


def test_an_unknown_engine_is_named_and_a_missing_one_says_what_to_install(monkeypatch):
    with pytest.raises(UnknownNameError, match="did you mean 'daft'"):
        engines.check_engine("draft")
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match=r"demur\[ray\]"):
        engines.check_engine("ray")


def test_progress_tells_speed_and_time_left():
    now = [0.0]
    speed = Speed(clock=lambda: now[0])
    now[0] = 10.0
    seen = speed.text(SimpleNamespace(stage="judging", done=3000, total=9000, new=2000))
    assert seen == "judging: 3,000 of about 9,000 rows, 200 rows/s, 30 s left"
