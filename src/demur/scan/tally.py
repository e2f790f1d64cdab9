"""What a scan counts: of fixed size however many rows pass, added up batch by batch and shard by shard."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demur.core.verdict import MANNERS, OUTCOMES
from demur.scan import openings, samples, slices, strata
from demur.scan.verdicts import COMPLIED, REFUSED, Judged, taken

if TYPE_CHECKING:
    import pyarrow

    from demur.data.logs import LogBatch

MAX_VALUES = 200  # distinct models or origins; later ones are counted together
MAX_CELLS = 50_000  # of one table; beyond, days are no longer told apart
MAX_HOURS = 20_000
OTHERS = "(others)"
HOUR, DAY = 3_600_000_000, 86_400_000_000  # microseconds
NO_TIME = -(2**31)
_FIRST_DAY, _LAST_DAY = 7_305, 47_482  # 1990 to 2100: any other time is a mistake
Cells = dict[tuple[str, int], list[int]]


class Tally:
    """Counts of outcomes by slice and day, by hour, of openings, and a sample of each stratum.

    Attributes:
        n_rows: Rows counted.
        tables: For each kind of slice, outcomes (in the order of `OUTCOMES`) by value and day; `NO_TIME` for no day.
        hours: Outcomes by hour since 1970; by day times 24 once there were too many.
        phrases: How often refusals began with which words; rare ones are dropped, so counts are lower bounds.
        plain: The same of answers, among the rows asked for their language.
        kept: The sample.
    """

    def __init__(self) -> None:
        self.n_rows = 0
        self.tables: dict[str, Cells] = {}
        self._values: dict[str, set[str]] = {}
        self.hours: dict[int, list[int]] = {}
        self.phrases: Counter[str] = Counter()
        self.plain: Counter[str] = Counter()
        self.kept = samples.Sample()

    def add(self, batch: LogBatch, judged: Judged, *, language_every: int = 1, keep: bool = True) -> None:
        """Count a batch.

        Args:
            batch: The rows.
            judged: Their verdicts.
            language_every: One row in so many is asked for its language and category.
            keep: Offer the rows to the sample.
        """
        self.n_rows += len(judged)
        if not len(judged):
            return
        stratum, priority = strata.strata_of(judged), strata.priorities(batch)
        times = batch.rows["time"].cast("int64").fill_null(NO_TIME * HOUR).to_numpy(zero_copy_only=False)
        days = times // DAY
        days = np.where((days >= _FIRST_DAY) & (days <= _LAST_DAY), days, NO_TIME)
        self._add_hours(np.where(days == NO_TIME, NO_TIME, times // HOUR), judged)
        self._add("all", [""], np.zeros(len(days), dtype=np.int64), days, judged)
        self._add("stratum", [str(i) for i in range(strata.N_STRATA)], stratum, days, judged)
        self._add("manner", [*MANNERS, ""], judged.manner % (len(MANNERS) + 1), days, judged)
        self._add("model", *_encoded(batch.rows["model"]), days, judged)
        self._add("origin", *_origins(batch, judged), days, judged)
        asked = np.flatnonzero(priority % np.uint64(language_every) == 0)
        for kind, values in slices.asked(batch, asked).items():
            self._add(kind, *_codes(values), days[asked], taken(judged, asked))
        self.phrases.update(openings.of_batch(batch, np.flatnonzero(REFUSED[judged.outcome] & (judged.stage != 0))))
        self.plain.update(openings.of_batch(batch, asked[judged.outcome[asked] == COMPLIED]))
        for counts in (self.phrases, self.plain):
            openings.prune(counts)
        if keep:
            self.kept.offer(batch, judged, stratum, priority)

    def _add(self, kind: str, values: Sequence[str], codes: NDArray[Any], days: NDArray[Any], judged: Judged) -> None:
        some, where = np.unique(days, return_inverse=True)
        cells = (codes.astype(np.int64) * len(some) + where) * len(OUTCOMES) + judged.outcome
        found, n = np.unique(cells, return_counts=True)
        for cell, count in zip(found.tolist(), n.tolist(), strict=True):
            cell, outcome = divmod(cell, len(OUTCOMES))
            value, day = divmod(cell, len(some))
            self._bump(kind, values[value], int(some[day]), outcome, count)
        self._bound(kind)

    def _bump(self, kind: str, value: str, day: int, outcome: int, n: int) -> None:
        known = self._values.setdefault(kind, set())
        if value not in known and len(known) >= MAX_VALUES:
            value = OTHERS
        known.add(value)
        self.tables.setdefault(kind, {}).setdefault((value, day), [0] * len(OUTCOMES))[outcome] += n

    def _add_hours(self, hours: NDArray[Any], judged: Judged) -> None:
        found, n = np.unique(hours * len(OUTCOMES) + judged.outcome, return_counts=True)
        for cell, count in zip(found.tolist(), n.tolist(), strict=True):
            hour, outcome = divmod(cell, len(OUTCOMES))
            self.hours.setdefault(hour, [0] * len(OUTCOMES))[outcome] += count
        if len(self.hours) > MAX_HOURS:
            coarse: dict[int, list[int]] = {}
            for hour, counts in self.hours.items():
                _into(coarse.setdefault(hour if hour == NO_TIME else hour // 24 * 24, [0] * len(OUTCOMES)), counts)
            self.hours = coarse

    def _bound(self, kind: str) -> None:
        table = self.tables[kind]
        if len(table) > MAX_CELLS:
            folded: Cells = {}
            for (value, _), counts in table.items():
                _into(folded.setdefault((value, NO_TIME), [0] * len(OUTCOMES)), counts)
            self.tables[kind] = folded

    def merge(self, other: Tally, *, sign: int = 1) -> None:
        """Add the counts of another tally, or take them away."""
        self.n_rows += sign * other.n_rows
        for kind, cells in other.tables.items():
            for (value, day), counts in cells.items():
                for outcome, n in enumerate(counts):
                    if n:
                        self._bump(kind, value, day, outcome, sign * n)
            if kind in self.tables:
                self._bound(kind)
        for hour, counts in other.hours.items():
            _into(self.hours.setdefault(hour, [0] * len(OUTCOMES)), [sign * n for n in counts])
        for mine, theirs in ((self.phrases, other.phrases), (self.plain, other.plain)):
            for phrase, n in theirs.items():
                mine[phrase] += sign * n
            openings.prune(mine)
        if sign > 0:
            self.kept.merge(other.kept)

    def total(self, kind: str = "all") -> dict[str, list[int]]:
        """Outcomes by value, over all days."""
        totals: dict[str, list[int]] = {}
        for (value, _), counts in self.tables.get(kind, {}).items():
            _into(totals.setdefault(value, [0] * len(OUTCOMES)), counts)
        return totals

    def periods(self, kind: str, before: int) -> dict[str, tuple[list[int], list[int]]]:
        """Outcomes by value before a day (since 1970), and from it on; rows without a time are in neither."""
        both: dict[str, tuple[list[int], list[int]]] = {}
        for (value, day), counts in self.tables.get(kind, {}).items():
            if day != NO_TIME:
                pair = both.setdefault(value, ([0] * len(OUTCOMES), [0] * len(OUTCOMES)))
                _into(pair[day >= before], counts)
        return both

    def to_json(self) -> dict[str, Any]:
        """Plain values for a manifest."""
        return {
            "n_rows": self.n_rows,
            "tables": {
                kind: [[value, day, *counts] for (value, day), counts in cells.items()]
                for kind, cells in self.tables.items()
            },
            "hours": [[hour, *counts] for hour, counts in self.hours.items()],
            "phrases": dict(self.phrases),
            "plain": dict(self.plain),
            "sample": self.kept.to_json(),
        }

    @classmethod
    def from_json(cls, held: dict[str, Any]) -> Tally:
        """The tally that `to_json` wrote."""
        tally = cls()
        tally.n_rows = held["n_rows"]
        tally.tables = {
            kind: {(value, day): counts for value, day, *counts in cells} for kind, cells in held["tables"].items()
        }
        tally._values = {kind: {value for value, _ in cells} for kind, cells in tally.tables.items()}
        tally.hours = {hour: counts for hour, *counts in held["hours"]}
        tally.phrases, tally.plain = Counter(held["phrases"]), Counter(held["plain"])
        tally.kept = samples.Sample.from_json(held["sample"])
        return tally


def _into(counts: list[int], others: Sequence[int]) -> None:
    for outcome, n in enumerate(others):
        counts[outcome] += n


def _encoded(column: pyarrow.Array) -> tuple[list[str], NDArray[Any]]:
    encoded = column.dictionary_encode()
    return [value[:200] for value in encoded.dictionary.to_pylist()], encoded.indices.to_numpy(zero_copy_only=False)


def _codes(values: Sequence[str]) -> tuple[list[str], NDArray[Any]]:
    names = sorted(set(values))
    places = {name: i for i, name in enumerate(names)}
    return names, np.array([places[value] for value in values], dtype=np.int64)


def _origins(batch: LogBatch, judged: Judged) -> tuple[list[str], NDArray[Any]]:
    """Who refused, as far as the interface tells; 'words' where only the reply itself does, empty if nobody."""
    names, codes = _encoded(batch.rows["origin"])
    names = [name or "words" for name in names]
    return [*names, ""], np.where(REFUSED[judged.outcome], codes, len(names))
