"""Scan: what did the replies in these logs do, however many there are?"""

import json
import platform
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from demur import __version__
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.data.folder import write_json, write_text
from demur.report.scan import ScanSummary
from demur.scan.settings import Piece, ScanFolder, ScanSettings, parse_budget

SMALL_INPUT = 32 << 20  # bytes up to which every row is asked for its language
ONE_IN = 64  # of the rows of larger inputs
N_FILES_NAMED = 100
FEWEST_SHARDS, SMALLEST_SHARD = 24, 1 << 20  # of the input alone, never of the machine: a scan may be resumed elsewhere


class ScanOptions(Frozen):
    """How to read and what to do besides.

    Attributes:
        format: Name of the records' shape; found out record by record if None.
        columns: Canonical column and the input's column that holds it.
        skip_bad: Leave unreadable rows out and count them.
        shard_bytes: Size of a piece of work; the reader's own by default.
        workers: Processes; one for each core by default.
        escalate: Second judge.
        budget: Rows it may see: a number, or a share such as '2%'.
        compare_before: First day of the second of two periods to compare, such as '2026-05-01'.
    """

    format: str | None = None
    columns: tuple[tuple[str, str], ...] = ()
    skip_bad: bool = False
    shard_bytes: int | None = None
    workers: int | None = None
    escalate: str | None = None
    budget: str | None = None
    compare_before: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a scan is.

    Attributes:
        stage: 'judging' or 'second look'.
        done: Rows done, in this run and before.
        total: Rows in all: counted or estimated from what is done; None as long as nobody knows.
        new: Rows done in this run.
    """

    stage: str
    done: int
    total: int | None
    new: int


OnProgress = Callable[[Progress], None]


def scan(
    paths: Iterable[str | Path],
    out: Path,
    *,
    engine: str = "local",
    judge: str = DEFAULT_JUDGE,
    options: ScanOptions | None = None,
    progress: OnProgress | None = None,
) -> ScanSummary:
    """Judge every reply of some logs; verdicts, report and a sample to label go to `out`.

    Shards that were done by an earlier, interrupted call with the same input and settings are not done again.

    Args:
        paths: Files or folders.
        out: Folder of the scan.
        engine: 'local', 'ray' or 'daft'; all give the same verdicts.
        judge: Judge of every row.
        options: How to read, the second judge, the periods to compare.
        progress: Told about every few thousand rows.

    Raises:
        UserError: Something the caller can fix; the message says what. What was done is kept.
        BackendError: A worker was killed.
    """
    from demur.scan.engines import check_engine

    options = options or ScanOptions()
    check_engine(engine)
    _check(options)
    report = progress or _silent
    settings, pieces, n_bad = _planned(paths, judge, options)
    folder = ScanFolder(out)
    claimed = folder.claim(settings, pieces)
    with _alone(folder):
        write_json(out / "run.json", claimed)
        folder.sweep()
        started = datetime.now(UTC)
        try:
            _judge(pieces, settings, folder, engine, options, report)
        finally:
            folder.sweep()
        return _finish(pieces, settings, folder, options, report, started, n_bad)


def _check(options: ScanOptions) -> None:
    from demur.scan.series import day_of

    if (options.escalate is None) != (options.budget is None):
        missing, given = ("--escalate", "--budget") if options.escalate is None else ("--budget", "--escalate")
        raise BadInputError(f"{missing}: expected with {given}, got none; say which judge and how many rows it may see")
    if options.budget is not None:
        parse_budget(options.budget, 1 << 60)
    if options.workers is not None and options.workers < 1:
        raise BadInputError(
            f"--workers: expected a number from 1, got {options.workers}; leave it out for one per core"
        )
    if options.compare_before is not None:
        try:
            day_of(options.compare_before)
        except ValueError:
            raise BadInputError(
                f"--compare-before: expected a date such as 2026-05-01, got {options.compare_before!r}; write it so"
            ) from None


def _planned(paths: Iterable[str | Path], judge: str, options: ScanOptions) -> tuple[ScanSettings, list[Piece], int]:
    from demur.data.logs import SHARD_BYTES, list_shards

    labels = [_label(name) for name in (judge, options.escalate) if name is not None]
    bad: list[BadInputError] = []
    logs = list(paths)

    def listed(shard_bytes: int) -> list[Any]:
        bad.clear()
        return list_shards(
            logs,
            format=options.format,
            columns=dict(options.columns) or None,
            shard_bytes=shard_bytes,
            skip_bad=options.skip_bad,
            on_bad=bad.append,
        )

    shards = listed(options.shard_bytes or SHARD_BYTES)
    if not shards:
        raise BadInputError("scan: expected at least one log with rows, got none; check the paths")
    n_bytes = sum(shard.n_bytes for shard in shards)
    smaller = max(SMALLEST_SHARD, n_bytes // FEWEST_SHARDS)
    if options.shard_bytes is None and smaller < SHARD_BYTES:
        shards = listed(smaller)  # or a small log would keep one core busy and the others waiting
    settings = ScanSettings(
        judge=judge,
        judge_label=labels[0],
        escalate=options.escalate,
        escalate_label=labels[1] if options.escalate is not None else None,
        budget=options.budget,
        skip_bad=options.skip_bad,
        language_every=1 if n_bytes <= SMALL_INPUT else ONE_IN,
    )
    return settings, [Piece(number, shard) for number, shard in enumerate(shards)], len(bad)


def _label(name: str) -> str:
    from demur.scan.verdicts import loaded_judge

    made = loaded_judge(name)
    return f"{made.name}@{made.version}"


def _judge(
    pieces: Sequence[Piece],
    settings: ScanSettings,
    folder: ScanFolder,
    engine: str,
    options: ScanOptions,
    report: OnProgress,
) -> None:
    from demur.scan import engines, workers

    kept = [piece for piece in pieces if folder.is_done(piece, settings.digest)]
    done = {piece.number for piece in kept}
    waiting = [piece for piece in pieces if piece.number not in done]
    rows = sum(json.loads(folder.manifest(piece).read_text(encoding="utf-8"))["n_rows"] for piece in kept)
    pace = _Pace(pieces, kept, rows)
    if not waiting:
        return
    n_workers = options.workers or workers.n_cores()
    with closing(engines.engine(engine)(waiting, settings, folder.root, n_workers=n_workers)) as steps:
        for step in steps:
            pace.take(step.n_rows, step.summary)
            report(pace.progress())


class _Pace:
    """How many rows there will be, from how many bytes they took so far."""

    def __init__(self, pieces: Sequence[Piece], kept: Sequence[Piece], rows: int) -> None:
        counts = [piece.shard.n_rows for piece in pieces]
        self.known = sum(n for n in counts if n is not None) if None not in counts else None
        self.n_bytes = sum(piece.shard.n_bytes for piece in pieces)
        self.bytes_done = sum(piece.shard.n_bytes for piece in kept)
        self.rows_whole = self.before = self.done = rows

    def take(self, n_rows: int, summary: Mapping[str, Any] | None) -> None:
        self.done += n_rows
        if summary is not None:
            self.rows_whole += summary["n_rows"]
            self.bytes_done += summary["n_bytes"]

    def progress(self) -> Progress:
        total = self.known
        if total is None and self.bytes_done:
            total = max(self.done, round(self.rows_whole * self.n_bytes / self.bytes_done))
        return Progress("judging", self.done, total, self.done - self.before)


def _finish(
    pieces: list[Piece],
    settings: ScanSettings,
    folder: ScanFolder,
    options: ScanOptions,
    report: OnProgress,
    started: datetime,
    n_bad: int,
) -> ScanSummary:
    from demur.scan.escalation import Escalation
    from demur.scan.revision import merged, revise
    from demur.scan.summary import Findings, summarise

    whole, manifests = merged(pieces, folder)
    escalation, second = None, None
    if settings.escalate is not None:
        escalation = Escalation(pieces, settings, folder)
        second = escalation.run(whole, lambda done, n: report(Progress("second look", done, n, done)))
        for piece in pieces:
            revise(piece, escalation)
        whole, manifests = merged(pieces, folder)
    n_bad += sum(m["n_bad"] for m in manifests)
    findings = Findings(
        settings=settings,
        n_files=len({piece.shard.path for piece in pieces}),
        n_bad=n_bad,
        second=second,
        n_calls=escalation.n_calls if escalation else 0,
        before=options.compare_before,
        notes=tuple(_notes(settings, manifests, n_bad)),
        manifest=_manifest(settings, pieces, started),
    )
    summary = summarise(whole, findings)
    _write(folder.root, summary, whole)
    return summary


def _write(out: Path, summary: ScanSummary, whole: Any) -> None:
    from demur.report.document import write_document
    from demur.report.scan import render_scan
    from demur.scan.summary import sampled_rows

    rows = sampled_rows(whole)
    write_json(out / "summary.json", summary.model_dump(mode="json"))
    write_json(out / "manifest.json", summary.manifest)
    write_text(out / "to_label.jsonl", "".join(json.dumps(_to_label(row)) + "\n" for row in rows))
    write_document(out / "report.html", render_scan(summary, rows))


def _to_label(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row without its verdict, so that nobody labels what the judge said."""
    return {
        "id": row["id"],
        "prompt": row["prompt"],
        "response": row["response"],
        "label": "",
        "source": row["model"],
        "stratum": row["stratum"],
        "weight": row["weight"],
    }


