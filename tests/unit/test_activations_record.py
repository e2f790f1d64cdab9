"""States at named positions: what is recorded is what the model computes, however it is run."""

from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.decoders import (  # noqa: E402
    BLOCKS,
    CONFIGS,
    FURTHER,
    VOCABULARY,
    WIDTH,
    largest_difference,
    random_prompts,
    tiny_decoder,
    tiny_model,
)

from demur.activations.batches import length_sorted  # noqa: E402
from demur.activations.record import RecordOptions, record  # noqa: E402
from demur.activations.spans import PromptTokens  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402

SPANS = ("t_inst", "t_post[-1]")
SITES = ("resid", "attn_out", "mlp_out", "head_out")
PLAIN = RecordOptions(share_prefix=False)


@torch.no_grad()
def forward_by_hand(model, ids):
    """States h^0..h^L from calling block after block: no hooks, no recorder, no output_hidden_states."""
    decoder = model.get_decoder() if hasattr(model, "get_decoder") else model.base_model
    ids, n = torch.tensor([ids]), len(ids)
    hidden = model.get_input_embeddings().weight[ids]
    if model.config.model_type == "gemma2":  # this family scales its embeddings, and h^0 counts it
        hidden = hidden * model.config.hidden_size**0.5
    positions = torch.arange(n)[None]
    mask = torch.full((1, 1, n, n), -1e9).triu(1)
    states = [hidden]
    for block in decoder.layers:
        out = block(
            states[-1],
            attention_mask=mask,
            position_ids=positions,
            position_embeddings=decoder.rotary_emb(states[-1], positions),
        )
        states.append(out[0] if isinstance(out, tuple) else out)
    return torch.cat(states).numpy()  # (L + 1, tokens, d)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_recorded_states_are_those_of_a_forward_pass_by_hand(architecture):
    subject, prompts = tiny_decoder(architecture), random_prompts()
    by_hand = np.stack(
        [forward_by_hand(subject.model, p.ids)[:, [p.spans[s] for s in SPANS]].transpose(1, 0, 2) for p in prompts]
    )
    assert by_hand.shape == (len(prompts), len(SPANS), BLOCKS + 1, WIDTH)
    assert largest_difference(record(subject, prompts).values, by_hand) < 1e-5


def test_recorded_states_are_those_of_llama_written_down_in_numpy():
    subject, prompts = tiny_decoder("Llama"), random_prompts(3)
    found = record(subject, prompts, sites=SITES, positions=[range(len(p.ids)) for p in prompts])
    for i, prompt in enumerate(prompts):
        stream, heads = _llama(subject.model, prompt.ids)
        n = len(prompt.ids)
        assert largest_difference(found.values[i, :n].transpose(1, 0, 2), stream) < 1e-5
        assert largest_difference(found.of("head_out").values[i, :n].transpose(1, 0, 2, 3), heads) < 1e-4


def _llama(model, ids):
    """States (L + 1, tokens, d) and heads (L, tokens, heads, width) in float64, straight from the weights."""
    w = {name: value.double().numpy() for name, value in model.state_dict().items()}
    c, n = model.config, len(ids)
    width = c.hidden_size // c.num_attention_heads
    angle = np.arange(n)[:, None] / c.rope_parameters["rope_theta"] ** (np.arange(0, width, 2) / width)
    cos, sin = (np.tile(f(angle), 2)[:, None] for f in (np.cos, np.sin))

    def norm(x, name):
        return x / np.sqrt((x**2).mean(-1, keepdims=True) + c.rms_norm_eps) * w[name]

    def turned(x):
        half = width // 2
        return x * cos + np.concatenate([-x[..., half:], x[..., :half]], -1) * sin

    h, states, all_heads = w["model.embed_tokens.weight"][list(ids)], [], []
    for i in range(c.num_hidden_layers):
        states.append(h)
        at = f"model.layers.{i}."
        x = norm(h, at + "input_layernorm.weight")
        q, k, v = ((x @ w[at + f"self_attn.{p}_proj.weight"].T).reshape(n, -1, width) for p in "qkv")
        q, k, shared = turned(q), turned(k), c.num_attention_heads // c.num_key_value_heads
        k, v = np.repeat(k, shared, 1), np.repeat(v, shared, 1)
        scores = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(width) + np.triu(np.full((n, n), -1e30), 1)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        heads = np.einsum("hij,jhd->ihd", weights / weights.sum(-1, keepdims=True), v)
        all_heads.append(heads)
        h = h + heads.reshape(n, -1) @ w[at + "self_attn.o_proj.weight"].T
        x = norm(h, at + "post_attention_layernorm.weight")
        gate, up = (x @ w[at + f"mlp.{p}_proj.weight"].T for p in ("gate", "up"))
        h = h + (gate / (1 + np.exp(-gate)) * up) @ w[at + "mlp.down_proj.weight"].T
    return np.stack([*states, h]), np.stack(all_heads)


