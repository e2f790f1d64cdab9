"""The local engine: one spawned process for each core, one thread in each, one shard at a time.

Workers end with their parent, even one that was killed, and leave nothing half-written: a shard's files appear whole.
"""

from __future__ import annotations

import os
import signal
import threading
from collections import deque
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from multiprocessing import connection, get_context, parent_process
from pathlib import Path
from typing import Any

from demur.core.errors import BackendError, BadInputError
from demur.scan.settings import Piece, ScanSettings

# Read when the libraries are first imported, so they must be in the environment a worker starts with.
ONE_THREAD = {
    name: "1"
    for name in (
        "OMP_NUM_THREADS",
        "OPENBLAS_NUM_THREADS",
        "MKL_NUM_THREADS",
        "NUMBA_NUM_THREADS",
        "POLARS_MAX_THREADS",
    )
} | {"ARROW_DEFAULT_MEMORY_POOL": "system"}  # as fast here, and gives memory back
_POLL_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class Step:
    """Something happened: rows were judged, or (with a summary) a shard is done.

    Attributes:
        n_rows: Rows judged since the last step.
        summary: What `scan_shard` returned.
    """

    n_rows: int
    summary: dict[str, Any] | None = None


def n_cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_local(
    pieces: Sequence[Piece], settings: ScanSettings, out: Path, *, n_workers: int
) -> Generator[Step, None, None]:
    """Scan shards in processes of this machine; closing the iterator stops them.

    Raises:
        BadInputError: A shard could not be read.
        BackendError: A worker was killed.
    """
    waiting = deque(pieces)
    context = get_context("spawn")
    workers: dict[Any, _Worker] = {}
    try:
        for _ in range(min(n_workers, len(pieces))):
            worker = _Worker.start(context, settings, out)
            workers[worker.pipe] = worker
            worker.give(waiting.popleft())
        while workers:
            for pipe in connection.wait(list(workers), timeout=_POLL_SECONDS):
                kind, value = _received(workers[pipe])
                if kind == "rows":
                    yield Step(value)
                    continue
                yield Step(0, value)
                if waiting:
                    workers[pipe].give(waiting.popleft())
                else:
                    workers.pop(pipe).stop()
    finally:
        for worker in workers.values():
            worker.kill()


class _Worker:
    def __init__(self, process: Any, pipe: Any) -> None:
        self.process, self.pipe = process, pipe

    @classmethod
    def start(cls, context: Any, settings: ScanSettings, out: Path) -> _Worker:
        ours, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, settings, out), daemon=True, name="demur-scan")
        with single_threaded():
            process.start()
        theirs.close()
        return cls(process, ours)

    def give(self, piece: Piece) -> None:
        try:
            self.pipe.send(piece)
        except OSError:
            raise self.lost() from None

    def lost(self) -> BackendError:
        self.process.join(5)
        return BackendError(
            f"a worker ended unexpectedly (exit code {self.process.exitcode}; -9 is usually too little memory); "
            "what was done is kept, run the same command with fewer --workers to resume",
            retriable=True,
        )

    def stop(self) -> None:
        with suppress(OSError):
            self.pipe.send(None)
        self.process.join(5)
        self.kill()

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def _received(worker: _Worker) -> tuple[str, Any]:
    try:
        kind, value = worker.pipe.recv()
    except (EOFError, OSError):
        raise worker.lost() from None
    if kind == "bad":
        raise BadInputError(value)
    if kind == "os":
        raise OSError(*value)
    if kind == "bug":
        raise RuntimeError(f"a worker failed:\n{value}")
    return kind, value


@contextmanager
def single_threaded() -> Iterator[None]:
    """An environment in which a process started now uses one thread."""
    before = {name: os.environ.get(name) for name in ONE_THREAD}
    os.environ.update(ONE_THREAD)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def work(pipe: Any, settings: ScanSettings, out: Path) -> None:
    """What a worker does: shards from the pipe until None comes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    import pyarrow as pa

    pa.set_cpu_count(1)
    pa.set_io_thread_count(1)
    with suppress(EOFError, BrokenPipeError):
        while (piece := pipe.recv()) is not None:
            _serve(pipe, piece, settings, out)


def _serve(pipe: Any, piece: Piece, settings: ScanSettings, out: Path) -> None:
    import traceback

    from demur.scan.shards import scan_shard

    try:
        pipe.send(("done", scan_shard(piece, settings, out, on_rows=lambda n: pipe.send(("rows", n)))))
    except BadInputError as error:
        pipe.send(("bad", str(error)))
    except BrokenPipeError:
        raise
    except OSError as error:
        pipe.send(("os", (error.errno, error.strerror or str(error), str(error.filename or piece.shard.path))))
    except Exception:
        pipe.send(("bug", traceback.format_exc()))


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
