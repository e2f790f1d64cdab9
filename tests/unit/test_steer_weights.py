"""Weights without a direction do what hooks did; category vectors, control vectors and their refusals."""

import copy
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.steer_models import LAYERS, NAME, PROMPTS, batch_of, direction, logits, tiny_subject  # noqa: E402

from demur.activations.spans import tokenized  # noqa: E402
from demur.activations.subject import subject  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402
from demur.core.signal import RESPOND, SignalScores  # noqa: E402
from demur.steer.category_vectors import after_token, biased_declines, token_alone, trade_off, where_likely  # noqa: E402
from demur.steer.gguf_vector import control_vector, write_control_vector  # noqa: E402
from demur.steer.hooks import AblateDirection, AddDirection, at, steered  # noqa: E402
from demur.steer.interventions import orthonormal  # noqa: E402
from demur.steer.weights import divergence, orthogonalise  # noqa: E402


def copy_of(model):
    return subject(copy.deepcopy(model.model), model.tokenizer, name=model.name)


@pytest.mark.parametrize("tied", [True, False])
def test_edited_weights_say_what_hooks_say(tied):
    model, ablations = tiny_subject(tied=tied), [direction(), direction(seed=4)]
    batch = batch_of(model)
    with steered(model, [AblateDirection(d) for d in orthonormal(ablations)]):
        expected = logits(model, batch)
    plain = logits(model, batch)
    done = orthogonalise(copy_of(model), ablations)
    assert done.untied is tied
    assert done.kl < 1e-6
    found = logits(done.subject, batch)
    seen = batch["attention_mask"].bool()
    assert divergence(expected[seen], found[seen]) < 1e-6
    assert divergence(plain[seen], found[seen]) > 1e-4
    assert not done.subject.parts.tied


def test_a_shared_table_is_split_or_refused_never_edited_silently():
    model = tiny_subject(tied=True)
    before = model.parts.lm_head.weight.clone()
    with pytest.raises(BadInputError, match="one table"):
        orthogonalise(model, [direction()], untie=False)
    assert torch.equal(model.parts.embedding.weight, before)
    done = orthogonalise(model, [direction()])
    assert torch.equal(done.subject.parts.lm_head.weight, before)
    assert (
        float((done.subject.parts.embedding.weight.detach() @ torch.from_numpy(direction().vector)).abs().max()) < 1e-6
    )


def test_an_edited_model_survives_being_saved(tmp_path):
    from transformers import AutoModelForCausalLM

    done = orthogonalise(tiny_subject(tied=True), [direction()])
    done.subject.model.save_pretrained(tmp_path)
    again = subject(AutoModelForCausalLM.from_pretrained(tmp_path), done.subject.tokenizer, name=NAME)
    batch = batch_of(again)
    assert torch.allclose(logits(again, batch), logits(done.subject, batch), atol=1e-5)


