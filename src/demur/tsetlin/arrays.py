"""The arrays a Tsetlin machine is made of, as named tuples that kernels can take.

Clauses are numbered; clause c belongs to bank `bank[c]` (one bank per class, a single one for two classes) and votes
`sign[c] * weight[c]` when it fires. Words of 64 bits hold 64 literals of one clause, or one literal of 64 clauses.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Bits = NDArray[np.uint64]
Whole = NDArray[np.int64]


class Rows(NamedTuple):
    """Which features each row has: row r has `indices[indptr[r]:indptr[r + 1]]`."""

    indptr: Whole
    indices: NDArray[np.int32]
    n_features: int


class Clauses(NamedTuple):
    """What is learned: counters in bit planes, their highest plane apart since it is the clause itself."""

    counters: Bits  # (n_clauses, blocks * 28)
    included: Bits  # (n_clauses, blocks * 4): words present, then words absent
    weight: Whole  # (n_clauses,), never negative
    sign: Whole  # (n_clauses,), +1 votes for its bank's class, -1 against
    bank: Whole  # (n_clauses,)


class Index(NamedTuple):
    """From a feature to the clauses it stops or wakes, kept up to date while the clauses change.

    A clause can fire only if its rarest required feature, its trigger, is there, or if it requires none.
    """

    conflict: Bits  # (n_features, n_clauses / 64): clauses that want the feature absent
    trigger: Bits  # (n_features, n_clauses / 64): clauses of which it is the trigger
    untriggered: Bits  # (n_clauses / 64,): clauses that require no feature
    n_present: Whole  # (n_clauses,): required features
    trigger_of: Whole  # (n_clauses,): -1 where none is required
    frequency: Whole  # (n_features,)


class Chances(NamedTuple):
    """A pool of random bits that are 1 with probability odds / 2**precision, renewed piece by piece."""

    words: Bits
    odds: int
    precision: int


class Rates(NamedTuple):
    """How strongly a machine learns; see the classifier's parameters."""

    threshold: float
    boost: np.uint64  # all ones or zero
    budget: int  # 0: none
    weighted: int
    active: Bits  # (n_clauses / 64,): clauses not dropped in this pass


class Lessons(NamedTuple):
    """Which rows of a batch each bank learns from; row `at` of bank b lies at `place[b, at]` in the batch."""

    size: Whole  # (n_banks,)
    place: Whole  # (n_banks, batch)
    wanted: Whole  # (n_banks, batch), +1 or -1
    chance: NDArray[np.float64]  # (n_banks, batch): with which a clause takes the row


class Batch(NamedTuple):
    """Room to work in: one batch of rows and what is known about it."""

    real: Bits  # (words,): ones for the bits that stand for features
    packed: Bits  # (batch, words)
    votes: Whole  # (batch, n_banks)
    drawn: Bits  # (words of a bank's clauses, batch)
    before: Bits  # a clause's literals before the batch


class Study(NamedTuple):
    """Everything one pass over the rows works with."""

    clauses: Clauses
    lookup: Index
    rates: Rates
    chances: Chances
    lessons: Lessons
    batch: Batch


def room(batch: int, clauses: Clauses, real: Bits) -> tuple[Lessons, Batch]:
    """Allocate what one pass over the rows needs."""
    (n_clauses, n_literal_words), n_banks = clauses.included.shape, int(clauses.bank[-1]) + 1
    shape = (n_banks, batch)
    lessons = Lessons(
        np.zeros(n_banks, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.int64), np.zeros(shape, np.float64)
    )
    return lessons, Batch(
        real,
        np.zeros((batch, len(real)), np.uint64),
        np.zeros((batch, n_banks), np.int64),
        np.zeros((n_clauses // n_banks // 64 + 2, batch), np.uint64),
        np.zeros(n_literal_words, np.uint64),
    )
