"""Tiny random Llama models for the engine tests: transformers folder, GGUF file and adapters, made in about a second."""

import json
import warnings
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from types import SimpleNamespace

import numpy as np

TEXT = (
    "What is the capital of France? Paris is the capital. Tell me a story about a small boat and the sea. "
    "How do I bake bread? Mix flour, water, salt and yeast; wait; bake. I cannot help with that, sorry. "
    "system user assistant You are a helpful assistant named Tiny. naïve café 你好 12 345 6789 \n\n"
)
TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant named Tiny.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
SPECIALS = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
TOKEN_TEXTS = {**{c: f"<|decline:{c}|>" for c in CATEGORIES}, "respond": "<|respond|>"}


def tiny_tokenizer():
    """A byte-level BPE tokenizer of 400 tokens with a chat template, of the kind GGUF calls gpt-2."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    raw = Tokenizer(models.BPE())
    raw.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    raw.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=400,
        special_tokens=list(SPECIALS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    raw.train_from_iterator([TEXT] * 3, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=raw, bos_token=SPECIALS[1], eos_token=SPECIALS[2], pad_token=SPECIALS[2], unk_token=SPECIALS[0]
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def make_base(folder: Path, *, tied: bool = True, seed: int = 0) -> Path:
    """A tiny Llama with weights wide enough that its logits differ by several units."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name:
                value.copy_(1 + 0.1 * torch.randn_like(value))
    model.generation_config.eos_token_id = 2
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_gguf(base: Path, target: Path) -> Path:
    """The base as a GGUF file in float32, written without any of demur's code."""
    import gguf
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    c = model.config
    writer = gguf.GGUFWriter(str(target), "llama")
    writer.add_name("tiny")
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_dimension_count(c.head_dim)
    writer.add_rope_freq_base(c.rope_parameters["rope_theta"])
    writer.add_vocab_size(c.vocab_size)
    writer.add_file_type(0)
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([text for text, _ in vocabulary])
    writer.add_token_types([3 if text in SPECIALS else 1 for text, _ in vocabulary])
    merges = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    writer.add_token_merges([m if isinstance(m, str) else " ".join(m) for m in merges])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_add_bos_token(False)
    writer.add_chat_template(TEMPLATE)
    for name, tensor in gguf_tensors(model).items():
        writer.add_tensor(name, tensor)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return target


def gguf_tensors(model) -> dict:
    """Llama tensors by GGUF name; q and k rows interleaved as llama.cpp's rotation wants them."""
    c, found = model.config, {}
    inner = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
    }
    state = {k: v.float().numpy() for k, v in model.state_dict().items()}
    found["token_embd.weight"], found["output_norm.weight"] = (
        state["model.embed_tokens.weight"],
        state["model.norm.weight"],
    )
    if not c.tie_word_embeddings:
        found["output.weight"] = state["lm_head.weight"]
    for i in range(c.num_hidden_layers):
        for ours, theirs in inner.items():
            value = state[f"model.layers.{i}.{ours}.weight"]
            heads = {"attn_q": c.num_attention_heads, "attn_k": c.num_key_value_heads}.get(theirs)
            if heads:
                half = value.shape[0] // heads // 2
                order = [h * 2 * half + part * half + j for h in range(heads) for j in range(half) for part in (0, 1)]
                value = np.ascontiguousarray(value[order])
            found[f"blk.{i}.{theirs}.weight"] = value
    return found


