"""Change a model's activations inside a `with` block, row by row, and leave no trace after it.

The same words come out with a key-value cache and without, in a batch and alone, padded on any side. Gates read the
prompt as the untouched model sees it, before the first token is steered; what they decide holds for the sequence.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from numpy.typing import NDArray

from demur.activations.parts import Parts, find_parts, first_tensor, state_given
from demur.activations.subject import Subject
from demur.core.errors import BadInputError
from demur.steer.interventions import (
    AblateDirection,
    AddDirection,
    Intervention,
    Positions,
    TokenRanges,
    Where,
    at,
    blocks_of,
    check_intervention,
    is_idle,
    raw_addition,
)
from demur.steer.sequences import DecoderCall, Pass, Sequences, decoder_call
from demur.steer.states import places_of, read_states, states_for
from demur.steer.suffix import TemplateSuffix, suffix_of

__all__ = [
    "AblateDirection",
    "AddDirection",
    "Intervention",
    "Positions",
    "Steering",
    "TokenRanges",
    "Where",
    "at",
    "raw_addition",
    "steered",
]
Edit = Callable[[Any], Any]


@contextmanager
def steered(
    model: Subject | Any, interventions: Sequence[Intervention], *, name: str | None = None
) -> Iterator["Steering"]:
    """Apply interventions to everything the model computes inside the block.

    Args:
        model: A `Subject`, or a loaded transformers model. Padded rows need an attention mask: without it padding is
            taken for the prompt's end.
        interventions: What to do; later ones see what earlier ones made of the same state.
        name: Identity of a bare model, to compare with the directions' own; a Subject brings its own.

    Yields:
        The steering, which tells what gates decided.

    Raises:
        BadInputError: A direction of another model or layer, or a span that a bare model cannot find. Inside the
            block: a sequence begun outside it, or numbers that overflow.
    """
    whole = model.model if isinstance(model, Subject) else model
    parts = model.parts if isinstance(model, Subject) else find_parts(model)
    suffix = suffix_of(model.tokenizer) if isinstance(model, Subject) else None
    known = model.name if isinstance(model, Subject) else name
    steering = Steering(parts, interventions, suffix=suffix, name=known)
    with steering.installed(), steering.generating(whole):
        yield steering


class Steering:
    """Interventions on one model.

    Args:
        parts: The model's parts.
        interventions: What to do.
        suffix: What the chat template adds after the user's text; None if unknown.
        name: Identity of the model; None = not compared.

    Raises:
        BadInputError: An intervention does not belong on this model.
    """

    def __init__(
        self,
        parts: Parts,
        interventions: Sequence[Intervention],
        *,
        suffix: TemplateSuffix | None = None,
        name: str | None = None,
    ) -> None:
        for intervention in interventions:
            check_intervention(intervention, n_layers=parts.n_layers, d_model=parts.d_model, model=name)
        self.parts, self.suffix = parts, suffix
        self.interventions = tuple(i for i in interventions if not is_idle(i))
        self.fired: NDArray[np.bool_] = np.zeros((0, len(self.interventions)), dtype=bool)
        self._gates = [i.gate for i in self.interventions if i.gate is not None]
        self._places = list(places_of(self._gates, self._n_post))
        self._muted = False
        self._told: Sequences | None = None
        self._one_call = False
        self._pass: Pass | None = None
        self._held: WeakKeyDictionary[Any, Sequences] = WeakKeyDictionary()

    @property
    def _n_post(self) -> int | None:
        return None if self.suffix is None else len(self.suffix.ids)

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Steer while the block runs."""
        with ExitStack() as hooks:
            if self.interventions:
                decoder = self.parts.decoder
                hooks.callback(decoder.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
                hooks.callback(decoder.register_forward_hook(self._end, with_kwargs=True, always_call=True).remove)
            for number, intervention in enumerate(self.interventions):
                for handle in self._sites(number, intervention):
                    hooks.callback(handle.remove)
            yield

    @contextmanager
    def told(self, lengths: Sequence[int], weights: Sequence[Sequence[float]]) -> Iterator[None]:
        """Run passes whose rows the caller knows; gates are not asked.

        Args:
            lengths: Tokens of each row's prompt.
            weights: How much of each intervention each row gets; (rows, interventions), idle ones left out.
        """
        device = self.parts.embedding.weight.device
        before = self._told
        self._told = Sequences(
            torch.tensor(list(lengths), device=device),
            torch.tensor([list(row) for row in weights], dtype=torch.float32, device=device),
        )
        try:
            yield
        finally:
            self._told = before

    @contextmanager
    def muted(self) -> Iterator[None]:
        """Run passes that are not steered."""
        before, self._muted = self._muted, True
        try:
            yield
        finally:
            self._muted = before

    @contextmanager
    def generating(self, model: Any) -> Iterator[None]:
        """Let one call of `model.generate` be one batch of sequences, also where it recomputes them at each step."""
        own = model.__dict__.get("generate")
        original: Any = getattr(model, "generate", None)

        def generate(*args: Any, **kwargs: Any) -> Any:
            self._check_generation(model, kwargs)
            self._told, self._one_call = None, True
            try:
                return original(*args, **kwargs)
            finally:
                self._told, self._one_call = None, False

        if self.interventions and original is not None:
            model.generate = generate
        try:
            yield
        finally:
            if own is not None:
                model.generate = own
            else:
                model.__dict__.pop("generate", None)

    def _check_generation(self, model: Any, kwargs: Mapping[str, Any]) -> None:
        config = kwargs.get("generation_config") or getattr(model, "generation_config", None)
        if kwargs.get("prefill_chunk_size") or getattr(config, "prefill_chunk_size", None):
            raise BadInputError("steering: expected prompts read in one pass; switch prefill_chunk_size off")

    def _sites(self, number: int, intervention: Intervention) -> Iterator[Any]:
        """Register the hooks of one intervention."""
        layers, blocks = self.parts.layers, self.parts.blocks
        for index in blocks_of(intervention, len(layers)):
            edit = self._edit(number, intervention, index)
            if index == len(layers):
                yield blocks[-1].register_forward_hook(_after(edit))
            else:
                yield blocks[index].register_forward_pre_hook(_before(edit), with_kwargs=True)
            if isinstance(intervention, AblateDirection) and index < len(layers):
                for write in (layers[index].attention_write, layers[index].mlp_write):
                    if write is None:
                        raise BadInputError(
                            f"block {index}: expected attention and MLP outputs that add up to what the block adds, "
                            "found none; this architecture cannot be ablated, only added to"
                        )
                    yield write.register_forward_hook(_after(edit))

    def _edit(self, number: int, intervention: Intervention, index: int) -> Edit:
        vector = torch.from_numpy(intervention.direction.vector.copy()).to(self.parts.embedding.weight.device)
        where = intervention.where.positions
        amount = intervention.amount(index) if isinstance(intervention, AddDirection) else 0.0

        def edit(state: Any) -> Any:
            if self._muted:
                return state
            shares = self._shares(number, intervention, where, state)
            if shares is None:
                return state
            unit, wide = vector.to(state.device), _wide(state)
            if isinstance(intervention, AddDirection):
                change = amount * unit.to(wide.dtype)
            else:
                change = -(wide @ unit.to(wide.dtype))[..., None] * unit.to(wide.dtype)
            shares = shares.to(state.device).reshape(state.shape[:-1])[..., None]  # some MLPs see rows end to end
            made = torch.where(shares != 0, wide + shares.to(wide.dtype) * change, wide).to(state.dtype)
            _check_overflow(state, made, index)
            return made

        return edit

    def _shares(self, number: int, intervention: Intervention, where: Positions, state: Any) -> Any:
        if self._pass is not None:
            return self._pass.shares(number, where)
        if where == "all" and intervention.gate is None:  # a block that is called by itself
            return torch.ones(state.shape[:-1], device=state.device)
        raise BadInputError("steering: expected blocks called by their decoder, got a block called by itself")

    def _begin(self, decoder: Any, args: Any, kwargs: Any) -> None:
        if self._muted:
            return
        call = decoder_call(decoder, args, kwargs)
        self._pass = Pass(call.positions, self._sequences(call))

    def _end(self, _decoder: Any, _args: Any, _kwargs: Any, output: Any) -> None:
        if self._muted or self._pass is None:
            return
        cache = getattr(output, "past_key_values", None)
        if cache is not None and (self._told is None or self._one_call):
            self._held[cache] = self._pass.sequences
        self._pass = None

    def _sequences(self, call: DecoderCall) -> Sequences:
        rows = len(call.positions)
        if self._told is not None:
            return self._told.for_rows(rows)
        if call.n_past == 0:
            found = self._decided(call)
        elif not self._one_call and call.cache in self._held:
            return self._held[call.cache].for_rows(rows)
        elif self._gates or any(i.where.positions != "all" for i in self.interventions):
            raise BadInputError(
                "steering: expected sequences begun inside the block, got a cache from outside it; begin with the "
                "whole prompt, or steer all tokens without a gate"
            )
        else:
            found = Sequences(call.lengths, self._ones(rows))
        if self._one_call:
            self._told = found
        return found

    def _decided(self, call: DecoderCall) -> Sequences:
        """New sequences: every token given is prompt, and gates are asked."""
        weights = self._ones(len(call.positions))
        if self._gates:
            if self.suffix is not None:
                self.suffix.check(call)
            with self.muted():
                states = read_states(self.parts, call, self._places)
            for number, intervention in enumerate(self.interventions):
                if intervention.gate is not None:
                    fires = intervention.gate.fires(states_for(intervention.gate, states, self._n_post))
                    weights[:, number] = torch.from_numpy(fires.astype(np.float32)).to(weights.device)
        self.fired = weights.bool().cpu().numpy()
        return Sequences(call.lengths, weights)

    def _ones(self, rows: int) -> Any:
        return torch.ones((rows, len(self.interventions)), device=self.parts.embedding.weight.device)


def _before(edit: Edit) -> Any:
    def hook(_module: Any, args: Any, kwargs: Any) -> Any:
        state = state_given(args, kwargs)
        made = edit(state)
        if made is state:
            return None
        return (
            tuple(made if value is state else value for value in args),
            {key: made if value is state else value for key, value in kwargs.items()},
        )

    return hook


def _after(edit: Edit) -> Any:
    def hook(_module: Any, _args: Any, output: Any) -> Any:
        state = first_tensor(output)
        made = edit(state)
        if made is state:
            return None
        if isinstance(output, tuple):
            return tuple(made if value is state else value for value in output)
        return made

    return hook


def _wide(state: Any) -> Any:
    """States in a type whose sums do not overflow."""
    return state.float() if state.dtype in (torch.float16, torch.bfloat16) else state


def _check_overflow(before: Any, after: Any, index: int) -> None:
    if after.dtype == torch.float16 and not bool(torch.isfinite(after).all()) and bool(torch.isfinite(before).all()):
        raise BadInputError(
            f"steering at residual index {index}: states exceed what float16 holds (65504); load the model in "
            "bfloat16 or float32, or steer with less strength"
        )
