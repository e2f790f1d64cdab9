"""Which attention heads push the refusal score down: an exact split of the probe's logit over heads, and its check.

The final norm is linear once its divisor is fixed, so the logit at a position is a sum over what every head, every
feed-forward part and the embedding wrote there. A head that writes the same everywhere only moves the zero; what falls
off a cliff is the change between thinking and answer, so heads are ranked by that change unless asked otherwise.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from demur.activations.record import record
from demur.activations.subject import Subject
from demur.core.errors import BadInputError
from demur.inside.ablation import Head, Rescale, scaled_heads
from demur.inside.cliff import Floats
from demur.inside.probe import Probe
from demur.inside.traces import ReasonedTokens, plateau_spans, span_logits

RankBy = Literal["change", "final"]
Progress = Callable[[int, int], None]
MOST_VALUES = 32_000_000  # float32 values of heads held at once
Z = 1.959964


@dataclass(frozen=True, slots=True, eq=False)
class HeadContributions:
    """What heads add to the probe's logit at two places; blocks below the probe's layer only.

    Attributes:
        final: At the last token before the answer; (n_items, n_blocks, n_heads).
        plateau: Mean over the plateau's positions; the same shape.
        embedding: Share of the token embedding at (final, plateau); (n_items, 2).
        rest: Share of feed-forward parts and biases; (n_items, 2).
        total: The probe's logit itself; (n_items, 2).
        folded: Whether the final norm's gain and divisor are in: only then do the shares add up to the logit.
    """

    final: Floats
    plateau: Floats
    embedding: Floats
    rest: Floats
    total: Floats
    folded: bool

    @property
    def change(self) -> Floats:
        """Final minus plateau: what each head adds to the fall; (n_items, n_blocks, n_heads)."""
        return self.final - self.plateau


@dataclass(frozen=True, slots=True)
class HeadScore:
    """One head's mean contribution over items, in logits, with a 95% interval."""

    head: Head
    mean: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class HeadEffect:
    """What taking one head out does to the probe's logits, measured by running the model without it.

    Attributes:
        head: The head.
        final: Mean change of the logit before the answer.
        drop: Mean change of the drop (plateau minus final).
        low: Lower bound of the change of the drop.
        high: Upper bound.
    """

    head: Head
    final: float
    drop: float
    low: float
    high: float


@dataclass(frozen=True, slots=True, eq=False)
class _NormMap:
    """A norm as state · gain / divisor + bias, with or without taking the mean away first."""

    gain: Floats
    bias: Floats
    centred: bool

    def direction(self, weight: Floats) -> Floats:
        """The direction before the norm that a direction after it reads."""
        before = self.gain * weight
        return before - before.mean() if self.centred else before

    def divisors(self, before: Floats, after: Floats) -> Floats:
        """Divisor of each state, from the state and what the norm made of it."""
        state = before - before.mean(axis=-1, keepdims=True) if self.centred else before
        whole = np.linalg.norm(after - self.bias, axis=-1)
        return np.asarray(np.linalg.norm(state * self.gain, axis=-1) / np.maximum(whole, 1e-30), dtype=np.float64)


def head_contributions(
    subject: Subject,
    items: Sequence[ReasonedTokens],
    probe: Probe,
    *,
    fold_norm: bool = True,
    progress: Progress | None = None,
) -> HeadContributions:
    """Split the probe's logit, at the end and on the plateau, over heads, embedding and the rest.

    Args:
        subject: The model.
        items: Items that think.
        probe: What is read.
        fold_norm: Carry a probe on normed states back through the final norm (exact). False projects on the probe's
            unit direction as the released code does, though it lives behind the norm.
        progress: Called with (items done, items).

    Raises:
        BadInputError: The model's heads cannot be told apart.

    Source:
        Yin et al. (2025), "Refusal Falls off a Cliff"; the folded form is direct logit attribution with a fixed norm.
    """
    readers, direction, final_norm, constant = _readers(subject, probe, fold_norm)
    n_blocks = len(readers)
    pieces: list[tuple[Floats, Floats, Floats]] = []
    done = 0
    for chunk in _chunks(items, n_blocks * subject.parts.n_heads * subject.parts.head_dim):
        prompts = [item.tokens() for item in chunk]
        spans = ["final", *plateau_spans()]
        streams = record(subject, prompts, sites=("resid",), spans=spans, layers=(0, probe.layer)).values
        outputs = record(subject, prompts, sites=("head_out",), spans=spans, layers=tuple(range(n_blocks))).values
        divisor = _final_divisors(subject, streams[:, :, 1], final_norm)
        heads = np.stack([readers[b](outputs[:, :, b]) for b in range(n_blocks)], axis=2) / divisor[..., None, None]
        total = streams[:, :, 1].astype(np.float64) @ direction / divisor + constant
        embedding = streams[:, :, 0].astype(np.float64) @ direction / divisor
        pieces.append((heads, embedding, total))
        done += len(chunk)
        if progress is not None:
            progress(done, len(items))
    heads, embedding, total = (_two_places(np.concatenate(column)) for column in zip(*pieces, strict=True))
    rest = total - constant - embedding - heads.sum(axis=(-1, -2))
    return HeadContributions(heads[:, 0], heads[:, 1], embedding, rest, total, fold_norm)


