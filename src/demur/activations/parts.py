"""The parts of a decoder-only transformers model, found by what they do rather than by what a family calls them.

A forward pass over a few tokens is watched: the blocks are the longest list of modules that hand a residual stream to
each other, attention is the child of a block that lets a token see earlier ones, its output projection the module that
makes its output. Then it is checked that block l's output is block l+1's input, up to the final norm.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from demur.core.errors import BadInputError

_PROBE_TOKENS = 6
_ROUNDINGS = 8.0  # a sum may differ from its terms by a few roundings of its largest term


@dataclass(frozen=True, slots=True, eq=False)
class BlockParts:
    """One decoder block.

    Attributes:
        block: The block itself.
        attention: Lets tokens see earlier ones.
        projection: Its output projection: concatenated heads in, attention output out. None where it has none.
        mlp: The feed-forward part; None where it is no module of its own.
        attention_write: What attention adds to the stream comes out of this module: the norm after attention where
            there is one, else attention itself. None if the two writes do not add up to what the block adds.
        mlp_write: The same for the feed-forward part.
        write_scale: Factor both writes are multiplied with before they are added; 1 but for a few families.
    """

    block: Any
    attention: Any
    projection: Any
    mlp: Any
    attention_write: Any
    mlp_write: Any
    write_scale: float = 1.0


@dataclass(frozen=True, slots=True, eq=False)
class Parts:
    """A model taken apart.

    Attributes:
        decoder: Takes token ids, runs embedding, blocks and final norm; no vocabulary logits.
        embedding: Token embedding table.
        layers: Parts of every block, in order.
        final_norm: Norm after the last block; None where there is none.
        lm_head: Output embedding.
        n_heads: Query heads of a block.
        head_dim: Width of one head.
        d_model: Width of the residual stream.
        tied: Input and output embeddings are one tensor.
    """

    decoder: Any
    embedding: Any
    layers: tuple[BlockParts, ...]
    final_norm: Any
    lm_head: Any
    n_heads: int
    head_dim: int
    d_model: int
    tied: bool

    @property
    def blocks(self) -> list[Any]:
        """The blocks, in order."""
        return [layer.block for layer in self.layers]

    @property
    def n_layers(self) -> int:
        """L: residual indices run from 0 to it."""
        return len(self.layers)


@dataclass(frozen=True, slots=True, eq=False)
class _Call:
    """One call of a module in the probe: its place in the pass, what it was given and what it made."""

    order: int
    args: Any
    kwargs: Any
    given: Any
    made: Any


_Trace = Mapping[Any, _Call]


def find_parts(model: Any) -> Parts:
    """Take a loaded model apart and check what was found; costs a forward pass over six tokens.

    Args:
        model: A causal language model of transformers, with or without an attached adapter.

    Raises:
        BadInputError: No module was found in a place where one was expected; the message says which and where.
    """
    whole = _unwrapped(model)
    embedding = _embedding(whole)
    trace = _probed(whole, embedding)
    path, blocks = _blocks(whole, trace)
    decoder = whole.get_submodule(path.rpartition(".")[0])
    if all(module is not embedding for module in decoder.modules()):
        raise _unknown(
            whole, f"the token embedding inside {type(decoder).__name__}, which holds the blocks at {path!r}"
        )
    with torch.no_grad():
        layers = tuple(_block_parts(whole, f"{path}[{i}]", block, trace) for i, block in enumerate(blocks))
    lm_head = whole.get_output_embeddings()
    n_heads, head_dim = _heads(whole, layers, trace)
    parts = Parts(
        decoder=decoder,
        embedding=embedding,
        layers=layers,
        final_norm=_final_norm(decoder, blocks, trace),
        lm_head=lm_head,
        n_heads=n_heads,
        head_dim=head_dim,
        d_model=int(trace[blocks[-1]].made.shape[-1]),
        tied=lm_head is not None and lm_head.weight is embedding.weight,
    )
    _check_chain(whole, parts, trace)
    return parts


def check_parts(model: Any, parts: Parts) -> None:
    """Check parts against a model once more, e.g. after its modules were changed.

    Raises:
        BadInputError: A block's output is not the next one's input, or the final norm does not follow the last block.
    """
    whole = _unwrapped(model)
    _check_chain(whole, parts, _probed(whole, parts.embedding))


def first_tensor(given: Any) -> Any:
    """The first tensor of what a module was given or made: a tensor, or one in a tuple or mapping; else None."""
    if isinstance(given, Tensor):
        return given
    values = given.values() if hasattr(given, "values") else given if isinstance(given, tuple | list) else ()
    return next((value for value in values if isinstance(value, Tensor)), None)


def state_given(args: Any, kwargs: Any) -> Any:
    """The hidden states a block or norm was called with, by place or by name."""
    return first_tensor(args) if first_tensor(args) is not None else kwargs.get("hidden_states", first_tensor(kwargs))


def _unwrapped(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def _embedding(model: Any) -> Any:
    try:
        embedding = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        embedding = None
    if getattr(embedding, "weight", None) is None:
        raise _unknown(model, "a token embedding from get_input_embeddings()")
    return embedding


def _probed(model: Any, embedding: Any) -> _Trace:
    size = int(embedding.weight.shape[0])
    ids = torch.arange(3, 3 + _PROBE_TOKENS, device=embedding.weight.device) % size
    trace: dict[Any, _Call] = {}
    try:
        with torch.no_grad(), _watched(model, trace):
            model(input_ids=ids[None], use_cache=False)
    except (TypeError, ValueError, AttributeError, RuntimeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _unknown(model, f"a causal decoder that runs on token ids alone; it says: {reason}") from error
    return trace


@contextmanager
def _watched(model: Any, trace: dict[Any, _Call]) -> Iterator[None]:
    begun: dict[Any, int] = {}

    def before(module: Any, _args: Any) -> None:
        begun[module] = len(begun)

    def after(module: Any, args: Any, kwargs: Any, output: Any) -> None:
        given, made = state_given(args, kwargs), first_tensor(output)
        trace[module] = _Call(begun[module], args, kwargs, given, made)

    with ExitStack() as hooks:
        for module in model.modules():
            hooks.callback(module.register_forward_pre_hook(before).remove)
            hooks.callback(module.register_forward_hook(after, with_kwargs=True).remove)
        yield


def _blocks(model: Any, trace: _Trace) -> tuple[str, list[Any]]:
    """Path and members of the longest list of modules that pass on a stream of one width."""
    found: dict[str, list[Any]] = {}
    for path, module in model.named_modules():
        inside_a_block = any(path.startswith(f"{outer}.") for outer in found)  # experts, for one
        members = list(module) if isinstance(module, nn.ModuleList) and not inside_a_block else []
        members = [member for member in members if member in trace]
        if members and all(_passes_on(trace[member]) for member in members):
            found[path] = members
    if not found:
        raise _unknown(model, "a ModuleList of decoder blocks, each mapping (batch, tokens, width) to the same shape")
    return max(found.items(), key=lambda item: len(item[1]))


def _passes_on(call: _Call) -> bool:
    return (
        call.given is not None
        and call.made is not None
        and call.given.ndim == 3
        and call.given.shape == call.made.shape
    )


def _block_parts(model: Any, where: str, block: Any, trace: _Trace) -> BlockParts:
    children = sorted((c for c in block.children() if c in trace), key=lambda c: trace[c].order)
    attention = next((child for child in children if _mixes(child, trace[child])), None)
    if attention is None:
        raise _unknown(
            model, f"a child of {where} ({type(block).__name__}) that lets tokens see earlier ones (attention)"
        )
    rest = [child for child in children if child is not attention and isinstance(trace[child].made, Tensor)]
    largest = max(rest, key=_size, default=None)
    is_mlp = largest is not None and _size(largest) > 2 * trace[block].made.shape[-1]  # a norm has at most that many
    attention_write, mlp_write, scale = _writes(trace[block], attention, rest, trace)
    return BlockParts(
        block=block,
        attention=attention,
        projection=_projection(attention, trace),
        mlp=largest if is_mlp else None,
        attention_write=attention_write,
        mlp_write=mlp_write,
        write_scale=scale,
    )


def _mixes(module: Any, call: _Call) -> bool:
    """Whether a later token's output changes with the first token's state: the call is made again to see."""
    if (
        not isinstance(call.given, Tensor)
        or not isinstance(call.made, Tensor)
        or call.given.ndim != 3
        or call.made.ndim != 3
    ):
        return False
    other = call.given.clone()
    other[:, 0] = 1.0 - other[:, 0].roll(1, dims=-1)
    args = tuple(other if value is call.given else value for value in call.args)
    kwargs = {key: other if value is call.given else value for key, value in call.kwargs.items()}
    made = first_tensor(module(*args, **kwargs))
    return made.shape == call.made.shape and not torch.equal(made[:, 1:], call.made[:, 1:])


def _writes(block: _Call, attention: Any, rest: Sequence[Any], trace: _Trace) -> tuple[Any, Any, float]:
    """The two modules whose outputs add up to what the block adds, and the factor they are multiplied with."""
    given, made = block.given.double(), block.made.double()
    eps = torch.finfo(block.made.dtype).eps
    after = [child for child in rest if trace[child].order > trace[attention].order]
    best: tuple[float, Any, Any, float] | None = None
    for first in (attention, *after):
        for second in rest:
            if first is second or any(trace[m].made.numel() != made.numel() for m in (first, second)):
                continue
            one, two = (trace[m].made.double().reshape(made.shape) for m in (first, second))
            rounding = eps * (given.abs() + made.abs() + one.abs() + two.abs()) + 1e-30
            scale = _scale((one + two) / rounding, (made - given) / rounding)
            off = float(((made - given - scale * (one + two)) / rounding).abs().max())
            if off <= _ROUNDINGS and (best is None or off < best[0]):
                best = (off, first, second, scale)
    return best[1:] if best else (None, None, 1.0)


def _scale(written: Any, added: Any) -> float:
    """The factor that makes one tensor the other, taken as 1 where that is within a hundredth."""
    factor = float((written * added).sum() / (written * written).sum().clamp_min(1e-30))
    return 1.0 if abs(factor - 1.0) < 1e-2 else factor


def _projection(attention: Any, trace: _Trace) -> Any:
    """The first module inside attention that makes what attention makes."""
    made = trace[attention].made
    candidates = [m for m in attention.modules() if m is not attention and m in trace and trace[m].given is not None]
    same = [
        m
        for m in candidates
        if isinstance(trace[m].made, Tensor) and torch.equal(trace[m].made.reshape(-1), made.reshape(-1))
    ]
    return min(same, key=lambda m: trace[m].order, default=None)


def _heads(model: Any, layers: Sequence[BlockParts], trace: _Trace) -> tuple[int, int]:
    """Query heads and their width; (0, 0) if attention has no output projection that takes them."""
    config = model.config.get_text_config() if hasattr(model.config, "get_text_config") else model.config
    n_heads = int(getattr(config, "num_attention_heads", 0) or 0)
    widths = {int(trace[layer.projection].given.shape[-1]) for layer in layers if layer.projection is not None}
    if n_heads == 0 or len(widths) != 1 or min(widths) % n_heads:
        return 0, 0
    return n_heads, min(widths) // n_heads


def _final_norm(decoder: Any, blocks: Sequence[Any], trace: _Trace) -> Any:
    last = trace[blocks[-1]]
    after = [c for c in decoder.children() if c in trace and trace[c].order > last.order]
    return next((c for c in after if trace[c].given is not None and _same(trace[c].given, last.made)), None)


def _check_chain(model: Any, parts: Parts, trace: _Trace) -> None:
    for i, (block, following) in enumerate(zip(parts.blocks, parts.blocks[1:], strict=False)):
        if block not in trace or following not in trace or not _same(trace[block].made, trace[following].given):
            raise _unknown(model, f"the output of block {i} as the input of block {i + 1}")
    if parts.final_norm is not None and not _same(trace[parts.blocks[-1]].made, trace[parts.final_norm].given):
        raise _unknown(model, "the output of the last block as the input of the final norm")


def _same(one: Any, other: Any) -> bool:
    return isinstance(other, Tensor) and one.shape == other.shape and torch.allclose(one, other, equal_nan=True)


def _size(module: Any) -> int:
    return sum(parameter.numel() for parameter in module.parameters())


def _unknown(model: Any, expected: str) -> BadInputError:
    return BadInputError(
        f"{type(model).__name__}: unknown architecture: expected {expected}, found none; "
        "use a decoder-only causal language model of transformers"
    )
