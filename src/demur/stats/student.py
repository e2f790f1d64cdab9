"""Student's t, for intervals from few clusters."""

from functools import cache
from math import atan, cos, pi, sin, sqrt


@cache
def t_quantile(level: float, degrees: int) -> float:
    """Two-sided quantile of Student's t: |t| stays below it with chance `level`.

    Raises:
        ValueError: Fewer than one degree of freedom.
    """
    if degrees < 1:
        raise ValueError(f"expected at least one degree of freedom, got {degrees}")
    low, high = 0.0, 2.0
    while _within(high, degrees) < level:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < level else (low, middle)
    return high


def _within(t: float, degrees: int) -> float:
    """Chance that Student's t lies between -t and t, by its finite series.

    Source:
        Abramowitz and Stegun (1964), "Handbook of Mathematical Functions", 26.7.3 and 26.7.4.
    """
    theta = atan(t / sqrt(degrees))
    square, odd = cos(theta) ** 2, degrees % 2 == 1
    term, total = (cos(theta), 0.0) if odd else (1.0, 0.0)
    for k in range(1 if odd else 0, degrees - 1, 2):
        total += term
        term *= square * (k + 1) / (k + 2)
    return 2 / pi * (theta + sin(theta) * total) if odd else sin(theta) * total
