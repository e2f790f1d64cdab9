"""The function that carries every scan: a batch of log rows in, the same rows with their verdicts out."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from demur.core.judge import Judge
from demur.core.verdict import MANNERS, OUTCOMES, Verdict

if TYPE_CHECKING:
    import pyarrow

    from demur.classify.judge import LearnedJudge
    from demur.data.logs import LogBatch
    from demur.scan.settings import ScanSettings

COLUMNS = ("outcome", "manner", "p_refused", "judge")
SETTLED = 0  # stage of rows that needed no judge
REFUSED = np.array([outcome in ("refused", "partial") for outcome in OUTCOMES])
UNJUDGED, COMPLIED = OUTCOMES.index("unjudged"), OUTCOMES.index("complied")
_UNSURE = (0.1, 0.9)  # of a judge that does not say which verdicts it is unsure of


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """Verdicts of a batch, row by row.

    Attributes:
        outcome: Place in `OUTCOMES`; int8.
        manner: Place in `MANNERS`, -1 for none; int8.
        p_refused: Probability of refused or partial, nan where there is none; float32.
        is_uncertain: The judge would rather have another look taken.
        stage: 0 settled without reading, 1 linear stage, 2 whole model or another judge; int8.
        label: Name and version of the judge.
    """

    outcome: NDArray[np.int8]
    manner: NDArray[np.int8]
    p_refused: NDArray[np.float32]
    is_uncertain: NDArray[np.bool_]
    stage: NDArray[np.int8]
    label: str

    def __len__(self) -> int:
        return len(self.outcome)


def scan_batch(batch: LogBatch, settings: ScanSettings) -> pyarrow.RecordBatch:
    """The input's own columns with `outcome`, `manner`, `p_refused` and `judge` beside them.

    Every engine calls this and nothing else; a verdict depends on its row and the settings alone, never on its
    neighbours. A column of the input that has one of these names is kept, and ours is called `outcome_demur`.
    """
    return with_verdicts(batch, judge_batch(batch, settings))


def judge_batch(batch: LogBatch, settings: ScanSettings) -> Judged:
    """Verdicts of the scan's first judge."""
    from demur.classify.judge import LearnedJudge

    judge = loaded_judge(settings.judge)
    if isinstance(judge, LearnedJudge):  # it reads columns as well as exchanges
        return _learned(batch, judge, settings.judge_label)
    verdicts = asyncio.run(_judged(judge, batch))
    return from_verdicts(verdicts, settings.judge_label)


def with_verdicts(batch: LogBatch, judged: Judged) -> pyarrow.RecordBatch:
    """The input's columns and the verdicts as one record batch."""
    import pyarrow as pa

    names = list(batch.extra.schema.names)
    values = (
        _words(judged.outcome, OUTCOMES),
        _words(judged.manner, MANNERS),
        pa.array(judged.p_refused, mask=np.isnan(judged.p_refused)),
        _words((judged.stage != SETTLED).astype(np.int8), ("settled", judged.label)),
    )
    arrays = [*batch.extra.columns, *values]
    return pa.RecordBatch.from_arrays(arrays, names=[*names, *column_names(names)])


def column_names(taken: Sequence[str]) -> list[str]:
    """Names of our columns beside the input's; '_demur' is added to one that the input has."""
    names = []
    for column in COLUMNS:
        name = column
        while name in taken:
            name += "_demur"
        names.append(name)
    return names


def from_verdicts(verdicts: Sequence[Verdict], label: str) -> Judged:
    """Verdicts of any judge as columns; unsure where it says so or its probability is near a half."""
    p_refused = np.array([np.nan if v.p_refused is None else v.p_refused for v in verdicts], dtype=np.float32)
    outcome = np.array([OUTCOMES.index(v.outcome) for v in verdicts], dtype=np.int8)
    empty = np.array(
        [v.outcome == "unjudged" and v.rationale.startswith("no reply text") for v in verdicts], dtype=bool
    )
    is_api = np.array([v.source == "api" for v in verdicts], dtype=bool)
    settled = is_api | empty | (outcome == OUTCOMES.index("degenerate"))
    near = (p_refused > _UNSURE[0]) & (p_refused < _UNSURE[1])
    return Judged(
        outcome=outcome,
        manner=np.array([-1 if v.manner is None else MANNERS.index(v.manner) for v in verdicts], dtype=np.int8),
        p_refused=p_refused,
        is_uncertain=~settled & (near | (outcome == UNJUDGED)),
        stage=np.where(settled, SETTLED, 2).astype(np.int8),
        label=label,
    )


def taken(judged: Judged, rows: NDArray[Any]) -> Judged:
    """Some rows of the verdicts: by number, or by a mask."""
    columns = ("outcome", "manner", "p_refused", "is_uncertain", "stage")
    return replace(judged, **{name: getattr(judged, name)[rows] for name in columns})


@cache
def loaded_judge(name: str) -> Judge:
    """A judge, built once in each process."""
    from demur.evals.asking import chat_model
    from demur.judges import load_judge

    return load_judge(name, chat_model=chat_model)


async def _judged(judge: Judge, batch: LogBatch) -> list[Verdict]:
    from demur.judges.safely import judge_safely

    return await judge_safely(judge, batch.exchanges())


def _learned(batch: LogBatch, judge: LearnedJudge, label: str) -> Judged:
    import pyarrow.compute as pc

    from demur.classify.columns import judge_columns

    rows = batch.rows
    found = judge_columns(
        rows["prompt"].to_pylist(),
        rows["response"].to_pylist(),
        signals=pc.not_equal(rows["signal"], "").to_numpy(zero_copy_only=False),
        stop_reasons=rows["stop_reason"].to_pylist(),
        model=judge.model,
    )
    has_text = pc.greater(pc.utf8_length(pc.utf8_trim_whitespace(rows["response"])), 0)
    # A reply in a language the model cannot read has been read by nobody: the second judge may.
    unread = (found.outcome == UNJUDGED) & (found.stage == SETTLED) & has_text.to_numpy(zero_copy_only=False)
    return Judged(
        outcome=found.outcome,
        manner=found.manner,
        p_refused=found.p_refused,
        is_uncertain=found.is_uncertain | unread,
        stage=np.where(unread, np.int8(1), found.stage),
        label=label,
    )


def _words(codes: NDArray[np.int8], names: Sequence[str]) -> Any:
    import pyarrow as pa

    indices = pa.array(codes, mask=codes < 0)
    return pa.DictionaryArray.from_arrays(indices, pa.array(names, pa.string())).cast(pa.string())
