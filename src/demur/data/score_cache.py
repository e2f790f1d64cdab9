"""Scores of requests on disk, by what made them: no threshold ever costs a second forward pass.

One SQLite file for each signal identity. Rows are written as they come, so an interrupted pass resumes; several
processes may share a file.
"""

import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from hashlib import sha256
from pathlib import Path

import numpy as np

from demur.core.chat import ChatRequest
from demur.core.signal import SignalScores

_FORMAT = 1


class ScoreCache:
    """Remembered scores of one signal.

    Args:
        folder: Where the files lie.
        identity: Identity string of the signal.
        categories: Its columns.
    """

    def __init__(self, folder: Path, *, identity: str, categories: Sequence[str]) -> None:
        self.categories = tuple(categories)
        key = sha256("\n".join((str(_FORMAT), identity, *self.categories)).encode("utf-8", "replace")).hexdigest()
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / f"{key[:24]}.sqlite"
        with closing(self._open()) as store, store:
            store.execute("CREATE TABLE IF NOT EXISTS scores (request TEXT PRIMARY KEY, numbers BLOB NOT NULL)")

    def get(self, requests: Sequence[ChatRequest]) -> list[SignalScores | None]:
        """Remembered scores, one row each; None where there are none."""
        with closing(self._open()) as store:
            return [self._row(store, request_key(request)) for request in requests]

    def put(self, requests: Sequence[ChatRequest], scores: SignalScores) -> None:
        """Remember scores of requests, in order."""
        rows = [
            (request_key(request), _packed(scores, i)) for i, request in enumerate(requests)
        ]  # before the transaction: packing must not hold the lock
        with closing(self._open()) as store, store:
            store.executemany("INSERT OR REPLACE INTO scores VALUES (?, ?)", rows)

    def _open(self) -> sqlite3.Connection:
        return sqlite3.connect(self.path, timeout=30.0)

    def _row(self, store: sqlite3.Connection, key: str) -> SignalScores | None:
        found = store.execute("SELECT numbers FROM scores WHERE request = ?", (key,)).fetchone()
        return None if found is None else _unpacked(found[0], self.categories)


def request_key(request: ChatRequest) -> str:
    """Hash of a request's messages: what a signal may depend on."""
    parts: Iterable[str] = (f"{m.role}\x00{m.text}" for m in request.messages)
    return sha256("\x01".join(parts).encode("utf-8", "surrogatepass")).hexdigest()


def _packed(scores: SignalScores, row: int) -> bytes:
    numbers = np.concatenate([scores.logits[row], scores.log_total[row], [float(scores.top[row])]])
    return numbers.astype("<f8").tobytes()


def _unpacked(blob: bytes, categories: tuple[str, ...]) -> SignalScores:
    numbers = np.frombuffer(blob, dtype="<f8")
    width = len(categories) + 1
    return SignalScores(
        categories=categories,
        logits=numbers[None, :width].copy(),
        log_total=numbers[None, width:-1].copy(),
        top=numbers[-1:].astype(np.int64),
    )
