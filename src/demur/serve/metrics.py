"""Counts and times of a server for Prometheus, in a registry of its own."""

import time
from collections.abc import Callable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from demur.serve.visit import Visit

BUCKETS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class Metrics:
    """Everything /metrics shows.

    Attributes:
        registry: Where it is kept; nothing is global.
        reloads: Reloads of policies, by outcome ('ok' or 'failed').
    """

    def __init__(self, *, running: Callable[[], float], waiting: Callable[[], float]) -> None:
        self.registry = CollectorRegistry()
        labels = ["model", "policy", "category", "action", "status"]
        self._requests = Counter("demur_requests", "Requests, by what became of them.", labels, registry=self.registry)
        self._read = self._histogram("demur_decision_seconds", "From a turn's begin to the decision.")
        self._first = self._histogram("demur_first_token_seconds", "From a request's arrival to its first text.")
        self._whole = self._histogram("demur_request_seconds", "From a request's arrival to its end.")
        self._tokens = Counter("demur_tokens", "Tokens, read and written.", ["model", "kind"], registry=self.registry)
        self.reloads = Counter("demur_policy_reloads", "Reloads of policies.", ["outcome"], registry=self.registry)
        self._drift = Gauge(
            "demur_drift_alarm",
            "1 where served scores differ from calibration's.",
            ["model", "policy"],
            registry=self.registry,
        )
        for name, about, read in (
            ("demur_running", "Turns that read or write.", running),
            ("demur_queue_length", "Requests that wait for a turn.", waiting),
        ):
            Gauge(name, about, registry=self.registry).set_function(read)

    def count(self, visit: Visit) -> None:
        """Count a request that has ended."""
        labels = (visit.model, visit.policy, visit.category, visit.action, str(visit.status))
        self._requests.labels(*labels).inc()
        if visit.decided:
            self._read.labels(visit.model).observe(visit.decided - visit.admitted)
        if visit.first:
            self._first.labels(visit.model).observe(visit.first - visit.started)
        if visit.model:
            self._whole.labels(visit.model).observe(time.perf_counter() - visit.started)
            self._tokens.labels(visit.model, "input").inc(visit.input_tokens)
            self._tokens.labels(visit.model, "output").inc(visit.output_tokens)

    def set_drift(self, model: str, policy: str, *, alarm: bool) -> None:
        """Say whether the scores served under a policy differ from calibration's."""
        self._drift.labels(model, policy).set(alarm)

    def text(self) -> bytes:
        """Prometheus' text format."""
        return generate_latest(self.registry)

    def _histogram(self, name: str, about: str) -> Histogram:
        return Histogram(name, about, ["model"], buckets=BUCKETS, registry=self.registry)