def rank_heads(found: HeadContributions, *, by: RankBy = "change") -> list[HeadScore]:
    """Heads from the one that pushes the score down most to the one that lifts it most.

    Args:
        found: Contributions.
        by: 'change' between plateau and end, or the contribution at the end ('final', as the released code ranks).
    """
    values = found.change if by == "change" else found.final
    mean, half = values.mean(axis=0), _half_width(values)
    order = np.argsort(mean, axis=None, kind="stable")
    places = [divmod(int(i), mean.shape[1]) for i in order]
    return [
        HeadScore(Head(b, h), float(mean[b, h]), float(mean[b, h] - half[b, h]), float(mean[b, h] + half[b, h]))
        for b, h in places
    ]


def causal_effects(
    subject: Subject,
    items: Sequence[ReasonedTokens],
    probe: Probe,
    heads: Sequence[Head],
    *,
    rescale: Rescale = "none",
    progress: Progress | None = None,
) -> list[HeadEffect]:
    """Run the model without each head in turn and read the probe again: attribution is a guess until then.

    Args:
        subject: The model.
        items: Items that the heads were not ranked on.
        probe: What is read.
        heads: Heads to take out, one at a time.
        rescale: As in `scaled_heads`; 'none' asks for the head's own effect.
        progress: Called with (heads done, heads).
    """
    before = plateau_and_final(subject, items, probe)
    effects = []
    for n, head in enumerate(heads, start=1):
        with scaled_heads(subject, [head], rescale=rescale):
            after = plateau_and_final(subject, items, probe)
        drop = (after[:, 0] - after[:, 1]) - (before[:, 0] - before[:, 1])
        half = float(_half_width(drop))
        final = float((after[:, 1] - before[:, 1]).mean())
        effects.append(
            HeadEffect(head, final, float(drop.mean()), float(drop.mean()) - half, float(drop.mean()) + half)
        )
        if progress is not None:
            progress(n, len(heads))
    return effects


def plateau_and_final(subject: Subject, items: Sequence[ReasonedTokens], probe: Probe) -> Floats:
    """Median logit over the plateau's positions and logit before the answer; (n_items, 2)."""
    logits = span_logits(subject, items, probe, [*plateau_spans(), "final"])
    return np.stack([np.median(logits[:, :-1], axis=1), logits[:, -1]], axis=1)


def _two_places(values: Floats) -> Floats:
    """(n, spans, ...) with 'final' first to (n, 2, ...): final, mean of the plateau."""
    return np.stack([values[:, 0], values[:, 1:].mean(axis=1)], axis=1)


def _half_width(values: Floats) -> Floats:
    n = len(values)
    spread = values.std(axis=0, ddof=1) if n > 1 else np.full(values.shape[1:], np.nan)
    return np.asarray(Z * spread / np.sqrt(n), dtype=np.float64)


