"""Reading the states that gates look at: from a pass that runs anyway, or from one of its own that stops early."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from demur.activations.parts import Parts, first_tensor, state_given
from demur.core.errors import BadInputError
from demur.steer.gates import Gate
from demur.steer.sequences import DecoderCall

# (residual index, tokens from the prompt's end); None for the mean over the prompt.
Place = tuple[int, int | None]
States = dict[Place, NDArray[np.float32]]


class _Enough(Exception):
    """Ends a pass after the last block that is needed."""


def places_of(gates: Sequence[Gate], n_post: int | None) -> dict[Place, None]:
    """Places that gates read, each once.

    Raises:
        BadInputError: A span that cannot be found.
    """
    found = (c for gate in gates for c in gate.conditions.values())
    return dict.fromkeys((c.direction.residual_index, c.place(n_post)) for c in found)


def states_for(gate: Gate, states: Mapping[Place, NDArray[np.float32]], n_post: int | None) -> dict[str, Any]:
    """States of a gate's conditions by name; (rows, d) each."""
    return {name: states[c.direction.residual_index, c.place(n_post)] for name, c in gate.conditions.items()}


@contextmanager
def reading(
    parts: Parts, places: Sequence[Place], positions: Any, lengths: Any, *, stop: bool = False
) -> Iterator[States]:
    """Collect states at places while the decoder runs inside the block; filled when it ends.

    Args:
        parts: The model's parts.
        places: What to read.
        positions: Number of each token of the pass within its row, -1 for padding; (rows, tokens).
        lengths: Tokens of each prompt; (rows,).
        stop: End the pass after the last block needed.

    Raises:
        BadInputError: A prompt is shorter than a place is far from its end.
    """
    shortest = int(lengths.min())
    farthest = min((offset for _, offset in places if offset is not None), default=-1)
    if shortest < -farthest:
        raise BadInputError(f"gate: expected prompts of at least {-farthest} tokens, got one of {shortest}")
    found: States = {}
    by_layer: dict[int, list[int | None]] = {}
    for layer, offset in places:
        by_layer.setdefault(layer, []).append(offset)
    last = max(by_layer, default=0)

    def take(layer: int, state: Any) -> None:
        for offset in by_layer[layer]:
            found[layer, offset] = _chosen(state, offset, positions, lengths).float().cpu().numpy()
        if stop and layer == last:
            raise _Enough

    with ExitStack() as hooks:
        for layer in by_layer:
            hooks.callback(_watch(parts, layer, take).remove)
        try:
            yield found
        except _Enough:
            pass


def read_states(parts: Parts, call: DecoderCall, places: Sequence[Place]) -> States:
    """States of prompts, from a pass of its own without cache that stops after the last block needed.

    Args:
        parts: The model's parts.
        call: What the decoder is about to be called with; its rows' first call.
        places: What to read.

    Raises:
        BadInputError: A prompt is shorter than a place is far from its end.
    """
    names = ("input_ids", "inputs_embeds", "attention_mask", "position_ids")
    given = {name: call.given[name] for name in names if call.given.get(name) is not None}
    with torch.no_grad(), reading(parts, places, call.positions, call.lengths, stop=True) as found:
        parts.decoder(**given, use_cache=False)
    return found


def _watch(parts: Parts, layer: int, take: Any) -> Any:
    def before(_module: Any, args: Any, kwargs: Any) -> None:
        take(layer, state_given(args, kwargs))

    def after(_module: Any, _args: Any, output: Any) -> None:
        take(layer, first_tensor(output))

    if layer == parts.n_layers:
        return parts.blocks[-1].register_forward_hook(after)
    return parts.blocks[layer].register_forward_pre_hook(before, with_kwargs=True)


def _chosen(state: Any, offset: int | None, positions: Any, lengths: Any) -> Any:
    """States of each row at a place; (rows, d)."""
    positions, lengths = positions.to(state.device), lengths.to(state.device)
    if offset is None:
        inside = ((positions >= 0) & (positions < lengths[:, None])).to(torch.float32)
        return torch.einsum("btd,bt->bd", state.float(), inside) / inside.sum(dim=1, keepdim=True)
    columns = (positions == (lengths + offset)[:, None]).long().argmax(dim=1)
    return state[torch.arange(len(state), device=state.device), columns]
