"""Recipes and gates: complete in one file, sourced, and clear about what is wrong."""

import pytest

from demur.core.errors import BadInputError, UnknownNameError
from demur.train.gates import check_measured, parse_gate, passed_gates
from demur.train.training_recipe import METHODS, preset_names, read_training_recipe


def written(tmp_path, text):
    path = tmp_path / "recipe.toml"
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_is_a_recipe_that_names_its_source(name):
    recipe = read_training_recipe(f"preset:{name}")
    assert recipe.source
    assert recipe.note
    if recipe.start:
        read_training_recipe(recipe.start)


def test_every_method_has_a_preset():
    assert {read_training_recipe(f"preset:{name}").method for name in preset_names()} == set(METHODS)


def test_published_values_are_kept():
    lora, script, full = (
        read_training_recipe(f"preset:{name}") for name in ("coconot-lora", "coconot-dpo-script", "derta-full")
    )
    assert (lora.adapter.rank, lora.adapter.alpha, lora.adapter.dropout) == (64, 16, 0.1)
    assert lora.adapter.scale == 0.25
    assert (lora.settings.learning_rate, lora.settings.batch_rows, lora.max_tokens) == (1e-5, 128, 2048)
    assert (script.settings.learning_rate, script.settings.batch_rows) == (5e-7, 32)
    assert (full.derta.keep, full.derta.keep_over, full.derta.none_every, full.derta.unit) == (0.05, "row", 3, "words")
    assert full.settings.weight_decay == 2e-5
    assert read_training_recipe("preset:scope-dpo").preference.beta == 0.05


def test_an_unknown_key_is_one_line_that_names_the_known_ones(tmp_path):
    with pytest.raises(BadInputError) as error:
        read_training_recipe(written(tmp_path, 'method = "lora"\nlearning_rat = 1'))
    assert "learning_rat" in str(error.value)
    assert "optimiser" in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_key_in_a_part_names_the_fields_of_that_part(tmp_path):
    text = 'method = "lora"\n[[data]]\nsource = "refusals"\nrato = 1.0'
    with pytest.raises(BadInputError, match=r"data\.0\.rato.*fields of data: source, share, ratio"):
        read_training_recipe(written(tmp_path, text))
    with pytest.raises(BadInputError, match=r"adapter\.rnk.*fields of adapter: kind, rank"):
        read_training_recipe(written(tmp_path, 'method = "lora"\n[adapter]\nrnk = 1'))


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("method = ", "expected TOML"),
        ('method = "dpo"', "expected 'lora', got 'dpo'"),
        ('[adapter]\nkind = "full"', "use method sft"),
        ("[optimiser]\nseed = 3", "one seed"),
        ("[optimiser]\nlearning_rate = -1.0", "greater than 0"),
        ('gates = ["happiness > 3"]', "unknown figure 'happiness'"),
        ('gates = ["perplexity == 3"]', "expected a condition such as"),
    ],
)
def test_a_recipe_that_cannot_be_is_refused(tmp_path, text, complaint):
    with pytest.raises(BadInputError, match=complaint):
        read_training_recipe(written(tmp_path, text), method="lora")


def test_a_preset_that_is_not_there_is_named():
    with pytest.raises(UnknownNameError, match="did you mean 'coconot-lora'"):
        read_training_recipe("preset:coconot-lra")
    with pytest.raises(BadInputError, match="preset:NAME"):
        read_training_recipe("nowhere.toml")


def test_sft_trains_every_weight_unless_told_otherwise(tmp_path):
    assert read_training_recipe(written(tmp_path, ""), method="sft").adapter.kind == "full"
    lora = written(tmp_path, '[adapter]\nkind = "dora"')
    assert read_training_recipe(lora, method="sft").adapter.kind == "dora"


def test_the_recipes_seed_is_the_optimisers():
    assert read_training_recipe("preset:small-lora", over={"seed": 7}).settings.seed == 7


@pytest.mark.parametrize(
    ("gate", "after", "passed"),
    [
        ("contrast.answered >= 0.9 * before", 0.72, True),
        ("contrast.answered >= 0.9*before", 0.71, False),
        ("contrast.answered > before - 0.05", 0.76, True),
        ("contrast.answered < before + 0.05", 0.85, False),
        ("contrast.answered >= 0.5", 0.5, True),
        ("contrast.answered >= 5e-1", 0.4, False),
    ],
)
def test_a_gate_compares_with_a_number_or_with_the_figure_before(gate, after, passed):
    (result,) = passed_gates([gate], {"contrast.answered": 0.8}, {"contrast.answered": after})
    assert result.passed is passed


def test_a_figure_that_was_not_measured_cannot_pass():
    (after,) = passed_gates(["perplexity <= 100"], {}, {})
    (before,) = passed_gates(["perplexity <= 1.05 * before"], {}, {"perplexity": 3.0})
    assert (after.passed, before.passed) == (False, False)
    assert "not measured before" in before.reason


def test_a_gate_on_what_will_not_be_measured_is_refused_before_training():
    with pytest.raises(BadInputError, match="ability = false"):
        check_measured(["perplexity <= 30"], audited=True, ability=False)
    with pytest.raises(BadInputError, match="audit = 'none'"):
        check_measured(["contrast.answered >= 0.5"], audited=False, ability=True)
    check_measured(["loss.last < 2"], audited=False, ability=False)


def test_a_gate_cannot_ignore_before_by_a_factor_of_zero():
    with pytest.raises(ValueError, match="above 0"):
        parse_gate("perplexity <= 0 * before")
