"""A second, better and dearer judge on part of the rows: the unsure ones, and a sample that corrects the rate.

Which rows it sees follows from the random order of `strata.priorities` and from how many rows each stratum has: the
same for every engine and shard size. Three quarters of the budget go to rows the first judge is unsure of, one quarter
to a sample of the sure ones, so that what it is wrong about without knowing is seen too. Replies that are alike but
for case, spaces and numbers, to prompts that are so too, are asked once: the first in the input's order stands for
all. What was answered is on disk at once, and a run that is resumed asks only the rest.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demur.core.exchange import Exchange
from demur.core.verdict import MANNERS, OUTCOMES, Manner, Outcome
from demur.data.logs import LogBatch, read_shard
from demur.judges.safely import judge_safely
from demur.scan import strata
from demur.scan.settings import Piece, ScanFolder, ScanSettings, parse_budget
from demur.scan.tally import Tally
from demur.scan.verdicts import REFUSED, UNJUDGED, loaded_judge
from demur.stats.stratified import Stratum, allocate

ASKED_TOGETHER = 64
SURE_SHARE = 0.25  # of the budget, for rows the first judge is sure of
_FLOOR = 5
_SPACE, _NUMBER = re.compile(r"\s+"), re.compile(r"\d+")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the second judge said of a reply."""

    outcome: Outcome
    manner: Manner | None
    p_refused: float | None


@dataclass(frozen=True, slots=True)
class Asked:
    """One chosen row of a shard: where it is, its stratum, and the key of its text."""

    row: int
    stratum: int
    key: str


@dataclass(slots=True)
class Journal:
    """Answers by key, each on disk as soon as it exists; only judged ones are kept."""

    path: Path
    answers: dict[str, Answer] = field(default_factory=dict)

    def load(self) -> None:
        """Read what an earlier run was answered; a line cut off by a kill is ignored."""
        if not self.path.is_file():
            return
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                held = json.loads(line)
                self.answers[held["key"]] = Answer(held["outcome"], held["manner"], held["p_refused"])
            except (ValueError, KeyError, TypeError):
                continue
        # A cut-off last line must not swallow the next one.
        with self.path.open("a", encoding="utf-8") as file:
            file.write("\n")

    def add(self, answers: dict[str, Answer]) -> None:
        """Keep answers."""
        self.answers.update(answers)
        with self.path.open("a", encoding="utf-8") as file:
            for key, a in answers.items():
                line = {"key": key, "outcome": a.outcome, "manner": a.manner, "p_refused": a.p_refused}
                file.write(json.dumps(line) + "\n")


def planned(sizes: Sequence[int], budget: int) -> NDArray[np.int64]:
    """Rows to ask in each stratum; none in the settled one."""
    sizes_now = np.asarray(sizes, dtype=np.int64)
    unsure = np.array([strata.is_uncertain(i) for i in range(len(sizes_now))])
    sure = ~unsure
    sure[strata.SETTLED] = False
    spreads = [strata.spread(i) for i in range(len(sizes_now))]
    n_sure = min(int(budget * SURE_SHARE), int(sizes_now[sure].sum()))
    n_unsure = min(budget - n_sure, int(sizes_now[unsure].sum()))
    chosen = allocate(np.where(unsure, sizes_now, 0).tolist(), spreads, n_unsure, floor=_FLOOR)
    return np.asarray(
        chosen + allocate(np.where(sure, sizes_now, 0).tolist(), spreads, budget - n_unsure, floor=_FLOOR)
    )


def chosen_rows(
    pieces: Sequence[Piece], folder: ScanFolder, wanted: Sequence[int]
) -> dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Rows to ask and their strata by number of the shard: of each stratum, those first in the random order."""
    held = np.zeros((0, 4), dtype=np.uint64)  # order, stratum, shard, row
    limits = np.asarray(wanted, dtype=np.int64)
    for piece in pieces:
        codes = np.load(folder.strata(piece), allow_pickle=False)
        order, stratum = strata.unpacked(codes)
        rows = np.flatnonzero(limits[stratum] > 0)
        numbers = np.full(len(rows), piece.number)
        new = np.stack([order[rows], stratum[rows], numbers, rows], axis=1).astype(np.uint64)
        held = _first(np.concatenate([held, new]), limits)
    found = {}
    for piece in pieces:
        mine = held[held[:, 2] == np.uint64(piece.number)]
        if len(mine):
            mine = mine[np.argsort(mine[:, 3])]
            found[piece.number] = (mine[:, 3].astype(np.int64), mine[:, 1].astype(np.int64))
    return found


def _first(rows: NDArray[np.uint64], limits: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Of each stratum, as many rows as wanted, lowest order first; ties go by shard and row."""
    rows = rows[np.lexsort((rows[:, 3], rows[:, 2], rows[:, 0], rows[:, 1]))]
    stratum = rows[:, 1].astype(np.int64)
    rank = np.arange(len(rows)) - np.searchsorted(stratum, stratum, side="left")
    return rows[rank < limits[stratum]]


