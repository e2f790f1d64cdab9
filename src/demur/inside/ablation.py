"""Scaling attention heads while a model runs, with the norm put back token by token, and random heads to compare with.

A head is scaled where it enters the output projection: with grouped queries that is the query head, whose keys and
values others share. Nothing is written in place and nothing stays after the block.
"""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any, Literal, NamedTuple

import numpy as np

from demur.activations.parts import Parts
from demur.activations.subject import Subject
from demur.core.errors import BadInputError

Rescale = Literal["none", "token", "released"]


class Head(NamedTuple):
    """An attention head: block and query head, both from 0."""

    block: int
    head: int

    def __str__(self) -> str:
        return f"{self.block}.{self.head}"


def head_count(parts: Parts, wanted: str) -> int:
    """Number of heads that '3%' or '8' means for a model; at least one.

    Raises:
        BadInputError: It is neither, or not between none and all.
    """
    total = parts.n_heads * parts.n_layers
    digits, percent, rest = wanted.strip().partition("%")
    try:
        number = float(digits)
    except ValueError:
        number = float("nan")
    count = number * total / 100 if percent else number
    if rest or not 0 < count <= total or (not percent and number != int(number)):
        raise BadInputError(
            f"--heads {wanted!r}: expected a share such as 3% or a number from 1 to {total}, the heads of this model"
        )
    return max(1, round(count))


def random_heads(parts: Parts, like: Sequence[Head], *, seed: int, same_blocks: bool = False) -> list[Head]:
    """As many heads as `like`, drawn from all others; from the same blocks where `same_blocks` asks for that.

    Blocks whose every head is in `like` give what they have: the harder control may then share heads with it.
    """
    rng = np.random.default_rng(seed)
    taken = set(like)
    if not same_blocks:
        others = [Head(b, h) for b in range(parts.n_layers) for h in range(parts.n_heads) if Head(b, h) not in taken]
        pool = others if len(others) >= len(like) else [*others, *like]
        return [pool[i] for i in rng.choice(len(pool), size=len(like), replace=False)]
    drawn: list[Head] = []
    for block in sorted({head.block for head in like}):
        n = sum(head.block == block for head in like)
        free = [Head(block, h) for h in range(parts.n_heads) if Head(block, h) not in taken]
        pool = free if len(free) >= n else [Head(block, h) for h in range(parts.n_heads)]
        drawn += [pool[i] for i in rng.choice(len(pool), size=n, replace=False)]
    return drawn


@contextmanager
def scaled_heads(
    subject: Subject, heads: Sequence[Head], *, factor: float = 0.0, rescale: Rescale = "token"
) -> Iterator[None]:
    """Multiply the outputs of heads by a factor wherever the model runs inside the block.

    Args:
        subject: The model.
        heads: Which.
        factor: 0 takes them out, 1 changes nothing, more strengthens them.
        rescale: What the other heads make up for. 'token': each token's concatenated heads get their former norm
            back, so that no item depends on its neighbours. 'released': one factor from the norm over batch and
            sequence, padding included, as the released code has it; items in a batch then change each other.
            'none': nothing is made up for.

    Raises:
        BadInputError: The model has no output projection that takes heads, or not those heads.
    """
    parts = subject.parts
    _check(parts, heads)
    by_block: dict[int, list[int]] = {}
    for head in heads:
        by_block.setdefault(head.block, []).append(head.head)
    with ExitStack() as hooks:
        for block, numbers in by_block.items():
            hook = _hook(numbers, parts.head_dim, factor, rescale)
            hooks.callback(parts.layers[block].projection.register_forward_pre_hook(hook).remove)
        yield


def _hook(numbers: Sequence[int], width: int, factor: float, rescale: Rescale) -> Any:
    def scale(_module: Any, args: tuple[Any, ...]) -> tuple[Any, ...]:
        given = args[0]
        scales = given.new_ones(given.shape[-1] // width)
        scales[list(numbers)] = factor
        made = given * scales.repeat_interleave(width)
        return (_rescaled(given, made, rescale), *args[1:])

    return scale


def _rescaled(given: Any, made: Any, rescale: Rescale) -> Any:
    if rescale == "none":
        return made
    import torch

    old, new = given.float(), made.float()  # half precision would overflow in the squares
    if rescale == "token":
        before, after = old.norm(dim=-1, keepdim=True), new.norm(dim=-1, keepdim=True)
    else:
        before, after = old.norm(), new.norm()
    # Where only these heads wrote, nothing is left to rescale.
    up = torch.where(after > 0, before / after.clamp_min(torch.finfo(torch.float32).tiny), torch.ones_like(after))
    return made * up.to(made.dtype)


def _check(parts: Parts, heads: Sequence[Head]) -> None:
    if parts.n_heads == 0 or any(layer.projection is None for layer in parts.layers):
        raise BadInputError(
            "heads: expected an attention output projection in every block that takes the concatenated heads, found "
            "none; heads of this architecture cannot be told apart"
        )
    wrong = [h for h in heads if not (0 <= h.block < parts.n_layers and 0 <= h.head < parts.n_heads)]
    if wrong:
        raise BadInputError(
            f"head {wrong[0]}: expected blocks below {parts.n_layers} and heads below {parts.n_heads}, from 0"
        )
