"""Two ability checks on the same items: what changed, by how much, and whether chance would do as much."""

from collections.abc import Sequence
from math import log

import numpy as np

from demur.ability.result import AbilityResult, Reading, ReadText
from demur.core.exchange import Frozen
from demur.core.profile import Interval
from demur.stats.paired import PairedDifference, paired_difference

RESAMPLES, LEVEL = 4000, 0.95


class AbilityChange(Frozen):
    """One figure before and after.

    Attributes:
        name: Name of the figure, as gates call it.
        before: Its value before.
        after: Its value after.
        change: After minus before for shares; after over before for perplexity and bits per byte.
        low: Lower bound of the paired 95% interval of the change.
        high: Upper bound.
        n: Items that both answered.
        p_value: Exact McNemar test for shares; None for the others.
        is_ratio: Whether the change is a ratio.
        is_worse: Whether the interval lies wholly on the worse side.
    """

    name: str
    before: float
    after: float
    change: float
    low: float
    high: float
    n: int
    p_value: float | None = None
    is_ratio: bool = False
    is_worse: bool = False


class AbilityRow(Frozen):
    """A figure as cells of a table; `verdict` says in words what may be said about it."""

    name: str
    before: str
    after: str = ""
    change: str = ""
    verdict: str = ""


def ability_changes(before: AbilityResult, after: AbilityResult) -> list[AbilityChange]:
    """What changed between two checks, item by item; only items and parts that both have count."""
    found: list[AbilityChange] = []
    if before.choices and after.choices:
        sides = [{c.id: c.right("byte") for c in one.items} for one in (before.choices, after.choices)]
        found += _shares("multiple_choice", *sides)
    if before.prose and after.prose:
        found += _surprise(before.prose.texts, after.prose.texts)
    if before.formats and after.formats:
        sides = [{r.id: r.passed for r in one.replies} for one in (before.formats, after.formats)]
        found += _shares("format", *sides)
    return found


def ability_rows(before: AbilityResult, after: AbilityResult | None = None) -> list[AbilityRow]:
    """Cells for a report: every figure with its interval, and what became of it.

    Args:
        before: The check of the base, or the only one.
        after: The check of the trained model.
    """
    changes = {change.name: change for change in ability_changes(before, after)} if after else {}
    later = _cells(after) if after else {}
    return [
        AbilityRow(
            name=_NAMES[key],
            before=text,
            after=later.get(key, "not measured") if after else "",
            change=_change_text(changes[key]) if key in changes else "",
            verdict=_verdict(changes[key]) if key in changes else "",
        )
        for key, text in _cells(before).items()
    ]


_NAMES = {
    "multiple_choice": "multiple choice, by byte",
    "multiple_choice_token": "multiple choice, by token",
    "multiple_choice_sum": "multiple choice, by sum",
    "perplexity": "perplexity by token",
    "bits_per_byte": "bits per byte",
    "format": "form of replies kept",
}


def _shares(name: str, a: dict[str, bool], b: dict[str, bool]) -> list[AbilityChange]:
    shared = [item for item in a if item in b]
    if not shared:
        return []
    d: PairedDifference = paired_difference([a[i] for i in shared], [b[i] for i in shared], level=LEVEL)
    return [
        AbilityChange(
            name=name,
            before=d.rate_a,
            after=d.rate_b,
            change=d.difference,
            low=d.low,
            high=d.high,
            n=d.n,
            p_value=d.p_value,
            is_worse=d.high < 0 and d.p_value < 1 - LEVEL,
        )
    ]


def _surprise(before: Sequence[ReadText], after: Sequence[ReadText]) -> list[AbilityChange]:
    """Ratios of perplexity and of bits per byte; perplexity only where both cut every text into as many tokens."""
    later = {text.id: text for text in after}
    pairs = [(text, later[text.id]) for text in before if text.id in later]
    if not pairs:
        return []
    found = []
    if all(a.tokens == b.tokens for a, b in pairs):
        found.append(_ratio("perplexity", pairs, by_token=True))
    found.append(_ratio("bits_per_byte", pairs, by_token=False))
    return found


def _ratio(name: str, pairs: Sequence[tuple[ReadText, ReadText]], *, by_token: bool) -> AbilityChange:
    """After over before, with a bootstrap over texts."""
    nats = np.array([[a.nats, b.nats] for a, b in pairs])
    sizes = np.array([[a.tokens, b.tokens] if by_token else [a.bytes, b.bytes] for a, b in pairs], dtype=np.float64)
    draws = np.random.default_rng(0).integers(0, len(pairs), (RESAMPLES, len(pairs)))

    def figures(rows: np.ndarray) -> np.ndarray:
        rate = nats[rows].sum(axis=-2) / sizes[rows].sum(axis=-2)
        return np.asarray(np.exp(rate) if by_token else rate / log(2))

    one = figures(np.arange(len(pairs)))
    many = figures(draws)
    ratios = many[:, 1] / many[:, 0]
    low, high = (float(np.quantile(ratios, q)) for q in ((1 - LEVEL) / 2, (1 + LEVEL) / 2))
    return AbilityChange(
        name=name,
        before=float(one[0]),
        after=float(one[1]),
        change=float(one[1] / one[0]),
        low=low,
        high=high,
        n=len(pairs),
        is_ratio=True,
        is_worse=low > 1 and len(pairs) > 1,
    )


def _cells(result: AbilityResult) -> dict[str, str]:
    """Every figure as text, with its interval where it is a share."""
    found: dict[str, str] = {}
    if result.choices is not None:
        names: dict[str, Reading] = {
            "multiple_choice": "byte",
            "multiple_choice_token": "token",
            "multiple_choice_sum": "sum",
        }
        found |= {name: _share_text(result.choices.by_reading[reading]) for name, reading in names.items()}
    if result.prose is not None and result.prose.tokens:
        found |= {"perplexity": f"{result.prose.perplexity:.2f}", "bits_per_byte": f"{result.prose.bits_per_byte:.3f}"}
    if result.formats is not None:
        found["format"] = _share_text(result.formats.rate)
    return found


def _share_text(rate: Interval) -> str:
    if rate.estimate is None or rate.low is None or rate.high is None:
        return "–"
    broken = f", {rate.degenerate} degenerate" if rate.degenerate else ""
    return f"{rate.estimate:.1%} [{100 * rate.low:.1f}, {100 * rate.high:.1f}] (n {rate.n}{broken})"


def _change_text(change: AbilityChange) -> str:
    if change.is_ratio:
        return f"× {change.change:.3f} [{change.low:.3f}, {change.high:.3f}]"
    return f"{100 * change.change:+.1f} points [{100 * change.low:+.1f}, {100 * change.high:+.1f}]"


def _verdict(change: AbilityChange) -> str:
    if change.is_worse:
        return "worse"
    within = change.low <= (1 if change.is_ratio else 0) <= change.high
    return "may be chance" if within or (change.p_value or 0) >= 1 - LEVEL else "better"
