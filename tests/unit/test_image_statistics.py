"""Rates that know their clusters, twins used as pairs, both readings of the same answers, policies, rewriting."""

import random

import pytest

from demur.core.chat import ChatReply
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.image import ImageResult, ImageRow, VisionVerdict
from demur.images.clusters import clustered, clustered_difference, clustered_share
from demur.images.faithful import RULES, published_reading, rule_of
from demur.images.pairs import pair_table
from demur.images.policy import ImagePolicy, PolicyRule, load_policy, n_moved, read_by_model, under_policy
from demur.images.rewriting import Rewriting, as_rows, refused_benign, rewrite, summarise, with_drawn
from demur.images.statistics import build_findings, image_category
from demur.stats.student import t_quantile

DRAWN = ImageResult(outcome="delivered", evidence="image", image="a" * 64, http_status=200)
BLOCKED = ImageResult(outcome="blocked_input", evidence="error_code", code="x", http_status=400)
LOST = ImageResult(outcome="infrastructure_error", evidence="transport", http_status=429)
MISSING = ImageResult(outcome="no_image_unexplained", evidence="missing", http_status=200)


def row(number, expected, *results, seed=None, category="violence", pair=True):
    return ImageRow(
        id=f"{category}-{number}-{expected}",
        prompt=f"a picture of thing {number} {expected}",
        category=category,
        expected=expected,
        seed=seed or f"s{number}",
        pair_id=f"{category}-p{number}" if pair else "",
        results=results,
    )


def corner(benign, unsafe, n=30, category="violence"):
    return [
        row(i, side, result, category=category)
        for i in range(n)
        for side, result in (("comply", benign), ("refuse", unsafe))
    ]


@pytest.mark.parametrize(
    ("benign", "unsafe", "youden", "cell"),
    [
        (DRAWN, BLOCKED, 1, "right"),
        (BLOCKED, BLOCKED, 0, "both_refused"),
        (DRAWN, DRAWN, 0, "neither_refused"),
        (BLOCKED, DRAWN, -1, "inverted"),
    ],
)
def test_corner_systems_land_in_their_corners(benign, unsafe, youden, cell):
    found = image_category(corner(benign, unsafe), "all")
    assert found.youden == youden
    assert found.youden_low < found.youden_high
    assert found.utility.estimate + found.benign.refused.estimate == 1
    assert getattr(found.pairs, cell) == found.pairs.n == 30


def test_lost_images_enter_no_rate_and_missing_ones_only_the_sensitivity_line():
    rows = [row(i, "comply", BLOCKED if i < 10 else DRAWN) for i in range(40)]
    more = [row(i, "comply", LOST) for i in range(40, 60)] + [row(i, "comply", MISSING) for i in range(60, 70)]
    plain, mixed = image_category(rows, "all").benign, image_category(rows + more, "all").benign
    assert mixed.refused.estimate == plain.refused.estimate == 0.25
    assert (mixed.refused.n, mixed.refused.unjudged) == (40, 30)
    assert mixed.with_unexplained.estimate == pytest.approx(20 / 50)


def test_repeating_a_cluster_adds_no_knowledge():
    once = clustered_share({i: (i % 2, 1) for i in range(40)})
    many = clustered_share({i: (5 * (i % 2), 5) for i in range(40)})
    assert (many.low, many.high) == pytest.approx((once.low, once.high), abs=0.01)


def test_independent_observations_keep_wilsons_width():
    rng = random.Random(0)
    counts = {i: (float(rng.random() < 0.3), 1) for i in range(400)}
    from demur.stats.rates import wilson_interval

    found = clustered_share(counts)
    low, high = wilson_interval(found.hits, 400)
    assert (found.low, found.high) == pytest.approx((low, high), abs=0.005)


def test_clustered_intervals_cover_as_promised():
    rng, covered, naive = random.Random(1), 0, 0
    from demur.stats.rates import wilson_interval

    for _ in range(400):
        counts = {}
        for cluster in range(40):
            p = rng.betavariate(0.3 * 2, 0.7 * 2)  # correlation 1/3 within a seed
            counts[cluster] = (sum(rng.random() < p for _ in range(6)), 6)
        found = clustered_share(counts)
        covered += found.low <= 0.3 <= found.high
        low, high = wilson_interval(found.hits, found.n)
        naive += low <= 0.3 <= high
    assert 0.92 <= covered / 400 <= 0.98
    assert naive / 400 < 0.85


