"""One pass of a Tsetlin machine over its rows (Granmo 2018), in small batches.

The votes of a batch are counted before any of its rows is learned from; within the batch each clause sees the rows
one after the other, with its counters at hand in the processor's nearest cache. A batch of one row is the published
algorithm to the letter. Larger batches only make the vote margin, which scales the feedback, a few rows old; on the
refusal data 1, 8, 32 and 64 rows learn equally well, and 32 take a third of the time.
"""

from typing import Any

from numba import int64, uint64

from demur.tsetlin.compiled import compiled
from demur.tsetlin.feedback import (
    GOLDEN,
    count_literals,
    fires,
    forget,
    lowest_bit,
    recognise,
    refill,
    reject,
    scramble,
)
from demur.tsetlin.indexing import count_votes, pack, reindex

REFILLED = 1024


@compiled
def urgency(votes: Any, threshold: Any, wanted: Any) -> Any:
    """Chance of feedback: 0 where the margin is reached, 1 where it is reached the wrong way."""
    clipped = min(max(float(votes), -threshold), threshold)
    return (threshold - wanted * clipped) / (2.0 * threshold)


@compiled
def assign(votes: Any, labels: Any, chosen: Any, threshold: Any, seed: Any, lessons: Any) -> None:
    """Give each bank its rows: those of its class, and those of other classes that drew it as their contrast."""
    banks = votes.shape[1]
    lessons.size[:] = 0
    for place in range(len(chosen)):
        label = labels[chosen[place]]
        contrast = label
        if banks > 1:
            contrast = int64(scramble(seed + uint64(place + 1) * GOLDEN) % uint64(banks - 1))
            contrast += contrast >= label
        for bank in range(banks):
            wanted = 0
            if banks == 1:
                wanted = 1 if label == 1 else -1
            elif bank == label:
                wanted = 1
            elif bank == contrast:
                wanted = -1
            if wanted != 0:
                chance = urgency(votes[place, bank], threshold, wanted)
                if chance > 0.0:
                    at = lessons.size[bank]
                    lessons.place[bank, at], lessons.wanted[bank, at], lessons.chance[bank, at] = place, wanted, chance
                    lessons.size[bank] = at + 1


@compiled
def draw_lanes(chance: Any, seed: Any) -> Any:
    """64 bits, each 1 with the given chance: compare 64 random numbers with it, digit by digit, until all differ."""
    undecided, chosen = ~uint64(0), uint64(0)
    for _ in range(32):
        chance *= 2.0
        digit = chance >= 1.0
        chance -= digit
        seed += GOLDEN
        random = scramble(seed)
        if digit:
            chosen |= undecided & ~random
            undecided &= random
        else:
            undecided &= ~random
        if undecided == 0 or chance == 0.0:
            break
    return chosen


@compiled
def draw(lessons: Any, bank: Any, first: Any, last: Any, active: Any, seed: Any, drawn: Any) -> None:
    """Which clauses of a bank take which of its rows: `drawn[word, row]` has one bit per clause."""
    for word in range(first >> 6, ((last - 1) >> 6) + 1):
        for at in range(lessons.size[bank]):
            seed += uint64(33) * GOLDEN
            drawn[word - (first >> 6), at] = active[word] & draw_lanes(lessons.chance[bank, at], seed)


@compiled
def transpose(drawn: Any, word: Any, bit: Any, size: Any) -> Any:
    """The rows one clause takes, as bits."""
    taken = uint64(0)
    for at in range(size):
        taken |= ((drawn[word, at] >> bit) & uint64(1)) << uint64(at)
    return taken


@compiled
def teach(clause: Any, taken: Any, bank: Any, study: Any, seed: Any) -> Any:
    """Take one clause through its rows of a batch; says whether its counters moved, `batch.before` is what it was."""
    clauses, rates, lessons, batch = study.clauses, study.rates, study.lessons, study.batch
    chances, included, sign = study.chances.words, clauses.included, clauses.sign[clause]
    span = uint64(len(chances) - included.shape[1])
    for word in range(included.shape[1]):
        batch.before[word] = included[clause, word]
    moved = False
    while taken != 0:
        at = lowest_bit(taken)
        taken &= taken - uint64(1)
        row = lessons.place[bank, at]
        fired = fires(included, clause, batch.packed, row)
        if lessons.wanted[bank, at] == sign:
            moved = True
            seed += GOLDEN
            place = int64(scramble(seed) % span)
            if fired and rates.budget > 0 and count_literals(included, clause) > rates.budget:
                fired = False
            if fired:
                recognise(clauses, clause, batch, row, chances, place, rates.boost)
                clauses.weight[clause] += rates.weighted
            else:
                forget(clauses, clause, chances, place)
        elif fired:
            moved = True
            reject(clauses, clause, batch, row)
            if clauses.weight[clause] > 1:
                clauses.weight[clause] -= rates.weighted
    return moved


@compiled
def teach_bank(bank: Any, study: Any, seed: Any) -> None:
    """Take every clause of a bank through its rows of a batch."""
    lessons, drawn = study.lessons, study.batch.drawn
    share = len(study.clauses.bank) // len(lessons.size)
    first, size = bank * share, lessons.size[bank]
    draw(lessons, bank, first, first + share, study.rates.active, seed, drawn)
    for clause in range(first, first + share):
        taken = transpose(drawn, (clause >> 6) - (first >> 6), uint64(clause & 63), size)
        own = scramble(seed ^ (uint64(clause + 1) * uint64(0xD1342543DE82EF95)))
        if taken != 0 and teach(clause, taken, bank, study, own):
            reindex(clause, study.clauses.included, study.batch.before, len(study.batch.real), study.lookup)


@compiled
def learn(study: Any, rows: Any, labels: Any, order: Any, seed: Any) -> None:
    """Go through the rows once, in the given order."""
    clauses, rates, batch, chances = study.clauses, study.rates, study.batch, study.chances
    size = len(batch.packed)
    for start in range(0, len(order), size):
        chosen = order[start : start + size]
        seed = scramble(seed + GOLDEN)
        refill(chances, (start // size * REFILLED) % len(chances.words), REFILLED, seed)
        pack(rows, chosen, batch.packed)
        count_votes(clauses, study.lookup, rows, chosen, batch.packed, rates.active, batch.votes)
        assign(batch.votes, labels, chosen, rates.threshold, seed, study.lessons)
        for bank in range(len(study.lessons.size)):
            if study.lessons.size[bank] > 0:
                teach_bank(bank, study, scramble(seed ^ uint64(bank + 1)))
