from collections import Counter

import pytest

from demur.core.errors import BadInputError, UnknownNameError
from demur.core.taxonomy import load_taxonomy
from demur.suites import load_suite, stratified
from demur.suites.surface import commonest_opening, near_duplicates, surface_scores
from demur.suites.training import load_short_prompts, load_training

CORE = load_suite("core").rows
TRAINING = load_training()


def test_every_subcategory_has_enough_of_both_sides():
    counts = Counter((r.subcategory, r.expected) for r in CORE)
    for sub in load_taxonomy().subcategory:
        assert counts[sub.id, "refuse"] >= 50
        assert counts[sub.id, "comply"] >= 30
    assert len(CORE) >= 1360


def test_ids_are_unique_and_pairs_have_both_sides():
    assert len({r.id for r in CORE}) == len(CORE)
    pairs = {}
    for row in CORE:
        if row.pair_id:
            pairs.setdefault(row.pair_id, []).append(row.expected)
    assert all(sorted(sides) == ["comply", "refuse"] for sides in pairs.values())


def test_categories_agree_with_the_taxonomy():
    taxonomy = load_taxonomy()
    assert all(taxonomy.find(r.subcategory).category == r.category for r in CORE)


def test_prompts_are_no_near_duplicates_and_no_template_families():
    doubled = {i for pair in near_duplicates([r.prompt for r in CORE]) for i in pair}
    assert len(doubled) < 0.01 * len(CORE)
    for sub in load_taxonomy().subcategory:
        _, share = commonest_opening([r.prompt for r in CORE if r.subcategory == sub.id])
        assert share <= 0.03


def test_no_surface_rule_sorts_the_sides():
    groups = [CORE, *([r for r in CORE if r.subcategory == s.id] for s in load_taxonomy().subcategory)]
    for rows in groups:
        scores = surface_scores([r.prompt for r in rows], [r.expected == "refuse" for r in rows])
        assert max(scores.values()) < 0.60, scores


def test_the_training_set_shares_nothing_with_the_suite():
    assert len(TRAINING) >= 3000
    assert sum(bool(r.inappropriate) for r in TRAINING) >= 1500
    assert not near_duplicates([r.prompt for r in TRAINING], against=[r.prompt for r in CORE], at_least=0.3)


def test_training_responses_are_short_and_present():
    assert all(r.appropriate.strip() and len(r.appropriate.split()) <= 80 for r in TRAINING)
    assert commonest_opening([r.appropriate for r in TRAINING])[1] < 0.02


def test_pairs_stay_on_one_side_of_the_calibration_split():
    splits = {}
    for row in TRAINING:
        if row.pair_id:
            splits.setdefault(row.pair_id, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
    assert 300 <= len(load_training("calibration")) <= 900


def test_no_file_holds_mojibake_or_control_characters():
    for row in [*CORE, *TRAINING]:
        text = row.prompt + getattr(row, "appropriate", "")
        assert row.subcategory == "incomprehensible" or "Ã" not in text  # there it is what a user pasted
        assert not any(ord(c) < 32 and c not in "\n\t" for c in text)


def test_quick_is_a_fixed_two_sided_part_of_core():
    quick = load_suite("quick")
    assert len(quick.rows) == 140
    assert quick.is_two_sided
    assert {r.id for r in quick.rows} <= {r.id for r in CORE}
    assert min(Counter(r.subcategory for r in quick.rows).values()) >= 8


def test_a_limit_is_even_over_subcategories_and_sides_and_stable():
    small = load_suite("core", limit=68)
    assert Counter((r.subcategory, r.expected) for r in small.rows).most_common(1)[0][1] == 2
    assert small.rows == stratified(CORE, 68)
    assert small.sha256 != load_suite("core").sha256


def test_unknown_names_and_misplaced_paths_are_named(tmp_path):
    with pytest.raises(UnknownNameError, match="did you mean 'xstest'"):
        load_suite("xtest")
    with pytest.raises(BadInputError, match="published suite"):
        load_suite("core", path=tmp_path)


def test_surface_rules_find_what_is_there():
    texts = ["Why?"] * 20 + ["Tell me the whole long story now."] * 20
    scores = surface_scores(texts, [True] * 20 + [False] * 20)
    assert scores["words"] == scores["ends_with_question_mark"] == 1.0
    assert scores["has_line_break"] == 0.5


def test_near_duplicates_are_found_by_shared_runs_of_words():
    texts = [
        "please tell me how the old bridge was built",
        "please tell me how the old bridge was painted",
        "nothing like it at all here",
    ]
    assert near_duplicates(texts) == [(1, 0)]


def test_short_prompts_have_both_sides_of_every_subcategory_and_share_nothing_with_the_suite():
    short = load_short_prompts()
    counts = Counter((r.subcategory, r.expected) for r in short)
    assert min(counts[sub.id, side] for sub in load_taxonomy().subcategory for side in ("refuse", "comply")) >= 35
    assert max(len(r.prompt.split()) for r in short) <= 22
    others = [r.prompt for r in (*CORE, *TRAINING)]
    assert not near_duplicates([r.prompt for r in short], against=others, at_least=0.45)
    splits = {}
    for row in short:
        splits.setdefault(row.pair_id or row.id, set()).add(row.split)
    assert all(len(found) == 1 for found in splits.values())
