"""What a model is made of, found by what its modules do."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.decoders import BLOCKS, CONFIGS, FURTHER, WIDTH, tiny_model  # noqa: E402
from torch import nn  # noqa: E402

from demur.activations.parts import check_parts, find_parts  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402


@pytest.mark.parametrize("architecture", [*CONFIGS, *FURTHER])
def test_every_architecture_is_taken_apart(architecture):
    model = tiny_model(architecture)
    parts = find_parts(model)
    assert (parts.n_layers, parts.d_model) == (BLOCKS, WIDTH)
    assert parts.n_heads == model.config.num_attention_heads
    assert parts.tied == (parts.lm_head.weight.data_ptr() == parts.embedding.weight.data_ptr())
    assert parts.final_norm in set(parts.decoder.children())
    for layer in parts.layers:
        assert layer.projection in set(layer.attention.modules())
        assert layer.attention_write is not layer.mlp_write
        assert isinstance(layer.block, nn.Module)


@pytest.mark.parametrize("architecture", CONFIGS)
def test_sixteen_bits_change_nothing_that_is_found(architecture):
    exact, rounded = (find_parts(tiny_model(architecture, dtype=dtype)) for dtype in (torch.float32, torch.bfloat16))
    for one, other in zip(exact.layers, rounded.layers, strict=True):
        assert type(one.attention_write) is type(other.attention_write)
        assert type(one.mlp_write) is type(other.mlp_write)
        assert one.write_scale == other.write_scale


def test_where_a_norm_follows_attention_that_norm_writes_to_the_stream():
    before, after = find_parts(tiny_model("Llama")), find_parts(tiny_model("OLMo 2"))
    assert before.layers[0].attention_write is before.layers[0].attention
    assert "Norm" in type(after.layers[0].attention_write).__name__


def test_a_factor_on_what_blocks_write_is_found():
    assert find_parts(tiny_model("Granite")).layers[1].write_scale == pytest.approx(0.22)


def test_more_experts_than_blocks_are_not_taken_for_blocks():
    assert find_parts(tiny_model("Mixtral")).n_layers == BLOCKS


def test_no_hook_stays_on_the_model():
    model = tiny_model("Llama")
    find_parts(model)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_an_encoder_decoder_is_refused_with_what_was_expected():
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(
        T5Config(vocab_size=50, d_model=16, d_kv=4, d_ff=16, num_layers=2, num_heads=2, decoder_start_token_id=0)
    )
    with pytest.raises(
        BadInputError, match="T5ForConditionalGeneration: unknown architecture: expected a causal decoder"
    ):
        find_parts(model)


class _Chain(nn.Module):
    """A stack of blocks with something wrong in it."""

    def __init__(self, *, between=False, embedding=True, block=None):
        super().__init__()
        self.between, self.has_embedding = between, embedding
        self.embed, self.head = nn.Embedding(20, 8), nn.Linear(8, 20)
        self.layers = nn.ModuleList([block() if block else nn.Sequential(nn.Linear(8, 8)) for _ in range(3)])

    def forward(self, input_ids, use_cache=False):
        hidden = self.embed(input_ids)
        for layer in self.layers:
            hidden = layer(hidden)
            hidden = 2 * hidden if self.between else hidden
        return self.head(hidden)

    def get_input_embeddings(self):
        return self.embed if self.has_embedding else None

    def get_output_embeddings(self):
        return self.head


class _Averaging(nn.Module):
    """A block with attention of a sort: every token sees the mean of all before it."""

    def __init__(self):
        super().__init__()
        self.mean = _Mean()

    def forward(self, hidden):
        return hidden + self.mean(hidden)


class _Mean(nn.Module):
    def forward(self, hidden):
        return hidden.cumsum(1) / torch.arange(1, hidden.shape[1] + 1)[None, :, None]


def test_blocks_without_attention_are_named():
    with pytest.raises(BadInputError, match=r"a child of layers\[0\] \(Sequential\) that lets tokens see earlier ones"):
        find_parts(_Chain())


def test_a_missing_embedding_is_named():
    with pytest.raises(BadInputError, match=r"expected a token embedding from get_input_embeddings"):
        find_parts(_Chain(embedding=False))


def test_a_stream_that_is_changed_between_blocks_is_refused():
    model = _Chain(between=True, block=_Averaging)
    model.config = type("Config", (), {"num_attention_heads": 2})()
    with pytest.raises(BadInputError, match="expected the output of block 0 as the input of block 1"):
        find_parts(model)


def test_parts_are_checked_again_after_modules_change():
    model = tiny_model("Llama")
    parts = find_parts(model)
    check_parts(model, parts)
    model.model.layers = model.model.layers[:2]
    with pytest.raises(BadInputError, match="expected the output of block 1 as the input of block 2"):
        check_parts(model, parts)
