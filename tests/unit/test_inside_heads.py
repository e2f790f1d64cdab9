"""Heads are split exactly, the planted suppressor is found, and taking it out removes the cliff."""

import numpy as np
import pytest
import torch
import transformers

from demur.activations.record import record
from demur.activations.subject import subject as subject_of
from demur.core.errors import BadInputError
from demur.inside.ablation import Head, head_count, random_heads, scaled_heads
from demur.inside.cliff import cliff_statistics, item_cliff
from demur.inside.heads import causal_effects, head_contributions, rank_heads
from demur.inside.probe import Probe
from demur.inside.rollouts import reply_losses, rollouts
from demur.inside.thinking import ThinkingSpan
from demur.inside.traces import ReasonedTokens, span_logits, span_states, token_traces

D, VOCABULARY, CLOSE = 32, 64, 2
SMALL = {"vocab_size": VOCABULARY, "hidden_size": D, "num_hidden_layers": 3, "num_attention_heads": 4}
LLAMA = {**SMALL, "num_key_value_heads": 2, "intermediate_size": 48, "bos_token_id": None, "eos_token_id": None}
FAMILIES = {
    "llama": LLAMA,
    "qwen2": LLAMA,
    "gemma2": {**LLAMA, "head_dim": 8, "sliding_window": 64},
    "gpt_neox": {**SMALL, "intermediate_size": 48, "use_parallel_residual": True},
    "phi": {**SMALL, "intermediate_size": 48},
    "gpt2": {"vocab_size": VOCABULARY, "n_embd": D, "n_layer": 3, "n_head": 4, "n_positions": 64},
}


class NoTokenizer:
    pad_token_id = 0
    eos_token_id = None


def tiny(family="llama", **changes):
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(family, **{**FAMILIES[family], **changes})
    model = transformers.AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    with torch.no_grad():
        for parameter in model.parameters():  # gains and biases that are not 1 and 0
            parameter += 0.05 * torch.randn_like(parameter)
    model.generation_config.eos_token_id = None
    return subject_of(model, NoTokenizer(), name=family)


