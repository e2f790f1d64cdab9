"""The second judge's answers written into the verdicts, shard by shard; doing it twice changes nothing."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np

from demur.data.folder import write_json
from demur.scan.escalation import Answer, Escalation, code_of, numbered, some_rows
from demur.scan.settings import Piece, ScanFolder, ScanSettings
from demur.scan.shards import WholeFile
from demur.scan.tally import Tally
from demur.scan.verdicts import COLUMNS, Judged, judge_batch


def revise(piece: Piece, escalation: Escalation) -> None:
    """Put the answers for one shard into its verdicts and note in its manifest what they change in the counts."""
    folder, settings = escalation.folder, escalation.settings
    manifest = json.loads(folder.manifest(piece).read_text(encoding="utf-8"))
    answers = escalation.answers_for(piece)
    if not answers or manifest.get("n_revised") == len(answers):
        return
    before, after = _counts(piece, escalation, answers)
    _rewrite(piece, folder, settings, answers)
    # The first judge's counts stay as they are, so that a run killed here can do all of this again.
    manifest |= {"n_revised": len(answers), "before": before.to_json(), "after": after.to_json()}
    write_json(folder.manifest(piece), manifest)


def _counts(piece: Piece, escalation: Escalation, answers: dict[int, Answer]) -> tuple[Tally, Tally]:
    """Counts of the asked rows with the first judge's verdicts, and with the second's."""
    settings, before, after = escalation.settings, Tally(), Tally()
    for start, batch in numbered(piece, settings):
        rows, _ = escalation.rows_in(piece, start, start + len(batch))
        rows = rows[[row in answers for row in rows.tolist()]] if len(rows) else rows
        if not len(rows):
            continue
        some = some_rows(batch, rows - start)
        judged = judge_batch(some, settings)
        before.add(some, judged, language_every=settings.language_every, keep=False)
        revised = _with_answers(judged, [answers[row] for row in rows.tolist()])
        after.add(some, revised, language_every=settings.language_every, keep=False)
    # The strata are the first judge's: what the second says of them is the sample, not their size.
    for tally in (before, after):
        tally.tables.pop("stratum", None)
    return before, after


def _with_answers(judged: Judged, answers: list[Answer]) -> Judged:
    codes = np.array([code_of(answer) for answer in answers], dtype=np.int8)
    stage = np.where(judged.stage == 0, 1, judged.stage).astype(np.int8)
    return replace(judged, outcome=codes[:, 0], manner=codes[:, 1], stage=stage)


def _rewrite(piece: Piece, folder: ScanFolder, settings: ScanSettings, answers: dict[int, Answer]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    with pq.ParquetFile(folder.verdicts(piece)) as held, WholeFile(folder.verdicts(piece)) as file:
        for batch in held.iter_batches(batch_size=8192):
            rows = {row - start: answer for row, answer in answers.items() if start <= row < start + len(batch)}
            n_own = batch.num_columns - len(COLUMNS)
            columns = [batch.column(n_own + i).to_pylist() for i in range(len(COLUMNS))] if rows else []
            for row, answer in rows.items():
                values = (answer.outcome, answer.manner, answer.p_refused, settings.escalate_label)
                for column, value in zip(columns, values, strict=True):
                    # A judge that gives no probability leaves the first one's standing.
                    column[row] = column[row] if value is None and column is columns[2] else value
            ours = [
                pa.array(c, batch.schema.field(n_own + i).type) if rows else batch.column(n_own + i)
                for i, c in enumerate(columns or [None] * len(COLUMNS))
            ]
            file.write(pa.RecordBatch.from_arrays([*batch.columns[:n_own], *ours], schema=batch.schema))
            start += len(batch)


def merged(pieces: list[Piece], folder: ScanFolder) -> tuple[Tally, list[dict[str, Any]]]:
    """Counts over all shards, one manifest in memory at a time, and the manifests without their counts."""
    whole, summaries = Tally(), []
    for piece in pieces:
        manifest = json.loads(folder.manifest(piece).read_text(encoding="utf-8"))
        whole.merge(Tally.from_json(manifest.pop("tally")))
        if "after" in manifest:
            after, before = manifest.pop("after"), manifest.pop("before")
            whole.merge(Tally.from_json(after))
            whole.merge(Tally.from_json(before), sign=-1)
        summaries.append(manifest)
    return whole, summaries
