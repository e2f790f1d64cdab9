"""Steering says the same with and without a cache, in a batch and alone, padded on any side; and stops when told to."""

from functools import cache

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.steer_models import LAYERS, PROMPTS, batch_of, chat_ids, direction, logits, padded, tiny_subject  # noqa: E402

from demur.core.errors import BadInputError  # noqa: E402
from demur.steer.gates import Condition, parse_gate, single_gate  # noqa: E402
from demur.steer.hooks import AblateDirection, AddDirection, TokenRanges, at, raw_addition, steered  # noqa: E402

N = 12


@cache
def tiny():
    return tiny_subject()


def written(batch, interventions, *, cached=True, **options):
    """New token ids of a greedy reply of N tokens, for each row."""
    n = batch["input_ids"].shape[1]
    fixed = {"max_new_tokens": N, "min_new_tokens": N, "do_sample": False, "pad_token_id": 2, **options}
    with steered(tiny(), interventions):
        return tiny().model.generate(**batch, use_cache=cached, **fixed)[:, n:].tolist()


def harm_gate(threshold, *, name="harm", span="t_inst", index=1):
    return single_gate(direction(index, seed=5, name=name), threshold, span=span)


def harm_scores(prompts=PROMPTS):
    """Cosine of each prompt's state with the gate's direction, from a plain pass of transformers."""
    found = []
    for prompt in prompts:
        ids = chat_ids(tiny().tokenizer, prompt)
        with torch.no_grad():
            states = tiny().model(torch.tensor([ids]), output_hidden_states=True).hidden_states[1][0]
        n_post = len(chat_ids(tiny().tokenizer, "x")) - chat_ids(tiny().tokenizer, "x").index(
            tiny().tokenizer("x", add_special_tokens=False)["input_ids"][0]
        )
        found.append(direction(1, seed=5).cosines(states[-n_post].numpy()[None])[0])
    return found


def test_strength_0_is_exactly_nothing():
    batch = batch_of(tiny())
    plain = logits(tiny(), batch)
    with steered(tiny(), [AddDirection(direction(), 0.0)]):
        assert torch.equal(logits(tiny(), batch), plain)


def test_an_addition_moves_the_stream_by_strength_local_norms_at_its_own_index():
    batch, seen = batch_of(tiny(), PROMPTS[:1]), []

    def watch(module, args, kwargs):
        seen.append(args[0])

    d = direction(2)
    for interventions in ([], [AddDirection(d, 0.5)], [raw_addition(d)]):
        with steered(tiny(), interventions):
            hook = tiny().parts.blocks[2].register_forward_pre_hook(watch, with_kwargs=True)
            logits(tiny(), batch)
            hook.remove()
    assert np.allclose((seen[1] - seen[0]).numpy(), d.shift(0.5), atol=1e-5)
    assert np.allclose((seen[2] - seen[0]).numpy(), d.raw, atol=1e-5)


def test_the_last_index_is_the_output_of_the_last_block_before_the_final_norm():
    batch, d = batch_of(tiny(), PROMPTS[:1]), direction(LAYERS)
    with torch.no_grad():
        states = []
        hook = tiny().parts.final_norm.register_forward_pre_hook(lambda _, args: states.append(args[0]))
        tiny().model(**batch)
        hook.remove()
        by_hand = tiny().parts.lm_head(tiny().parts.final_norm(states[0] + torch.from_numpy(d.shift(0.7))))
    with steered(tiny(), [AddDirection(d, 0.7)]):
        assert torch.allclose(logits(tiny(), batch), by_hand, atol=1e-5)


def test_ablated_states_have_no_component_left_anywhere():
    batch, d, seen = batch_of(tiny()), direction(), []
    with steered(tiny(), [AblateDirection(d)]):
        hooks = [
            module.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
            for module in (*tiny().parts.blocks, tiny().parts.final_norm)
        ]
        hooks += [
            b.post_attention_layernorm.register_forward_pre_hook(lambda _, a: seen.append(a[0]))
            for b in tiny().parts.blocks
        ]
        logits(tiny(), batch)
        for hook in hooks:
            hook.remove()
    assert len(seen) == 2 * LAYERS + 1
    assert max(float(np.abs(d.project(state.numpy())).max()) for state in seen) < 1e-5


