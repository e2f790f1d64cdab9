"""Kernels that keep the word-to-clause index of a learning machine and count its votes with it.

At one or two per cent of the words present, walking a row's words costs a few hundred instructions for *all* clauses,
where testing every clause against the row costs that much for each.
"""

from typing import Any

import numpy as np
from numba import int64, uint64

from demur.tsetlin.compiled import compiled
from demur.tsetlin.feedback import has_present, lowest_bit


@compiled
def pack(rows: Any, chosen: Any, packed: Any) -> None:
    """Write the chosen rows as bits, 64 features a word."""
    packed[:] = uint64(0)
    for place in range(len(chosen)):
        row = chosen[place]
        for entry in range(rows.indptr[row], rows.indptr[row + 1]):
            feature = rows.indices[entry]
            packed[place, feature >> 6] |= uint64(1) << uint64(feature & 63)


@compiled
def candidates(index: Any, rows: Any, row: Any, open_: Any, closed: Any) -> None:
    """Clauses whose trigger is there, and clauses that some present feature stops."""
    closed[:] = uint64(0)
    open_[:] = index.untriggered
    for entry in range(rows.indptr[row], rows.indptr[row + 1]):
        feature = rows.indices[entry]
        for word in range(len(closed)):
            closed[word] |= index.conflict[feature, word]
            open_[word] |= index.trigger[feature, word]


@compiled
def count_votes(clauses: Any, index: Any, rows: Any, chosen: Any, packed: Any, active: Any, votes: Any) -> None:
    """Votes of every bank on the chosen rows, by the clauses as they are now."""
    open_, closed = np.empty_like(active), np.empty_like(active)
    votes[:] = 0
    for place in range(len(chosen)):
        candidates(index, rows, chosen[place], open_, closed)
        for word in range(len(active)):
            left = open_[word] & ~closed[word] & active[word]
            while left != 0:
                clause = word * 64 + lowest_bit(left)
                left &= left - uint64(1)
                if index.n_present[clause] < 2 or has_present(clauses.included, clause, packed, place):
                    votes[place, clauses.bank[clause]] += clauses.sign[clause] * clauses.weight[clause]


@compiled
def find_trigger(included: Any, clause: Any, words: Any, frequency: Any) -> Any:
    """The rarest feature a clause requires (-1 if none), and how many it requires."""
    rarest, count = int64(-1), int64(0)
    for word in range(words):
        left = included[clause, word]
        while left != 0:
            feature = word * 64 + lowest_bit(left)
            left &= left - uint64(1)
            count += 1
            if rarest < 0 or frequency[feature] < frequency[rarest]:
                rarest = feature
    return rarest, count


@compiled
def reindex(clause: Any, included: Any, before: Any, words: Any, index: Any) -> None:
    """Bring the index up to date after a clause changed from `before`."""
    place, bit = clause >> 6, uint64(1) << uint64(clause & 63)
    for word in range(words, included.shape[1]):
        flipped = included[clause, word] ^ before[word]
        while flipped != 0:
            feature = (word - words) * 64 + lowest_bit(flipped)
            flipped &= flipped - uint64(1)
            if feature < len(index.frequency):  # the last block's tail stands for no feature
                index.conflict[feature, place] ^= bit
    changed = uint64(0)
    for word in range(words):
        changed |= included[clause, word] ^ before[word]
    if changed != 0:
        if index.trigger_of[clause] >= 0:
            index.trigger[index.trigger_of[clause], place] &= ~bit
        rarest, index.n_present[clause] = find_trigger(included, clause, words, index.frequency)
        index.trigger_of[clause] = rarest
        if rarest >= 0:
            index.trigger[rarest, place] |= bit
            index.untriggered[place] &= ~bit
        else:
            index.untriggered[place] |= bit