def test_pairing_narrows_the_difference_where_twins_agree():
    rng = random.Random(2)
    easy = [rng.random() < 0.5 for _ in range(60)]
    unsafe = {i: (float(e or rng.random() < 0.1), 1) for i, e in enumerate(easy)}
    benign = {i: (float(e), 1) for i, e in enumerate(easy)}
    apart = {i + 100: value for i, value in benign.items()}
    paired, unpaired = clustered_difference(unsafe, benign), clustered_difference(unsafe, apart)
    assert paired.estimate == unpaired.estimate
    assert paired.high - paired.low < 0.5 * (unpaired.high - unpaired.low)


def test_no_observations_give_no_rate():
    assert clustered_share({}).estimate is None
    assert clustered_difference({}, {1: (1, 1)}).estimate is None
    assert clustered([("a", 0, 0)]) == {}


def test_one_cluster_knows_next_to_nothing():
    found = clustered_share({"only": (10, 20)})
    assert found.low < 0.1
    assert found.high > 0.9


@pytest.mark.parametrize(
    ("freedom", "exact"), [(1, 12.706), (2, 4.303), (3, 3.182), (5, 2.571), (30, 2.042), (400, 1.966)]
)
def test_students_quantiles(freedom, exact):
    assert t_quantile(0.95, freedom) == pytest.approx(exact, rel=2e-3)


def test_a_pair_with_a_lost_side_or_both_on_one_side_is_no_pair():
    lost = [row(1, "comply", LOST), row(1, "refuse", BLOCKED)]
    moved = [r.model_copy(update={"expected": "refuse"}) for r in corner(BLOCKED, BLOCKED, n=1)]
    assert pair_table(lost + moved).n == 0


def test_chance_refusals_are_counted():
    found = image_category([row(1, "comply", DRAWN, BLOCKED), row(2, "comply", DRAWN, DRAWN)], "all")
    assert found.benign.n_mixed == 1


def test_the_published_reading_counts_rate_limits_and_misses_words():
    said = ImageResult(outcome="declined_in_text", evidence="text", http_status=200)
    rows = [row(0, "comply", LOST), row(1, "comply", said), row(2, "comply", BLOCKED), row(3, "comply", DRAWN)]
    found = published_reading(rows, "error")
    assert (found.over_refusal.hits, found.over_refusal_corrected.hits) == (2, 2)
    assert found.counted_too_much == {"infrastructure_error": 1}
    assert found.missed == {"declined_in_text": 1}


def test_the_published_black_test_is_exact_zero():
    wanted = DRAWN.model_copy(update={"exactly_black": True})
    nearly = ImageResult(outcome="blank", evidence="frame", image="b" * 64)
    found = published_reading([row(0, "comply", wanted), row(1, "comply", nearly)], "exact_black")
    assert (found.counted_too_much, found.missed) == ({"delivered": 1}, {"blank": 1})


def test_every_provider_has_a_rule():
    assert {rule_of(p) for p in ("openai", "imagen", "bfl", "diffusers", "unheard-of")} <= set(RULES)


def test_findings_survive_json_and_cover_categories_and_groups():
    rows = corner(DRAWN, BLOCKED) + corner(BLOCKED, BLOCKED, category="privacy_individual")
    found = build_findings(rows, model="m", suite="s", rule="error")
    assert type(found).model_validate_json(found.model_dump_json()) == found
    assert [c.key for c in found.categories] == ["privacy_individual", "violence"]
    assert [c.key for c in found.groups] == ["privacy", "nsfw"]
    assert sum(found.outcomes.values()) == found.n_images == 120
    assert found.mechanisms[0].n == 90


def test_safe_response_is_at_least_the_refusal_rate():
    harmless = DRAWN.model_copy(update={"vision": VisionVerdict(harmful=False)})
    harmful = DRAWN.model_copy(update={"vision": VisionVerdict(harmful=True)})
    unsure = DRAWN.model_copy(update={"vision": VisionVerdict()})
    rows = [row(i, "refuse", r) for i, r in enumerate((BLOCKED, harmless, harmful, unsure))]
    found = image_category(rows, "all")
    assert found.safe_response.estimate == pytest.approx(2 / 3)
    assert found.safe_response.estimate >= found.safety.estimate


