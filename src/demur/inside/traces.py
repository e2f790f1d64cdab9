"""Refusal scores along the tokens of items that think: one forward pass, only scores are kept."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from demur.activations.record import RecordOptions, record
from demur.activations.spans import PromptTokens
from demur.activations.subject import Subject
from demur.inside.cliff import Floats, TokenTrace
from demur.inside.probe import Probe, Space
from demur.inside.thinking import ThinkingSpan

Progress = Callable[[int, int], None]
PLATEAU_POINTS = 8
AFTER = 5  # answer tokens that a trace goes on for
MOST_VALUES = 64_000_000  # float32 values of states held at once


@dataclass(frozen=True, slots=True, kw_only=True)
class ReasonedTokens:
    """A prompt, what the model thought and what it answered, as ids.

    Attributes:
        key: The item.
        group: What it is counted with.
        ids: Prompt, thinking and answer.
        n_prompt: Tokens of the prompt, generation prompt included.
        turn: First token that the template wrote after the user's text.
        span: The thinking.
        places: Named positions of the prompt (`demur.activations.spans`).
    """

    key: str
    group: str
    ids: tuple[int, ...]
    n_prompt: int
    turn: int
    span: ThinkingSpan
    places: Mapping[str, int]

    @property
    def final(self) -> int:
        """Last token before the answer."""
        return self.span.final

    @property
    def thinks(self) -> bool:
        """Whether there are thoughts and an answer after them."""
        return self.span.status == "closed"

    def tokens(self, **places: int) -> PromptTokens:
        """Ids up to the answer, with the template's positions, 'final', the plateau's and any others."""
        known = {name: at for name, at in self.places.items() if at <= self.final}
        return PromptTokens(ids=self.ids[: self.final + 1], spans={**known, **self._plateau(), **places})

    def _plateau(self) -> dict[str, int]:
        """'final' and eight evenly spaced tokens of the plateau; all the last token where nothing was thought."""
        empty = np.zeros(len(self.ids))
        window = TokenTrace(self.key, self.group, empty, self.span.start, self.span.end, self.final).plateau_positions
        picked = np.linspace(0, max(0, len(window) - 1), PLATEAU_POINTS).round().astype(int)
        points = {f"plateau[{k}]": window[i] if len(window) else self.final for k, i in enumerate(picked)}
        return {"final": self.final, **points}


def plateau_spans() -> tuple[str, ...]:
    """Names of the plateau's positions."""
    return tuple(f"plateau[{k}]" for k in range(PLATEAU_POINTS))


def span_states(
    subject: Subject,
    items: Sequence[ReasonedTokens],
    spans: Sequence[str],
    *,
    space: Space,
    layer: int,
    progress: Progress | None = None,
) -> NDArray[np.float32]:
    """States at named positions; (n_items, n_spans, d).

    Raises:
        ValueError: Normed states of another layer than the last.
    """
    if space == "normed" and layer != subject.parts.n_layers:
        raise ValueError(f"expected layer {subject.parts.n_layers}, the last, for normed states, got {layer}")
    options = RecordOptions(progress=progress)
    found = record(subject, [item.tokens() for item in items], spans=spans, layers=(layer,), options=options)
    return _in_space(subject, found.values[:, :, 0], space)


def span_logits(subject: Subject, items: Sequence[ReasonedTokens], probe: Probe, spans: Sequence[str]) -> Floats:
    """Probe logits at named positions; (n_items, n_spans)."""
    return probe.logits(span_states(subject, items, spans, space=probe.space, layer=probe.layer))


def token_traces(
    subject: Subject,
    items: Sequence[ReasonedTokens],
    probe: Probe,
    *,
    after: int = AFTER,
    progress: Progress | None = None,
) -> list[TokenTrace]:
    """Probe logit of every token from the assistant's turn to a few tokens into the answer, item by item.

    Args:
        subject: The model.
        items: Items; any lengths.
        probe: What is read.
        after: Tokens of the answer that are read as well.
        progress: Called with (items done, items).
    """
    traces: dict[int, TokenTrace] = {}
    for chunk in _chunks(items, after, subject.parts.d_model):
        prompts = [PromptTokens(ids=items[i].ids[: items[i].turn + _length(items[i], after)], spans={}) for i in chunk]
        places = [list(range(items[i].turn, len(prompt.ids))) for i, prompt in zip(chunk, prompts, strict=True)]
        found = record(subject, prompts, positions=places, layers=(probe.layer,))
        logits = probe.logits(_in_space(subject, found.values[:, :, 0], probe.space))
        for i, row in zip(chunk, logits, strict=True):
            traces[i] = _trace(items[i], row[: _length(items[i], after)])
        if progress is not None:
            progress(len(traces), len(items))
    return [traces[i] for i in range(len(items))]


def final_states(subject: Subject, states: NDArray[np.float32]) -> NDArray[np.float32]:
    """States of the last residual after the final norm; any shape ending in d."""
    import torch

    norm = subject.parts.final_norm
    if norm is None:
        return states
    weight = next(iter(norm.parameters()), subject.parts.embedding.weight)
    with torch.inference_mode():
        normed = norm(torch.from_numpy(np.ascontiguousarray(states)).to(weight.device, weight.dtype))
        return np.asarray(normed.float().cpu().numpy(), dtype=np.float32)


def _in_space(subject: Subject, states: NDArray[np.float32], space: Space) -> NDArray[np.float32]:
    return final_states(subject, states) if space == "normed" else states


def _length(item: ReasonedTokens, after: int) -> int:
    return min(len(item.ids), item.final + 1 + after) - item.turn


def _chunks(items: Sequence[ReasonedTokens], after: int, width: int) -> Iterator[list[int]]:
    """Items of like length together, so many that their states fit."""
    order = sorted(range(len(items)), key=lambda i: _length(items[i], after))
    chunk: list[int] = []
    for i in order:
        if chunk and (len(chunk) + 1) * _length(items[i], after) * width > MOST_VALUES:
            yield chunk
            chunk = []
        chunk.append(i)
    if chunk:
        yield chunk


def _trace(item: ReasonedTokens, logits: Floats) -> TokenTrace:
    return TokenTrace(
        key=item.key,
        group=item.group,
        logits=logits,
        think_start=item.span.start - item.turn,
        think_end=item.span.end - item.turn,
        final=item.final - item.turn,
    )
