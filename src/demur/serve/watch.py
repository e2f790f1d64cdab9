"""Policies reloaded while a server runs: a folder watched, a book swapped, a broken file reported and left aside."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path

from demur.serve.book import PolicyBook, policy_files
from demur.serve.service import Service

log = logging.getLogger("demur.serve")
Mark = tuple[tuple[str, int, int, int], ...]


class PolicyWatch:
    """Reloads a server's policies when their files change or when asked to.

    Args:
        service: Whose book is swapped.
        path: File or folder to watch.
        load: Makes a book of it.
    """

    def __init__(self, service: Service, path: Path, load: Callable[[], PolicyBook]) -> None:
        self._service, self._path, self._load = service, path, load
        self._lock = asyncio.Lock()
        self._seen = mark_of(path)

    async def run(self) -> None:
        """Watch until cancelled."""
        while True:
            await asyncio.sleep(self._service.settings.poll_s)
            if await asyncio.to_thread(mark_of, self._path) != self._seen:
                await self.reload()

    async def reload(self) -> bool:
        """Read the policies now; True if they are in force. Requests that have begun keep the old ones."""
        service = self._service
        async with self._lock:
            # Before reading: what is written meanwhile is read the next time.
            self._seen = await asyncio.to_thread(mark_of, self._path)
            try:
                service.book = await asyncio.to_thread(self._load)
            except Exception as error:  # whatever a file does, the server and its watch go on
                service.reload_error = str(error) or type(error).__name__
                log.error("policies not reloaded, the old ones stay: %s", service.reload_error)
            else:
                service.reload_error = ""
                log.info("policies reloaded: book %s", service.book.version)
        service.metrics.reloads.labels("failed" if service.reload_error else "ok").inc()
        return not service.reload_error


def mark_of(path: Path) -> Mark:
    """What tells one state of the files from another: names, times, sizes and inodes."""
    found = []
    for file in policy_files(path):
        try:
            stat = file.stat()
        except OSError:
            continue
        found.append((str(file), stat.st_mtime_ns, stat.st_size, stat.st_ino))
    return tuple(found)
