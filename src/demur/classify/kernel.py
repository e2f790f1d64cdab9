"""First-stage scores of many replies at once, straight from their UTF-8 bytes (Numba).

Tokenises, hashes and scores in one pass without making a Python object for each word. The result equals
`features.buckets` followed by the model's sums; `tests/unit/test_classify.py` holds them to it.
"""

import sys
from functools import cache
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from demur.classify.features import (
    CLOSING_WORDS,
    LENGTH_SEED,
    MAX_WORDS,
    MULTIPLIER,
    N_BUCKETS,
    N_PIECES,
    OPENING_WORDS,
    PIECE,
    PIECE_SEED,
    ZONES,
)
from demur.classify.plainness import (
    AFTER_FIRST_PERSON,
    CALM,
    DECLINE_PAIRS,
    DECLINES,
    DECLINES_WITHIN,
    ENGLISH,
    FIRST_PERSON,
    IMPOSSIBLE,
    MAX_REPEATED,
    MIN_ENGLISH,
    MIN_WORDS,
    OPENING,
    PROSE,
    QUIET,
    TRIGGER_PAIRS,
    TRIGGERS,
)
from demur.judges.reading import is_cjk

_LETTER, _ALONE = 1, 2
_HALF = MAX_WORDS // 2
_MASK = np.uint32(N_BUCKETS - 1)
_PIECE_MASK = np.uint32(N_PIECES - 1) & _MASK
_ZONES = np.array(ZONES, dtype=np.int64)


def _sieve(tables: tuple[NDArray[Any], ...], size: int) -> NDArray[np.uint8]:
    """For each key, bit k set where table k may hold a value of that key: spares nearly every search."""
    found = np.zeros(size, dtype=np.uint8)
    for bit, table in enumerate(tables):
        keys = np.array([_key(int(value)) & (size - 1) for value in table])
        found[keys] |= np.uint8(1 << bit)
    return found


def _key(value: int) -> int:
    return value if value < 1 << 32 else ((value >> 32) * 3) ^ (value & 0xFFFFFFFF)


_WORD_SIEVE = _sieve((ENGLISH, TRIGGERS, AFTER_FIRST_PERSON), 8192)
_PAIR_SIEVE = _sieve((IMPOSSIBLE, TRIGGER_PAIRS, FIRST_PERSON, DECLINE_PAIRS), 8192)
_SIEVE_MASK = np.uint32(8191)


@cache
def character_classes() -> NDArray[np.uint8]:
    """For each code point: 1 part of a word, 2 a word of its own as well, 0 neither."""
    kinds = (
        (_LETTER if c.isalnum() else 0) | (_ALONE if is_cjk(c) else 0) for c in map(chr, range(sys.maxunicode + 1))
    )
    return np.fromiter(kinds, dtype=np.uint8, count=sys.maxunicode + 1)


@cache
def crc_table() -> NDArray[np.uint32]:
    """Table of the CRC-32 that zlib computes."""
    table = np.zeros(256, dtype=np.uint32)
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = (value >> 1) ^ (0xEDB88320 if value & 1 else 0)
        table[byte] = value
    return table


def first_stage(
    data: NDArray[np.uint8], offsets: NDArray[np.int64], rows: NDArray[np.int32], weights: NDArray[np.float32]
) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """Sums of bucket weights over the square root of the number of buckets, (n, n_columns), and `glance`, (n,).

    Args:
        data: Bytes of all texts, already case-folded (`features.folded`) or ASCII, end to end.
        offsets: Start of each text and end of the last; (n + 1,).
        rows: Row of `weights` for each bucket, -1 for one without weight; (N_BUCKETS,).
        weights: (n_rows, n_columns).
    """
    out = np.zeros((len(offsets) - 1, weights.shape[1]))
    glances = np.zeros(len(out), dtype=np.uint8)
    _score_all(data, offsets, rows, weights, character_classes(), crc_table(), out, glances)
    return out, glances


def piece_sums(
    points: NDArray[np.uint32], offsets: NDArray[np.int64], weights: NDArray[np.float32]
) -> NDArray[np.float64]:
    """Sums of the weights of runs of characters over the square root of their number; (n, n_columns).

    Args:
        points: Code points of all texts (`features.piece_points`), end to end.
        offsets: Start of each text and end of the last; (n + 1,).
        weights: (N_PIECES, n_columns).
    """
    out = np.zeros((len(offsets) - 1, weights.shape[1]))
    _sum_pieces(points, offsets, weights, out)
    return out


