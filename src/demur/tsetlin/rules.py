"""Clauses in words: what they ask for, what they vote, and how often they were right on the rows learned from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.tsetlin.arrays import Rows, Whole
from demur.tsetlin.machine import Machine
from demur.tsetlin.presence import count_rows
from demur.tsetlin.voting import fired

ROWS_AT_ONCE = 2048
SHOWN = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """One clause.

    `in_favour` is False for a clause that votes against a class (three or more classes only: with two, a vote against
    one is a vote for the other). `support` counts the rows it fires on; `precision` is the share of them it is right
    about, NaN without support; `examples` are the numbers of the first few.
    """

    label: Any
    in_favour: bool
    present: tuple[str, ...]
    absent: tuple[str, ...]
    weight: int
    support: int
    precision: float
    examples: tuple[int, ...]

    def __str__(self) -> str:
        wanted = [repr(name) for name in self.present] + [f"not {name!r}" for name in self.absent]
        verdict = f"{self.label}" if self.in_favour else f"not {self.label}"
        right = f", right on {self.precision:.0%}" if self.support else ""
        return f"if {' and '.join(wanted)} then {verdict} (weight {self.weight}, fires on {self.support} rows{right})"


@dataclass(frozen=True, eq=False)
class Evidence:
    """What clauses did on the rows learned from."""

    support: Whole  # (n_clauses,)
    right: Whole  # (n_clauses,)
    examples: NDArray[np.int64]  # (n_clauses, SHOWN): row numbers, -1 where there are fewer


def gather_evidence(machine: Machine, rows: Rows, labels: Whole) -> Evidence:
    """Count, for each clause, the rows it fires on and those it is right about; labels are class numbers."""
    ballot, clauses = machine.ballot(), machine.clauses
    slots = np.flatnonzero(ballot.clause >= 0)
    order = ballot.clause[slots]
    aim = clauses.bank[order] if machine.n_banks > 1 else np.ones(len(order), np.int64)
    favours = clauses.sign[order] > 0
    support, right = np.zeros((2, len(clauses.weight)), np.int64)
    examples = np.full((len(clauses.weight), SHOWN), -1, np.int64)
    for start in range(0, count_rows(rows), ROWS_AT_ONCE):
        stop = min(start + ROWS_AT_ONCE, count_rows(rows))
        hits = fired(ballot, rows, start, stop)[:, slots]
        agrees = (labels[start:stop, None] == aim) == favours
        for slot in np.flatnonzero(hits.any(axis=0) & (support[order] < SHOWN)):
            found, clause = np.flatnonzero(hits[:, slot]), order[slot]
            room = examples[clause, support[clause] :]
            room[: len(found)] = start + found[: len(room)]
        support[order] += hits.sum(axis=0)
        right[order] += (hits & agrees).sum(axis=0)
    return Evidence(support, right, examples)


def read_rules(machine: Machine, evidence: Evidence, classes: Sequence[Any], names: Sequence[str]) -> list[Rule]:
    """Clauses that ask for something and vote, those that moved the most votes first."""
    present, absent = machine.literals()
    clauses = machine.clauses
    asks = present.any(axis=1) | absent.any(axis=1)
    moved = clauses.weight * evidence.support
    rules = []
    for clause in sorted(np.flatnonzero(asks & (clauses.weight > 0)), key=lambda c: (-moved[c], c)):
        favours = bool(clauses.sign[clause] > 0)
        label = int(clauses.bank[clause]) if machine.n_banks > 1 else int(favours)
        support = int(evidence.support[clause])
        rules.append(
            Rule(
                label=classes[label],
                in_favour=favours or machine.n_banks == 1,
                present=tuple(names[int(k)] for k in np.flatnonzero(present[clause])),
                absent=tuple(names[int(k)] for k in np.flatnonzero(absent[clause])),
                weight=int(clauses.weight[clause]),
                support=support,
                precision=float(evidence.right[clause] / support) if support else float("nan"),
                examples=tuple(int(row) for row in evidence.examples[clause] if row >= 0),
            )
        )
    return rules