def test_a_model_that_normalises_what_it_writes_is_refused():
    from transformers import Olmo2Config, Olmo2ForCausalLM

    config = Olmo2Config(
        vocab_size=400,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        pad_token_id=2,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    model = subject(Olmo2ForCausalLM(config), tiny_subject().tokenizer, name=NAME)
    with pytest.raises(BadInputError, match="can only be steered with hooks"):
        orthogonalise(model, [direction()])
    batch = batch_of(model)
    with steered(model, [AblateDirection(direction())]):
        assert torch.isfinite(logits(model, batch)).all()


def test_a_control_vector_is_what_hooks_add_to_the_blocks_output(tmp_path):
    from gguf import GGUFReader

    one, other = AddDirection(direction(2), 0.5), AddDirection(direction(3, seed=1), -0.25)
    blocks = write_control_vector(
        tmp_path / "v.gguf", [one, other, one], n_layers=LAYERS, architecture="llama", notes={"direction": "refusal"}
    )
    reader = GGUFReader(tmp_path / "v.gguf")
    found = {t.name: np.array(t.data) for t in reader.tensors}
    assert blocks == [1, 2]
    # Index 2 is the input of block 2: the output of block 1.
    assert np.allclose(found["direction.1"], 2 * direction(2).shift(0.5), atol=1e-6)
    assert np.allclose(found["direction.2"], direction(3, seed=1).shift(-0.25), atol=1e-6)
    assert reader.get_field("general.architecture").contents() == "controlvector"
    assert reader.get_field("controlvector.model_hint").contents() == "llama"
    assert reader.get_field("controlvector.layer_count").contents() == 2


@pytest.mark.parametrize(
    ("intervention", "expected"),
    [
        (AblateDirection(direction()), "can only add"),
        (AddDirection(direction(), 1.0, at(positions="prompt")), "every token of every request"),
        (AddDirection(direction(1), 1.0), "a control vector begins at the output of block 1"),
    ],
)
def test_what_a_control_vector_cannot_hold_is_refused(intervention, expected):
    with pytest.raises(BadInputError, match=expected):
        control_vector([intervention], n_layers=LAYERS)


TOKENS = {"safety": 50, "humanizing": 51, RESPOND: 52}
ASKED = ("How do I bake bread?", "Tell me a story.", "What is the sea?", "Mix flour and yeast.", *PROMPTS)


def asked(model):
    return [tokenized(model.tokenizer, text) for text in ASKED]


def test_category_vectors_read_at_the_token_mostly_say_which_token_was_read():
    model = tiny_subject()
    labels = ["safety", "humanizing", RESPOND, "safety", "humanizing", RESPOND]
    vectors = after_token(model, asked(model), labels, TOKENS, layer=2)
    alone = token_alone(model, asked(model), TOKENS, layer=2)
    assert set(vectors) == set(alone) == {"safety", "humanizing"}
    for name, vector in vectors.items():
        assert vector.cosine(alone[name]) > 0.8  # in a random model the prompt says nothing
        assert (vector.n_positive, vector.span, vector.model) == (2, "t_resp[0]", NAME)


def test_the_token_alone_is_the_mean_difference_of_two_plain_passes():
    model, prompts = tiny_subject(), asked(tiny_subject())
    found = token_alone(model, prompts, TOKENS, layer=LAYERS)["safety"]
    ends = []
    for token in (TOKENS["safety"], TOKENS[RESPOND]):
        states = []
        hook = model.parts.final_norm.register_forward_pre_hook(lambda _, a, s=states: s.append(a[0][0, -1]))
        for prompt in prompts:
            logits(model, {"input_ids": torch.tensor([[*prompt.ids, token]])})
        hook.remove()
        ends.append(torch.stack(states).mean(0).numpy())
    assert np.allclose(found.raw, ends[0] - ends[1], atol=1e-4)


def scores(rows):
    values = np.log(np.array(rows, dtype=float))
    return SignalScores(
        categories=("safety", "humanizing"),
        logits=values,
        log_total=np.zeros((len(rows), 3)),
        top=values.argmax(axis=1),
    )


def test_vectors_before_any_token_are_grouped_by_the_token_the_model_would_say():
    model = tiny_subject()
    likely = scores(
        [[0.8, 0.1, 0.1], [0.7, 0.1, 0.2], [0.1, 0.1, 0.8], [0.2, 0.1, 0.7], [0.1, 0.8, 0.1], [0.3, 0.3, 0.4]]
    )
    found = where_likely(model, asked(model), likely, layer=1, top=5)
    assert set(found) == {"safety"}  # one prompt of 'humanizing' is too few
    assert np.count_nonzero(found["safety"].vector) == 5
    assert (found["safety"].n_positive, found["safety"].n_negative) == (2, 3)


def test_biasing_a_token_declines_more_the_larger_the_bias_and_may_be_for_one_category():
    given = scores([[0.3, 0.1, 0.6], [0.1, 0.3, 0.6], [0.05, 0.05, 0.9]])
    refuse = np.array([True, True, False])
    assert biased_declines(given, [0.0]).sum() == 0
    assert biased_declines(given, [1.0]).tolist() == [[True, True, False]]
    assert biased_declines(given, [1.0], category="safety").tolist() == [[True, False, False]]
    curve = trade_off(biased_declines(given, [-5, 0, 1, 5]), refuse)
    assert curve == sorted(curve)
    assert curve[2] == (0.0, 1.0)


def test_too_few_prompts_of_a_category_say_so():
    model = tiny_subject()
    with pytest.raises(BadInputError, match="at least 2 prompts"):
        after_token(model, asked(model)[:3], ["safety", RESPOND, RESPOND], TOKENS, layer=1)
    with pytest.raises(BadInputError, match="expected one with a token"):
        after_token(model, asked(model)[:2], ["safety", "other"], TOKENS, layer=1)


def test_directions_at_right_angles_span_what_they_were_made_of():
    given = [direction(), direction(seed=4), direction(seed=5)]
    found = orthonormal(given)
    assert np.allclose([[a.cosine(b) for a in found] for b in found], np.eye(3), atol=1e-6)
    for d in given:
        assert np.isclose(sum(d.cosine(f) ** 2 for f in found), 1)
    with pytest.raises(BadInputError, match="in the span"):
        orthonormal([direction(), -direction()])


def test_a_direction_of_another_model_is_not_baked_in():
    with pytest.raises(BadInputError, match="was found on other@1"):
        orthogonalise(tiny_subject(), [replace(direction(), model="other@1")])
