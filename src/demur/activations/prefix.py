"""What all prompts begin with, their template and system prompt, computed once and lent to every batch.

The keys and values of the prefix are kept for one row; each batch sees them repeated, layer by layer, and nothing it
adds is kept: beyond the prefix there is no cache.
"""

from collections.abc import Callable, Sequence
from inspect import signature
from typing import Any

import torch

from demur.activations.subject import Subject

_SHORTEST = 8  # below this, attention over a cache costs more than it saves
_KEPT_AS_KEYS = {"full_attention", "sliding_attention"}


def common_prefix(rows: Sequence[Sequence[int]]) -> int:
    """Length of what all rows begin with, at least one token short of the shortest."""
    first, last = min(map(list, rows)), max(map(list, rows))  # in dictionary order: what these share, all share
    shared = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))
    return min(shared, min(map(len, rows)) - 1)


def lent_cache(subject: Subject, ids: Sequence[int]) -> Any:
    """A cache that holds a prefix for any number of rows and never grows.

    Returns:
        None where the prefix is short, the model keeps something else than keys and values, or its modules carry
        hooks, which may act by position or decide by prompt.
    """
    if len(ids) < _SHORTEST or not _keeps_keys(subject) or _has_hooks(subject.model):
        return None
    from transformers import DynamicCache

    cache = DynamicCache()
    subject.parts.decoder(
        input_ids=torch.tensor([list(ids)], device=subject.device), past_key_values=cache, use_cache=True
    )
    kept = [(layer.keys, layer.values) for layer in cache.layers]
    whole = len(kept) == subject.parts.n_layers and all(k is not None and k.shape[-2] == len(ids) for k, _ in kept)
    if not whole:
        return None
    cache.update = _lend(kept)
    return cache


def _lend(kept: Sequence[tuple[Any, Any]]) -> Callable[..., tuple[Any, Any]]:
    def update(keys: Any, values: Any, layer_idx: int, *_args: Any, **_kwargs: Any) -> tuple[Any, Any]:
        old_keys, old_values = kept[layer_idx]
        return _joined(old_keys, keys), _joined(old_values, values)

    return update


def _joined(prefix: Any, new: Any) -> Any:
    return torch.cat([prefix.expand(new.shape[0], -1, -1, -1), new], dim=-2)


def _keeps_keys(subject: Subject) -> bool:
    """Whether keys and values are all that the model remembers of earlier tokens."""
    kinds = set(getattr(subject.parts.decoder.config, "layer_types", None) or _KEPT_AS_KEYS)
    return kinds <= _KEPT_AS_KEYS and "past_key_values" in signature(subject.parts.decoder.forward).parameters


def _has_hooks(model: Any) -> bool:
    """Whether somebody else watches or changes the model; transformers' own collectors do neither."""
    hooks = [h for m in model.modules() for d in (m._forward_hooks, m._forward_pre_hooks) for h in d.values()]
    return any(not str(getattr(hook, "__module__", "")).startswith("transformers.") for hook in hooks)
