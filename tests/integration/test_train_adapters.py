import json
import shutil
import warnings

import pytest

pytest.importorskip("peft")

import torch
from safetensors.torch import load_file

from demur.core.errors import BadInputError
from demur.models.merging import load_model, load_tokenizer
from demur.train.adapters import AdapterSettings, attach, merged, save_adapter, transfer_adapter
from demur.train.row_trainer import TrainerSettings, train_rows
from demur.train.rows import Example, encoder_of
from demur.train.supervised import supervised_row
from tests.engine_models import make_base

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def learnt(base, out, **adapter):
    """A model that has learnt two replies a little."""
    model = attach(load_model(base, dtype="float32"), AdapterSettings(**{"rank": 4, "alpha": 8, **adapter}))
    encoder = encoder_of(load_tokenizer(base))
    rows = [supervised_row(encoder, Example(p, "I cannot help.")) for p in ("bread?", "boat?")]
    given = TrainerSettings(epochs=8.0, batch_rows=2, learning_rate=1e-2 if adapter.get("kind") != "full" else 1e-3)
    trained = train_rows(model, encoder.tokenizer, rows, given, out)
    assert trained.losses[-1] < 0.8 * trained.losses[0]
    return model, encoder.tokenizer


def logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor([[5, 6, 7, 8, 9, 10]])).logits


@pytest.mark.parametrize("kind", ["lora", "dora", "full"])
def test_every_kind_learns_and_merges_into_what_it_was(kind, base, tmp_path):
    model, _ = learnt(base, tmp_path, kind=kind)
    attached = logits(model)
    assert torch.allclose(attached, logits(merged(model)), atol=1e-4)
    assert not torch.allclose(attached, logits(load_model(base, dtype="float32")), atol=1e-2)


def test_the_scale_is_alpha_over_rank(base):
    model = attach(load_model(base, dtype="float32"), AdapterSettings(rank=64, alpha=16))
    scales = {part.scaling["default"] for _, part in model.named_modules() if hasattr(part, "lora_A")}
    assert scales == {AdapterSettings(rank=64, alpha=16).scale} == {0.25}


@pytest.mark.parametrize("kind", ["lora", "full"])
def test_blocks_before_the_first_one_stay_as_they_are(kind, base, tmp_path):
    model, _ = learnt(base, tmp_path, kind=kind, first_block=1)
    whole, before = merged(model), load_model(base, dtype="float32")
    changed = {
        n
        for (n, p), (_, q) in zip(whole.named_parameters(), before.named_parameters(), strict=True)
        if not torch.equal(p, q)
    }
    assert changed
    assert all("layers.1." in name or name == "model.norm.weight" for name in changed)


def test_an_update_begins_as_none_and_from_its_seed(base):
    plain = logits(load_model(base, dtype="float32"))
    one, other = (attach(load_model(base, dtype="float32"), AdapterSettings(), seed=s) for s in (0, 1))
    assert torch.allclose(logits(one), plain, atol=1e-6)
    weights = [[p for n, p in m.named_parameters() if "lora_A" in n] for m in (one, other)]
    assert not torch.equal(weights[0][0], weights[1][0])


def test_modules_and_blocks_the_model_does_not_have_are_named(base):
    model = load_model(base, dtype="float32")
    with pytest.raises(BadInputError, match=r"no c_attn; it has .*q_proj"):
        attach(model, AdapterSettings(modules=("q_proj", "c_attn")))
    with pytest.raises(BadInputError, match="0 to 1, got 2"):
        attach(model, AdapterSettings(first_block=2))


def test_a_saved_adapter_is_ordinary_and_names_its_base(base, tmp_path):
    from peft import PeftModel

    model, tokenizer = learnt(base, tmp_path / "run", kind="dora")
    save_adapter(model, tokenizer, tmp_path / "adapter", base="hf/x", base_revision="abc")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed
        again = PeftModel.from_pretrained(load_model(base, dtype="float32"), str(tmp_path / "adapter"))
    assert torch.allclose(logits(again), logits(model), atol=1e-6)
    record = json.loads((tmp_path / "adapter" / "demur_tokens.json").read_text(encoding="utf-8"))
    assert (record["mode"], record["base"], record["base_revision"], record["tokens"]) == ("plain", "hf/x", "abc", {})


def test_a_whole_model_is_saved_as_a_folder_that_loads(base, tmp_path):
    model, tokenizer = learnt(base, tmp_path / "run", kind="full")
    save_adapter(model, tokenizer, tmp_path / "whole", base="hf/x")
    assert torch.equal(logits(load_model(tmp_path / "whole", dtype="float32")), logits(model))
    assert load_tokenizer(tmp_path / "whole").chat_template
    assert not (tmp_path / "whole" / "demur_tokens.json").exists()


def test_an_adapter_moves_to_another_base_as_the_sum_of_both(base, tmp_path):
    model, tokenizer = learnt(base, tmp_path / "run")
    save_adapter(model, tokenizer, tmp_path / "adapter", base=f"hf/{base}")
    other = make_base(tmp_path / "other", seed=5)
    moved = load_model(transfer_adapter(tmp_path / "adapter", f"hf/{other}", tmp_path / "moved"), dtype="float32")
    key = "model.layers.0.self_attn.q_proj"
    update = merged(model).get_submodule(key).weight - load_model(base, dtype="float32").get_submodule(key).weight
    expected = load_model(other, dtype="float32").get_submodule(key).weight + update
    assert torch.allclose(moved.get_submodule(key).weight, expected, atol=1e-5)
    assert load_tokenizer(tmp_path / "moved").chat_template


def test_an_adapter_does_not_move_to_other_shapes(base, tmp_path):
    model, tokenizer = learnt(base, tmp_path / "run")
    save_adapter(model, tokenizer, tmp_path / "adapter", base=f"hf/{base}")
    wider = make_wider(tmp_path / "wider")
    with pytest.raises(BadInputError, match=r"mlp.*same shapes"):
        transfer_adapter(tmp_path / "adapter", f"hf/{wider}", tmp_path / "moved")
    assert not (tmp_path / "moved").exists()
    shutil.rmtree(tmp_path / "adapter")
    (tmp_path / "adapter").mkdir()
    with pytest.raises(BadInputError, match="copy the whole folder"):
        transfer_adapter(tmp_path / "adapter", f"hf/{base}", tmp_path / "moved")


def test_checkpoints_of_an_adapter_hold_the_adapter_only(base, tmp_path):
    learnt(base, tmp_path)
    weights = load_file(next((tmp_path / "checkpoints").glob("*/adapter_model.safetensors")))
    assert weights
    assert all("lora_" in name for name in weights)


def make_wider(folder):
    """The tiny model with a wider middle layer."""
    from transformers import LlamaConfig, LlamaForCausalLM

    make_base(folder)
    config = LlamaConfig.from_pretrained(folder)
    config.intermediate_size = 160
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
