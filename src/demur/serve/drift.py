"""Served scores beside those of calibration: an alarm when requests are not what thresholds were made for."""

from collections.abc import Mapping
from typing import Any

from demur.control.drift import DriftMonitor
from demur.core.policy import Policy
from demur.core.signal import SignalScores

Reference = Mapping[str, tuple[float, ...]]


class DriftWatch:
    """One monitor for each model and policy that has calibration's reference; a new reference begins a new one."""

    def __init__(self) -> None:
        self._monitors: dict[tuple[str, str], tuple[Reference, DriftMonitor]] = {}

    def observe(self, model: str, policy: Policy, scores: SignalScores) -> bool:
        """Take in the scores of one request that chose a policy; whether there is an alarm."""
        if not policy.reference:
            return False
        reference, monitor = self._monitors.get((model, policy.name), (None, None))
        if monitor is None or (reference is not policy.reference and reference != policy.reference):
            monitor = DriftMonitor(policy)
            self._monitors[(model, policy.name)] = (policy.reference, monitor)
        monitor.observe(scores)
        return monitor.alarm

    def summary(self) -> dict[str, Any]:
        """Every monitor's state, by 'model@policy'."""
        return {f"{model}@{name}": monitor.summary() for (model, name), (_, monitor) in self._monitors.items()}
