"""Who runs the shards: processes of this machine, a Ray cluster or Daft. All call `scan_shard`, so all write the same.

On a cluster, input and OUT must be on storage that every node sees.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError, UnknownNameError
from demur.scan.settings import Piece, ScanSettings
from demur.scan.workers import Step, run_local, single_threaded

Engine = Callable[..., Generator[Step, None, None]]
CPUS_PER_SHARD = 0.5  # whole ones leave none for the engine's own tasks on a machine of two cores: nothing ever starts


def run_ray(
    pieces: Sequence[Piece], settings: ScanSettings, out: Path, *, n_workers: int
) -> Generator[Step, None, None]:
    """Scan shards as Ray tasks, on the cluster that is connected or else on one of this machine.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    try:
        import ray
    except ImportError:
        raise MissingExtraError("--engine ray", extra="ray") from None
    started_here = not ray.is_initialized()
    if started_here:
        with single_threaded():
            ray.init(
                num_cpus=max(1, n_workers), object_store_memory=80 << 20, include_dashboard=False, log_to_driver=False
            )
    try:
        task = ray.remote(num_cpus=CPUS_PER_SHARD, max_retries=1)(attempted)
        waiting = list(reversed(pieces))
        running: list[Any] = []
        while waiting or running:
            while waiting and len(running) < 2 * n_workers:
                running.append(task.remote(waiting.pop(), settings, out))
            done, running = ray.wait(running)
            for summary in ray.get(done):
                yield _step(summary)
    finally:
        if started_here:
            ray.shutdown()


def run_daft(
    pieces: Sequence[Piece], settings: ScanSettings, out: Path, *, n_workers: int
) -> Generator[Step, None, None]:
    """Scan shards as a Daft query over a table of their numbers.

    Raises:
        MissingExtraError: Daft is not installed.
    """
    try:
        import daft
    except ImportError:
        raise MissingExtraError("--engine daft", extra="daft") from None

    class Scanner:
        """What each of Daft's processes holds: the shards, and how to scan them."""

        def __init__(self) -> None:
            self.pieces = {piece.number: piece for piece in pieces}

        def __call__(self, number: int) -> str:
            return json.dumps(attempted(self.pieces[number], settings, out))

    # A shard is one row: in batches of one, or a single process would get them all.
    table = daft.from_pydict({"number": [piece.number for piece in pieces]}).into_batches(1)
    scanned = daft.cls(Scanner, use_process=True, max_concurrency=max(1, min(n_workers, len(pieces))))()
    with single_threaded():
        for row in table.select(scanned(daft.col("number"))).iter_rows():
            yield _step(json.loads(next(iter(row.values()))))


def attempted(piece: Piece, settings: ScanSettings, out: Path) -> dict[str, Any]:
    """What `scan_shard` returns, or its complaint about the input as a value that every engine can carry."""
    from demur.scan.shards import scan_shard

    try:
        return scan_shard(piece, settings, out)
    except BadInputError as error:
        return {"bad_input": str(error)}


def _step(summary: dict[str, Any]) -> Step:
    if "bad_input" in summary:
        raise BadInputError(summary["bad_input"])
    return Step(summary["n_rows"], summary)


ENGINES: dict[str, Engine] = {"local": run_local, "ray": run_ray, "daft": run_daft}


def engine(name: str) -> Engine:
    """The engine of that name.

    Raises:
        UnknownNameError: There is none.
    """
    if name not in ENGINES:
        raise UnknownNameError("engine", name, ENGINES)
    return ENGINES[name]


def check_engine(name: str) -> None:
    """Raise before anything is read if an engine is unknown or not installed."""
    from importlib.util import find_spec

    engine(name)
    if name != "local" and find_spec(name) is None:
        raise MissingExtraError(f"--engine {name}", extra=name)
