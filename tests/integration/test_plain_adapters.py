import asyncio
from pathlib import Path

import pytest

pytest.importorskip("peft")

import torch

from demur.core.errors import BadInputError
from demur.models import build_model, identity_of, parse_model
from demur.models.adapter import ControlTokens, read_adapter, read_control_tokens
from demur.models.controlled import checked_adapter, control_of, controlled_model
from demur.models.merging import load_model, load_tokenizer, merge, save_merged
from demur.train.adapters import AdapterSettings, attach, merged, save_adapter
from tests.engine_models import ask, make_base, make_gguf

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def adapter_of(base, name, folder):
    """A plain adapter with weights that change what is said; returns the merged model."""
    model = attach(load_model(base, dtype="float32"), AdapterSettings(rank=4, alpha=8))
    torch.manual_seed(3)
    with torch.no_grad():
        for key, value in model.named_parameters():
            if "lora_" in key:
                value.copy_(0.15 * torch.randn_like(value))
    save_adapter(model, load_tokenizer(base), folder, base=name)
    return merged(model)


def answer(name):
    spec = parse_model(name)
    model = build_model(spec, identity=str(identity_of(spec)))
    try:
        return asyncio.run(model.complete(ask("bread?", max_tokens=12, temperature=0.0))).text
    finally:
        if hasattr(model, "close"):
            model.close()


def greedy(model, tokenizer):
    ids = tokenizer.apply_chat_template(
        [{"role": "user", "content": "bread?"}], add_generation_prompt=True, return_dict=True, return_tensors="pt"
    )["input_ids"]
    with torch.no_grad():
        said = model.generate(ids, max_new_tokens=12, do_sample=False, attention_mask=torch.ones_like(ids))
    return tokenizer.decode(said[0, ids.shape[1] :], skip_special_tokens=True)


def test_base_plus_folder_answers_as_base_and_adapter_do(base, tmp_path):
    whole = adapter_of(base, f"hf/{base}", tmp_path / "adapter")
    name = f"hf/{base}+{tmp_path / 'adapter'}"
    assert answer(name).strip() == greedy(whole, load_tokenizer(base)).strip()
    assert answer(name) != answer(f"hf/{base}")


def test_a_plain_adapter_opens_over_a_gguf_base(base, tmp_path):
    pytest.importorskip("xllamacpp")
    gguf = make_gguf(base, tmp_path / "base.gguf")
    adapter_of(base, f"gguf/{gguf}", tmp_path / "adapter")
    assert answer(f"gguf/{gguf}+{tmp_path / 'adapter'}") != answer(f"gguf/{gguf}")


def test_a_plain_adapter_has_no_control_tokens_wherever_it_went(base, tmp_path):
    adapter_of(base, f"hf/{base}", tmp_path / "adapter")
    spec = parse_model(f"hf/{base}+{tmp_path / 'adapter'}")
    found = checked_adapter(spec)
    assert found.mode == "plain"
    assert found.token_ids == {}
    assert control_of(spec, found) == (None, "")
    save_merged(merge(found, Path(base)), tmp_path / "whole", identity=found.identity)
    assert read_control_tokens(tmp_path / "whole") is None
    with pytest.raises(BadInputError, match="control tokens"):
        controlled_model(spec.name)


def test_a_plain_adapter_of_another_base_is_refused(base, tmp_path):
    adapter_of(base, "hf/elsewhere", tmp_path / "adapter")
    assert read_adapter(tmp_path / "adapter").control.base == "hf/elsewhere"
    with pytest.raises(BadInputError, match="trained on hf/elsewhere"):
        checked_adapter(parse_model(f"hf/{base}+{tmp_path / 'adapter'}"))


def test_a_plain_record_with_tokens_is_malformed():
    with pytest.raises(ValueError, match="expected none"):
        ControlTokens(format=1, mode="plain", base="x", tokens={"respond": {"text": "ab", "id": 1}})