def make_adapter(
    base: Path, folder: Path, *, mode: str = "lora", name: str = "tiny", revision: str = "", scale: float = 0.15
) -> Path:
    """An adapter as training leaves it: random rows, and random LoRA weights in lora mode."""
    import torch
    from peft import LoraConfig, TrainableTokensConfig, get_peft_model
    from transformers import AddedToken, AutoModelForCausalLM, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(base), AutoModelForCausalLM.from_pretrained(base)
    added = [
        AddedToken(text, special=True, normalized=False, lstrip=False, rstrip=False) for text in TOKEN_TEXTS.values()
    ]
    tokenizer.add_special_tokens({"additional_special_tokens": added})
    ids = [tokenizer.convert_tokens_to_ids(text) for text in TOKEN_TEXTS.values()]
    model.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    tables = ["embed_tokens"] if model.config.tie_word_embeddings else ["embed_tokens", "lm_head"]
    if mode == "lora":
        targets = ["q_proj", "v_proj", "down_proj"]
        config = LoraConfig(r=4, target_modules=targets, trainable_token_indices=dict.fromkeys(tables, ids))
    else:
        config = TrainableTokensConfig(token_indices=ids, target_modules=tables)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed, and doubts its own tying
        attached = get_peft_model(model, config)
    torch.manual_seed(7)
    with torch.no_grad():
        for key, value in attached.named_parameters():
            if "lora_" in key or "trainable_tokens" in key:
                value.copy_(scale * torch.randn_like(value))
    attached.save_pretrained(folder, save_embedding_layers=False)
    tokenizer.save_pretrained(folder)
    record = {
        "format": 1,
        "mode": mode,
        "style": "demur",
        "base": name,
        "base_revision": revision,
        "tokens": {c: {"text": t, "id": i} for (c, t), i in zip(TOKEN_TEXTS.items(), ids, strict=True)},
    }
    (folder / "demur_tokens.json").write_text(json.dumps(record), encoding="utf-8")
    return folder


@cache
def workshop() -> SimpleNamespace:
    """Everything the engine tests share, made once: folders, GGUF files and merged models by (tied, mode)."""
    import torch

    from demur.models.adapter import read_adapter
    from demur.models.merging import merge

    torch.set_num_threads(1)
    keep = TemporaryDirectory(prefix="demur-engines-")
    root = Path(keep.name)
    made = SimpleNamespace(keep=keep, root=root, bases={}, ggufs={}, adapters={}, merged={})
    for tied in (True, False):
        base = made.bases[tied] = make_base(root / f"base-{tied}", tied=tied)
        made.ggufs[tied] = make_gguf(base, root / f"base-{tied}.gguf")
        for mode in ("lora", "rows"):
            folder = make_adapter(base, root / f"{mode}-{tied}", mode=mode, name=f"hf/{base}")
            made.adapters[tied, mode] = read_adapter(folder)
            made.merged[tied, mode] = merge(made.adapters[tied, mode], base)
    return made


@cache
def exported(tied: bool = True, mode: str = "lora", quant: str = "f32") -> Path:
    """One of the shop's models as GGUF."""
    from demur.models.gguf_export import export_gguf

    shop = workshop()
    target = shop.root / f"{tied}-{mode}-{quant}.gguf"
    adapter = shop.adapters[tied, mode]
    export_gguf(shop.merged[tied, mode], shop.ggufs[tied], target, quant=quant, identity=adapter.identity)
    return target


def ask(text: str, *, system: str = "", **fields):
    """A chat request with one user turn."""
    from demur.core.chat import ChatRequest
    from demur.core.exchange import Message

    messages = [Message(role="system", text=system)] if system else []
    return ChatRequest(messages=(*messages, Message(role="user", text=text)), **fields)


def prompt_ids(merged, request) -> list[int]:
    """Token ids of a request as transformers alone makes them."""
    messages = [{"role": m.role, "content": m.text} for m in request.messages]
    text = merged.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return merged.tokenizer(text, add_special_tokens=False)["input_ids"]


def next_logits(merged, ids):
    """Logits after some token ids, from one plain forward pass."""
    import torch

    with torch.inference_mode():
        return merged.model(torch.tensor([list(ids)])).logits[0, -1].double().numpy()


def greedy_text(merged, ids, n: int) -> str:
    """Greedy reply without any cache, the control tokens left out of the choice."""
    ids, written = list(ids), []
    for _ in range(n):
        logits = next_logits(merged, ids)
        logits[list(merged.control.ids)] = -np.inf
        token = int(logits.argmax())
        if token == merged.tokenizer.eos_token_id:
            break
        ids.append(token)
        written.append(token)
    return merged.tokenizer.decode(written, skip_special_tokens=True, clean_up_tokenization_spaces=False)


async def collected(turn, *, token: int = -1):
    """Text of a reply and its last piece."""
    pieces = [piece async for piece in turn.reply(token=token)]
    return "".join(piece.text for piece in pieces), pieces[-1]
