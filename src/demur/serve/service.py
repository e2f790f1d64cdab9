"""What a running server shares between requests: models, the book of policies, keys, limits and counts."""

import asyncio
import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from demur.core.controlled import ControlledModel
from demur.core.policy import Policy, SignalSource
from demur.core.signal import SignalScores
from demur.models.controlled import check_policy
from demur.serve.book import PolicyBook
from demur.serve.drift import DriftWatch
from demur.serve.faults import bad_request
from demur.serve.gate import Gate, KeyLimits
from demur.serve.keys import ApiKey, KeyRing, check_keys
from demur.serve.metrics import Metrics
from demur.serve.settings import ServerSettings
from demur.serve.visit import Visit

log = logging.getLogger("demur.serve")
Headers = Iterable[tuple[bytes, bytes]]


class Service:
    """One server's state.

    Attributes:
        models: Models by the name requests use.
        settings: Limits.
        keys: Who may call.
        gate: The queue.
        limits: Limits of each key.
        metrics: Counts and times.
        drift: Served scores beside calibration's.
        reload_error: Why the last reload of policies failed; '' if it did not.
        draining: Whether the server is stopping.
        failed: Why a model could not be made ready; None if it could.
    """

    def __init__(
        self, models: Mapping[str, ControlledModel], book: PolicyBook, settings: ServerSettings, keys: KeyRing
    ) -> None:
        self.models, self.settings, self.keys = dict(models), settings, keys
        self.gate = Gate(max_running=settings.max_running, max_queue=settings.max_queue)
        self.limits = KeyLimits()
        self.metrics = Metrics(running=lambda: self.gate.running, waiting=lambda: self.gate.waiting)
        self.drift = DriftWatch()
        self.reload_error = ""
        self.draining = False
        self.failed: Exception | None = None
        self._endings: set[asyncio.Future[None]] = set()
        self.book = book

    @property
    def book(self) -> PolicyBook:
        """The policies of requests that begin now."""
        return self._book

    @book.setter
    def book(self, book: PolicyBook) -> None:
        check_keys(self.keys, book)
        for model, shelf in book.shelves.items():
            for held in shelf.values():
                check_policy(self.models[model], held.policy)
        self._book = book  # one assignment: a request sees the old book or the new one

    @property
    def sources(self) -> dict[str, SignalSource]:
        """Signal of each model, by the name requests use."""
        return {name: source_of(model) for name, model in self.models.items()}

    def admit(self, headers: Headers) -> ApiKey:
        """Who makes a request.

        Raises:
            Fault: 401 without a known key, 400 for a host name that is not ours.
        """
        found = dict(headers)
        hosts = self.settings.allowed_hosts
        if hosts and _host(found.get(b"host", b"")) not in hosts:
            raise bad_request(f"Host: expected one of {', '.join(hosts)}; this server is open to its own machine only")
        return self.keys.bearer(found.get(b"authorization"))

    @contextmanager
    def ending(self) -> Iterator[asyncio.Future[None]]:
        """A future that is done when a draining server's time is up."""
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._endings.add(future)
        try:
            yield future
        finally:
            self._endings.discard(future)
            future.cancel()

    def drain(self) -> None:
        """Begin to stop: what has begun may end within `drain_s`, then it is ended."""
        self.draining = True
        asyncio.get_running_loop().call_later(self.settings.drain_s, self._end_all)

    def notice(self, model: str, policy: Policy, scores: SignalScores) -> None:
        """Compare served scores with calibration's."""
        self.metrics.set_drift(model, policy.name, alarm=self.drift.observe(model, policy, scores))

    def count(self, visit: Visit) -> None:
        """Count a request that has ended."""
        self.metrics.count(visit)
        if self.settings.access_log:
            log.info("%s", visit.line())

    def health(self, *, detailed: bool) -> dict[str, Any]:
        """What /healthz says; names and reasons only in detail."""
        found: dict[str, Any] = {
            "status": "draining" if self.draining else "degraded" if self.reload_error else "ok",
            "live": True,
            "ready": not self.draining,
        }
        if detailed:
            found |= {
                "running": self.gate.running,
                "waiting": self.gate.waiting,
                "models": {m: model.identity for m, model in self.models.items()},
                "book": self.book.version,
                "policies": {m: {n: h.version for n, h in shelf.items()} for m, shelf in self.book.shelves.items()},
                "reload_error": self.reload_error or None,
                "drift": self.drift.summary(),
            }
        return found

    def _end_all(self) -> None:
        for future in self._endings:
            if not future.done():
                future.set_result(None)


def source_of(model: ControlledModel) -> SignalSource:
    """The signal of a model, as policies name it."""
    return SignalSource(name=model.signal, identity=model.identity, token_ids=model.token_ids)


def _host(header: bytes) -> str:
    """The name in a Host header, without its port."""
    name = header.decode("latin-1").lower()
    return name[1:].partition("]")[0] if name.startswith("[") else name.partition(":")[0]