MODES = {
    "all": at(),
    "prompt": at(positions="prompt"),
    "reply": at(positions="reply"),
    "last": at(positions="last"),
    "numbered": at(positions=(0, 3, -2)),
    "ranges": at(positions=TokenRanges(((0, 5), (2, -3)))),
}


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["add", "ablate", "gated"])
def test_a_cache_changes_no_word(mode, kind):
    batch = batch_of(tiny())
    intervention = {
        "add": AddDirection(direction(), 1.0, MODES[mode]),
        "ablate": AblateDirection(direction(), MODES[mode]),
        "gated": AddDirection(direction(1), 1.0, MODES[mode], harm_gate(np.mean(harm_scores()))),
    }[kind]
    found = written(batch, [intervention])
    assert found == written(batch, [intervention], cached=False)
    if kind != "ablate":
        assert found != written(batch, [])


@pytest.mark.parametrize("mode", MODES)
def test_rows_say_the_same_alone_and_padded_on_either_side(mode):
    gate = parse_gate("harm > -2", {"harm": Condition(direction(1, seed=5), "t_inst")})
    ranges = TokenRanges(((2, -3),))
    where = at(positions=ranges) if mode == "ranges" else MODES[mode]
    intervention = AddDirection(direction(1), 1.0, where, gate)
    plain = [logits_at_end(padded([chat_ids(tiny().tokenizer, p)]), intervention)[0] for p in PROMPTS]
    many = (
        AddDirection(direction(1), 1.0, at(positions=TokenRanges(((2, -3),) * 2)), gate)
        if mode == "ranges"
        else intervention
    )
    for side in ("left", "right"):
        found = logits_at_end(batch_of(tiny(), side=side), many)
        for one, other in zip(plain, found, strict=True):
            assert torch.allclose(one, other, atol=1e-4)


def logits_at_end(batch, intervention):
    """Logits of each row's last real token."""
    with steered(tiny(), [intervention]):
        found = logits(tiny(), batch)
    last = (batch["attention_mask"] * torch.arange(found.shape[1])).argmax(dim=1)
    return found[torch.arange(len(found)), last]


def test_a_gate_that_fires_for_one_row_leaves_the_other_as_it_was_to_the_bit():
    scores, batch = harm_scores(), batch_of(tiny())
    threshold, fires = float(np.mean(scores)), [s > np.mean(scores) for s in scores]
    plain = logits(tiny(), batch)
    with steered(tiny(), [AddDirection(direction(1), 1.0, gate=harm_gate(threshold))]) as steering:
        found = logits(tiny(), batch)
    assert steering.fired[:, 0].tolist() == fires
    for row in range(2):
        assert torch.equal(found[row], plain[row]) is not fires[row]


def test_decisions_follow_the_signed_score_and_are_made_anew_for_each_call():
    scores = harm_scores()
    low, high = min(scores), max(scores)
    gate = harm_gate((low + high) / 2)
    with steered(tiny(), [AddDirection(direction(1), 1.0, gate=gate)]) as steering:
        for order in (1, -1, 1):
            tiny().model.generate(**batch_of(tiny(), PROMPTS[::order]), max_new_tokens=3, pad_token_id=2)
            assert steering.fired[:, 0].tolist() == [s > (low + high) / 2 for s in scores[::order]]


def test_a_gate_reads_the_untouched_model_whatever_else_steers():
    gate = harm_gate(float(np.mean(harm_scores())), index=1)
    alone = AddDirection(direction(2), 1.0, gate=gate)
    with steered(tiny(), [alone]) as steering:
        logits(tiny(), batch_of(tiny()))
        expected = steering.fired[:, 0].tolist()
    with steered(tiny(), [AddDirection(direction(0), 5.0), alone]) as steering:
        logits(tiny(), batch_of(tiny()))
        assert steering.fired[:, 1].tolist() == expected