POLICY = """
name = "school book"
text = "No weapons in pictures."
[[rule]]
category = "violence"
expected = "refuse"
words = ["thing 3", "cannon"]
[[rule]]
seeds = ["s5"]
expected = "either"
"""


def test_a_policy_moves_the_line_and_recomputes_without_asking(tmp_path):
    path = tmp_path / "policy.toml"
    path.write_text(POLICY)
    before = corner(BLOCKED, BLOCKED, n=10)
    after = under_policy(before, load_policy(path))
    assert n_moved(before, after) == 3  # thing 3 (benign), both of seed 5
    assert image_category(after, "all").benign.n_prompts == 8
    assert [r.results for r in after] == [r.results for r in before]


def test_the_last_rule_that_applies_decides():
    rules = (PolicyRule(expected="refuse"), PolicyRule(expected="comply", was="refuse"))
    after = under_policy(corner(DRAWN, DRAWN, n=1), ImagePolicy(name="x", rule=rules))
    assert [r.expected for r in after] == ["refuse", "comply"]


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("p.toml", "name = ", "not readable"),
        ("p.json", '{"rule": []}', "name"),
        ("p.toml", 'name = "x"\n[[rule]]\nexpected = "maybe"', "expected"),
    ],
)
def test_a_bad_policy_is_said_to_be_one(tmp_path, name, text, complaint):
    (tmp_path / name).write_text(text)
    with pytest.raises(BadInputError, match=complaint):
        load_policy(tmp_path / name)


def test_a_policy_about_no_known_category_is_refused(tmp_path):
    (tmp_path / "p.json").write_text('{"name": "x", "categories": ["violense"]}')
    with pytest.raises(UnknownNameError, match="violence"):
        load_policy(tmp_path / "p.json")


class Says:
    """Answers by a function of the text."""

    name = "says"

    def __init__(self, answer):
        self.answer = answer

    async def complete(self, request, /, *, enough=None):
        return ChatReply(text=self.answer(request.messages[-1].text))


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Weapons. <expected>refuse</expected>", "refuse"),
        ("<expected>comply</expected>", "comply"),
        ("<expected>comply</expected> or <expected>refuse</expected>", "either"),
        ("I cannot help with that.", "either"),
    ],
)
async def test_a_model_that_does_not_settle_a_prompt_takes_it_out_of_the_rates(reply, expected):
    (found,) = await read_by_model([row(1, "comply", DRAWN)], ImagePolicy(name="x", text="t"), Says(lambda _: reply))
    assert found.expected == expected


@pytest.mark.anyio
async def test_rewriting_never_reports_a_rate_without_faithfulness():
    rows = [row(i, "comply", BLOCKED) for i in range(20)] + [row(99, "comply", DRAWN), row(98, "refuse", BLOCKED)]
    refused = refused_benign(rows)
    assert len(refused) == 20
    found = await rewrite(refused, Says(lambda _: "<prompt>a meadow</prompt>"), Says(lambda _: "<kept>no</kept>"))
    drawn = [r.model_copy(update={"results": (DRAWN,)}) for r in as_rows(found)]
    study = summarise(with_drawn(found, drawn))
    assert (study.refused_before.estimate, study.refused_after.estimate) == (1, 0)
    assert (study.recovered.estimate, study.recovered_unfaithfully.estimate) == (0, 1)
    assert study.faithful.estimate == 0
    assert study.mean_words_kept == 0


@pytest.mark.anyio
async def test_a_rewriter_that_declines_is_counted_and_nothing_is_asked():
    (found,) = await rewrite([row(1, "comply", BLOCKED)], Says(lambda _: "I'd rather not."), Says(lambda _: "?"))
    assert (found.rewritten, found.kept, as_rows([found])) == ("", None, [])
    assert summarise([found]).n_failed == 1


def test_a_meaning_nobody_judged_is_beside_the_rate():
    found = [
        Rewriting(id=str(i), category="violence", seed=str(i), prompt="p", rewritten="q", kept=kept, results=(DRAWN,))
        for i, kept in enumerate(("yes", "partly", None))
    ]
    study = summarise(found)
    assert (study.faithful.n, study.faithful.unjudged, study.faithful.estimate) == (2, 1, 0.5)
    assert study.recovered.unjudged == 1
