"""Shorten clauses for reading: leave out literals and clauses that change no vote on given rows.

A clause must still be stopped on every row on which it does not fire, so which literals it can spare is a set-cover
problem: each literal stops some of those rows, and the fewest literals that stop them all are kept (greedily).
A word that must be present reads better than one that must be absent, so it counts for twice the rows it stops.
"""

from typing import Any

import numpy as np
from numba import float64, int64
from numpy.typing import NDArray

from demur.tsetlin.arrays import Bits, Rows, Whole
from demur.tsetlin.compiled import compiled
from demur.tsetlin.lanes import count_bits
from demur.tsetlin.machine import Machine, words_for
from demur.tsetlin.presence import bits_of, count_rows

Flags = NDArray[np.bool_]

ABSENT_WORTH = 0.5


@compiled
def stopped_rows(literals: Any, columns: Any, every: Any) -> Any:
    """For each literal (feature k, or n_features + k for its absence), the rows it stops, as bits."""
    n_features, words = columns.shape
    stops = np.empty((len(literals), words), np.uint64)
    for at in range(len(literals)):
        literal = literals[at]
        for word in range(words):
            if literal < n_features:
                stops[at, word] = every[word] & ~columns[literal, word]
            else:
                stops[at, word] = columns[literal - n_features, word]
    return stops


@compiled
def cover(stops: Any, worth: Any, spared: Any) -> Any:
    """Which literals to keep: the fewest that stop the same rows, by the rows each still adds times its worth."""
    left, kept = np.zeros(stops.shape[1], np.uint64), np.zeros(len(stops), np.bool_)
    for at in range(len(stops)):
        left |= stops[at]
    while True:
        best, value = int64(-1), float64(spared)
        for at in range(len(stops)):
            added = int64(0)
            for word in range(len(left)):
                added += count_bits(stops[at, word] & left[word])
            if not kept[at] and added * worth[at] > value:
                best, value = at, added * worth[at]
        if best < 0:
            return kept
        kept[best] = True
        left &= ~stops[best]


def columns_of(rows: Rows) -> Bits:
    """For each feature, the rows that have it, as bits; (n_features, n_rows / 64)."""
    words = -(-count_rows(rows) // 64)
    table = np.zeros((rows.n_features, words), np.uint64)
    row = np.repeat(np.arange(count_rows(rows)), np.diff(rows.indptr))
    bit = np.uint64(1) << (row % 64).astype(np.uint64)
    np.bitwise_or.at(table, (rows.indices, row // 64), bit)
    return table


def prune(machine: Machine, rows: Rows, *, spared_rows: int = 0) -> Machine:
    """A machine for voting with the fewest literals found that cast the same votes on these rows.

    Args:
        machine: Any machine; it is left as it is.
        rows: Rows whose votes must not change.
        spared_rows: A literal that stops no more than this many rows is spared too (half of that for a word present);
            votes may then change.
    """
    n_features, n_rows = machine.n_features, count_rows(rows)
    columns, every = columns_of(rows), bits_of(np.arange(-(-n_rows // 64) * 64) < n_rows)
    present, absent = machine.literals()
    kept_literals = np.zeros((len(present), 2 * n_features), bool)
    for clause in range(len(present)):
        literals = np.flatnonzero(np.concatenate([present[clause], absent[clause]]))
        worth = np.where(literals < n_features, 1.0, ABSENT_WORTH)
        kept = cover(stopped_rows(literals, columns, every), worth, spared_rows * ABSENT_WORTH)
        if len(literals) and not kept.any():
            kept[0] = True  # it stops nothing here, yet an empty clause would cast no vote
        kept_literals[clause, literals[kept]] = True
    weight = _merge(machine, kept_literals, _silent(kept_literals, columns, every))
    half = words_for(n_features) * 64
    flags = np.zeros((len(present), machine.clauses.included.shape[1] * 64), bool)
    flags[:, :n_features] = kept_literals[:, :n_features]
    if flags.shape[1] > half:
        flags[:, half : half + n_features] = kept_literals[:, n_features:]
    flags[weight == 0] = False
    return machine.with_literals(bits_of(flags), weight)


def _silent(literals: Flags, columns: Bits, every: Bits) -> Flags:
    """Clauses that fire on none of the rows, or ask for nothing."""
    n_features = len(columns)
    silent: Flags = np.logical_not(literals.any(axis=1))
    for clause in np.flatnonzero(~silent):
        firing = every.copy()
        for feature in np.flatnonzero(literals[clause, :n_features]):
            firing &= columns[feature]
        for feature in np.flatnonzero(literals[clause, n_features:]):
            firing &= ~columns[feature]
        silent[clause] = not firing.any()
    return silent


def _merge(machine: Machine, literals: Flags, silent: Any) -> Whole:
    """Weights after dropping silent clauses and settling the votes of clauses that ask for the same."""
    clauses, packed = machine.clauses, np.packbits(literals, axis=1)
    alike: dict[tuple[int, bytes], list[int]] = {}
    for clause in np.flatnonzero((clauses.weight > 0) & ~silent):
        alike.setdefault((int(clauses.bank[clause]), packed[clause].tobytes()), []).append(int(clause))
    weight = np.zeros(len(clauses.weight), np.int64)
    for group in alike.values():
        net = int((clauses.sign[group] * clauses.weight[group]).sum())
        heirs = [clause for clause in group if clauses.sign[clause] == np.sign(net)]
        weight[heirs[:1]] = abs(net)
    return weight
