"""Keys and values of attention, kept from reading a request to the end of its reply.

Imported only where torch is there. A row is one sequence; rows of a batch have lengths of their own, so replies
can begin and end at any step.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache, DynamicCache

SMALLEST_WIDTH = 128


@dataclass(slots=True, eq=False)
class KeyValues:
    """Keys and values of one sequence.

    Attributes:
        layers: Keys and values of each layer; (heads, tokens, width of a head).
    """

    layers: list[tuple[Any, Any]]

    def __len__(self) -> int:
        return int(self.layers[0][0].shape[-2])

    def without_last(self) -> "KeyValues":
        """All but the last token."""
        return KeyValues([(k[:, :-1], v[:, :-1]) for k, v in self.layers])


@dataclass(slots=True, eq=False)
class Unbatched:
    """What a model that is not batched keeps of one prompt.

    Attributes:
        cache: Transformers' own cache.
        logits: Of the next token; (1, vocabulary).
    """

    cache: Any
    logits: Any


def repeated(prefix: KeyValues | None, rows: int, config: Any) -> Any:
    """A transformers cache that holds the same beginning in every row; empty without one."""
    cache = DynamicCache(config=config)
    for number, (k, v) in enumerate(prefix.layers if prefix else ()):
        cache.update(k[None].expand(rows, -1, -1, -1), v[None].expand(rows, -1, -1, -1), number)
    return cache


def row_of(cache: Any, row: int, *, head: int, gap: int) -> KeyValues:
    """One row of a transformers cache without its padding, as its own memory.

    Args:
        cache: After a forward pass.
        row: Number of the row.
        head: Tokens before the padding.
        gap: Tokens of padding.
    """
    layers = []
    for layer in cache.layers:
        k, v = layer.keys[row], layer.values[row]
        layers.append(tuple(torch.cat([x[:, :head], x[:, head + gap :]], dim=1) for x in (k, v)))
    return KeyValues(layers)


class RowCache(Cache):  # type: ignore[misc]
    """A cache in which every row writes at its own position; rows 0 ... n - 1 are in use.

    Args:
        max_rows: Most sequences at once.
    """

    def __init__(self, max_rows: int) -> None:
        super().__init__(layers=[])
        self.max_rows = max_rows
        self.lengths: list[int] = []
        self._keys: list[Any] = []
        self._values: list[Any] = []
        self._rows: Any = None
        self._positions: Any = None
        self._used = 0

    def add(self, row: KeyValues) -> None:
        """Take a sequence in as the last row."""
        self._make_room(len(row) + 1, row)
        number, n = len(self.lengths), len(row)
        for layer, (k, v) in enumerate(row.layers):
            self._keys[layer][number, :, :n] = k
            self._values[layer][number, :, :n] = v
        self.lengths.append(n)

    def remove(self, number: int) -> None:
        """Drop a row; the last one takes its place. Memory is given back with the last row."""
        last = len(self.lengths) - 1
        if number != last:
            n = self.lengths[last]
            for tensors in (self._keys, self._values):
                for tensor in tensors:
                    tensor[number, :, :n] = tensor[last, :, :n]
            self.lengths[number] = self.lengths[last]
        self.lengths.pop()
        if not self.lengths:
            self._keys, self._values = [], []

    def begin_step(self, dtype: Any, device: Any) -> tuple[Any, Any]:
        """Positions of the tokens about to be fed, and the mask that shows each row its own past.

        Returns:
            Position ids (n, 1) and an additive mask (n, 1, 1, tokens).
        """
        self._used = max(self.lengths) + 1
        self._make_room(self._used, None)
        self._rows = torch.arange(len(self.lengths), device=device)
        self._positions = torch.tensor(self.lengths, device=device)
        unseen = torch.arange(self._used, device=device)[None, :] > self._positions[:, None]
        mask = torch.zeros(unseen.shape, dtype=dtype, device=device).masked_fill(unseen, torch.finfo(dtype).min)
        return self._positions[:, None], mask[:, None, None, :]

    def end_step(self) -> None:
        """Count the tokens that were fed."""
        self.lengths = [n + 1 for n in self.lengths]

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Write one token per row and return what each row sees; called by the model."""
        keys, values, n = self._keys[layer_idx], self._values[layer_idx], len(self.lengths)
        keys[self._rows, :, self._positions] = key_states[:, :, 0]
        values[self._rows, :, self._positions] = value_states[:, :, 0]
        return keys[:n, :, : self._used], values[:n, :, : self._used]

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Tokens of the longest row."""
        return max(self.lengths, default=0)

    def _make_room(self, width: int, like: KeyValues | None) -> None:
        if not self._keys and like is not None:
            width = max(SMALLEST_WIDTH, 1 << (width - 1).bit_length())
            for k, v in like.layers:
                self._keys.append(k.new_zeros((self.max_rows, k.shape[0], width, k.shape[-1])))
                self._values.append(v.new_zeros((self.max_rows, v.shape[0], width, v.shape[-1])))
        elif self._keys and width > self._keys[0].shape[2]:
            wider = 1 << (width - 1).bit_length()
            self._keys, self._values = _widened(self._keys, wider), _widened(self._values, wider)


def _widened(tensors: Sequence[Any], width: int) -> list[Any]:
    found = []
    for tensor in tensors:
        wide = tensor.new_zeros((*tensor.shape[:2], width, tensor.shape[3]))
        wide[:, :, : tensor.shape[2]] = tensor
        found.append(wide)
    return found