@pytest.mark.parametrize("architecture", [*CONFIGS, *FURTHER])
def test_a_prompt_alone_gives_what_it_gives_in_a_batch(architecture):
    subject, prompts = tiny_decoder(architecture), random_prompts()
    alone = np.concatenate([record(subject, [prompt]).values for prompt in prompts])
    assert largest_difference(record(subject, prompts).values, alone) < 1e-5
    assert largest_difference(record(subject, prompts, options=PLAIN).values, alone) < 1e-5
    left = RecordOptions(padding="left", batch_rows=4)
    assert largest_difference(record(subject, prompts, options=left).values, alone) < 1e-5


@pytest.mark.parametrize("architecture", [*CONFIGS, *FURTHER])
def test_attention_and_mlp_add_up_to_what_a_block_adds(architecture):
    found = record(tiny_decoder(architecture), random_prompts(), sites=SITES)
    added = found.values[:, :, 1:] - found.values[:, :, :-1]
    written = found.of("attn_out").values + found.of("mlp_out").values
    assert largest_difference(written, added) < 1e-4


@pytest.mark.parametrize("architecture", CONFIGS)
def test_heads_through_their_slices_of_the_projection_add_up_to_attention(architecture):
    subject, prompts = tiny_decoder(architecture), random_prompts(3)
    heads = record(subject, prompts, sites=("head_out",)).values
    for i, layer in enumerate(subject.parts.layers):
        made = []
        handle = layer.projection.register_forward_hook(lambda _m, _a, out, made=made: made.append(out))
        with torch.no_grad():
            for prompt in prompts:
                subject.parts.decoder(input_ids=torch.tensor([prompt.ids]))
        handle.remove()
        attention = np.stack(
            [out[0, [p.spans[s] for s in SPANS]].numpy() for out, p in zip(made, prompts, strict=True)]
        )
        weight = layer.projection.weight.detach().numpy()
        slices = weight.reshape(WIDTH, subject.parts.n_heads, subject.parts.head_dim)
        bias = getattr(layer.projection, "bias", None)
        total = np.einsum("nshd,ohd->nso", heads[:, :, i], slices)
        total = total if bias is None else total + bias.detach().numpy()
        assert largest_difference(total, attention) < 1e-5


@pytest.mark.parametrize("architecture", CONFIGS)
def test_the_last_state_is_taken_before_the_final_norm(architecture):
    subject, prompts = tiny_decoder(architecture), random_prompts(3)
    found = record(subject, prompts)
    with torch.no_grad():
        theirs = [subject.model(torch.tensor([p.ids]), output_hidden_states=True).hidden_states for p in prompts]
        last = np.stack([t[-1][0, p.spans["t_inst"]].numpy() for t, p in zip(theirs, prompts, strict=True)])
        normed = subject.parts.final_norm(torch.from_numpy(found.at("t_inst", BLOCKS).copy())).numpy()
    assert largest_difference(found.at("t_inst", BLOCKS), last) > 0.01
    assert largest_difference(normed, last) < 1e-5
    earlier = np.stack([t[1][0, p.spans["t_inst"]].numpy() for t, p in zip(theirs, prompts, strict=True)])
    assert largest_difference(found.at("t_inst", 1), earlier) < 1e-5


