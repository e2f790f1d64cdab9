"""Hooks that copy the asked positions out of a running model, and stop it once everything asked for is copied."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from demur.activations.parts import Parts, first_tensor, state_given
from demur.activations.recording import Floats, Site
from demur.core.errors import BadInputError

Indices = npt.NDArray[np.int64]
Wanted = dict[Site, tuple[int, ...]]


class Enough(Exception):
    """Everything asked for has been copied; the rest of the pass is not needed."""


@dataclass(frozen=True, slots=True, eq=False)
class Tap:
    """One place where states are copied.

    Attributes:
        site: What is copied there.
        column: Where its layer lies on the result's layer axis.
        module: Whose input or output it is.
        is_input: Whether its input is meant rather than its output.
        factor: What the family multiplies that output with before it reaches the stream.
    """

    site: Site
    column: int
    module: Any
    is_input: bool
    factor: float = 1.0


def wanted_layers(parts: Parts, sites: Sequence[Site], layers: Sequence[int] | None) -> Wanted:
    """Layers to record at each site.

    Raises:
        BadInputError: A layer is out of range, or nothing is asked for.
    """
    if not sites:
        raise BadInputError("sites: expected at least one of resid, attn_out, mlp_out, head_out")
    wanted: Wanted = {}
    for site in sites:
        last = parts.n_layers if site == "resid" else parts.n_layers - 1
        chosen = tuple(range(last + 1)) if layers is None else tuple(dict.fromkeys(int(i) for i in layers))
        wrong = [i for i in chosen if not 0 <= i <= last]
        if wrong or not chosen:
            raise BadInputError(f"layers: expected numbers in 0..{last} for {site!r}, got {wrong or 'none'}")
        wanted[site] = chosen
    return wanted


def taps(parts: Parts, wanted: Wanted) -> list[Tap]:
    """Where the wanted states are to be copied.

    Raises:
        BadInputError: The model has no module whose input or output is that site.
    """
    return [_tap(parts, site, layer, column) for site, layers in wanted.items() for column, layer in enumerate(layers)]


def room(parts: Parts, site: Site, shape: tuple[int, int, int]) -> Floats:
    """Space for a recording at a site of shape (prompts, spans, layers), filled with not-a-number."""
    last = (parts.n_heads, parts.head_dim) if site == "head_out" else (parts.d_model,)
    return np.full((*shape, *last), np.nan, dtype=np.float32)


@dataclass(frozen=True, slots=True, eq=False)
class Aim:
    """Which positions of a batch are copied, and to where.

    Attributes:
        rows, tokens: Row and position in the batch, one of each for every state copied.
        prompts, spans: Where that state goes on the result's first two axes.
        shape: Rows and tokens of the batch.
    """

    rows: Any
    tokens: Any
    prompts: Indices
    spans: Indices
    shape: tuple[int, ...]


@dataclass(slots=True)
class Catcher:
    """Copies what the taps say out of one batch after the other.

    Attributes:
        taps: Where to copy.
        out: Result by site.
    """

    taps: Sequence[Tap]
    out: dict[Site, Floats]
    _aim: Aim | None = None
    _caught: list[tuple[Tap, Any]] = field(default_factory=list)

    @contextmanager
    def attached(self) -> Iterator[None]:
        """Hooks on the model within the block, none after it."""
        with ExitStack() as hooks:
            for tap in self.taps:
                if tap.is_input:
                    handle = tap.module.register_forward_pre_hook(self._before(tap), with_kwargs=True)
                else:
                    handle = tap.module.register_forward_hook(self._after(tap))
                hooks.callback(handle.remove)
            yield

    def catch(self, run: Callable[[], object], aim: Aim) -> None:
        """Run a batch until everything aimed at is copied, then put it where it belongs."""
        self._aim = aim
        self._caught.clear()
        try:
            run()
        except Enough:
            pass
        finally:
            self._aim = None
        for tap, states in self._caught:  # after the pass, so that an accelerator is not waited for at every layer
            target = self.out[tap.site]
            target[aim.prompts, aim.spans, tap.column] = states.cpu().numpy().reshape(-1, *target.shape[3:])
        self._caught.clear()

    def _before(self, tap: Tap) -> Callable[..., None]:
        def hook(_module: Any, args: Any, kwargs: Any) -> None:
            self._take(tap, state_given(args, kwargs))

        return hook

    def _after(self, tap: Tap) -> Callable[..., None]:
        def hook(_module: Any, _args: Any, output: Any) -> None:
            self._take(tap, first_tensor(output))

        return hook

    def _take(self, tap: Tap, state: Any) -> None:
        aim = self._aim
        if aim is None:
            return
        state = state.reshape(*aim.shape, state.shape[-1])  # some families run the MLP on a flat list of tokens
        chosen = state[aim.rows.to(state.device), aim.tokens.to(state.device)].float()
        self._caught.append((tap, chosen if tap.factor == 1.0 else chosen * tap.factor))
        if len(self._caught) == len(self.taps):
            raise Enough


def _tap(parts: Parts, site: Site, layer: int, column: int) -> Tap:
    if site == "resid":
        follower = parts.blocks[layer] if layer < parts.n_layers else parts.final_norm
        last = parts.blocks[-1]
        return Tap(site, column, follower, True) if follower is not None else Tap(site, column, last, False)
    block = parts.layers[layer]
    if site == "head_out":
        return Tap(site, column, _present(block.projection if parts.n_heads else None, site, layer), True)
    module = block.attention_write if site == "attn_out" else block.mlp_write
    return Tap(site, column, _present(module, site, layer), False, block.write_scale)


def _present(module: Any, site: Site, layer: int) -> Any:
    if module is None:
        expected = (
            "an output projection that takes the heads" if site == "head_out" else "outputs that the block adds up"
        )
        raise BadInputError(
            f"block {layer} has no {site!r}: expected attention and MLP with {expected}, found none; record 'resid'"
        )
    return module
