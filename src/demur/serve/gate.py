"""How many requests run, wait and are sent away: a bounded queue for all, and the limits of each key."""

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager

from demur.serve.faults import too_many
from demur.serve.keys import ApiKey

FIRST_GUESS_S = 2.0
WEIGHT = 0.1  # of the newest turn in the mean by which Retry-After is estimated


class Slot:
    """One turn's place; given back once, early or at the end."""

    def __init__(self, gate: "Gate") -> None:
        self._gate, self._started, self._held = gate, time.monotonic(), True

    def release(self) -> None:
        """Give the place back; harmless when repeated."""
        if self._held:
            self._held = False
            self._gate.leave(time.monotonic() - self._started)


class Gate:
    """Lets a number of turns run, has some more wait in order, and sends the rest away."""

    def __init__(self, *, max_running: int, max_queue: int) -> None:
        self._free = asyncio.Semaphore(max_running)
        self._max_running, self._max_queue = max_running, max_queue
        self._mean_s = FIRST_GUESS_S
        self.running = 0
        self.waiting = 0

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[Slot]:
        """A place for a turn, waited for in order.

        Raises:
            Fault: 429 where too many wait.
        """
        if self._free.locked() and self.waiting >= self._max_queue:
            wait = self._mean_s * (self.waiting + 1) / self._max_running
            raise too_many("the server is busy; try again later", retry_after=wait, code="queue_full")
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        self.running += 1
        held = Slot(self)
        try:
            yield held
        finally:
            held.release()

    def leave(self, seconds: float) -> None:
        """Take a turn back that ran so long."""
        self.running -= 1
        self._mean_s += WEIGHT * (seconds - self._mean_s)
        self._free.release()


class KeyLimits:
    """Requests of each key: so many in a minute (a bucket that fills evenly), so many at a time."""

    def __init__(self) -> None:
        self._running: dict[str, int] = {}
        self._buckets: dict[str, tuple[float, float]] = {}

    @contextmanager
    def held(self, key: ApiKey) -> Iterator[None]:
        """A key's request, counted while it lasts.

        Raises:
            Fault: 429 beyond a limit of the key.
        """
        running = self._running.get(key.name, 0)
        if key.max_concurrent is not None and running >= key.max_concurrent:
            raise too_many(
                f"this key may run {key.max_concurrent} requests at a time", retry_after=1, code="concurrency_limit"
            )
        if key.requests_per_minute is not None:
            self._take(key.name, key.requests_per_minute)
        self._running[key.name] = running + 1
        try:
            yield
        finally:
            self._running[key.name] -= 1

    def _take(self, name: str, per_minute: int) -> None:
        now = time.monotonic()
        left, then = self._buckets.get(name, (float(per_minute), now))
        left = min(float(per_minute), left + (now - then) * per_minute / 60)
        if left < 1:
            self._buckets[name] = (left, now)
            raise too_many(
                f"this key may make {per_minute} requests a minute",
                retry_after=(1 - left) * 60 / per_minute,
                code="rate_limit_exceeded",
            )
        self._buckets[name] = (left - 1, now)