def test_the_pass_stops_after_the_last_layer_needed_and_never_reaches_the_vocabulary():
    subject, calls = tiny_decoder("Llama"), []
    watched = {"block 1": subject.parts.blocks[1].mlp, "norm": subject.parts.final_norm, "head": subject.parts.lm_head}
    for name, module in watched.items():
        module.register_forward_hook(lambda *_, name=name: calls.append(name))
    record(subject, random_prompts(2), layers=[0, 1])
    assert calls == []
    record(subject, random_prompts(2), sites=("attn_out",), layers=[1])
    assert calls == []
    record(subject, random_prompts(2), layers=[BLOCKS])
    assert calls == ["block 1"]


def test_a_part_of_the_layers_is_the_same_part_of_all():
    subject, prompts = tiny_decoder("Qwen 3"), random_prompts()
    everything, some = record(subject, prompts), record(subject, prompts, layers=[2, 0])
    assert some.layers == (2, 0)
    np.testing.assert_array_equal(some.values, everything.values[:, :, [2, 0]])


def test_prompts_keep_their_order_and_positions_may_differ_in_number():
    subject, prompts = tiny_decoder("Llama"), random_prompts(5)
    where = [[0], [-1, 2], [], [5, 6, 7], [-2]]
    found = record(subject, prompts, positions=where)
    assert found.values.shape[:2] == (5, 3)
    assert [int(np.isfinite(row[:, 0, 0]).sum()) for row in found.values] == [1, 2, 0, 3, 1]
    alone = record(subject, [prompts[3]], positions=[[6]]).values
    assert largest_difference(found.values[3, 1], alone[0, 0]) < 1e-5


def test_no_hook_stays_on_the_model_even_if_the_pass_fails():
    subject = tiny_decoder("Llama")
    with pytest.raises(IndexError):
        record(subject, [PromptTokens(ids=(1, VOCABULARY + 5), spans={"t_inst": 1, "t_post[-1]": 1})])
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in subject.model.modules())


def test_what_somebody_else_changes_by_a_hook_is_recorded_as_changed():
    subject, prompts = tiny_decoder("Llama"), random_prompts()
    before = record(subject, prompts)
    shift = torch.zeros(WIDTH).index_fill_(0, torch.tensor([3]), 5.0)

    def at_the_last_token_of_a_row(_module, _args, output):
        moved = output.clone()
        moved[:, 0] += shift  # acts by position: sharing the beginning of prompts would break it
        return moved

    handle = subject.parts.blocks[0].register_forward_hook(at_the_last_token_of_a_row)
    where = [[0, 1]] * len(prompts)
    after = record(subject, prompts, positions=where)
    handle.remove()
    plain = record(subject, prompts, positions=where)
    np.testing.assert_allclose(
        after.values[:, 0, 1] - plain.values[:, 0, 1], np.tile(shift, (len(prompts), 1)), atol=1e-5
    )
    assert largest_difference(record(subject, prompts).values, before.values) == 0.0


def test_progress_counts_every_prompt():
    seen = []
    options = RecordOptions(batch_rows=4, progress=lambda done, total: seen.append((done, total)))
    record(tiny_decoder("Llama"), random_prompts(9), options=options)
    assert [total for _, total in seen] == [9] * len(seen)
    assert [done for done, _ in seen] == sorted({done for done, _ in seen})
    assert seen[-1] == (9, 9)
    assert len(seen) >= 3


def test_the_beginning_all_prompts_share_is_computed_once():
    subject, prompts, tokens = tiny_decoder("Llama"), random_prompts(9, prefix=40), []
    norm = subject.parts.final_norm
    norm.register_forward_hook(lambda *_: None)  # a hook of somebody else's: nothing may be shared
    assert largest_difference(record(subject, prompts).values, record(subject, prompts, options=PLAIN).values) == 0.0
    norm._forward_hooks.clear()
    plain = record(subject, prompts, options=PLAIN).values
    subject.parts.embedding.forward = _counting(subject.parts.embedding.forward, tokens)
    shared = record(subject, prompts).values
    assert sum(tokens) <= 40 + 9 * max(len(p.ids) - 40 for p in prompts)
    assert 0.0 < largest_difference(shared, plain) < 1e-5