def _chunks(items: Sequence[ReasonedTokens], width: int) -> Iterator[list[ReasonedTokens]]:
    n = max(1, MOST_VALUES // (width * (len(plateau_spans()) + 1)))
    for start in range(0, len(items), n):
        yield list(items[start : start + n])


def _readers(
    subject: Subject, probe: Probe, fold_norm: bool
) -> tuple[list[Callable[[NDArray[np.float32]], Floats]], Floats, _NormMap | None, float]:
    """For each block a function from head outputs to logits; the direction in the stream; final norm; constant."""
    weight, constant = np.asarray(probe.weight, dtype=np.float64), probe.bias
    norm: _NormMap | None = None
    if not fold_norm:
        weight, constant = probe.direction, 0.0
    elif probe.space == "normed" and subject.parts.final_norm is not None:
        norm = _norm_map(subject.parts.final_norm, subject)
        constant += float(norm.bias @ weight)
        weight = norm.direction(weight)
    return [_reader(subject, block, weight) for block in range(probe.layer)], weight, norm, constant


def _reader(subject: Subject, block: int, direction: Floats) -> Callable[[NDArray[np.float32]], Floats]:
    """From one block's head outputs (n, spans, heads, width) to their shares of state · direction (n, spans, heads)."""
    parts = subject.parts.layers[block]
    if parts.projection is None or parts.attention_write is None:
        raise BadInputError(
            f"heads: block {block}: expected an output projection whose output is added to the residual stream, found "
            "none; heads of this architecture cannot be told apart"
        )
    after_norm = parts.attention_write not in (parts.attention, parts.projection)
    post = _norm_map(parts.attention_write, subject) if after_norm else None
    width = subject.parts.n_heads * subject.parts.head_dim
    through = _pulled_back(parts.projection, post.direction(direction) if post else direction, width)

    def read(outputs: NDArray[np.float32]) -> Floats:
        grouped = through.reshape(outputs.shape[-2:])
        shares = np.einsum("...hw,hw->...h", outputs.astype(np.float64), grouped) * parts.write_scale
        if post is None:
            return np.asarray(shares, dtype=np.float64)
        written = _applied(parts.projection, outputs.reshape(*outputs.shape[:-2], -1))
        divisors = post.divisors(written, _applied(parts.attention_write, written))
        return np.asarray(shares / divisors[..., None], dtype=np.float64)

    return read


def _final_divisors(subject: Subject, states: NDArray[np.float32], norm: _NormMap | None) -> Floats:
    if norm is None:
        return np.ones(states.shape[:-1])
    return norm.divisors(states.astype(np.float64), _applied(subject.parts.final_norm, states))


def _norm_map(norm: Any, subject: Subject) -> _NormMap:
    """A norm's gain and bias, from what it does: families store the gain as weight, as 1 + weight or not at all."""
    d = subject.parts.d_model
    probe = np.where(np.arange(d) % 2, 1.0, -1.0) + np.linspace(0, 0.1, d)
    probe = (probe - probe.mean()) / probe.std() * 1e3  # so large that the norm's epsilon is nothing
    plus, minus = _applied(norm, probe[None])[0], _applied(norm, -probe[None])[0]
    flat = _applied(norm, np.full((1, d), 1e3))[0]
    bias = (plus + minus) / 2
    gain = (plus - minus) / 2 / (probe / 1e3)
    centred = bool(np.linalg.norm(flat - bias) < 0.5 * np.linalg.norm(gain))
    return _NormMap(gain, bias, centred)


def _applied(module: Any, values: NDArray[np.floating]) -> Floats:
    import torch

    weight = next(module.parameters(), None)
    tensor = torch.from_numpy(np.ascontiguousarray(values, dtype=np.float32))
    with torch.no_grad():
        made = module(tensor if weight is None else tensor.to(weight.device, weight.dtype))
    return np.asarray(made.float().cpu().numpy(), dtype=np.float64)


def _pulled_back(projection: Any, direction: Floats, width: int) -> Floats:
    """The projection's transpose applied to a direction, whatever kind of linear module it is (adapters included)."""
    import torch

    weight = next(projection.parameters())
    with torch.enable_grad():
        given = torch.zeros(1, 1, width, device=weight.device, dtype=weight.dtype, requires_grad=True)
        made = projection(given).float()
        towards = torch.from_numpy(direction.astype(np.float32)).to(made.device)
        (pulled,) = torch.autograd.grad((made * towards).sum(), given)
    return np.asarray(pulled[0, 0].float().cpu().numpy(), dtype=np.float64)
