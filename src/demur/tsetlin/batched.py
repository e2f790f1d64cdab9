"""The same machine learned with PyTorch, a whole batch at once, for a GPU.

Here every clause answers a batch as it stood before the batch, and its counters take the sum of the batch's feedback.
The processor's kernel lets a clause change between two rows. So the two do not agree bit by bit, seed by seed; they
agree in distribution: accuracy and votes over seeds. Give both the same batch size when comparing them.
"""

from typing import Any

import numpy as np

from demur.core.errors import MissingExtraError
from demur.tsetlin.arrays import Rows, Whole
from demur.tsetlin.machine import LearningRates, Machine
from demur.tsetlin.presence import count_rows, pick

try:
    import torch
except ImportError as missing:
    raise MissingExtraError("learning a Tsetlin machine with device='cuda' or 'cpu'", extra="hf") from missing

INCLUDED = 128
CEILING = 255
ROWS_AT_ONCE = 1024


class BatchedTrainer:
    """Holds a machine's counters on a device while it learns; `finish` writes them back."""

    def __init__(self, machine: Machine, device: str) -> None:
        self.machine, self.device = machine, torch.device(device)
        self.levels = torch.as_tensor(machine.levels().astype(np.int16), device=self.device)
        self.weight = torch.as_tensor(machine.clauses.weight, device=self.device)
        self.sign = torch.as_tensor(machine.clauses.sign, device=self.device)
        self.bank = torch.as_tensor(machine.clauses.bank, device=self.device)
        self.precision = torch.float16 if self.device.type == "cuda" else torch.float32

    def learn(self, rows: Rows, labels: Whole, rates: LearningRates, generator: np.random.Generator) -> None:
        """Go through the rows once, in random order; labels are class numbers."""
        dice = torch.Generator(self.device).manual_seed(int(generator.integers(2**62)))
        awake = torch.rand(len(self.weight), generator=dice, device=self.device) >= rates.clause_drop
        order = generator.permutation(len(labels))
        with torch.no_grad():
            for start in range(0, len(order), rates.batch_size):
                chosen = order[start : start + rates.batch_size]
                literals = self._literals(pick(rows, chosen))
                wanted = torch.as_tensor(_wanted(labels[chosen], self.machine.n_banks, generator), device=self.device)
                self._step(literals, wanted, awake, rates, dice)

    def finish(self) -> None:
        """Write counters and weights back into the machine."""
        self.machine.set_levels(self.levels.to(torch.uint8).cpu().numpy(), self.weight.cpu().numpy())

    def votes(self, rows: Rows) -> Whole:
        """Votes of every bank; (n_rows, n_banks). Clauses without literals cast none."""
        kept = (self.levels >= INCLUDED).any(dim=1)
        counted = []
        with torch.no_grad():
            for start in range(0, count_rows(rows), ROWS_AT_ONCE):
                chosen = np.arange(start, min(start + ROWS_AT_ONCE, count_rows(rows)))
                counted.append(self._votes(self._fired(self._literals(pick(rows, chosen))) & kept).cpu().numpy())
        return np.concatenate(counted).astype(np.int64)

    def _literals(self, rows: Rows) -> Any:
        present = torch.zeros(count_rows(rows), rows.n_features, dtype=self.precision, device=self.device)
        row = np.repeat(np.arange(count_rows(rows)), np.diff(rows.indptr))
        places = torch.as_tensor(np.stack([row, rows.indices]), device=self.device)
        present[places[0], places[1]] = 1
        return torch.cat([present, 1 - present], dim=1)[:, : self.levels.shape[1]]

    def _fired(self, literals: Any) -> Any:
        broken = (1 - literals) @ (self.levels >= INCLUDED).to(self.precision).T
        return broken == 0

    def _votes(self, fired: Any) -> Any:
        cast = fired.to(torch.int64) * (self.sign * self.weight)
        votes = torch.zeros(len(fired), self.machine.n_banks, dtype=torch.int64, device=self.device)
        return votes.index_add_(1, self.bank, cast)

    def _step(self, literals: Any, wanted: Any, awake: Any, rates: LearningRates, dice: Any) -> None:
        fired = self._fired(literals)
        votes = self._votes(fired & awake).clamp(-rates.threshold, rates.threshold)
        chance = (rates.threshold - wanted * votes) / (2 * rates.threshold) * (wanted != 0)
        taken = torch.rand(fired.shape, generator=dice, device=self.device) < chance[:, self.bank]
        taken &= awake
        asked = wanted[:, self.bank] == self.sign
        rejected = taken & ~asked & fired
        if rates.literal_budget:
            fired &= (self.levels >= INCLUDED).sum(dim=1) <= rates.literal_budget
        self._move(literals, taken & asked & fired, taken & asked & ~fired, rejected, rates, dice)
        if rates.weighted:
            gained, lost = (taken & asked & fired).sum(dim=0), rejected.sum(dim=0)
            self.weight = torch.where(lost > 0, (self.weight + gained - lost).clamp(min=1), self.weight + gained)

    def _move(self, literals: Any, right: Any, silent: Any, wrong: Any, rates: LearningRates, dice: Any) -> None:
        true, false = literals, 1 - literals
        right, wrong = right.to(self.precision), wrong.to(self.precision)
        rise = (right.T @ true).float()
        if not rates.boost_true_positive:
            rise = torch.binomial(rise, torch.full_like(rise, 1 - 1 / rates.specificity), generator=dice)
        sink = (right.T @ false).float() + silent.sum(dim=0).float()[:, None]
        sink = torch.binomial(sink, torch.full_like(sink, 1 / rates.specificity), generator=dice)
        levels = (self.levels + rise - sink).clamp(0, CEILING)
        # One of the literals that would have stopped the clause is enough: none rises past the line.
        pushed = torch.minimum(levels + (wrong.T @ false).float(), levels.clamp(min=INCLUDED))
        self.levels = pushed.to(torch.int16)


def _wanted(labels: Whole, banks: int, generator: np.random.Generator) -> Whole:
    """+1 for the bank of a row's class, -1 for one other, drawn; (n_rows, n_banks)."""
    if banks == 1:
        return np.where(labels == 1, 1, -1)[:, None].astype(np.int64)
    wanted = np.zeros((len(labels), banks), np.int64)
    contrast = generator.integers(banks - 1, size=len(labels))
    wanted[np.arange(len(labels)), contrast + (contrast >= labels)] = -1
    wanted[np.arange(len(labels)), labels] = 1
    return wanted
