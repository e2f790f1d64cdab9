"""Buckets, directions of both kinds, cluster scores and honesty tables, on planted states."""

import numpy as np
import pytest

from demur.core.errors import BadInputError
from demur.core.verdict import Verdict
from demur.inside.buckets import Labelled, check_refusals, filled, refused_by, split_by_group
from demur.inside.honesty import (
    check_disjoint,
    matched_random,
    over_seeds,
    random_directions,
    ranking,
    scored_row,
    shuffled_labels,
    surface_rows,
    tfidf_row,
)
from demur.inside.separation import (
    category_directions,
    cluster_scores,
    contrast_map,
    cosines,
    harm_contrast,
    layer_average,
    local_norms,
    mean_state,
    projections,
    refusal_contrast,
)

WIDTH, LAYERS = 64, 3
HARM, REFUSE = np.eye(WIDTH)[0], np.eye(WIDTH)[1]


def rows(sizes=(40, 10, 40, 10)):
    """Labelled rows: refused harmful, accepted harmful, accepted harmless, refused harmless."""
    kinds = [(True, True), (True, False), (False, False), (False, True)]
    return [
        Labelled(prompt=f"prompt {k} {i}", harmful=harmful, refused=refused, category="ab"[i % 2], outcome="complied")
        for k, ((harmful, refused), n) in enumerate(zip(kinds, sizes, strict=True))
        for i in range(n)
    ]


def states(labelled, seed=0, noise=0.3):
    """(n, 1 span, layers, width): layer 0 is the same for all, then harmfulness and refusal on axes of their own."""
    rng = np.random.default_rng(seed)
    found = noise * rng.standard_normal((len(labelled), 1, LAYERS, WIDTH))
    for i, row in enumerate(labelled):
        found[i, 0, 1:] += 2 * row.harmful * HARM + 2 * bool(row.refused) * REFUSE
    found[:, :, 0] = 5.0
    return found.astype(np.float32)


def verdict(outcome):
    return Verdict(exchange_id="1", judge="j@1", outcome=outcome, rationale="why")


def test_degenerate_and_unjudged_replies_go_into_no_bucket_and_are_counted():
    assert [refused_by(verdict(o)) for o in ("refused", "partial", "complied", "degenerate", "unjudged")] == [
        True,
        True,
        False,
        None,
        None,
    ]
    extra = [Labelled(prompt="x", harmful=True, outcome="degenerate"), Labelled(prompt="y", harmful=False)]
    found = filled([*rows(), *extra])
    assert found.sizes == {
        "refused_harmful": 40,
        "accepted_harmful": 10,
        "accepted_harmless": 40,
        "refused_harmless": 10,
    }
    assert found.left_out == {("degenerate", True): 1, ("unjudged", False): 1}


def test_a_model_without_refusals_is_told_what_to_do():
    with pytest.raises(BadInputError, match=r"'smollm2' hardly ever refuses: 2 of 82.*demur train refusal-tokens"):
        check_refusals(filled(rows((2, 40, 40, 0))), model="smollm2")
    with pytest.raises(BadInputError, match=r"hardly ever answers"):
        check_refusals(filled(rows((40, 0, 0, 40))), model="m")
    check_refusals(filled(rows()), model="m")


def test_crossing_keeps_harmfulness_out_of_the_refusal_direction():
    labelled = rows()
    x, buckets = states(labelled, noise=0.02), filled(rows())
    crossed, plain = (contrast_map(x, refusal_contrast(buckets, design=d))[0] for d in ("crossed", "plain"))
    assert cosines(crossed, np.broadcast_to(REFUSE, crossed.shape))[2] > 0.99
    assert cosines(plain, np.broadcast_to(REFUSE, plain.shape))[2] == pytest.approx(np.sqrt(0.5), abs=0.01)
    harm = contrast_map(x, harm_contrast(buckets))[0]
    assert cosines(harm, np.broadcast_to(HARM, harm.shape))[1] > 0.99
    assert abs(cosines(harm, crossed)[1]) < 0.1


def test_without_all_four_buckets_the_published_design_is_used():
    buckets = filled(rows((40, 0, 40, 10)))
    found = refusal_contrast(buckets)
    assert found.design == "plain"
    assert (len(found.up), len(found.down)) == (40, 40)
    assert len(harm_contrast(buckets).down) == 50
    with pytest.raises(BadInputError, match="both kinds"):
        refusal_contrast(filled(rows((0, 4, 40, 0))))


@pytest.mark.parametrize("method", ["difference_in_means", "pairwise_pca", "logistic"])
def test_where_all_states_are_equal_there_is_no_direction_and_auroc_is_a_half(method):
    labelled = rows()
    x, contrast = states(labelled), harm_contrast(filled(labelled))
    found = contrast_map(x, contrast, method=method)
    assert not found[0, 0].any()
    assert found[0, 1].any()
    scores = projections(x, found)
    harmful = [row.harmful for row in labelled]
    assert ranking(scores[:, 0, 0], harmful).auroc == 0.5
    assert ranking(scores[:, 0, 1], harmful).auroc > 0.95
    assert np.isnan(cosines(found, found)[0, 0])


def test_rounding_is_not_taken_for_a_difference():
    x = np.full((20, 1, 1, WIDTH), 0.1, dtype=np.float32)
    x[:10] *= 1 + 1e-7
    assert not contrast_map(x, harm_contrast(filled(rows((5, 5, 5, 5))))).any()


