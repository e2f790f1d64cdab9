"""`demur scan`: verdicts for every reply in logs of any size."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.jobs.scan import OnProgress, Progress
    from demur.report.scan import ScanSummary

SECONDS_BETWEEN_LINES = 10
N_LINES = 12


def scan_command(
    paths: Annotated[
        list[str],
        typer.Argument(help="Logs: .jsonl .json .csv .parquet, .gz of text, Inspect logs, or folders of them."),
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for verdicts and report; an interrupted scan in it goes on.")
    ],
    engine: Annotated[str, typer.Option("--engine", help="local, ray or daft; all give the same verdicts.")] = "local",
    judge: Annotated[
        str, typer.Option("--judge", "-j", help="Judge of every reply ('demur judges' lists them).")
    ] = DEFAULT_JUDGE,
    escalate: Annotated[
        str | None,
        typer.Option("--escalate", help="Second judge for unsure replies and a sample, e.g. rubric:openai/gpt-4.1."),
    ] = None,
    budget: Annotated[
        str | None, typer.Option("--budget", help="Replies the second judge may see: 500, or 2%.")
    ] = None,
    compare_before: Annotated[
        str | None,
        typer.Option("--compare-before", help="Compare the time before this date with the rest, e.g. 2026-05-01."),
    ] = None,
    format_: Annotated[str | None, typer.Option("--format", help="Shape of the records; found out by default.")] = None,
    column: Annotated[
        list[str] | None, typer.Option("--column", help="Where something is, e.g. response=answer; repeatable.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave unreadable rows out and count them.")] = False,
    workers: Annotated[int | None, typer.Option("--workers", help="Processes; one for each core by default.")] = None,
    shard_bytes: Annotated[
        int | None, typer.Option("--shard-bytes", hidden=True, help="Size of a piece of work.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON instead of tables.")] = False,
) -> None:
    """Judge every reply in logs of any size: who refuses, when, how often, in which words.

    Example: demur scan logs/*.jsonl --out runs/scan
    """
    from demur.jobs.scan import ScanOptions, scan

    options = ScanOptions(
        format=format_,
        columns=tuple(_pairs(column or [])),
        skip_bad=skip_bad,
        shard_bytes=shard_bytes,
        workers=workers,
        escalate=escalate,
        budget=budget,
        compare_before=compare_before,
    )
    with shown() as progress:
        summary = scan(paths, out, engine=engine, judge=judge, options=options, progress=progress)
    if as_json:
        typer.echo(summary.model_dump_json())
        return
    _print(summary)
    typer.echo(f"verdicts: {out / 'verdicts'}")
    typer.echo(f"to label: {out / 'to_label.jsonl'}")
    typer.echo(f"report: {out / 'report.html'}")


def _pairs(given: list[str]) -> Iterator[tuple[str, str]]:
    from demur.core.errors import BadInputError

    for text in given:
        name, sign, column = text.partition("=")
        if not (name and sign and column):
            raise BadInputError(f"--column: expected NAME=COLUMN such as response=answer, got {text!r}; write it so")
        yield name, column


def _print(summary: "ScanSummary") -> None:
    from demur.cli.tables import percent, print_table
    from demur.report.scan import ORIGINS, SLICES, moment
    from demur.report.wording import plural

    def line(kind: str, name: str, rate: Any) -> list[str]:
        return [kind, name, percent(rate.estimate, rate.low, rate.high), f"{rate.n:,}", f"{rate.unjudged:,}"]

    rows = [line("all", "as judged", summary.refused)]
    if summary.second and summary.second.refused:
        rows.append(line("", f"by {summary.second.judge}, from its sample", summary.second.refused))
    if summary.corrected:
        rows.append(line("", "corrected for the judge's known error", summary.corrected))
    for kind, title in SLICES.items():
        names = ORIGINS if kind == "origin" else {}
        parts = summary.slices.get(kind, ())[:N_LINES]
        rows += [line(title.lower(), names.get(part.name, part.name), part.refused) for part in parts]
    replies, files = plural(summary.n_rows, "reply", "replies"), plural(summary.n_files, "file")
    title = f"{replies} in {files}, judge {summary.judge}"
    print_table(title, ["", "", "refused", "n", "unjudged"], rows, right=(2, 3, 4))
    for change in summary.changes:
        when = moment(change.start, summary.unit)
        typer.echo(f"changed at {when}: {change.rate_before:.1%} to {change.rate_after:.1%} (p {change.p_value:.3f})")
    if summary.drift:
        _print_drift(summary)
    if summary.openings:
        print_table("how refusals begin", ["words", "n"], [[t, f"{n:,}"] for t, n in summary.openings[:8]], right=(1,))
    for note in summary.notes:
        typer.echo(f"note: {note}")


def _print_drift(summary: "ScanSummary") -> None:
    from demur.cli.tables import percent, print_table

    drift = summary.drift
    if drift is None:
        return
    rows = [
        [
            d.kind,
            d.name,
            percent(d.rate_a),
            percent(d.rate_b),
            "-"
            if d.difference is None or d.low is None or d.high is None
            else f"{100 * d.difference:+.1f} [{100 * d.low:+.1f}, {100 * d.high:+.1f}]",
        ]
        for d in drift.differences[: 2 * N_LINES]
    ]
    stability = "-" if drift.stability is None else f"{drift.stability:.3f}"
    title = f"before {drift.before} and from then on; stability index {stability}"
    print_table(title, ["", "", "before", "after", "points"], rows, right=(2, 3, 4))


@contextmanager
def shown() -> Iterator["OnProgress"]:
    """Progress on stderr: a bar on a terminal, a line every 10 s elsewhere; Ctrl-C ends with exit code 130."""
    try:
        with _on_terminal() if sys.stderr.isatty() else _in_lines() as report:
            yield report
    except KeyboardInterrupt:
        typer.echo("demur: interrupted; what was done is kept, run the same command to resume", err=True)
        raise typer.Exit(130) from None


class Speed:
    """Rows in a second since a stage began, and the seconds left at that speed."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.clock, self.stage, self.started = clock, "", clock()

    def text(self, now: "Progress") -> str:
        """E.g. 'judging: 120,000 of about 1,000,000 rows, 23,000 rows/s, 38 s left'."""
        if now.stage != self.stage:
            self.stage, self.started = now.stage, self.clock() if self.stage else self.started
        rate = now.new / max(self.clock() - self.started, 1e-9)
        of = f" of about {now.total:,}" if now.total is not None else ""
        left = f", {(now.total - now.done) / max(rate, 1e-9):,.0f} s left" if now.total is not None and rate > 0 else ""
        return f"{now.stage}: {now.done:,}{of} rows, {rate:,.0f} rows/s{left}"


@contextmanager
def _in_lines() -> Iterator["OnProgress"]:
    last, speed = time.monotonic(), Speed()

    def report(now: "Progress") -> None:
        nonlocal last
        text = speed.text(now)
        if now.done == now.total or time.monotonic() - last >= SECONDS_BETWEEN_LINES:
            last = time.monotonic()
            typer.echo(text, err=True)

    yield report


@contextmanager
def _on_terminal() -> Iterator["OnProgress"]:
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as Bar

    speed = Speed()
    with Bar(BarColumn(), TextColumn("{task.description}"), console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("reading", total=None)

        def report(now: "Progress") -> None:
            bar.update(task, completed=now.done, total=now.total, description=speed.text(now))

        yield report