def _counting(forward, tokens):
    def counted(ids):
        tokens.append(ids.numel())
        return forward(ids)

    return counted


def test_batches_hold_every_prompt_once_within_their_limits_and_waste_little():
    lengths = [int(n) for n in np.random.default_rng(0).gamma(2, 20, 300) + 1]
    batches = length_sorted(lengths, rows=16, tokens=400, overhead=10)
    assert sorted(i for batch in batches for i in batch) == list(range(300))
    areas = [len(batch) * max(lengths[i] for i in batch) for batch in batches]
    assert all(len(batch) == 1 or area <= 400 for batch, area in zip(batches, areas, strict=True))
    assert max(map(len, batches)) <= 16
    alone = sum(lengths) + 10 * 300
    assert sum(areas) + 10 * len(batches) < min(alone, 1.25 * sum(lengths))
    assert length_sorted([5, 500, 5], rows=8, tokens=100, overhead=0) == [[1], [0, 2]]


def test_prompts_that_are_all_one_are_recorded_too():
    subject, prompt = tiny_decoder("Llama"), random_prompts(1)[0]
    found = record(subject, [prompt] * 5)
    assert largest_difference(found.values, record(subject, [prompt]).values) < 1e-5


def test_an_overflow_in_sixteen_bits_is_bad_input_that_says_where():
    model = tiny_model("Llama", dtype=torch.float16)
    with torch.no_grad():
        model.model.layers[1].mlp.down_proj.weight.mul_(60_000.0)
    from demur.activations.subject import subject

    with pytest.raises(
        BadInputError, match=r"resid at t_inst, layer 2, of prompt 0 is not finite in float16; .* float32"
    ):
        record(subject(model, None, name="loud"), random_prompts(3))


def test_a_prompt_without_the_span_is_named_with_the_spans_there_are():
    subject, prompts = tiny_decoder("Llama"), random_prompts(3)
    prompts[1] = replace(prompts[1], spans={"t_post[-1]": 4}, ranges={"post": (2, 5)})
    with pytest.raises(BadInputError, match=r"prompt 1: expected span 't_inst', this template gives t_post\[0..2\]"):
        record(subject, prompts)


def test_requests_that_make_no_sense_say_what_was_expected():
    subject, prompts = tiny_decoder("Llama"), random_prompts(2)
    with pytest.raises(BadInputError, match=r"layers: expected numbers in 0..3 for 'resid', got \[4\]"):
        record(subject, prompts, layers=[4])
    with pytest.raises(BadInputError, match=r"layers: expected numbers in 0..2 for 'mlp_out', got \[3\]"):
        record(subject, prompts, sites=("mlp_out",), layers=[3])
    with pytest.raises(BadInputError, match="expected at least one prompt"):
        record(subject, [])
    with pytest.raises(BadInputError, match=r"prompt 0: expected positions within its \d+ tokens"):
        record(subject, prompts, positions=[[99], [0]])
    with pytest.raises(BadInputError, match="site 'mlp_out' was not recorded"):
        record(subject, prompts).of("mlp_out")
    with pytest.raises(BadInputError, match=r"resid was not recorded at 't_resp\[0\]', layer 1"):
        record(subject, prompts).at("t_resp[0]", 1)


def test_blocks_whose_parts_do_not_add_up_record_their_stream_only():
    from transformers import BloomConfig, BloomForCausalLM

    from demur.activations.subject import subject

    torch.manual_seed(0)
    bloom = subject(BloomForCausalLM(BloomConfig(vocab_size=97, hidden_size=32, n_layer=2, n_head=4)), None, name="b")
    assert np.isfinite(record(bloom, random_prompts(3)).values).all()
    with pytest.raises(BadInputError, match="block 0 has no 'attn_out': expected attention and MLP"):
        record(bloom, random_prompts(3), sites=("attn_out",))
