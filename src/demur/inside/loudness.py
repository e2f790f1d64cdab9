"""Loud coordinates: the few that carry huge states, where a small share of a direction moves a whole model.

Some models keep one enormous number at their first token. A direction with a sixth of its length in that coordinate
looks harmless by itself; projecting it out removes thousands of units there, and what looks like suppressed refusal
is a broken model. So direction and activations are looked at together, the first token included.
"""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.core.errors import BadInputError

if TYPE_CHECKING:
    from demur.activations.spans import PromptTokens
    from demur.activations.subject import Subject

Vector = NDArray[np.float32]
MASKED = 4  # coordinates zeroed at most
LOUD = 1.0  # a coordinate whose removal moves some token by more than a typical state's norm


@dataclass(frozen=True, slots=True, eq=False)
class Peaks:
    """Largest states of a model on some prompts, by residual index.

    Attributes:
        peak: Largest |h| of each coordinate over all tokens of all prompts; (L + 1, d).
        peak_rest: The same without each prompt's first token; (L + 1, d).
        median_norm: Median norm of a token's state; (L + 1,).
    """

    peak: NDArray[np.float32]
    peak_rest: NDArray[np.float32]
    median_norm: NDArray[np.float32]

    @property
    def relative(self) -> NDArray[np.float64]:
        """Largest |h| of each coordinate over layers too, in units of each layer's median norm; (d,)."""
        norms = np.maximum(self.median_norm.astype(np.float64), 1e-12)
        return np.asarray((self.peak.astype(np.float64) / norms[:, None]).max(axis=0))


@dataclass(frozen=True, slots=True, kw_only=True)
class LoudCoordinate:
    """One coordinate of a direction.

    Attributes:
        index: Which.
        share: |r_i| of the unit direction.
        loudness: What projecting the direction out takes from the loudest token through this coordinate alone, in
            units of the median state's norm.
    """

    index: int
    share: float
    loudness: float


def loudness(direction: ArrayLike, peaks: Peaks) -> NDArray[np.float64]:
    """|r_i| times the largest |h_i| of any token, in units of the median norm; (d,).

    Ablation acts at every layer, so the loudest layer counts.

    Raises:
        BadInputError: The direction has another width than the states.
    """
    r = np.abs(np.asarray(direction, dtype=np.float64))
    if r.shape != peaks.relative.shape:
        raise BadInputError(f"direction: expected width {peaks.relative.shape[0]}, got {r.shape}; of another model?")
    return np.asarray(r / max(float(np.linalg.norm(r)), 1e-12) * peaks.relative)


def loud_coordinates(
    direction: ArrayLike, peaks: Peaks, *, most: int = MASKED, above: float = LOUD
) -> tuple[LoudCoordinate, ...]:
    """The loudest coordinates of a direction, loudest first; empty if none is louder than `above`."""
    scores = loudness(direction, peaks)
    r = np.abs(np.asarray(direction, dtype=np.float64))
    shares = r / max(float(np.linalg.norm(r)), 1e-12)
    order = np.argsort(-scores, kind="stable")[:most]
    return tuple(
        LoudCoordinate(index=int(i), share=float(shares[i]), loudness=float(scores[i]))
        for i in order
        if scores[i] > above
    )


def masked(direction: ArrayLike, coordinates: Sequence[LoudCoordinate | int]) -> Vector:
    """The direction with some coordinates zeroed, as a unit vector again.

    Raises:
        BadInputError: Nothing of it would be left.
    """
    vector = np.array(direction, dtype=np.float64)
    vector[[c if isinstance(c, int) else c.index for c in coordinates]] = 0.0
    norm = float(np.linalg.norm(vector))
    if norm == 0.0:
        raise BadInputError("mask: expected some of the direction to be left, got nothing; mask fewer coordinates")
    return (vector / norm).astype(np.float32)


def concentration(direction: ArrayLike) -> float:
    """Largest |r_i| over the norm: 1 / sqrt(d) for an even direction, 1 for a single coordinate."""
    r = np.abs(np.asarray(direction, dtype=np.float64))
    return float(r.max() / max(float(np.linalg.norm(r)), 1e-12))


def measure_peaks(subject: "Subject", prompts: Sequence["PromptTokens"]) -> Peaks:
    """Largest states over all tokens of a few prompts; each in a forward pass of its own, so padding cannot matter.

    Args:
        subject: The model.
        prompts: Some eight do: loud coordinates are loud everywhere.
    """
    import torch

    from demur.activations.parts import first_tensor, state_given

    parts, seen = subject.parts, _Seen()

    def before(layer: int) -> Any:
        return lambda _, args, kwargs: seen.note(layer, state_given(args, kwargs))

    with ExitStack() as hooks, torch.inference_mode():
        for layer, block in enumerate(parts.blocks):
            hooks.callback(block.register_forward_pre_hook(before(layer), with_kwargs=True).remove)
        last = parts.blocks[-1].register_forward_hook(lambda *given: seen.note(parts.n_layers, first_tensor(given[2])))
        hooks.callback(last.remove)
        for prompt in prompts:
            parts.decoder(input_ids=torch.tensor([prompt.ids], device=subject.device), use_cache=False)
    return seen.peaks()


class _Seen:
    """What the hooks saw so far: per residual index, the largest coordinates and the norms."""

    def __init__(self) -> None:
        self.peak: dict[int, NDArray[np.float32]] = {}
        self.rest: dict[int, NDArray[np.float32]] = {}
        self.norms: dict[int, list[NDArray[np.float32]]] = {}

    def note(self, layer: int, states: Any) -> None:
        found = np.abs(states[0].detach().float().cpu().numpy())
        top, rest = found.max(axis=0), found[1:].max(axis=0, initial=0.0)
        self.peak[layer] = np.maximum(self.peak.get(layer, top), top)
        self.rest[layer] = np.maximum(self.rest.get(layer, rest), rest)
        self.norms.setdefault(layer, []).append(np.linalg.norm(found, axis=1).astype(np.float32))

    def peaks(self) -> Peaks:
        layers = sorted(self.peak)
        return Peaks(
            peak=np.stack([self.peak[i] for i in layers]),
            peak_rest=np.stack([self.rest[i] for i in layers]),
            median_norm=np.array([np.median(np.concatenate(self.norms[i])) for i in layers], dtype=np.float32),
        )