def test_two_sequences_in_turns_keep_their_own_decisions():
    scores = harm_scores()
    interventions = [AddDirection(direction(1), 1.0, gate=harm_gate(float(np.mean(scores))))]
    batches = [batch_of(tiny(), [p]) for p in PROMPTS]
    with torch.no_grad(), steered(tiny(), interventions):
        expected = [tiny().model.generate(**b, max_new_tokens=2, pad_token_id=2)[0, -2:].tolist() for b in batches]
        first = [tiny().model(**b, use_cache=True) for b in batches]
        tokens = [o.logits[0, -1].argmax() for o in first]
        second = [
            tiny().model(t[None, None], past_key_values=o.past_key_values) for t, o in zip(tokens, first, strict=True)
        ]
    found = [[int(t), int(o.logits[0, -1].argmax())] for t, o in zip(tokens, second, strict=True)]
    assert found == expected


def test_every_beam_follows_the_decision_on_its_prompt():
    gate = harm_gate(float(np.mean(harm_scores())))
    intervention = AddDirection(direction(1), 1.0, gate=gate)
    batch = batch_of(tiny())
    together = written(batch, [intervention], num_beams=3)
    alone = [written(batch_of(tiny(), [p]), [intervention], num_beams=3)[0] for p in PROMPTS]
    assert together == alone
    assert together == written(batch, [intervention], num_beams=3, cached=False)


def test_the_log_likelihood_of_a_fixed_continuation_changes():
    ids = chat_ids(tiny().tokenizer, PROMPTS[0])
    reply = tiny().tokenizer("I cannot help with that, sorry.")["input_ids"]
    batch = {"input_ids": torch.tensor([ids + reply])}

    def likelihood(*interventions):
        with steered(tiny(), interventions):
            scores = torch.log_softmax(logits(tiny(), batch)[0, len(ids) - 1 : -1], dim=-1)
        return float(scores[torch.arange(len(reply)), torch.tensor(reply)].sum())

    plain = likelihood()
    assert likelihood(AddDirection(direction(), 0.0)) == plain
    for strength in (0.3, -0.3):
        assert abs(likelihood(AddDirection(direction(), strength)) - plain) > 0.01
    assert abs(likelihood(AblateDirection(direction())) - plain) > 0.01


def test_the_model_is_untouched_after_the_block_even_if_it_raises():
    batch = batch_of(tiny())
    before = logits(tiny(), batch)
    with pytest.raises(KeyError), steered(tiny(), [AddDirection(direction(), 1.0), AblateDirection(direction())]):
        raise KeyError
    assert torch.equal(logits(tiny(), batch), before)
    assert "generate" not in tiny().model.__dict__


def test_steering_inside_steering_adds_up():
    batch = batch_of(tiny())
    one, other = AddDirection(direction(1), 0.4), AddDirection(direction(1, seed=9), -0.3)
    with steered(tiny(), [one, other]):
        expected = logits(tiny(), batch)
    with steered(tiny(), [one]), steered(tiny(), [other]):
        assert torch.allclose(logits(tiny(), batch), expected, atol=1e-5)


def test_blocks_that_return_tuples_are_steered_like_those_that_return_tensors():
    from demur.steer.hooks import _after

    block = torch.nn.Linear(4, 4)
    hook = _after(lambda state: state + 1)
    plain = block(torch.ones(2, 3, 4))
    assert torch.equal(hook(block, (), plain), plain + 1)
    state, rest = hook(block, (), (plain, "more"))
    assert torch.equal(state, plain + 1)
    assert rest == "more"
    assert _after(lambda state: state)(block, (), (plain, "more")) is None


