"""Base and adapter become one model: attached, merged, saved and exported say the same."""

import json
import shutil

import numpy as np
import pytest

from demur.core.errors import BadInputError
from demur.models.adapter import PEFT_WEIGHTS, TOKENS_FILE, read_adapter
from demur.models.gguf_export import check_source, extended_vocabulary, parameter_name, rotated
from demur.models.gguf_header import CONTROL, read_header
from demur.models.merging import load_merged, make_room, merge, save_merged, touched_parameters
from tests.engine_models import TOKEN_TEXTS, ask, exported, gguf_tensors, make_gguf, next_logits, prompt_ids, workshop

ALL = [(tied, mode) for tied in (True, False) for mode in ("lora", "rows")]


@pytest.fixture(scope="module")
def shop():
    return workshop()


@pytest.mark.parametrize(("tied", "mode"), ALL)
def test_merging_changes_no_logit(shop, tied, mode):
    assert 0 <= shop.merged[tied, mode].difference < 1e-4


@pytest.mark.parametrize(("tied", "mode"), ALL)
def test_the_embedding_and_the_output_row_of_a_token_stay_one_where_the_base_ties_them(shop, tied, mode):
    model = shop.merged[tied, mode].model
    assert (model.get_input_embeddings().weight is model.get_output_embeddings().weight) == tied


@pytest.mark.parametrize(("tied", "mode"), ALL)
def test_a_merged_folder_is_the_same_model_and_knows_its_tokens(shop, tied, mode, tmp_path):
    merged = shop.merged[tied, mode]
    save_merged(merged, tmp_path / "m", identity="m+1")
    again = load_merged(tmp_path / "m")
    ids = prompt_ids(merged, ask("What is the capital?"))
    assert np.abs(next_logits(again, ids) - next_logits(merged, ids)).max() < 1e-6
    assert again.control.token_ids == merged.control.token_ids
    assert again.control.identity == "m+1"
    assert again.tokenizer.chat_template == merged.tokenizer.chat_template
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".")]


def test_a_base_with_separate_rows_needs_an_adapter_with_both(shop, tmp_path):
    from safetensors.numpy import load_file, save_file

    half = shutil.copytree(shop.adapters[False, "lora"].folder, tmp_path / "half")
    weights = load_file(half / PEFT_WEIGHTS)
    save_file({k: v for k, v in weights.items() if "lm_head" not in k}, half / PEFT_WEIGHTS)
    with pytest.raises(BadInputError, match="embed_tokens and lm_head"):
        merge(read_adapter(half), shop.bases[False])


def test_a_table_that_is_large_enough_stays_as_it_is(shop):
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(shop.bases[True])
    model.resize_token_embeddings(512, mean_resizing=False)
    before = model.get_input_embeddings().weight.clone()
    make_room(model, shop.adapters[True, "lora"], 406)
    assert torch.equal(model.get_input_embeddings().weight, before)


def test_a_tokenizer_that_disagrees_with_the_record_is_refused(shop, tmp_path):
    folder = shutil.copytree(shop.adapters[True, "lora"].folder, tmp_path / "a")
    record = json.loads((folder / TOKENS_FILE).read_text())
    record["tokens"]["safety"]["id"] = 7
    (folder / TOKENS_FILE).write_text(json.dumps(record))
    with pytest.raises(BadInputError, match=r"tokens\.safety"):
        merge(read_adapter(folder), shop.bases[True])


def test_the_adapters_own_names_tell_what_it_touches(shop):
    rows, lora = (touched_parameters(shop.adapters[True, mode]) for mode in ("rows", "lora"))
    assert rows <= {"model.embed_tokens.weight", "lm_head.weight"}
    assert "model.layers.1.self_attn.q_proj.weight" in lora
    assert "model.layers.1.self_attn.k_proj.weight" not in lora


def test_every_tensor_of_a_llama_file_has_its_parameter(shop):
    names = {parameter_name(name) for name in gguf_tensors(shop.merged[False, "lora"].model)}
    assert names == set(shop.merged[False, "lora"].model.state_dict())
    assert parameter_name("rope_freqs.weight") == parameter_name("blk.0.ffn_gate_exps.weight") == ""


def test_the_rotary_order_is_llama_cpps(shop):
    model = shop.merged[False, "lora"].model
    tensors, state = gguf_tensors(model), model.state_dict()
    for ours, theirs, heads in (("q_proj", "attn_q", 4), ("k_proj", "attn_k", 2)):
        weight = state[f"model.layers.0.self_attn.{ours}.weight"].numpy()
        assert np.array_equal(rotated(weight, heads), tensors[f"blk.0.{theirs}.weight"])


def tensors_of(path):
    import gguf

    return {t.name: (t.tensor_type, t.data.copy()) for t in gguf.GGUFReader(str(path)).tensors}


def test_rows_mode_copies_everything_but_the_tables(shop):
    before, after = tensors_of(shop.ggufs[True]), tensors_of(exported(mode="rows", quant="q8_0"))
    assert before.keys() == after.keys()
    changed = [n for n in before if before[n][0] != after[n][0] or not np.array_equal(before[n][1], after[n][1])]
    assert changed == ["token_embd.weight"]


def test_a_file_lists_its_control_tokens_with_their_kind(shop):
    header, control = read_header(exported()), shop.adapters[True, "lora"].control
    vocabulary, kinds = header.values["tokenizer.ggml.tokens"], header.values["tokenizer.ggml.token_type"]
    assert [vocabulary[i] for i in control.ids] == list(TOKEN_TEXTS.values())
    assert {kinds[i] for i in control.ids} == {CONTROL}
    assert len(vocabulary) == len(kinds) == header.values["llama.vocab_size"] == 406
    assert header.control.token_ids == control.token_ids
    assert header.control.identity == shop.adapters[True, "lora"].identity
    assert set(header.steering_tokens) >= set(control.texts)


def test_a_table_longer_than_the_vocabulary_is_filled_up(shop):
    header = read_header(shop.ggufs[True])
    merged = shop.merged[True, "lora"]
    found = extended_vocabulary(header, merged.control, merged.tokenizer, 420)
    assert len(found.tokens) == len(found.kinds) == 420
    assert len(set(found.tokens)) == 420
    assert found.tokens[405] == "<|respond|>"


def test_a_file_whose_record_and_vocabulary_disagree_is_refused(tmp_path, shop):
    data = exported().read_bytes()
    path = tmp_path / "x.gguf"
    path.write_bytes(data.replace(b'"<|respond|>"', b'"<|answers|>"'))
    with pytest.raises(BadInputError, match=r"tokens\.respond"):
        _ = read_header(path).control


def test_another_architecture_is_refused_with_the_way_out(shop, tmp_path):
    path = tmp_path / "x.gguf"
    path.write_bytes(make_gguf(shop.bases[True], tmp_path / "y.gguf").read_bytes().replace(b"llama", b"gemma", 1))
    with pytest.raises(BadInputError, match="--merged"):
        check_source(path)
