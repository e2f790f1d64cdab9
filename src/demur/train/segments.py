"""Attention of rows that lie end to end: each attends to itself and to a beginning that all of them share.

Rows without padding between them cost what they are long; a shared beginning goes through the model once, and its
gradient is the sum of what every row asks of it, exactly as if each had carried its own copy.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from transformers import AttentionInterface

NAME = "demur_segments"


@dataclass(frozen=True, slots=True, eq=False)
class Segments:
    """Where rows lie in one long sequence.

    Attributes:
        shared: Length of the beginning that all rows attend to; 0 = none.
        bounds: First and one past the last position of each row's own part, in order and without gaps.
        masks: What each row's own part may attend to, (own, shared + own); empty where nothing is shared.
    """

    shared: int
    bounds: tuple[tuple[int, int], ...]
    masks: tuple[Any, ...]


def segments_of(shared: int, lengths: Sequence[int], device: Any) -> Segments:
    """Segments of a shared beginning and rows of these lengths after it."""
    bounds, at = [], shared
    for length in lengths:
        bounds.append((at, at + length))
        at += length
    masks = [torch.ones((n, shared + n), dtype=torch.bool, device=device).tril(shared) for n in lengths if shared]
    return Segments(shared, tuple(bounds), tuple(masks))


def segment_attention(_module: Any, query: Any, key: Any, value: Any, _mask: Any, **given: Any) -> tuple[Any, None]:
    """Causal attention inside each segment; the form that transformers asks of an attention function.

    Args:
        query: (1, n_heads, n_positions, d_head).
        key: (1, n_key_heads, n_positions, d_head).
        value: The same.
        given: `segments`, and `dropout` and `scaling` as transformers gives them.
    """
    segments: Segments = given["segments"]
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    shared, found = segments.shared, []
    settings = {"dropout_p": given.get("dropout", 0.0), "scale": given.get("scaling")}
    if shared:
        first = slice(0, shared)
        found.append(_attend(query[:, :, first], key[:, :, first], value[:, :, first], is_causal=True, **settings))
    for number, (begin, end) in enumerate(segments.bounds):
        own = slice(begin, end)
        if not shared:
            found.append(_attend(query[:, :, own], key[:, :, own], value[:, :, own], is_causal=True, **settings))
            continue
        keys = torch.cat((key[:, :, :shared], key[:, :, own]), dim=2)
        values = torch.cat((value[:, :, :shared], value[:, :, own]), dim=2)
        found.append(_attend(query[:, :, own], keys, values, attn_mask=segments.masks[number], **settings))
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


@contextmanager
def attending_by_segment(model: Any) -> Iterator[None]:
    """Let a transformers model attend by segment while inside; its forward then takes `segments`."""
    before = model.config._attn_implementation
    model.set_attn_implementation(NAME)
    try:
        yield
    finally:
        model.set_attn_implementation(before)


_attend = F.scaled_dot_product_attention
AttentionInterface.register(NAME, segment_attention)
