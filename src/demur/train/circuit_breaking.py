"""Circuit breaking: states of prompts to decline are turned away from what they were, states of the others kept.

Nothing is learnt about what to say instead: a broken circuit answers with whatever comes, often no language at all.
`scope_metrics` counts such replies as degenerate, never as rejections.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field

from demur.core.errors import BadInputError
from demur.train.row_trainer import Positive, TrainerSettings
from demur.train.rows import Encoder, Example
from demur.train.split_model import after_prefix, batches_by_length, decoder_of, embedded, only_blocks

ACCEPT, REJECT = "accept", "reject"
Depth = Annotated[float, Field(ge=0.0, lt=1.0)]


class CircuitSettings(TrainerSettings):
    """How circuits are broken; defaults are the paper's and its code's.

    `batch_rows` counts prompts of each kind: a step reads as many to answer as to decline. `normaliser`, `layout`,
    `share_prefix` and `gradient_checkpointing` belong to rows with labels and change nothing here.

    Attributes:
        strength: The schedule's a.
        depths: Where states are turned away, as shares of the blocks: behind block ceil(depth * blocks), from 0.
            Blocks above the deepest keep their weights, as in the released code.
        max_tokens: Longest prompt.

    Source:
        Yunis et al. (2024), "Reducing the Scope of Language Models", and its code; after Zou et al. (2024),
        "Improving Alignment and Robustness with Circuit Breakers".
    """

    schedule: Literal["cosine", "linear", "constant"] = "linear"
    warmup: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    max_steps: Annotated[int, Field(ge=1)] | None = 128
    strength: Positive = 5.0
    depths: Annotated[tuple[Depth, ...], Field(min_length=1)] = (0.3, 0.6)
    max_tokens: Annotated[int, Field(ge=16)] = 1024


@dataclass(frozen=True, slots=True)
class CircuitPrompt:
    """A prompt as ids after the beginning that all prompts share.

    Attributes:
        ids: Up to where the reply begins.
        skipped: How many of them still belong to the system turn or open the user's; their states count nowhere.
    """

    ids: tuple[int, ...]
    skipped: int


@dataclass(frozen=True, slots=True)
class CircuitPrompts:
    """All prompts of a run: the shared beginning, prompts to answer, prompts to decline."""

    prefix: tuple[int, ...]
    accept: tuple[CircuitPrompt, ...]
    reject: tuple[CircuitPrompt, ...]

    def dealt(self, step: int, rows: int, seed: int) -> tuple[list[CircuitPrompt], list[CircuitPrompt]]:
        """Prompts of a step from 0, of each kind; all come once before any comes twice."""
        return (_dealt(self.accept, step, rows, (seed, 0)), _dealt(self.reject, step, rows, (seed, 1)))


def circuit_weights(step: int, steps: int, strength: float) -> tuple[float, float]:
    """Weights of keeping and of breaking at a step from 0: from (0, a) to (a/2, a/2)."""
    turned = step / (2 * steps)
    return strength * turned, strength * (1 - turned)


def target_blocks(n_blocks: int, depths: Sequence[float]) -> tuple[int, ...]:
    """Blocks, from 0, behind which states are turned away; the last one where a depth lies behind it."""
    return tuple(min(n_blocks - 1, ceil(round(depth * n_blocks, 6))) for depth in depths)


def encode_prompts(encoder: Encoder, examples: Sequence[Example]) -> CircuitPrompts:
    """Prompts of examples of the kinds 'accept' and 'reject' as ids.

    Raises:
        BadInputError: One kind is missing, or a prompt is too long.
    """
    sides: dict[str, list[tuple[tuple[int, ...], int]]] = {ACCEPT: [], REJECT: []}
    openings: dict[str, int] = {}
    for example in examples:
        if example.kind not in sides:
            raise BadInputError(f"circuit breaking: kind: expected {ACCEPT} or {REJECT}, got {example.kind!r}")
        ids = encoder.prompt(example.prompt, system=example.system, origin=example.id)
        if example.system not in openings:
            openings[example.system] = _opening(encoder, example.system)
        sides[example.kind].append((ids, openings[example.system]))
    for kind, held in sides.items():
        if not held:
            raise BadInputError(f"circuit breaking: expected prompts to {ACCEPT} and to {REJECT}, got none to {kind}")
    every = [ids for held in sides.values() for ids, _ in held]
    prefix = every[0][: min(_agreed(every), *openings.values())]
    n = len(prefix)
    return CircuitPrompts(
        prefix, *(tuple(CircuitPrompt(ids[n:], opening - n) for ids, opening in held) for held in sides.values())
    )


def backward(
    model: Any, prompts: CircuitPrompts, step: int, steps: int, settings: CircuitSettings
) -> tuple[float, dict[str, float]]:
    """Add a step's gradients to a peft model; the loss, and its two parts by name before weighting.

    Args:
        model: A peft model in training mode; without its adapter it is the reference.
        prompts: All prompts.
        step: Number of the step, from 0.
        steps: Steps of the run.
        settings: How circuits are broken.
    """
    accept, reject = prompts.dealt(step, settings.batch_rows, settings.seed)
    keeping, breaking = circuit_weights(step, steps, settings.strength)
    n_blocks = len(decoder_of(model).layers)
    targets = target_blocks(n_blocks, settings.depths)
    kept = _side(model, prompts.prefix, accept, tuple(range(n_blocks)), keeping, settings.micro_tokens)
    broken = _side(model, prompts.prefix, reject, targets, breaking, settings.micro_tokens, turned=True)
    return keeping * kept + breaking * broken, {"kept distance": kept, "turned cosine": broken}


def distance(now: Any, before: Any) -> Any:
    """Euclidean distance of states, one for each; (n, d_model) each."""
    import torch

    return torch.linalg.vector_norm(now - before, dim=-1)


def likeness(now: Any, before: Any) -> Any:
    """Cosine of states where it is positive, else 0; (n, d_model) each."""
    import torch.nn.functional as F

    return F.cosine_similarity(now, before, dim=-1).relu()


def prompt_states(
    model: Any, prefix: Sequence[int], prompts: Sequence[CircuitPrompt], blocks: Sequence[int]
) -> list[Any]:
    """States behind blocks at the counted tokens of prompts, in order; (n_tokens, d_model) for each block.

    The state behind the last block is taken after the final norm, as transformers lists it.
    """
    decoder = decoder_of(model)
    held: dict[int, Any] = {}
    with only_blocks(decoder, 0, max(blocks) + 1), _watched(decoder, blocks, held):
        output, lengths = after_prefix(decoder, embedded(model, prefix), [embedded(model, p.ids) for p in prompts])
    if max(blocks) == len(decoder.layers) - 1:
        held[max(blocks)] = output
    return [_counted(held[block], prompts, lengths) for block in blocks]


def _side(
    model: Any,
    prefix: Sequence[int],
    prompts: Sequence[CircuitPrompt],
    blocks: Sequence[int],
    weight: float,
    micro_tokens: int,
    *,
    turned: bool = False,
) -> float:
    """Mean over blocks and counted tokens of one kind; gradients are added where the weight is not 0."""
    import torch

    total = len(blocks) * sum(len(p.ids) - p.skipped for p in prompts)
    measure, found = likeness if turned else distance, 0.0
    for batch in batches_by_length([len(p.ids) for p in prompts], tokens=micro_tokens):
        chosen = [prompts[i] for i in batch]
        with torch.no_grad(), model.disable_adapter():
            before = prompt_states(model, prefix, chosen, blocks)
        with torch.set_grad_enabled(weight > 0):
            now = prompt_states(model, prefix, chosen, blocks)
            part = sum(measure(a.float(), b.float()).sum() for a, b in zip(now, before, strict=True)) / total
        if weight > 0:
            (weight * part).backward()
        found += float(part.detach())
    return found


@contextmanager
def _watched(decoder: Any, blocks: Sequence[int], held: dict[int, Any]) -> Iterator[None]:
    """Keep what blocks make; a later pass replaces an earlier one, so the shared beginning's is dropped."""

    def keep(number: int) -> Any:
        def hook(_: Any, __: Any, made: Any) -> None:
            held[number] = made[0] if isinstance(made, tuple) else made

        return hook

    handles = [decoder.layers[block].register_forward_hook(keep(block)) for block in blocks]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _counted(states: Any, prompts: Sequence[CircuitPrompt], lengths: Sequence[int]) -> Any:
    import torch

    rows = zip(prompts, lengths, strict=True)
    return torch.cat([states[place, prompt.skipped : length] for place, (prompt, length) in enumerate(rows)])


def _opening(encoder: Encoder, system: str) -> int:
    """Ids before a user's own text: the system turn and what opens the user's."""
    return _agreed([encoder.prompt(text, system=system) for text in ("Why", "7 or", "\u00e9t\u00e9")])


def _agreed(rows: Sequence[tuple[int, ...]]) -> int:
    """How many ids rows begin with in common."""
    first, last = min(rows), max(rows)
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _dealt(side: Sequence[CircuitPrompt], step: int, rows: int, seed: tuple[int, int]) -> list[CircuitPrompt]:
    found = []
    for place in range(step * rows, (step + 1) * rows):
        round_, card = divmod(place, len(side))
        found.append(side[int(np.random.default_rng((*seed, round_)).permutation(len(side))[card])])
    return found