@njit(cache=True, nogil=True, inline="always")
def _mix(found, part):  # type: ignore[no-untyped-def]
    found = np.uint32((found ^ part) * MULTIPLIER)
    return found ^ (found >> np.uint32(15))


@njit(cache=True, nogil=True)
def _sum_pieces(points, offsets, weights, out):  # type: ignore[no-untyped-def]
    seen = np.full(N_PIECES, -1, dtype=np.int64)
    for row in range(len(offsets) - 1):
        n_found = 0
        for i in range(offsets[row], offsets[row + 1] - PIECE + 1):
            found = np.uint32(PIECE_SEED)
            for k in range(PIECE):
                found = _mix(found, points[i + k])
            bucket = np.int64(found & _PIECE_MASK)
            if seen[bucket] != row:
                seen[bucket] = row
                n_found += 1
                for c in range(weights.shape[1]):
                    out[row, c] += weights[bucket, c]
        for c in range(weights.shape[1]):
            out[row, c] /= np.sqrt(max(1, n_found))


@njit(cache=True, nogil=True, inline="always")
def _point_at(data, i, end):  # type: ignore[no-untyped-def]
    """Code point at a position of UTF-8 text and its number of bytes; 0 at the end and where the text is cut."""
    point, size = np.int64(0), 1
    if i < end:
        byte = np.int64(data[i])
        if byte < 0x80:
            point = byte
        elif byte < 0xE0 and i + 1 < end:
            point, size = ((byte & 31) << 6) | (data[i + 1] & 63), 2
        elif byte < 0xF0 and i + 2 < end:
            point, size = ((byte & 15) << 12) | ((data[i + 1] & 63) << 6) | (data[i + 2] & 63), 3
        elif i + 3 < end:
            point = ((byte & 7) << 18) | ((data[i + 1] & 63) << 12) | ((data[i + 2] & 63) << 6) | (data[i + 3] & 63)
            size = 4
    return point, size


@njit(cache=True, nogil=True)
def _words(data, start, end, classes, table, words):  # type: ignore[no-untyped-def]
    """Hash the words of one text into `words` (first and last halves kept); returns how many there are in all."""
    n = 0
    i = start
    crc = np.uint32(0)
    inside = False
    alone_from = -1
    while i <= end:
        point, size = _point_at(data, i, end)
        if 65 <= point <= 90:
            point += 32
        kind = classes[point] if i < end else np.uint8(0)
        joins = False
        if inside and point == 0x27 and i + 1 < end:
            joins = classes[_point_at(data, i + 1, end)[0]] & 1 != 0
        if (kind & 1) or joins:
            if not inside:
                crc, inside = np.uint32(0xFFFFFFFF), True
                alone_from = i if kind & 2 else -1
            if alone_from >= 0:
                crc = np.uint32(0xFFFFFFFF)
            for k in range(size):
                b = np.uint32(data[i + k])
                if size == 1:
                    b = np.uint32(point)
                crc = table[(crc ^ b) & np.uint32(0xFF)] ^ (crc >> np.uint32(8))
            if alone_from >= 0:
                n = _keep(words, n, crc ^ np.uint32(0xFFFFFFFF))
        else:
            if inside and alone_from < 0:
                n = _keep(words, n, crc ^ np.uint32(0xFFFFFFFF))
            inside = False
            if point == 0x3F or point == 0x21 or point == 0x3A:
                b = np.uint32(0xFFFFFFFF)
                b = table[(b ^ np.uint32(point)) & np.uint32(0xFF)] ^ (b >> np.uint32(8))
                n = _keep(words, n, b ^ np.uint32(0xFFFFFFFF))
        i += size
    return n


@njit(cache=True, nogil=True, inline="always")
def _keep(words, n, value):  # type: ignore[no-untyped-def]
    """Store one word: the first half in order, later ones in a ring that holds the last half."""
    if n < _HALF:
        words[n] = value
    else:
        words[_HALF + (n - _HALF) % _HALF] = value
    return n + 1


@njit(cache=True, nogil=True)
def _unrolled(words, n, line):  # type: ignore[no-untyped-def]
    """Copy the kept words into reading order; returns how many."""
    kept = min(n, 2 * _HALF)
    for k in range(min(n, _HALF)):
        line[k] = words[k]
    for k in range(_HALF, kept):
        at = k - _HALF if n <= 2 * _HALF else (n - _HALF + k - _HALF) % _HALF
        line[k] = words[_HALF + at]
    return kept