def items(n=6, thinking=12, answer=4, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for i in range(n):
        k = thinking + i  # lengths differ
        ids = (*rng.integers(10, 30, 6), *rng.integers(30, 60, k), CLOSE, *rng.integers(10, 30, answer))
        span = ThinkingSpan(status="closed", start=6, end=6 + k, final=6 + k, opened="reply")
        made.append(
            ReasonedTokens(
                key=str(i), group="g", ids=tuple(map(int, ids)), n_prompt=6, turn=4, span=span, places={"t_inst": 3}
            )
        )
    return made


def probe_of(subject, seed=1):
    weight = np.random.default_rng(seed).normal(size=D)
    return Probe(weight, 0.3, "normed", subject.parts.n_layers, "final")


@pytest.mark.parametrize("family", FAMILIES)
def test_contributions_add_up_to_the_probes_logit(family):
    subject, rows = tiny(family), items()
    probe = probe_of(subject)
    found = head_contributions(subject, rows, probe)
    read = probe.logits(span_states(subject, rows, ["final"], space="normed", layer=3))[:, 0]
    assert np.allclose(found.total[:, 0], read, atol=1e-4)
    prompts = [row.tokens() for row in rows]
    states = record(subject, prompts, spans=["final"], layers=(0, 3)).values[:, 0]
    written = record(subject, prompts, sites=("attn_out", "mlp_out"), spans=["final"])
    whole = states[:, 0] + written.values[:, 0].sum(axis=1) + written.of("mlp_out").values[:, 0].sum(axis=1)
    assert np.allclose(whole, states[:, 1], atol=1e-4)  # so what heads, embedding and rest share out is all there is
    parts = found.embedding[:, 0] + found.final.sum(axis=(1, 2)) + found.rest[:, 0]
    assert np.ptp(found.total[:, 0] - parts) < 1e-9


@pytest.mark.parametrize("family", ["llama", "gemma2"])
def test_heads_sum_to_the_attention_output_where_projections_have_no_bias(family):
    subject, rows = tiny(family), items()
    probe = Probe(np.random.default_rng(1).normal(size=D), 0.0, "residual", 3, "final")
    found = head_contributions(subject, rows, probe)
    written = record(subject, [row.tokens() for row in rows], sites=("attn_out",), spans=["final"]).values[:, 0]
    assert np.allclose(found.final.sum(axis=2), written @ probe.weight, atol=1e-4)


def test_taking_every_head_out_leaves_no_attention_output():
    subject, rows = tiny(), items()
    every = [Head(b, h) for b in range(3) for h in range(4)]
    with scaled_heads(subject, every, rescale="token"):
        written = record(subject, [row.tokens() for row in rows], sites=("attn_out",), spans=["final"]).values
    assert not written.any()


def test_the_model_is_untouched_after_the_block_even_if_it_raises():
    subject, rows = tiny(), items()
    probe = probe_of(subject)
    before = span_logits(subject, rows, probe, ["final"])
    with pytest.raises(KeyError), scaled_heads(subject, [Head(0, 0)]):
        raise KeyError
    assert np.array_equal(span_logits(subject, rows, probe, ["final"]), before)


def test_a_factor_of_one_changes_nothing():
    subject, rows = tiny(), items()
    probe = probe_of(subject)
    before = span_logits(subject, rows, probe, ["final"])
    for rescale in ("none", "token", "released"):
        with scaled_heads(subject, [Head(1, 2)], factor=1.0, rescale=rescale):
            assert np.allclose(span_logits(subject, rows, probe, ["final"]), before, atol=1e-5)


def projected(subject, given, rescale):
    with scaled_heads(subject, [Head(0, 1)], rescale=rescale):
        return subject.parts.layers[0].projection(given)


def test_rescaling_by_token_does_not_couple_items_and_the_released_one_does():
    subject = tiny()
    alone = torch.randn(1, 5, D, generator=torch.Generator().manual_seed(0))
    pair = torch.cat([alone, 100 * torch.randn(1, 5, D, generator=torch.Generator().manual_seed(1))])
    for rescale, couples in (("token", False), ("none", False), ("released", True)):
        first = projected(subject, alone, rescale)[0]
        beside = projected(subject, pair, rescale)[0]
        assert torch.allclose(first, beside, atol=1e-5) is not couples


def test_every_tokens_norm_is_put_back():
    subject = tiny()
    given = torch.randn(2, 5, D)
    seen = []
    projection = subject.parts.layers[0].projection
    with scaled_heads(subject, [Head(0, 1)], rescale="token"):
        hook = projection.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        projection(given)
        hook.remove()
    assert torch.allclose(seen[0].norm(dim=-1), given.norm(dim=-1), rtol=1e-5)
    assert not seen[0][..., 8:16].any()


def suppressed():
    """A model whose think and close tokens carry +w, and whose head 1.3 writes −w once the close token is there."""
    subject = tiny(tie_word_embeddings=False)
    w = torch.zeros(D)
    w[5] = 1.0
    with torch.no_grad():
        for parameter in subject.model.parameters():
            if parameter.ndim == 2:
                parameter *= 0.3
        table = subject.parts.embedding.weight
        table[:, 5:7] = 0.0
        table[30:, 5] = 3.0
        table[CLOSE, 5] = 3.0
        table[CLOSE, 6] = 3.0  # only the close token has it
        for layer in subject.parts.layers:  # nobody else writes on these two coordinates
            layer.projection.weight[5:7] = 0.0
            layer.mlp.down_proj.weight[5:7] = 0.0
        attention = subject.parts.layers[1].attention
        attention.q_proj.weight[24:32] = 0.0  # query head 3 looks everywhere alike
        attention.v_proj.weight[8] = 0.0  # first coordinate of key-value head 1: is the close token there?
        attention.v_proj.weight[8, 6] = 3.0
        attention.o_proj.weight[:, 24] = -60.0 * w
    return subject, Probe(2.0 * w.numpy().astype(float), 0.0, "normed", 3, "final")


def test_a_planted_suppressor_is_ranked_first_and_its_removal_ends_the_cliff():
    subject, probe = suppressed()
    rows = items(8)
    before = cliff_statistics([item_cliff(trace) for trace in token_traces(subject, rows, probe)])
    assert before.declared, before.reason
    ranking = rank_heads(head_contributions(subject, rows, probe))
    assert ranking[0].head == Head(1, 3)
    assert ranking[0].high < 0
    assert rank_heads(head_contributions(subject, rows, probe), by="final")[0].head == Head(1, 3)
    with scaled_heads(subject, [ranking[0].head]):
        after = cliff_statistics([item_cliff(trace) for trace in token_traces(subject, rows, probe)])
    assert not after.declared
    assert after.final.mean > 0.9
    for seed in range(10):
        with scaled_heads(subject, random_heads(subject.parts, [Head(1, 3)], seed=seed)):
            other = cliff_statistics([item_cliff(trace) for trace in token_traces(subject, rows, probe)])
        assert other.declared


def test_the_causal_check_agrees_on_the_planted_head():
    subject, probe = suppressed()
    planted, other = causal_effects(subject, items(8), probe, [Head(1, 3), Head(0, 0)])
    assert planted.final > 1
    assert planted.high < 0
    assert abs(other.drop) < 0.2 * abs(planted.drop)


def test_traces_equal_single_reads_whatever_the_lengths():
    subject, rows = tiny(), items()
    probe = probe_of(subject)
    together = token_traces(subject, rows, probe)
    for row, trace in zip(rows, together, strict=True):
        (alone,) = token_traces(subject, [row], probe)
        assert np.allclose(alone.logits, trace.logits, atol=1e-4)
        assert len(trace.logits) == len(row.ids) - row.turn
        assert trace.logits[trace.final] == pytest.approx(span_logits(subject, [row], probe, ["final"])[0, 0], abs=1e-4)


def test_random_heads_avoid_the_ones_they_are_compared_with():
    parts = tiny().parts
    top = [Head(0, 0), Head(2, 1), Head(2, 2)]
    for seed in range(20):
        anywhere = random_heads(parts, top, seed=seed)
        assert len(set(anywhere)) == 3
        assert not set(anywhere) & set(top)
        beside = random_heads(parts, top, seed=seed, same_blocks=True)
        assert sorted(h.block for h in beside) == [0, 2, 2]
        assert not set(beside) & set(top)


@pytest.mark.parametrize(("wanted", "count"), [("3%", 1), ("25%", 3), ("100%", 12), ("5", 5)])
def test_shares_and_numbers_of_heads(wanted, count):
    assert head_count(tiny().parts, wanted) == count


@pytest.mark.parametrize("wanted", ["0", "13", "101%", "1.5", "three", "3%%", "-1", "nan", ""])
def test_other_numbers_of_heads_are_refused(wanted):
    with pytest.raises(BadInputError, match="--heads"):
        head_count(tiny().parts, wanted)


def test_heads_that_are_not_there_are_refused():
    with pytest.raises(BadInputError, match="blocks below 3"), scaled_heads(tiny(), [Head(3, 0)]):
        pass


def test_continuations_do_not_depend_on_their_batch():
    subject = tiny()
    starts = [row.ids[: row.final + 1] for row in items()]
    together = rollouts(subject, starts, max_tokens=5)
    assert [rollouts(subject, [start], max_tokens=5)[0].ids for start in starts] == [row.ids for row in together]
    losses = reply_losses(subject, starts, [row.ids for row in together])
    alone = [reply_losses(subject, [s], [r.ids])[0] for s, r in zip(starts, together, strict=True)]
    assert np.allclose(losses, alone, atol=1e-4)
    assert np.isnan(reply_losses(subject, starts[:1], [()])[0])
