"""What the steering tests share: a tiny subject, its directions, prompts and plain passes."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from demur.activations.direction import Direction  # noqa: E402
from demur.activations.subject import Subject, subject  # noqa: E402
from tests.engine_models import tiny_tokenizer  # noqa: E402

NAME = "tiny@1"
WIDTH, LAYERS = 64, 3
PROMPTS = ("What is the capital of France?", "Tell me a story about a small boat and the sea.")


def tiny_subject(*, tied: bool = True, seed: int = 0, dtype=torch.float32) -> Subject:
    """A random Llama of three blocks whose logits differ by several units."""
    from transformers import LlamaConfig, LlamaForCausalLM

    tokenizer = tiny_tokenizer()
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=128,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        tie_word_embeddings=tied,
        initializer_range=0.15,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=2,
    )
    return subject(LlamaForCausalLM(config).to(dtype), tokenizer, name=NAME)


def direction(index: int = 2, *, seed: int = 0, span: str = "t_post[-1]", name: str = "refusal", **fields) -> Direction:
    """A random unit direction."""
    vector = np.random.default_rng(seed).normal(size=WIDTH)
    given = {"raw_norm": 2.0, "model": NAME, "method": "random", "local_norm": 6.0, **fields}
    return Direction(
        vector=(vector / np.linalg.norm(vector)).astype(np.float32), residual_index=index, span=span, name=name, **given
    )


def chat_ids(tokenizer, text: str) -> list[int]:
    """Token ids of one user turn."""
    rendered = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    return tokenizer(rendered, add_special_tokens=False)["input_ids"]


def padded(rows: list[list[int]], *, side: str = "left") -> dict:
    """A batch with its mask."""
    width = max(map(len, rows))
    ids = [[2] * (width - len(r)) + r if side == "left" else r + [2] * (width - len(r)) for r in rows]
    gaps = [width - len(r) for r in rows]
    mask = [[0] * g + [1] * (width - g) if side == "left" else [1] * (width - g) + [0] * g for g in gaps]
    return {"input_ids": torch.tensor(ids), "attention_mask": torch.tensor(mask)}


def batch_of(subject: Subject, prompts=PROMPTS, *, side: str = "left") -> dict:
    """Prompts as a batch."""
    return padded([chat_ids(subject.tokenizer, p) for p in prompts], side=side)


def logits(subject: Subject, batch: dict):
    """Logits of one plain pass."""
    with torch.no_grad():
        return subject.model(**batch).logits


def log_odds_moved(one, other) -> float:
    """KL(one || other) of next-token distributions, the largest over positions."""
    p, q = torch.log_softmax(one.double(), -1), torch.log_softmax(other.double(), -1)
    return float((p.exp() * (p - q)).sum(-1).max())
