"""The three moves a clause can make, as passes over its counters (Granmo 2018, type Ia, Ib and II feedback).

A clause's literals are laid out as blocks of 256: the words present first, then, unless they are switched off, the
words absent. `chances` holds random bits that are 1 with probability 1/s; a pass reads them from a random place.
"""

from typing import Any

import numpy as np
from numba import int64, uint64

from demur.tsetlin.compiled import compiled
from demur.tsetlin.lanes import (
    LOW_WORDS,
    WORDS,
    breaks_absent,
    breaks_present,
    count_bits,
    forget_block,
    recognise_absent,
    recognise_present,
    reject_absent,
    reject_present,
)

GOLDEN = np.uint64(0x9E3779B97F4A7C15)


@compiled
def scramble(word: Any) -> Any:
    """Finisher of SplitMix64: neighbouring inputs give unrelated outputs."""
    word = (word ^ (word >> uint64(30))) * uint64(0xBF58476D1CE4E5B9)
    word = (word ^ (word >> uint64(27))) * uint64(0x94D049BB133111EB)
    return word ^ (word >> uint64(31))


@compiled
def lowest_bit(word: Any) -> Any:
    """Number of the lowest set bit of a word that is not 0."""
    return count_bits((word & (~word + uint64(1))) - uint64(1))


@compiled
def refill(chances: Any, start: Any, count: Any, seed: Any) -> None:
    """Draw words whose bits are 1 with probability odds / 2**precision, one binary digit of it at a time."""
    for place in range(start, start + count):
        word = uint64(0)
        for digit in range(chances.precision):
            seed += GOLDEN
            if (chances.odds >> digit) & 1:
                word |= scramble(seed)
            else:
                word &= scramble(seed)
        chances.words[place % len(chances.words)] = word


@compiled
def has_present(included: Any, clause: Any, packed: Any, row: Any) -> Any:
    """Whether every feature a clause requires is there, whatever should be absent."""
    top, x = clause * included.shape[1], row * packed.shape[1]
    for block in range(packed.shape[1] // WORDS):
        if breaks_present(included, top + block * WORDS, packed, x + block * WORDS):
            return False
    return True


@compiled
def fires(included: Any, clause: Any, packed: Any, row: Any) -> Any:
    """Whether every included literal is true; a clause without literals always fires while learning."""
    words = packed.shape[1]
    top, x = clause * included.shape[1] + words, row * words
    for block in range((included.shape[1] - words) // WORDS):
        if breaks_absent(included, top + block * WORDS, packed, x + block * WORDS):
            return False
    return has_present(included, clause, packed, row)


@compiled
def count_literals(included: Any, clause: Any) -> Any:
    """Literals in a clause."""
    total = int64(0)
    for word in range(included.shape[1]):
        total += count_bits(included[clause, word])
    return total


# The passes take whole arrays and offsets: a view of a row would cost two atomic reference counts per pass.


@compiled
def forget(clauses: Any, clause: Any, chances: Any, place: Any) -> None:
    """Type Ib: the clause should have fired and did not; every counter sinks with probability 1/s."""
    low, top = clause * clauses.counters.shape[1], clause * clauses.included.shape[1]
    for block in range(clauses.included.shape[1] // WORDS):
        at = block * WORDS
        forget_block(clauses.counters, low + block * LOW_WORDS, clauses.included, top + at, chances, place + at)


@compiled
def recognise(clauses: Any, clause: Any, batch: Any, row: Any, chances: Any, place: Any, boost: Any) -> None:
    """Type Ia: the clause fired and should; true literals rise (surely, if boosted), false ones sink with 1/s."""
    low, top, x = clause * clauses.counters.shape[1], clause * clauses.included.shape[1], row * len(batch.real)
    blocks = len(batch.real) // WORDS
    for block in range(blocks):
        at = block * WORDS
        recognise_present(
            clauses.counters, low + block * LOW_WORDS, clauses.included, top + at, batch.packed, x + at,
            batch.real, at, chances, place + at, boost,
        )  # fmt: skip
    for block in range(blocks, clauses.included.shape[1] // WORDS):
        at, here = block * WORDS, (block - blocks) * WORDS
        recognise_absent(
            clauses.counters, low + block * LOW_WORDS, clauses.included, top + at, batch.packed, x + here,
            batch.real, here, chances, place + at, boost,
        )  # fmt: skip


@compiled
def reject(clauses: Any, clause: Any, batch: Any, row: Any) -> None:
    """Type II: the clause fired and should not; every literal that would have stopped it rises."""
    low, top, x = clause * clauses.counters.shape[1], clause * clauses.included.shape[1], row * len(batch.real)
    blocks = len(batch.real) // WORDS
    for block in range(blocks):
        at = block * WORDS
        reject_present(
            clauses.counters, low + block * LOW_WORDS, clauses.included, top + at, batch.packed, x + at,
            batch.real, at,
        )  # fmt: skip
    for block in range(blocks, clauses.included.shape[1] // WORDS):
        at, here = block * WORDS, (block - blocks) * WORDS
        reject_absent(
            clauses.counters, low + block * LOW_WORDS, clauses.included, top + at, batch.packed, x + here,
            batch.real, here,
        )  # fmt: skip
