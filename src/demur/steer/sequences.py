"""Which token of which row a forward pass is about to compute: found from what the decoder is called with.

Counted by attention mask or position ids, never by token ids: padding may be on either side and look like any token.
With a key-value cache a pass brings only new tokens; what was decided on a prompt is kept with its cache.
"""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from demur.core.errors import BadInputError
from demur.steer.interventions import Positions, TokenRanges


@dataclass(frozen=True, slots=True, eq=False)
class DecoderCall:
    """What a decoder is called with.

    Attributes:
        given: Arguments by name.
        positions: Number of each token within its row, -1 for padding; (rows, tokens).
        n_past: Tokens in the cache.
    """

    given: Mapping[str, Any]
    positions: Any
    n_past: int

    @property
    def cache(self) -> Any:
        """The key-value cache; None if there is none."""
        return self.given.get("past_key_values")

    @property
    def lengths(self) -> Any:
        """Real tokens of each row so far; (rows,)."""
        return self.positions.amax(dim=1) + 1


def decoder_call(decoder: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> DecoderCall:
    """Take a call of a decoder apart."""
    signature = inspect.signature(decoder.forward)
    bound = signature.bind_partial(*args, **kwargs).arguments
    rest = next((p.name for p in signature.parameters.values() if p.kind is p.VAR_KEYWORD), "")
    given = {**bound.pop(rest, {}), **bound}
    tokens = given.get("input_ids") if given.get("input_ids") is not None else given["inputs_embeds"]
    cache = given.get("past_key_values")
    n_past = int(cache.get_seq_length()) if cache is not None and hasattr(cache, "get_seq_length") else 0
    return DecoderCall(given, _positions(given, tokens, n_past), n_past)


def _positions(given: Mapping[str, Any], tokens: Any, n_past: int) -> Any:
    rows, n = tokens.shape[:2]
    mask, numbers = given.get("attention_mask"), given.get("position_ids")
    if mask is not None and getattr(mask, "ndim", 0) == 2 and mask.shape[1] >= n:
        seen = mask.long().cumsum(dim=1)[:, -n:] - 1
        return torch.where(mask[:, -n:].bool(), seen, -1)
    if numbers is not None and numbers.ndim == 2:
        return numbers.expand(rows, n)
    return torch.arange(n_past, n_past + n, device=tokens.device).expand(rows, n)


@dataclass(frozen=True, slots=True, eq=False)
class Sequences:
    """What is known of the rows of a batch from their first pass to their last.

    Attributes:
        lengths: Tokens of each prompt; (rows,).
        weights: How much of each intervention each row gets, 0 for none and 1 for all; (rows, interventions).
    """

    lengths: Any
    weights: Any

    def for_rows(self, rows: int) -> "Sequences":
        """The same for a batch in which every row was repeated, as beams and several samples of a prompt are.

        Raises:
            BadInputError: It is another batch.
        """
        known = len(self.lengths)
        if rows == known:
            return self
        if rows % known:
            raise BadInputError(f"steering: expected {known} rows as in the prompt's pass, got {rows}")
        times = rows // known
        return Sequences(self.lengths.repeat_interleave(times), self.weights.repeat_interleave(times, dim=0))


@dataclass(slots=True, eq=False)
class Pass:
    """One forward pass of a decoder.

    Attributes:
        positions: Number of each token within its row, -1 for padding; (rows, tokens).
        sequences: What is known of the rows.
    """

    positions: Any
    sequences: Sequences
    _masks: dict[tuple[int, Positions], Any] = field(default_factory=dict)

    def shares(self, number: int, where: Positions) -> Any:
        """How much of an intervention each token gets; (rows, tokens), or None where it is nothing for all.

        Args:
            number: Number of the intervention.
            where: Its positions.
        """
        key = (number, where)
        if key not in self._masks:
            chosen = chosen_tokens(where, self.positions, self.sequences.lengths)
            shares = self.sequences.weights[:, number, None] * chosen
            self._masks[key] = shares if bool(shares.any()) else None
        return self._masks[key]


def chosen_tokens(where: Positions, positions: Any, lengths: Any) -> Any:
    """Tokens that positions mean; bool (rows, tokens).

    Args:
        where: Which tokens.
        positions: Number of each token within its row, -1 for padding; (rows, tokens).
        lengths: Tokens of each prompt; (rows,).
    """
    prompt = lengths[:, None]
    real = positions >= 0
    match where:
        case "all":
            return real
        case "prompt":
            return real & (positions < prompt)
        case "reply":
            return positions >= prompt
        case "last":
            return real & (positions >= prompt - 1)
        case TokenRanges(ranges=ranges):
            return _in_ranges(ranges, positions, prompt)
    wanted = torch.stack([prompt[:, 0] + k if k < 0 else torch.full_like(prompt[:, 0], k) for k in where], dim=1)
    found = (positions[:, :, None] == wanted[:, None, :]).any(dim=-1)
    return found & real & (positions < prompt)


def _in_ranges(ranges: tuple[tuple[int, int], ...], positions: Any, prompt: Any) -> Any:
    rows = len(positions)
    if rows % len(ranges):
        raise BadInputError(f"positions: expected a range for each of {rows} rows, got {len(ranges)}")
    borders = torch.tensor(ranges, device=positions.device).repeat_interleave(rows // len(ranges), dim=0)
    borders = torch.where(borders < 0, prompt + borders, borders)
    begins, ends = borders[:, :1], torch.minimum(borders[:, 1:], prompt)
    return (positions >= begins) & (positions < ends) & (positions >= 0)