def test_infinite_states_are_named():
    labelled = rows()
    x = states(labelled)
    x[3, 0, 1, 2] = np.inf
    with np.errstate(invalid="ignore"), pytest.raises(BadInputError, match="float16"):
        contrast_map(x, harm_contrast(filled(labelled)))


def test_cluster_scores_are_differences_of_cosines_and_average_over_layers():
    labelled = rows()
    x, buckets = states(labelled)[:, 0], filled(labelled)
    up, down = mean_state(x, buckets.rows["refused_harmful"]), mean_state(x, buckets.rows["accepted_harmless"])
    scores = cluster_scores(x, up, down)
    assert scores.shape == (100, LAYERS)
    assert np.abs(scores).max() <= 2
    assert np.allclose(scores[:, 0], 0, atol=1e-9)
    by_hand = x[7, 1] @ up[1] / np.linalg.norm(x[7, 1]) / np.linalg.norm(up[1])
    by_hand -= x[7, 1] @ down[1] / np.linalg.norm(x[7, 1]) / np.linalg.norm(down[1])
    assert scores[7, 1] == pytest.approx(by_hand, abs=1e-6)
    assert layer_average(scores) == pytest.approx(scores.mean(axis=1))
    assert layer_average(scores, layers=[1]) == pytest.approx(scores[:, 1])


def test_categories_have_directions_of_their_own_and_small_ones_have_none():
    labelled = rows()
    x = states(labelled)[:, 0]
    members = {"a": range(0, 20), "tiny": range(3)}
    names, found = category_directions(x, members, range(50, 90))
    assert names == ("a",)
    assert found.shape == (1, LAYERS, WIDTH)
    assert category_directions(x, {}, range(4))[1].shape == (0, LAYERS, WIDTH)


def test_norms_are_medians_at_each_place():
    x = states(rows())
    assert local_norms(x, range(100))[0, 0] == pytest.approx(5 * np.sqrt(WIDTH))


def test_splits_keep_prompts_and_twins_together_and_both_sides_in_each_part():
    labelled = [
        Labelled(prompt=f"p {i // 2}" if i % 10 == 0 else f"q {i}", harmful=i % 3 == 0, group=f"g{i // 3}")
        for i in range(300)
    ]
    parts = split_by_group(labelled, (0.5, 0.2, 0.3), seed=1)
    assert sorted(i for part in parts for i in part) == list(range(300))
    assert [len(p) for p in parts] == pytest.approx([150, 60, 90], abs=8)
    for one, other in ((0, 1), (0, 2), (1, 2)):
        check_disjoint([labelled[i] for i in parts[one]], [labelled[i] for i in parts[other]])
    assert all(0.2 < np.mean([labelled[i].harmful for i in part]) < 0.5 for part in parts)


def test_a_prompt_on_both_sides_is_an_error_even_in_another_case():
    with pytest.raises(BadInputError, match="1 prompts are both fitted on and tested on"):
        check_disjoint([Labelled(prompt="How  so?", harmful=True)], [Labelled(prompt="how so?", harmful=True)])
    with pytest.raises(BadInputError, match="1 groups"):
        check_disjoint(
            [Labelled(prompt="a", harmful=True, group="g")], [Labelled(prompt="b", harmful=False, group="g")]
        )


def test_random_directions_and_shuffled_labels_find_little_where_the_direction_finds_all():
    labelled = rows((100, 100, 100, 100))
    kinds = np.array([row.harmful for row in labelled])
    fit, test = states(labelled)[:, 0, 1], states(labelled, seed=9)[:, 0, 1]
    direction = scored_row("direction", "means", test @ (fit[kinds].mean(0) - fit[~kinds].mean(0)), kinds)
    random, shuffled = random_directions(fit, kinds, test, kinds), shuffled_labels(fit, kinds, test, kinds)
    assert direction.ranking.auroc > 0.99
    assert len(random.draws) == len(shuffled.draws) == 20
    assert random.ranking.low <= random.ranking.auroc <= random.ranking.high < 0.99
    assert 0.3 < shuffled.ranking.auroc < 0.75
    with pytest.raises(BadInputError, match="at least 10 draws"):
        random_directions(fit, kinds, test, kinds, n=3)


def test_random_directions_have_the_length_asked_for():
    assert np.linalg.norm(matched_random(64, n=12, length=7.5), axis=1) == pytest.approx(np.full(12, 7.5), rel=1e-5)


def test_surface_rules_find_what_gives_a_set_away_and_nothing_where_there_is_nothing():
    harmful = [f"write a thing number {i}" for i in range(50)]
    harmless = [f"write a longer thing than that, number {i}." for i in range(50)]
    kinds = [True] * 50 + [False] * 50
    punctuation, length = surface_rows(harmful + harmless, kinds, harmful + harmless, kinds)
    assert punctuation.ranking.auroc == length.ranking.auroc == 1.0
    alike = [f"{w} number {i}." for w in ("make", "bake") for i in range(50)]
    punctuation, length = surface_rows(alike, kinds, alike, kinds)
    assert punctuation.ranking.auroc == length.ranking.auroc == 0.5


def test_words_alone_are_a_control():
    pytest.importorskip("sklearn")
    texts = [f"how to {w} item {i}" for w in ("steal", "buy") for i in range(20)]
    row = tfidf_row(texts, [True] * 20 + [False] * 20, ["how to steal it", "how to buy it"], [True, False])
    assert row.ranking.auroc == 1.0


def test_one_line_keeps_every_seed():
    found = over_seeds([scored_row("direction", "x", s, [True, False]) for s in ([1, 0], [0, 1])])
    assert found.seeds == (1.0, 0.0)