def _notes(settings: ScanSettings, manifests: Sequence[Mapping[str, Any]], n_bad: int) -> Iterator[str]:
    from demur.judges.cards import load_card

    if n_bad:
        first = next((text for m in manifests for text in m["bad"]), "")
        yield f"{n_bad} rows could not be read and are left out{'; the first: ' + first if first else ''}."
    renamed = sorted({name for m in manifests for name in m["renamed"]})
    if renamed:
        names = ", ".join(renamed)
        yield f"The input has columns of our names; they are kept, and the verdicts stand in {names}."
    if load_card(settings.judge_label) is None and settings.escalate is None:
        yield (
            f"The judge {settings.judge_label} has no judge card: its error is unknown. "
            "Label to_label.jsonl and measure it with 'demur judges check'."
        )


def _manifest(settings: ScanSettings, pieces: Sequence[Piece], started: datetime) -> dict[str, Any]:
    files: dict[str, int] = {}
    for piece in pieces:
        files[piece.shard.path] = files.get(piece.shard.path, 0) + piece.shard.n_bytes
    named = dict(list(files.items())[:N_FILES_NAMED])
    return {
        "kind": "scan",
        "created": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "command": " ".join(["demur", *sys.argv[1:]]) if Path(sys.argv[0]).name == "demur" else "",
        "n_files": len(files),
        "n_shards": len(pieces),
        "settings": settings.model_dump(mode="json"),
        "inputs": {path: f"{n} bytes" for path, n in named.items()},
    }


@contextmanager
def _alone(folder: ScanFolder) -> Iterator[None]:
    """Hold the folder, so that two scans do not tidy up after each other; a killed one lets go by itself."""
    try:
        import fcntl
    except ImportError:  # no such lock on this system
        yield
        return
    try:
        folder.root.mkdir(parents=True, exist_ok=True)
        file = (folder.root / ".lock").open("w")
    except OSError as error:
        raise BadInputError(
            f"{folder.root}: cannot be written: {error.strerror or error}; choose another --out"
        ) from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInputError(
                f"{folder.root}: expected no other scan at work there, got one; wait for it or choose another --out"
            ) from None
        except OSError:
            pass  # a file system without locks
        yield


def _silent(_: Progress) -> None:
    """Progress nobody watches."""