class Escalation:
    """The second judge's part of a scan."""

    def __init__(self, pieces: Sequence[Piece], settings: ScanSettings, folder: ScanFolder) -> None:
        self.pieces, self.settings, self.folder = pieces, settings, folder
        self.journal = Journal(folder.root / "escalated.jsonl")
        self.chosen: dict[int, tuple[NDArray[np.int64], NDArray[np.int64]]] = {}
        self.asked: dict[int, list[Asked]] = {}
        self.n_calls = 0

    def run(self, whole: Tally, progress: Callable[[int, int], None]) -> list[Stratum]:
        """Choose rows, ask the judge; returns what its sample says of each stratum, `SETTLED` left out.

        Args:
            whole: Counts of the first judge over all shards.
            progress: Told how many rows of how many have an answer.
        """
        sizes = np.zeros(strata.N_STRATA, dtype=np.int64)
        cheap = np.zeros(strata.N_STRATA, dtype=np.int64)
        for name, counts in whole.total("stratum").items():
            sizes[int(name)] = sum(counts)
            cheap[int(name)] = int(np.asarray(counts)[REFUSED].sum())
        budget = parse_budget(self.settings.budget or "0", whole.n_rows)
        wanted = planned(sizes.tolist(), budget)
        self.chosen = chosen_rows(self.pieces, self.folder, wanted.tolist())
        self.journal.load()
        self._ask(int(wanted.sum()), progress)
        return self._strata(sizes, cheap)

    def answers_for(self, piece: Piece) -> dict[int, Answer]:
        """Answers by row of one shard; rows the judge could not decide are not in it."""
        rows = self.asked.get(piece.number, [])
        return {a.row: self.journal.answers[a.key] for a in rows if a.key in self.journal.answers}

    def _ask(self, n: int, progress: Callable[[int, int], None]) -> None:
        waiting: dict[str, Exchange] = {}
        failed: set[str] = set()  # asked in this run without an answer; not asked again for another row
        n_seen = 0
        for piece in self.pieces:
            for row, stratum, exchange in self._exchanges(piece):
                key = key_of(exchange)
                self.asked.setdefault(piece.number, []).append(Asked(row, stratum, key))
                n_seen += 1
                if key not in self.journal.answers and key not in failed:
                    waiting.setdefault(key, exchange)
                if len(waiting) >= ASKED_TOGETHER:
                    failed |= self._answered(waiting)
                    waiting.clear()
                    progress(n_seen, n)
        if waiting:
            failed |= self._answered(waiting)
        progress(n, n)

    def _answered(self, waiting: dict[str, Exchange]) -> set[str]:
        judge = loaded_judge(self.settings.escalate or "")
        verdicts = asyncio.run(judge_safely(judge, list(waiting.values())))
        self.n_calls += len(waiting)
        pairs = list(zip(waiting, verdicts, strict=True))
        self.journal.add({key: Answer(v.outcome, v.manner, v.p_refused) for key, v in pairs if v.outcome != "unjudged"})
        return {key for key, v in pairs if v.outcome == "unjudged"}

    def _exchanges(self, piece: Piece) -> Iterator[tuple[int, int, Exchange]]:
        if piece.number not in self.chosen:
            return
        for start, batch in numbered(piece, self.settings):
            rows, stratum = self.rows_in(piece, start, start + len(batch))
            if len(rows):
                found = some_rows(batch, rows - start).exchanges()
                yield from zip(rows.tolist(), stratum.tolist(), found, strict=True)

    def rows_in(self, piece: Piece, start: int, end: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Chosen rows of a shard from `start` up to `end`, and their strata."""
        rows, stratum = self.chosen[piece.number]
        inside = slice(*np.searchsorted(rows, [start, end]))
        return rows[inside], stratum[inside]

    def _strata(self, sizes: NDArray[np.int64], cheap: NDArray[np.int64]) -> list[Stratum]:
        n, refused = np.zeros_like(sizes), np.zeros_like(sizes)
        for a in (a for rows in self.asked.values() for a in rows):
            answer = self.journal.answers.get(a.key)
            if answer is not None:
                n[a.stratum] += 1
                refused[a.stratum] += answer.outcome in ("refused", "partial")
        return [
            Stratum(n_rows=int(sizes[i]), n_judged=int(n[i]), n_refused=int(refused[i]), n_cheap=int(cheap[i]))
            for i in range(strata.N_STRATA)
            if i != strata.SETTLED and sizes[i]
        ]


def key_of(exchange: Exchange) -> str:
    """What near-duplicates share: prompt and reply without case, numbers as 0, runs of white space as one space."""
    texts = (exchange.prompt, exchange.response, exchange.reasoning)
    plain = "\0".join(_NUMBER.sub("0", _SPACE.sub(" ", text).strip().casefold()) for text in texts)
    signals = ";".join(signal.kind for signal in exchange.api_signals)
    whole = f"{plain}\0{exchange.stop_reason}\0{signals}"
    return blake2b(whole.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()


def numbered(piece: Piece, settings: ScanSettings) -> Iterator[tuple[int, LogBatch]]:
    """Batches of a shard with the number of their first row."""
    start = 0
    for batch in read_shard(piece.shard, skip_bad=settings.skip_bad, on_bad=lambda _: None):
        yield start, batch
        start += len(batch)


def some_rows(batch: LogBatch, rows: NDArray[np.int64]) -> LogBatch:
    """Some rows of a batch."""
    import pyarrow as pa

    picked = pa.array(rows)
    return LogBatch(batch.rows.take(picked), batch.extra.take(picked))


def code_of(answer: Answer) -> tuple[int, int]:
    """Places of an answer in `OUTCOMES` and `MANNERS`."""
    outcome = OUTCOMES.index(answer.outcome) if answer.outcome in OUTCOMES else UNJUDGED
    return outcome, MANNERS.index(answer.manner) if answer.manner in MANNERS else -1