def test_states_are_never_written_in_place():
    batch = batch_of(tiny(), PROMPTS[:1])
    kept = []
    hook = tiny().parts.blocks[1].register_forward_hook(lambda _m, _a, out: kept.append((out, out.clone())))
    with steered(tiny(), [AddDirection(direction(2), 1.0), AblateDirection(direction(2))]):
        logits(tiny(), batch)
    hook.remove()
    assert torch.equal(*kept[0])


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model": "other@2"}, "was found on other@2, the model here is tiny@1"),
        ({"index": 9}, "is of residual index 9, this model has 0 to 3"),
    ],
)
def test_a_direction_of_another_model_or_layer_is_refused(changed, expected):
    with pytest.raises(BadInputError) as failed, steered(tiny(), [AddDirection(direction(**changed), 1.0)]):
        pass
    assert expected in str(failed.value)


def test_a_direction_of_another_width_is_refused_even_on_a_bare_model():
    from dataclasses import replace

    narrow = replace(direction(), vector=np.eye(8, dtype=np.float32)[0])
    with pytest.raises(BadInputError, match="has width 8"), steered(tiny().model, [AblateDirection(narrow)]):
        pass


def test_a_direction_is_added_elsewhere_only_with_the_norm_of_that_place():
    elsewhere = AddDirection(direction(2), 1.0, at(blocks=[1, 2]))
    with pytest.raises(BadInputError, match="it was to be added at 1"), steered(tiny(), [elsewhere]):
        pass
    with steered(tiny(), [AddDirection(direction(2), 1.0, at(blocks=[1, 2]), norms={1: 4.0})]):
        logits(tiny(), batch_of(tiny()))


def test_a_sequence_begun_outside_the_block_is_refused_where_its_prompt_matters():
    with torch.no_grad():
        begun = tiny().model(**batch_of(tiny(), PROMPTS[:1]), use_cache=True).past_key_values
        last = torch.tensor([[5]])
        with steered(tiny(), [AddDirection(direction(), 1.0)]):
            tiny().model(last, past_key_values=begun)
        prompt_only = AddDirection(direction(), 1.0, at(positions="prompt"))
        with pytest.raises(BadInputError, match="begun inside the block"), steered(tiny(), [prompt_only]):
            tiny().model(last, past_key_values=begun)


def test_a_gate_refuses_prompts_that_do_not_end_as_the_template_ends_them():
    bare = {"input_ids": torch.tensor([tiny().tokenizer("What is the capital of France?")["input_ids"]])}
    gated = AddDirection(direction(), 1.0, gate=harm_gate(0.0))
    with pytest.raises(BadInputError, match="apply the template"), steered(tiny(), [gated]):
        logits(tiny(), bare)
    with pytest.raises(BadInputError, match="needs the chat template"), steered(tiny().model, [gated]):
        pass


def test_padding_without_a_mask_is_no_prompt_a_gate_would_read():
    batch = batch_of(tiny(), side="right")
    for span in ("t_inst", "t_post[-1]", "mean"):
        gated = AddDirection(direction(), 1.0, gate=harm_gate(0.0, span=span))
        with pytest.raises(BadInputError, match="attention mask"), steered(tiny(), [gated]):
            logits(tiny(), {"input_ids": batch["input_ids"]})


def test_overflow_in_half_precision_is_reported():
    half = tiny_subject(dtype=torch.float16)
    loud = AddDirection(direction(), 1.0, norms={2: 9e5})
    with pytest.raises(BadInputError, match="float16"), steered(half, [loud]):
        logits(half, batch_of(half))
    with steered(half, [AddDirection(direction(), 0.5)]):
        assert torch.isfinite(logits(half, batch_of(half))).all()


def test_unknown_positions_and_strengths_are_refused():
    with pytest.raises(BadInputError, match="positions: expected"):
        at(positions="everywhere")
    with (
        pytest.raises(BadInputError, match="strength: expected a number"),
        steered(tiny(), [AddDirection(direction(), float("nan"))]),
    ):
        pass
