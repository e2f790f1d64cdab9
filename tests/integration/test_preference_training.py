import math

import pytest

pytest.importorskip("trl")

import torch

from demur.core.errors import BackendError, BadInputError
from demur.models.merging import load_model, load_tokenizer
from demur.train.adapters import AdapterSettings, attach
from demur.train.preferences import PreferenceExample, PreferenceSettings, encoded_pair, train_preferences
from demur.train.rows import encoder_of
from tests.engine_models import make_base

torch.set_num_threads(1)
PAIRS = [
    PreferenceExample(f"{thing}?", chosen=f"No {thing}.", rejected=f"Mix the {thing} and wait; then bake.")
    for thing in ("bread", "boat", "sea", "story", "flour", "water")
]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def given(method, **changes):
    usual = {"method": method, "learning_rate": 1e-2, "epochs": 4.0, "batch_rows": 3, "micro_rows": 3, "save_steps": 2}
    return PreferenceSettings(**{**usual, **changes})


def model_of(base, kind="lora"):
    return attach(load_model(base, dtype="float32"), AdapterSettings(kind=kind, rank=4, alpha=8))


def log_probability(model, ids, reply):
    with torch.no_grad():
        logits = model.eval()(torch.tensor([[*ids, *reply]])).logits[0].double().log_softmax(-1)
    return sum(float(logits[len(ids) + i - 1, token]) for i, token in enumerate(reply))


def margin(model, base):
    """How much more a model prefers the chosen replies than it might; mean difference of log-probability a token."""
    encoder = encoder_of(load_tokenizer(base))
    found = []
    for pair in (encoded_pair(encoder, example) for example in PAIRS):
        better, worse = (
            log_probability(model, pair.prompt, reply) / len(reply) for reply in (pair.chosen, pair.rejected)
        )
        found.append(better - worse)
    return sum(found) / len(found)


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
@pytest.mark.parametrize("kind", ["lora", "full"])
def test_every_method_comes_to_prefer_what_was_chosen(method, kind, base, tmp_path):
    model = model_of(base, kind)
    before = margin(model, base)
    rate = 1e-2 if kind == "lora" else 1e-3
    trained = train_preferences(
        model, load_tokenizer(base), PAIRS, given(method, learning_rate=rate, beta=0.5), tmp_path
    )
    assert margin(model, base) > before + 0.2
    assert len(trained.losses) == 8
    assert trained.curve[-1].by_kind["margins"] > trained.curve[0].by_kind["margins"]
    assert set(getattr(model, "peft_config", {"default": 0})) == {"default"}


def test_dpo_begins_at_log_2_and_its_second_step_is_the_formulas(base, tmp_path):
    tokenizer, encoder = load_tokenizer(base), encoder_of(load_tokenizer(base))
    settings = given("dpo", batch_rows=6, micro_rows=6, epochs=2.0, beta=0.1, schedule="constant", warmup=0.0)
    reference, once, model = load_model(base, dtype="float32"), model_of(base), model_of(base)
    train_preferences(once, tokenizer, PAIRS, settings.model_copy(update={"max_steps": 1}), tmp_path / "once")
    losses = train_preferences(model, tokenizer, PAIRS, settings, tmp_path / "twice").losses
    assert losses[0] == pytest.approx(math.log(2), abs=1e-4)
    expected = 0.0
    for pair in (encoded_pair(encoder, example) for example in PAIRS):
        better, worse = (
            log_probability(once, pair.prompt, reply) - log_probability(reference, pair.prompt, reply)
            for reply in (pair.chosen, pair.rejected)
        )
        expected += math.log1p(math.exp(-0.1 * (better - worse))) / len(PAIRS)
    assert losses[1] == pytest.approx(expected, rel=1e-3)


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_an_interrupted_preference_run_ends_with_the_very_weights(method, base, tmp_path):
    def interrupt(stage, done, total):
        if done == 5:
            raise KeyboardInterrupt

    tokenizer, found = load_tokenizer(base), []
    for name in ("whole", "resumed"):
        if name == "resumed":
            with pytest.raises(KeyboardInterrupt):
                train_preferences(model_of(base), tokenizer, PAIRS, given(method), tmp_path / name, interrupt)
        model = model_of(base)
        trained = train_preferences(model, tokenizer, PAIRS, given(method), tmp_path / name)
        found.append((trained, [p.detach() for n, p in model.named_parameters() if "lora_" in n]))
    (whole, weights), (resumed, same) = found
    assert (whole.resumed_at, resumed.resumed_at) == (0, 4)
    assert whole.losses == resumed.losses
    assert all(torch.equal(one, other) for one, other in zip(weights, same, strict=True))


def test_a_loss_that_is_no_number_names_its_step(base, tmp_path):
    settings = given("orpo", learning_rate=1e38, warmup=0.0, schedule="constant")
    with pytest.raises(BackendError, match=r"nan in step \d"):
        train_preferences(model_of(base, "full"), load_tokenizer(base), PAIRS, settings, tmp_path)


def test_pairs_that_teach_nothing_are_named(base, tmp_path):
    tokenizer = load_tokenizer(base)
    for pair, complaint in (
        (PreferenceExample("a", "x", "x", id="rows.jsonl:4"), "rows.jsonl:4.*two different replies"),
        (PreferenceExample("a", "x", "", id="rows.jsonl:5"), "rows.jsonl:5.*empty"),
    ):
        with pytest.raises(BadInputError, match=complaint):
            train_preferences(model_of(base), tokenizer, [pair], given("dpo"), tmp_path)
    with pytest.raises(BadInputError, match="got none"):
        train_preferences(model_of(base), tokenizer, [], given("dpo"), tmp_path)
