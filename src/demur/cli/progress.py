"""A progress line on stderr: how many, how fast, how long still."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import typer

SECONDS_BETWEEN_LINES = 10


@contextmanager
def shown(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show progress while the block runs; one line that rewrites itself on a terminal, a line every 10 s elsewhere.

    Ctrl-C ends the command with one line and exit code 130.
    """
    try:
        with _on_terminal(title) if sys.stderr.isatty() else _in_lines(title) as report:
            yield report
    except KeyboardInterrupt:
        typer.echo("demur: interrupted; what was done is kept, run the same command to resume", err=True)
        raise typer.Exit(130) from None


@contextmanager
def _in_lines(title: str) -> Iterator[Callable[[int, int], None]]:
    started = last = time.monotonic()

    def report(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            rate = done / max(now - started, 1e-9)
            left = (total - done) / max(rate, 1e-9)
            typer.echo(f"{title}: {done}/{total}, {rate:.1f} prompts/s, {left:.0f} s left", err=True)

    yield report


@contextmanager
def _on_terminal(title: str) -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(title, total=None)

        def report(done: int, total: int) -> None:
            bar.update(task, completed=done, total=total)

        yield report


@contextmanager
def shown_stages() -> Iterator[Callable[[str, int, int], None]]:
    """Show the progress of work in stages, a line every 10 s for each; Ctrl-C ends with one line and exit code 130."""
    stage, started, last = "", time.monotonic(), 0.0

    def report(name: str, done: int, total: int) -> None:
        nonlocal stage, started, last
        now = time.monotonic()
        if name != stage:
            stage, started, last = name, now, 0.0
        if done == total or now - last >= SECONDS_BETWEEN_LINES:
            last = now
            left = (total - done) * (now - started) / max(done, 1)
            typer.echo(f"{name}: {done}/{total}, {left:.0f} s left", err=True)

    try:
        yield report
    except KeyboardInterrupt:
        typer.echo("demur: interrupted; what was done is kept, run the same command to resume", err=True)
        raise typer.Exit(130) from None
