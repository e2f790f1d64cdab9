"""States of many prompts at named positions, recorded in one forward pass that does nothing more than it must.

Hooks copy the asked positions only; the vocabulary is never multiplied out; the pass stops after the last layer
needed; prompts of like length run together; and what all prompts begin with, their template, is computed once.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from demur.activations.batches import Padding, length_sorted, padded
from demur.activations.capture import Aim, Catcher, Indices, room, taps, wanted_layers
from demur.activations.prefix import common_prefix, lent_cache
from demur.activations.recording import Activations, Site
from demur.activations.spans import DEFAULT_SPANS, PromptTokens
from demur.activations.subject import Subject
from demur.core.errors import BadInputError

__all__ = ["Activations", "RecordOptions", "Site", "record"]

Progress = Callable[[int, int], None]
_FEW = 4  # prompts, from which sharing their beginning pays


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """How a recording runs; none of it changes what comes out by more than rounding.

    Attributes:
        batch_tokens: Most tokens in a batch, padding counted; None = 2,048 on processors, 16,384 on accelerators.
        batch_rows: Most prompts in a batch.
        padding: Side of the padding; 'right' needs no mask and is the faster.
        share_prefix: Compute what all prompts begin with once.
        chunk_rows: Prompts between two saves, for a recording on disk.
        progress: Told (prompts done, prompts in all) after each batch.
    """

    batch_tokens: int | None = None
    batch_rows: int = 256
    padding: Padding = "right"
    share_prefix: bool = True
    chunk_rows: int = 1_024
    progress: Progress | None = None


def record(
    subject: Subject,
    prompts: Sequence[PromptTokens],
    *,
    sites: Sequence[Site] = ("resid",),
    spans: Sequence[str] | None = None,
    positions: Sequence[Sequence[int]] | None = None,
    layers: Sequence[int] | None = None,
    options: RecordOptions | None = None,
) -> Activations:
    """Record states of prompts.

    Args:
        subject: The model.
        prompts: Tokenized prompts, of any lengths.
        sites: What to record; the result is the first's, `.of(site)` gives the others.
        spans: Names of positions; ('t_inst', 't_post[-1]') by default.
        positions: Positions of each prompt instead of spans; negative ones count from its end.
        layers: Residual indices 0..L ('resid') or block numbers 0..L-1 (other sites); all by default.
        options: How to run; the defaults fit most machines.

    Raises:
        BadInputError: A prompt has no span of that name or is empty, a layer is out of range, the model has no such
            site, or a state is not finite (16-bit overflow).
    """
    how = options or RecordOptions()
    names, where = _positions(prompts, spans, positions)
    wanted = wanted_layers(subject.parts, sites, layers)
    shape = (len(prompts), len(names))
    out = {site: room(subject.parts, site, (*shape, len(chosen))) for site, chosen in wanted.items()}
    with torch.inference_mode():
        _run(subject, prompts, where, Catcher(taps(subject.parts, wanted), out), how)
    found = [
        Activations(values=out[site], layers=wanted[site], spans=names, site=site, model=subject.name)
        for site in wanted
    ]
    for one in found:
        _check_finite(one, where, subject)
    return replace(found[0], others=tuple(found[1:]))


def _run(
    subject: Subject, prompts: Sequence[PromptTokens], where: Sequence[Indices], catcher: Catcher, how: RecordOptions
) -> None:
    cache, start = _shared(subject, prompts, where, how)
    done = 0
    with catcher.attached():
        lengths = [len(prompt.ids) - start for prompt in prompts]
        for batch in _batches(lengths, how, on_processor=subject.device.type == "cpu"):
            given, shifts = padded([prompts[i].ids[start:] for i in batch], how.padding, device=subject.device)
            if cache is not None:
                given["past_key_values"] = cache
            aim = _aim(batch, [where[i] - start for i in batch], shifts, given["input_ids"])
            catcher.catch(partial(subject.parts.decoder, **given, use_cache=cache is not None), aim)
            done += len(batch)
            if how.progress:
                how.progress(done, len(prompts))


def _batches(lengths: Sequence[int], how: RecordOptions, *, on_processor: bool) -> list[list[int]]:
    tokens, overhead = (2_048, 48) if on_processor else (16_384, 2_048)  # an accelerator waits for each start
    return length_sorted(lengths, rows=how.batch_rows, tokens=how.batch_tokens or tokens, overhead=overhead)


def _aim(batch: Sequence[int], where: Sequence[Indices], shifts: Sequence[int], ids: Any) -> Aim:
    counts = [len(at) for at in where]
    rows = np.repeat(np.arange(len(batch)), counts)
    tokens = np.concatenate([at + shift for at, shift in zip(where, shifts, strict=True)])
    return Aim(
        rows=torch.from_numpy(rows).to(ids.device),
        tokens=torch.from_numpy(tokens).to(ids.device),
        prompts=np.repeat(np.array(batch), counts),
        spans=np.concatenate([np.arange(count) for count in counts]),
        shape=tuple(ids.shape),
    )


def _shared(
    subject: Subject, prompts: Sequence[PromptTokens], where: Sequence[Indices], how: RecordOptions
) -> tuple[Any, int]:
    """The prompts' common beginning, computed, and its length; (None, 0) where sharing it would not pay."""
    if not how.share_prefix or how.padding == "left" or len(prompts) < _FEW:
        return None, 0
    first_asked = min((int(at.min()) for at in where if len(at)), default=0)
    length = min(common_prefix([prompt.ids for prompt in prompts]), first_asked)
    cache = lent_cache(subject, prompts[0].ids[:length])
    return cache, length if cache is not None else 0


