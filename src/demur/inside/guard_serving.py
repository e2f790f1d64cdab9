"""A guard inside the engine that serves: its states are read in the pass that reads the prompt anyway.

Imported only where torch is there. What a policy declines is answered in fixed words; the model's own are never forced.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from demur.activations.parts import find_parts
from demur.core.errors import BadInputError
from demur.core.signal import SignalScores, scores_from_probabilities
from demur.inside.guard import LatentGuard
from demur.inside.guard_signal import NAME, from_end
from demur.models.controlled_reading import Reader
from demur.models.controlled_transformers import TransformersControlled
from demur.models.controlled_writing import Writer
from demur.steer.states import Place, States, reading
from demur.steer.suffix import suffix_of

if TYPE_CHECKING:
    from demur.models.adapter import ControlTokens
    from demur.models.controlled_worker import Outfit


@dataclass(slots=True, eq=False)
class GuardedModel(TransformersControlled):
    """A controlled model whose signal is a guard on its own states; made by `guarded_model`.

    Attributes:
        guard: The guard.
    """

    guard: LatentGuard | None = None

    @property
    def signal(self) -> str:
        """Kind of signal, as in a policy's `source.name`."""
        return NAME

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of its scores."""
        assert self.guard is not None
        return self.guard.columns


class GuardedReader(Reader):
    """Reads prompts and scores them on the way.

    Args:
        plain: The worker's own.
        guard: Calibrated.
        tokenizer: Of the model.

    Raises:
        BadInputError: The chat template does not end the user's turn, or the guard's span is not of a prompt.
    """

    def __init__(self, plain: Reader, guard: LatentGuard, tokenizer: Any) -> None:
        super().__init__(plain.model, None, prefix=plain.prefix, batched=plain.batched)
        suffix = suffix_of(tokenizer)
        if suffix is None:
            raise BadInputError("guard: expected a chat template that ends the user's turn, found none")
        self._guard, self._suffix, self._parts = guard, suffix.ids, find_parts(plain.model)
        offset = from_end(guard.options.span, len(suffix.ids))
        self._places: list[Place] = [(layer, offset) for layer in guard.layers]
        self._states: States = {}

    def _begins(self, ids: Sequence[int]) -> bool:
        # What the guard reads must not lie in the shared beginning, which is computed once.
        return super()._begins(ids) and len(ids) - len(self.prefix) > len(self._suffix)

    def _forward(self, tails: list[list[int]], gaps: list[int], head: int, cache: Any) -> Any:
        for tail in tails:
            if tuple(tail[-len(self._suffix) :]) != self._suffix:
                raise BadInputError(
                    "guard: expected a conversation that the chat template ends as it ends a user's turn; "
                    "end the conversation with the user"
                )
        device = self.model.device
        steps = torch.arange(len(tails[0]) + gaps[0], device=device)[None, :]
        positions = head + steps - torch.tensor(gaps, device=device)[:, None]
        positions = torch.where(positions >= head, positions, -1)
        lengths = torch.tensor([head + len(tail) for tail in tails], device=device)
        with reading(self._parts, self._places, positions, lengths) as states:
            logits = super()._forward(tails, gaps, head, cache)
        self._states = states
        return logits

    def _scores(self, logits: Any) -> SignalScores | None:
        states = np.stack([self._states[place] for place in self._places], axis=1)
        return scores_from_probabilities(self._guard.columns, self._guard.column_proba(states))


def guarded_model(
    guard: LatentGuard,
    load: Callable[[], tuple[Any, Any]],
    *,
    name: str,
    identity: str,
    control: "ControlTokens | None" = None,
) -> GuardedModel:
    """A controlled model under a guard; weights are read when it is first asked.

    Args:
        guard: Calibrated.
        load: Makes (model, tokenizer); called once, in the worker.
        name: What requests call it.
        identity: Identity of the guard's signal.
        control: Control tokens of the model underneath; never written, for the guard decides.

    Raises:
        BadInputError: The guard is not calibrated.
    """
    if guard.calibration is None:
        raise BadInputError("guard: expected a calibrated guard; fit it again with 'demur guard fit'")
    outfit = _outfit(guard, control.ids if control else ())
    return GuardedModel(name=name, identity=identity, control=None, load=load, outfit=outfit, guard=guard)


def _outfit(guard: LatentGuard, banned: Sequence[int]) -> "Outfit":
    def fit(reader: Reader, writer: Writer) -> tuple[Reader, Writer]:
        if not banned:
            return GuardedReader(reader, guard, writer.tokenizer), writer
        own = Writer(writer.model, writer.tokenizer, banned=banned, max_rows=writer.max_rows, batched=reader.batched)
        return GuardedReader(reader, guard, writer.tokenizer), own

    return fit
