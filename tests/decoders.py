"""Tiny random models of many architectures, and prompts for them, for the tests that look inside."""

import numpy as np
import torch
import transformers

from demur.activations.spans import PromptTokens
from demur.activations.subject import subject

WIDTH, BLOCKS, VOCABULARY = 32, 3, 97
_COMMON = {
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": 48,
    "num_hidden_layers": BLOCKS,
    "num_attention_heads": 4,
    "max_position_embeddings": 128,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 2,
}
_GROUPED = {**_COMMON, "num_key_value_heads": 2}
CONFIGS = {
    "Llama": lambda: transformers.LlamaConfig(**_GROUPED),
    "Qwen 2": lambda: transformers.Qwen2Config(**_GROUPED),
    "Qwen 3": lambda: transformers.Qwen3Config(**_GROUPED, head_dim=12),
    "Gemma 2": lambda: transformers.Gemma2Config(**_GROUPED, head_dim=12, query_pre_attn_scalar=12),
    "Mistral": lambda: transformers.MistralConfig(**_GROUPED),
    "Phi": lambda: transformers.PhiConfig(**_COMMON),
    "GPT-NeoX": lambda: transformers.GPTNeoXConfig(**_COMMON),
    "OLMo 2": lambda: transformers.Olmo2Config(**_GROUPED),
    "SmolLM": lambda: transformers.LlamaConfig(
        **{**_COMMON, "num_attention_heads": 2, "num_key_value_heads": 1, "tie_word_embeddings": True}
    ),
}
FURTHER = {
    "Gemma 3": lambda: transformers.Gemma3TextConfig(**_GROUPED, head_dim=12),
    "Phi 3": lambda: transformers.Phi3Config(**_GROUPED),
    "Granite": lambda: transformers.GraniteConfig(**_GROUPED, residual_multiplier=0.22),
    "Mixtral": lambda: transformers.MixtralConfig(**_GROUPED, num_local_experts=6),
    "GPT-2": lambda: transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=WIDTH, n_layer=BLOCKS, n_head=4, n_positions=128, bos_token_id=1, eos_token_id=2
    ),
    "OPT": lambda: transformers.OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=WIDTH,
        ffn_dim=48,
        num_hidden_layers=BLOCKS,
        num_attention_heads=4,
        word_embed_proj_dim=WIDTH,
    ),
}


def tiny_model(architecture, *, dtype=torch.float32):
    """A random model whose norms are no identities, so that a forgotten norm shows."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config({**CONFIGS, **FURTHER}[architecture]())
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "norm" in name or "ln_" in name:
                value.add_(0.2 * torch.randn_like(value))
    return model.to(dtype).eval()


def tiny_decoder(architecture, *, dtype=torch.float32):
    """A subject of such a model."""
    return subject(tiny_model(architecture, dtype=dtype), None, name=architecture)


def random_prompts(n=9, *, prefix=12, seed=0):
    """Prompts of unlike lengths that begin alike, as in a chat template."""
    rng = np.random.default_rng(seed)
    start = rng.integers(3, VOCABULARY, prefix)
    rows = [(*start, *rng.integers(3, VOCABULARY, rng.integers(3, 20))) for _ in range(n)]
    return [
        PromptTokens(ids=tuple(map(int, row)), spans={"t_inst": len(row) - 3, "t_post[-1]": len(row) - 1})
        for row in rows
    ]


def largest_difference(one, other):
    """Largest difference in units of the length of the state it is in."""
    lengths = np.linalg.norm(other, axis=-1, keepdims=True)
    return float((np.abs(one - other) / np.maximum(lengths, 1e-6)).max())