def _positions(
    prompts: Sequence[PromptTokens], spans: Sequence[str] | None, positions: Sequence[Sequence[int]] | None
) -> tuple[tuple[str, ...], list[Indices]]:
    if not prompts:
        raise BadInputError("expected at least one prompt, got none")
    if positions is None:
        names = tuple(spans if spans is not None else DEFAULT_SPANS)
        where = [np.array([_named(prompt, i, name) for name in names]) for i, prompt in enumerate(prompts)]
        return names, where
    if len(positions) != len(prompts):
        raise BadInputError(f"positions: expected one list for each of {len(prompts)} prompts, got {len(positions)}")
    where = [np.array(one, dtype=np.int64).reshape(-1) for one in positions]
    for i, (prompt, one) in enumerate(zip(prompts, where, strict=True)):
        one[one < 0] += len(prompt.ids)
        if len(one) and (one.min() < 0 or one.max() >= len(prompt.ids)):
            raise BadInputError(f"prompt {i}: expected positions within its {len(prompt.ids)} tokens, got {list(one)}")
    return tuple(str(k) for k in range(max(map(len, where)))), where


def _named(prompt: PromptTokens, i: int, span: str) -> int:
    try:
        return prompt.position(span)
    except BadInputError as error:
        raise BadInputError(f"prompt {i}: {error}") from None


def _check_finite(one: Activations, where: list[Indices], subject: Subject) -> None:
    recorded = np.array([len(at) for at in where])
    for k in range(len(one.spans)):
        bad = ~np.isfinite(one.values[recorded > k, k]).all(axis=-1)
        if bad.any():
            row, place = np.argwhere(bad.reshape(bad.shape[0], bad.shape[1], -1).any(-1))[0]
            prompt = int(np.flatnonzero(recorded > k)[row])
            dtype = str(subject.parts.embedding.weight.dtype).removeprefix("torch.")
            raise BadInputError(
                f"{one.site} at {one.spans[k]}, layer {one.layers[place]}, of prompt {prompt} is not finite in "
                f"{dtype}; 16-bit floats overflow on this model: open it with dtype float32 or bfloat16"
            )