@njit(cache=True, nogil=True)
def _score_all(data, offsets, rows, weights, classes, table, out, glances):  # type: ignore[no-untyped-def]
    n_columns = weights.shape[1]
    seen = np.full(N_BUCKETS, -1, dtype=np.int32)
    words = np.zeros(2 * _HALF, dtype=np.uint32)
    line = np.zeros(2 * _HALF, dtype=np.uint32)
    zone = np.zeros(2 * _HALF + 1, dtype=np.uint32)
    for row in range(len(offsets) - 1):
        n = _unrolled(words, _words(data, offsets[row], offsets[row + 1], classes, table, words), line)
        glances[row] = (PROSE if _is_prose(line, n) else 0) | _phrases(line, n)
        length = 0
        while (n + 1) >> (length + 1) and length < 8:
            length += 1
        bucket = _mix(np.uint32(LENGTH_SEED), np.uint32(length)) & _MASK
        seen[bucket] = row
        n_found = 1
        if rows[bucket] >= 0:
            for c in range(n_columns):
                out[row, c] += weights[rows[bucket], c]
        for z in range(len(_ZONES)):
            seed, where, size = np.uint32(_ZONES[z, 0]), _ZONES[z, 1], _ZONES[z, 2]
            n_zone = _fill(line, n, where, zone)
            for i in range(n_zone - size + 1):
                found = seed
                for k in range(size):
                    found = _mix(found, zone[i + k])
                bucket = found & _MASK
                if seen[bucket] != row:
                    seen[bucket] = row
                    n_found += 1
                    if rows[bucket] >= 0:
                        for c in range(n_columns):
                            out[row, c] += weights[rows[bucket], c]
        for c in range(n_columns):
            out[row, c] /= np.sqrt(n_found)


@njit(cache=True, nogil=True, inline="always")
def _holds(table, value):  # type: ignore[no-untyped-def]
    at = np.searchsorted(table, value)
    return at < len(table) and table[at] == value


@njit(cache=True, nogil=True, inline="always")
def _pair_key(line, i):  # type: ignore[no-untyped-def]
    return np.uint32(np.uint32(line[i] * np.uint32(3)) ^ line[i + 1]) & _SIEVE_MASK


@njit(cache=True, nogil=True)
def _is_prose(line, n):  # type: ignore[no-untyped-def]
    if n < MIN_WORDS:
        return False
    opening = min(n, OPENING)
    repeated = 0
    for i in range(1, opening):
        for j in range(i):
            if line[j] == line[i]:
                repeated += 1
                break
    if repeated > MAX_REPEATED:
        return False
    english = 0
    for i in range(n):
        if _WORD_SIEVE[line[i] & _SIEVE_MASK] & 1:
            english += _holds(ENGLISH, line[i])
    if english < MIN_ENGLISH * n:
        return False
    impossible = 0
    for i in range(opening - 1):
        if _PAIR_SIEVE[_pair_key(line, i)] & 1:
            impossible += _holds(IMPOSSIBLE, (np.uint64(line[i]) << np.uint64(32)) | np.uint64(line[i + 1]))
    return impossible <= 1


@njit(cache=True, nogil=True)
def _phrases(line, n):  # type: ignore[no-untyped-def]
    words, phrases, declines = False, False, False
    for i in range(n):
        if _WORD_SIEVE[line[i] & _SIEVE_MASK] & 2:
            words = words or _holds(TRIGGERS, line[i])
        if i + 1 == n:
            break
        may = _PAIR_SIEVE[_pair_key(line, i)]
        if not may:
            continue
        pair = (np.uint64(line[i]) << np.uint64(32)) | np.uint64(line[i + 1])
        if may & 2 and not phrases:
            phrases = _holds(TRIGGER_PAIRS, pair)
        if may & 4 and not phrases and i + 2 < n and _holds(FIRST_PERSON, pair):
            phrases = _holds(AFTER_FIRST_PERSON, line[i + 2])
        if may & 8 and i < DECLINES_WITHIN and not declines:
            declines = _holds(DECLINE_PAIRS, pair)
    seen = DECLINES if declines else 0
    if not phrases:
        seen |= CALM if words else CALM | QUIET
    return seen


@njit(cache=True, nogil=True)
def _fill(line, n, where, zone):  # type: ignore[no-untyped-def]
    """Words of a zone: all, the opening behind its mark, the closing before its mark; returns how many."""
    if where == 0:
        zone[:n] = line[:n]
        return n
    if where == 1:
        m = min(n, OPENING_WORDS)
        zone[0] = np.uint32(0x5E)
        zone[1 : m + 1] = line[:m]
        return m + 1
    m = min(n, CLOSING_WORDS)
    zone[:m] = line[n - m : n]
    zone[m] = np.uint32(0x24)
    return m + 1
