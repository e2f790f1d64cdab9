"""Steering in the worker that serves: gates are scored in the pass that reads a prompt, replies are steered row by row.

Imported only where torch is there. Prompts are read untouched, so that a decision never depends on what follows from
it; a reply whose prompt is to be steered has it read once more. Rows of one step may be steered differently, or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from demur.activations.parts import find_parts
from demur.core.errors import BadInputError
from demur.core.signal import SignalScores
from demur.models.controlled_cache import KeyValues, Unbatched
from demur.models.controlled_reading import Reader
from demur.models.controlled_writing import Reply, Writer
from demur.steer.gates import Gate, gate_scores
from demur.steer.hooks import Steering
from demur.steer.plan import SteeringPlan
from demur.steer.states import Place, States, places_of, reading, states_for
from demur.steer.suffix import TemplateSuffix, suffix_of

if TYPE_CHECKING:
    from demur.models.controlled_worker import Outfit


@dataclass(slots=True, eq=False)
class SteeredReply(Reply):
    """A reply and how much of each step it gets; () or zeros for none."""

    weights: tuple[float, ...] = ()

    @property
    def is_steered(self) -> bool:
        """Whether anything is done to it."""
        return any(self.weights)


def outfit_of(plan: SteeringPlan, tokens: Sequence[int], *, says_tokens: bool = False) -> "Outfit":
    """What makes a worker's reader and writer steer.

    Args:
        plan: What to do and when.
        tokens: Ids of the model's control tokens.
        says_tokens: Whether the model may begin with one of them; otherwise they are never written.
    """

    def fit(reader: Reader, writer: Writer) -> tuple[Reader, Writer]:
        parts, suffix = find_parts(reader.model), suffix_of(writer.tokenizer)
        steering = Steering(parts, plan.interventions, suffix=suffix, name=plan.model)
        gated = SteeredReader(reader, plan.gates, suffix, steering)
        return gated, SteeredWriter(writer, gated, steering, tokens=tokens, says_tokens=says_tokens)

    return fit


class SteeredReader(Reader):
    """Reads prompts untouched and scores the gates on the way.

    Args:
        plain: The worker's own.
        gates: By category; empty where something else decides.
        suffix: What the chat template adds after the user's text.
        steering: For prompts that are read again.
    """

    def __init__(
        self, plain: Reader, gates: Mapping[str, Gate], suffix: TemplateSuffix | None, steering: Steering
    ) -> None:
        self.gates, self.suffix, self.steering = gates, suffix, steering
        self._n_post = None if suffix is None else len(suffix.ids)
        self._places: list[Place] = list(places_of(list(gates.values()), self._n_post))
        self._reach = max((-offset for _, offset in self._places if offset is not None), default=0)
        shared = () if any(offset is None for _, offset in self._places) else plain.prefix
        super().__init__(plain.model, plain.control, prefix=shared, batched=plain.batched)
        self._again = Reader(plain.model, None, prefix=(), batched=plain.batched)
        self._states: States = {}

    def again(self, ids: Sequence[int], weights: Sequence[float]) -> KeyValues | Unbatched | None:
        """Read one prompt under steering: what its reply needs."""
        with self.steering.installed(), self.steering.told([len(ids)], [weights]):
            return self._again.read([ids], keep=True)[0].kept

    def _begins(self, ids: Sequence[int]) -> bool:
        # What a gate reads must not lie in the shared beginning, which is computed once.
        return super()._begins(ids) and len(ids) - len(self.prefix) >= self._reach

    def _forward(self, tails: list[list[int]], gaps: list[int], head: int, cache: Any) -> Any:
        if not self.gates:
            return super()._forward(tails, gaps, head, cache)
        self._check_suffix(tails)
        device = self.model.device
        steps = torch.arange(len(tails[0]) + gaps[0], device=device)[None, :]
        positions = head + steps - torch.tensor(gaps, device=device)[:, None]
        positions = torch.where(positions >= head, positions, -1)
        lengths = torch.tensor([head + len(tail) for tail in tails], device=device)
        with reading(self.steering.parts, self._places, positions, lengths) as states:
            logits = super()._forward(tails, gaps, head, cache)
        self._states = states
        return logits

    def _scores(self, logits: Any) -> SignalScores | None:
        if not self.gates:
            return super()._scores(logits)
        states = {name: states_for(gate, self._states, self._n_post) for name, gate in self.gates.items()}
        return gate_scores(self.gates, states)

    def _check_suffix(self, tails: Sequence[Sequence[int]]) -> None:
        if self.suffix is None:
            return
        for tail in tails:
            if tuple(tail[-len(self.suffix.ids) :]) != self.suffix.ids:
                raise BadInputError(
                    "gate: expected a conversation that the chat template ends as it ends a user's turn; "
                    "end the conversation with the user"
                )


class SteeredWriter(Writer):
    """Writes each reply under its own share of steering.

    Args:
        plain: The worker's own.
        reader: Reads prompts again where they are to be steered.
        steering: What is done.
        tokens: Ids of the model's control tokens.
        says_tokens: Whether a reply may begin with one of them.
    """

    def __init__(
        self,
        plain: Writer,
        reader: SteeredReader,
        steering: Steering,
        *,
        tokens: Sequence[int],
        says_tokens: bool = False,
    ) -> None:
        banned: Sequence[int] = () if says_tokens else tokens
        super().__init__(plain.model, plain.tokenizer, banned=banned, max_rows=plain.max_rows, batched=reader.batched)
        self._reader, self._steering = reader, steering
        self._first_only = list(tokens) if says_tokens else []
        places = [i.where.positions for i in steering.interventions]
        # The last token of a prompt is fed again as the reply begins; in a cache of its own it is not.
        self._rereads = any(p != "reply" and (p != "last" or not reader.batched) for p in places)

    def add(self, reply: Reply) -> None:
        """Let a reply take part from the next step on; its prompt is read again if it is to be steered."""
        if isinstance(reply, SteeredReply) and reply.is_steered and self._rereads:
            reply.kept = self._reader.again(reply.prompt, reply.weights)
        super().add(reply)

    def _logits(self) -> Any:
        if self._rows is None or not any(map(_is_steered, self.active)):
            return self._without_tokens(super()._logits())
        with self._steering.installed(), self._steering.told(*self._told(self.active)):
            return self._without_tokens(super()._logits())

    def _without_tokens(self, logits: Any) -> Any:
        """Logits in which replies that have begun get no control token: some models would say it for ever."""
        begun = [i for i, reply in enumerate(self.active) if reply.ids]
        if not (self._first_only and begun):
            return logits
        rows, ids = torch.tensor(begun)[:, None], torch.tensor(self._first_only)
        changed = logits.float().clone()
        changed[rows.to(logits.device), ids.to(logits.device)] = float("-inf")
        return changed

    def _logits_alone(self, reply: Reply) -> Any:
        if not _is_steered(reply):
            return super()._logits_alone(reply)
        with self._steering.installed(), self._steering.told(*self._told([reply])):
            return super()._logits_alone(reply)

    def _told(self, replies: Sequence[Reply]) -> tuple[list[int], list[tuple[float, ...]]]:
        nothing = (0.0,) * len(self._steering.interventions)
        weights = [(reply.weights if isinstance(reply, SteeredReply) else ()) or nothing for reply in replies]
        return [len(reply.prompt) for reply in replies], weights


def _is_steered(reply: Reply) -> bool:
    return isinstance(reply, SteeredReply) and reply.is_steered
