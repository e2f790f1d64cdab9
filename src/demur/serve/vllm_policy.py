"""A demur policy inside vLLM: the first generated token is the control token that the request's policy decides on.

One class for both of vLLM's interfaces, told apart by their constructors' arguments: the V1 runner calls with a
device, Model Runner V2 with the requests' state. Named by `--logits-processors demur.serve.vllm_policy:DemurPolicy`
and by no entry point: vLLM loads every installed one, and a class for the wrong interface stops the engine.
"""

import logging
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from demur.core.errors import DemurError
from demur.core.policy import Policy
from demur.serve.vllm_model import ServedTokens, served_tokens
from demur.serve.vllm_requests import EngineSettings, engine_book, held_book
from demur.serve.vllm_rows import RowOrder, decided, force, never_emit, read_scores

_log = logging.getLogger(__name__)


def _bases() -> tuple[type, ...]:
    """The base classes of both interfaces; a stand-in for each that is not installed."""
    found: list[type] = []
    for module in ("vllm.v1.sample.logits_processor", "vllm.v1.worker.gpu.sample.logits_processor"):
        try:
            found.append(import_module(module).LogitsProcessor)
        except ImportError:
            found.append(type("Missing", (), {}))
    return tuple(found)


if TYPE_CHECKING:

    class _V1: ...

    class _V2: ...
else:
    _V1, _V2 = _bases()


@dataclass(slots=True)
class _Held:
    """One request of the engine.

    Attributes:
        order: What decides about its first token.
        output: Tokens generated so far, kept current by the engine (V1 only).
        is_open: Whether its first token is still to be decided (V2 only).
    """

    order: RowOrder
    output: Sequence[int] = ()
    is_open: bool = True


class DemurPolicy(_V1, _V2):
    """Forces the decided control token at the first generated position and makes all of them impossible later.

    Raises:
        BadInputError: The policies or the model do not fit each other, or need more than an engine can do.
    """

    def __init__(self, vllm_config: Any, device_or_states: Any, is_pin_memory: bool | None = None) -> None:
        settings = EngineSettings.from_environment(os.environ)
        self._tokens: ServedTokens = served_tokens(vllm_config, settings.tokens)
        self._columns = self._tokens.columns
        self._book = engine_book(settings, self._tokens.source)
        self._states: Any = None if is_pin_memory is not None else device_or_states
        self._held: dict[int, _Held] = {}
        _log.info("demur: %d policies, default %r", len(self._book.policies), self._book.default)

    @classmethod
    def validate_params(cls, sampling_params: Any) -> None:
        """Check a request before it reaches the engine; what is raised becomes HTTP 400.

        Raises:
            ValueError: It asks for an unknown or looser policy, a wrong threshold, or what would change its decision.
        """
        try:
            book = held_book(EngineSettings.from_environment(os.environ))
        except DemurError as error:
            raise ValueError(str(error)) from None
        book.policy_for(sampling_params)

    def is_argmax_invariant(self) -> bool:
        """Always false: a forced token is the likeliest one."""
        return False

    def update_state(self, batch_update: Any) -> None:
        """V1: requests that left, came and moved since the last step, in this order."""
        if batch_update is None:
            return
        for index in batch_update.removed:
            self._held.pop(index, None)
        for index, params, prompt, output in batch_update.added:
            self._held[index] = _Held(self._order(params, trusted=self._tokens.trusts(prompt)), output)
        for source, target, direction in batch_update.moved:
            moved, met = self._held.pop(source, None), self._held.pop(target, None)
            if moved is not None:
                self._held[target] = moved
            if met is not None and direction.name == "SWAP":
                self._held[source] = met

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        """V2: a request enters a slot; whoever was there before is forgotten."""
        self._held[req_idx] = _Held(self._order(sampling_params, trusted=True))
        return True

    def apply_staged_writes(self) -> None:
        """V2: nothing is staged."""

    def apply(self, logits: Any, ctx: Any = None) -> Any:
        """Edit one step's logits in place; (n_rows, n_vocabulary)."""
        rows = self._v1_rows() if ctx is None else self._v2_rows(ctx, logits.shape[0])
        if not rows:
            return logits
        first = [(row, held) for row, held, is_first in rows if is_first]
        found = None
        if first:
            scores, readable = read_scores(logits[[row for row, _ in first]], self._columns)
            found = decided([held.order for _, held in first], scores, readable)
        never_emit(logits, None if len(rows) == logits.shape[0] else [row for row, _, _ in rows], self._columns)
        if found is not None:
            force(logits, [row for row, _ in first], found, self._columns)
        return logits

    def _order(self, params: Any, *, trusted: bool) -> RowOrder:
        policy: Policy | None = None
        try:
            policy = self._book.policy_for(params)
        except ValueError as error:  # refused at the door; whatever comes in by another one is declined
            _log.warning("a request is declined: %s", error)
        return RowOrder(policy=policy, floor=self._book.floor, trusted=trusted)

    def _v1_rows(self) -> list[tuple[int, _Held, bool]]:
        """Rows with a policy, and whether they are at their first generated position; a row is a request."""
        return [(row, held, len(held.output) == 0) for row, held in self._held.items()]

    def _v2_rows(self, ctx: Any, n_rows: int) -> list[tuple[int, _Held, bool]]:
        """The same where a request may own several rows, or be decided before its prompt is complete."""
        slots = ctx.idx_mapping_np
        if len(slots) != n_rows:  # speculative decoding
            slots = ctx.expanded_idx_mapping.cpu().numpy()
        rows = [(row, self._held[slot], slot) for row, slot in enumerate(slots.tolist()) if slot in self._held]
        still_open = [row for row, held, _ in rows if held.is_open]
        seen = dict(zip(still_open, self._seen(ctx, still_open), strict=True))
        return [(row, held, row in seen and self._is_first(held, slot, seen[row])) for row, held, slot in rows]

    def _seen(self, ctx: Any, rows: Sequence[int]) -> Iterable[int]:
        """How many tokens each row's next one follows; asks the device only while a request is open."""
        return (ctx.pos[list(rows)].cpu().numpy() + 1).tolist() if rows else []

    def _is_first(self, held: _Held, slot: int, n_seen: int) -> bool:
        n_prompt = int(self._states.prompt_len.np[slot])
        if n_seen < n_prompt:
            return False
        held.is_open = False
        if n_seen > n_prompt:
            return False
        prompt = self._states.all_token_ids.gpu[slot, :n_prompt].tolist()
        if not self._tokens.trusts(prompt):
            held.order = RowOrder(policy=held.order.policy, floor=held.order.floor, trusted=False)
        return True
