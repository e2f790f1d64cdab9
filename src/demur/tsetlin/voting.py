"""Votes of a machine that no longer changes, at about the cost of reading the rows.

Clauses are laid out by bank and sign, 64 to a word. One table row per feature says which clauses it stops and which
it wakes (see `arrays.Index`), so a row's words, or-ed together, leave the clauses that fire; weights are held as bit
planes, so their sum is a handful of population counts.
"""

from typing import Any, NamedTuple

import numpy as np
from numba import int64, uint64

from demur.tsetlin.arrays import Bits, Clauses, Rows, Whole
from demur.tsetlin.compiled import compiled
from demur.tsetlin.feedback import lowest_bit
from demur.tsetlin.lanes import count_bits
from demur.tsetlin.presence import bits_of, count_rows, flags_of


class Ballot(NamedTuple):
    """Clauses in the order in which they vote; a slot is a place in that order."""

    gates: Bits  # (n_features, 2 * words): clauses a feature stops, clauses it wakes
    untriggered: Bits  # (words,)
    checked: Bits  # (words,): clauses that require more than their trigger
    rest_from: Whole  # (slots + 1,)
    rest: Whole  # the other features they require
    planes: Bits  # (n_planes, words): binary digits of the weights
    bank: Whole  # (words,)
    sign: Whole  # (words,)
    clause: Whole  # (slots,): clause number, -1 where a slot is empty


@compiled
def find_fired(ballot: Any, rows: Any, row: Any, gates: Any, seen: Any, fired: Any) -> None:
    """Clauses that fire on a row, as bits by slot; `seen` remembers which row last had a feature."""
    words = len(fired)
    gates[:words] = uint64(0)
    gates[words:] = ballot.untriggered
    for entry in range(rows.indptr[row], rows.indptr[row + 1]):
        feature = rows.indices[entry]
        seen[feature] = row
        for word in range(len(gates)):
            gates[word] |= ballot.gates[feature, word]
    for word in range(words):
        fired[word] = gates[words + word] & ~gates[word]
        doubtful = fired[word] & ballot.checked[word]
        while doubtful != 0:
            slot = word * 64 + lowest_bit(doubtful)
            for at in range(ballot.rest_from[slot], ballot.rest_from[slot + 1]):
                if seen[ballot.rest[at]] != row:
                    fired[word] &= ~(doubtful & (~doubtful + uint64(1)))
                    break
            doubtful &= doubtful - uint64(1)


@compiled
def count_ballots(ballot: Any, rows: Any, first: Any, last: Any, votes: Any) -> None:
    """Votes of every bank on rows `first` to `last`."""
    gates, fired = np.empty(ballot.gates.shape[1], np.uint64), np.empty(len(ballot.bank), np.uint64)
    seen = np.full(len(ballot.gates), -1, np.int64)
    for row in range(first, last):
        find_fired(ballot, rows, row, gates, seen, fired)
        for word in range(len(fired)):
            if fired[word] != 0:
                total = int64(0)
                for digit in range(len(ballot.planes)):
                    total += count_bits(fired[word] & ballot.planes[digit, word]) << digit
                votes[row, ballot.bank[word]] += ballot.sign[word] * total


@compiled
def write_fired(ballot: Any, rows: Any, first: Any, last: Any, table: Any) -> None:
    """Which clauses fire on rows `first` to `last`: one bit per slot."""
    gates = np.empty(ballot.gates.shape[1], np.uint64)
    seen = np.full(len(ballot.gates), -1, np.int64)
    for row in range(first, last):
        find_fired(ballot, rows, row, gates, seen, table[row - first])


def _slots(clauses: Clauses) -> tuple[Whole, Whole, Whole]:
    """Order of the clauses that can vote, each bank and sign starting a new word; and bank and sign by word."""
    voting = flags_of(clauses.included).any(axis=1) & (clauses.weight > 0)
    order: list[Whole] = []
    banks, signs = [], []
    for bank in range(int(clauses.bank.max()) + 1):
        for sign in (1, -1):
            group = np.flatnonzero(voting & (clauses.bank == bank) & (clauses.sign == sign))
            words = -(-len(group) // 64)
            order.append(np.pad(group, (0, words * 64 - len(group)), constant_values=-1))
            banks += [bank] * words
            signs += [sign] * words
    return np.concatenate(order).astype(np.int64), np.array(banks, np.int64), np.array(signs, np.int64)


def prepare(clauses: Clauses, frequency: Whole) -> Ballot:
    """Lay out the clauses for voting.

    Args:
        clauses: A machine's clauses; empty ones cast no vote.
        frequency: How common each feature is; a clause waits for the rarest feature it requires.
    """
    order, bank, sign = _slots(clauses)
    words, n_features = len(bank), len(frequency)
    gates = np.zeros((n_features, 2, words), np.uint64)
    waits = np.zeros((2, len(order)), bool)
    rest: list[Whole] = []
    half = (-(-n_features // 256)) * 256
    for slot, clause in enumerate(order):
        required = np.empty(0, np.int64)
        if clause >= 0:
            literals = flags_of(clauses.included[clause])
            place, bit = slot // 64, np.uint64(1) << np.uint64(slot % 64)
            required = np.flatnonzero(literals[:n_features])
            required = required[np.argsort(frequency[required], kind="stable")]
            gates[np.flatnonzero(literals[half : half + n_features]), 0, place] |= bit
            gates[required[:1], 1, place] |= bit
            waits[:, slot] = len(required) == 0, len(required) > 1
        rest.append(required[1:])
    weight = np.where(order >= 0, clauses.weight[order], 0) if len(order) else np.zeros(0, np.int64)
    digits = range(int(weight.max(initial=0)).bit_length())
    return Ballot(
        gates.reshape(n_features, 2 * words),
        bits_of(waits[0]),
        bits_of(waits[1]),
        np.concatenate([[0], np.cumsum([len(features) for features in rest])]).astype(np.int64),
        np.concatenate([*rest, np.empty(0, np.int64)]).astype(np.int64),
        np.array([bits_of((weight >> digit) & 1) for digit in digits], np.uint64).reshape(len(digits), words),
        bank,
        sign,
        order,
    )


def votes(ballot: Ballot, rows: Rows, banks: int) -> Whole:
    """Votes of every bank; (n_rows, n_banks)."""
    counted = np.zeros((count_rows(rows), banks), np.int64)
    if len(ballot.bank):
        count_ballots(ballot, rows, 0, count_rows(rows), counted)
    return counted


def fired(ballot: Ballot, rows: Rows, first: int, last: int) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which slots fire on rows `first` to `last`; (last - first, n_slots)."""
    table = np.zeros((last - first, len(ballot.bank)), np.uint64)
    if len(ballot.bank):
        write_fired(ballot, rows, first, last, table)
    return flags_of(table)
