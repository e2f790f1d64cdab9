"""The report of one calibration: what is promised, what every other threshold would do, and what is out of reach."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log

from pydantic import JsonValue

from demur.core.exchange import Frozen
from demur.core.policy import Certificate, Policy
from demur.core.profile import Interval
from demur.core.signal import Floats
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json
from demur.report.predictor import ReliabilityMark
from demur.report.provenance import sections

EVERY = "all"
REACH = 9.0  # log-odds at the ends of a curve's axis
TICKS = ("0.01%", "1%", "50%", "99%", "99.99%")
_SCRIPTS = ("common.js",)
METRICS = {"refusal": "declined of what should be", "over_refusal": "declined of what should be answered"}
ACTIONS = {"answer": "Answer", "refuse": "Refuse", "clarify": "Ask back", "guide": "Guide elsewhere"}


class Curve(Frozen):
    """Rates as one threshold moves; None where there are no such prompts.

    Attributes:
        name: Category, or 'all'.
        threshold: The policy's; None where it has none of that kind.
        thresholds: Rising.
        refusal: Share declined of the prompts of that category that should be.
        over_refusal: Share declined of those that should be answered.
    """

    name: str
    threshold: float | None
    thresholds: tuple[float, ...]
    refusal: tuple[float, ...] | None
    over_refusal: tuple[float, ...] | None


class RateBin(Frozen):
    """One bin of the reliability diagram."""

    predicted: float
    observed: float
    low: float
    high: float
    n: int


class CalibrationSummary(Frozen):
    """Everything the report shows: the contract between the job and its report.

    Attributes:
        model: As typed.
        policy: What was made; of the page about reach: what was started from.
        delta: Chance that some promise fails.
        n_refuse: Calibration prompts to decline.
        n_comply: Calibration prompts to answer.
        curves: The one for all first.
        promisable: Over-refusal and refusal that each of some thresholds can promise, at delta shared by two.
        rates: By category, 'all' first: refusal and over-refusal of the policy.
        spill: What is switched off ('' = nothing), then the share declined by category of the prompts.
        spill_over: Categories of the prompts in `spill`.
        auroc: Of P(any), by category; None with one kind of prompt.
        bins: Reliability of P(any).
        mass: Quantiles of the probability that control tokens hold together.
        notes: What to read first.
        manifest: How it was made.
    """

    model: str
    policy: Policy
    delta: float
    n_refuse: int
    n_comply: int
    curves: tuple[Curve, ...]
    promisable: tuple[tuple[float, float], ...]
    rates: dict[str, tuple[Interval, Interval]]
    spill_over: tuple[str, ...]
    spill: tuple[tuple[str, tuple[float | None, ...]], ...]
    auroc: dict[str, float | None]
    bins: tuple[RateBin, ...]
    mass: dict[str, float]
    notes: tuple[str, ...]
    manifest: dict[str, JsonValue]


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """A certificate as words."""

    target: str
    reading: str
    achieved: str
    interval: str
    n: str
    delta: str
    method: str


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveView:
    """A curve as corners in a box of 1000 by 100, with the place of its threshold."""

    name: str
    refusal: str
    over_refusal: str
    at: float | None
    threshold: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """What the policy does about one category."""

    category: str
    threshold: str
    action: str
    refusal: Interval
    over_refusal: Interval
    auroc: str
    marks: tuple[tuple[str, plots.Mark | None], ...]


def render_calibration(summary: CalibrationSummary) -> str:
    """The report as one HTML document; every text in it is treated as hostile."""
    whole = summary.rates[EVERY]
    context = {
        **_shared(summary),
        "promises": [_promise(c, summary) for c in summary.policy.certificates],
        "rules": [_rule(summary, name) for name in summary.rates],
        "point": _point(whole),
        "across": plots.interval_mark(whole[1]),
        "upright": plots.interval_mark(whole[0]),
        "spill": [(off, [_cell(v) for v in row]) for off, row in summary.spill],
        "kinds": summary.spill_over,
        "bins": [_bin(one) for one in summary.bins],
        "mass": [(f"{100 * float(q):g}%", wording.percent(v, 1)) for q, v in summary.mass.items()],
    }
    return render_document("calibration.html.j2", _SCRIPTS, context)


def render_reach(summary: CalibrationSummary, *, reason: str, targets: Sequence[str]) -> str:
    """The page about targets that cannot be met: what can.

    Args:
        summary: The policy that was started from, and the curves.
        reason: The error.
        targets: As typed.
    """
    corners = [_corner(x, y) for x, y in summary.promisable]
    context = {
        **_shared(summary),
        "reason": reason,
        "targets": list(targets),
        "promisable": " ".join(f"{10 * x:.1f},{10 * y:.1f}" for x, y in corners),
    }
    return render_document("reach.html.j2", _SCRIPTS, context)


def _shared(summary: CalibrationSummary) -> dict[str, object]:
    whole = summary.curves[0]
    corners = [_corner(x, y) for x, y in zip(whole.over_refusal or (), whole.refusal or (), strict=False)]
    return {
        "summary": summary,
        "facts": _facts(summary),
        "observed": " ".join(f"{10 * x:.1f},{10 * y:.1f}" for x, y in corners),
        "curves": [_curve(curve) for curve in summary.curves],
        "ticks": TICKS,
        "made": sections(summary.manifest),
        "data": embedded_json({"invisible": INVISIBLE}),
    }


def _facts(summary: CalibrationSummary) -> list[tuple[str, str, str]]:
    facts = [
        ("Prompts to decline", wording.count(summary.n_refuse), ""),
        ("Prompts to answer", wording.count(summary.n_comply), ""),
        ("Delta", wording.percent(summary.delta, 1), "chance that some promise fails, over draws of these prompts"),
        ("AUROC", wording.number(summary.auroc.get(EVERY), 3), "how often a prompt to decline is rated above another"),
    ]
    middle = summary.mass.get("0.5")
    if middle is not None:
        facts.append(("Control mass", wording.percent(middle, 1), "median probability of any control token"))
    return facts


def _promise(certificate: Certificate, summary: CalibrationSummary) -> Promise:
    value = wording.percent(certificate.value, 1)
    sign = {"<=": "at most", ">=": "at least", "=": ""}[certificate.relation]
    who = "" if certificate.category == EVERY else f", category {certificate.category}"
    size = f" ± {100 * certificate.tolerance:.1f} points" if certificate.relation == "=" else ""
    cell = summary.rates.get(certificate.category)
    interval = None if cell is None else cell[0 if certificate.metric == "refusal" else 1]
    return Promise(
        target=certificate.target,
        reading=f"{sign} {value}{size} {METRICS[certificate.metric]}{who}".strip(),
        achieved=wording.percent(certificate.achieved, 1),
        interval=wording.MISSING if interval is None else wording.bounds(interval, 1),
        n=wording.count(certificate.n),
        delta=wording.percent(certificate.delta, 1),
        method=certificate.method,
    )


def _rule(summary: CalibrationSummary, name: str) -> Rule:
    policy, (refusal, over_refusal) = summary.policy, summary.rates[name]
    known, summed = name in policy.rules, policy.kind == "sum"
    has_threshold = name == EVERY if summed else known and policy.rule(name).action != "answer"
    return Rule(
        category=name,
        threshold=wording.number(policy.threshold_of(name), 4) if has_threshold else "",
        action=ACTIONS[policy.rule(name).action] if known else "Decline" if has_threshold else wording.MISSING,
        refusal=refusal,
        over_refusal=over_refusal,
        auroc=wording.number(summary.auroc.get(name), 3),
        marks=(("should_refuse", plots.interval_mark(refusal)), ("contrast", plots.interval_mark(over_refusal))),
    )


def _curve(curve: Curve) -> CurveView:
    return CurveView(
        name=curve.name,
        refusal=_line(curve.thresholds, curve.refusal),
        over_refusal=_line(curve.thresholds, curve.over_refusal),
        at=None if curve.threshold is None else _along(curve.threshold),
        threshold=wording.MISSING if curve.threshold is None else wording.number(curve.threshold, 4),
    )


def _line(thresholds: Sequence[float], values: Sequence[float] | Floats | None) -> str:
    if values is None:
        return ""
    return " ".join(f"{_along(t):.1f},{100 - 100 * v:.2f}" for t, v in zip(thresholds, values, strict=True))


def _along(threshold: float) -> float:
    """Place of a threshold on an axis of 1000 that is even in log-odds."""
    p = min(max(threshold, 1e-12), 1 - 1e-12)
    odds = min(max(log(p / (1 - p)), -REACH), REACH)
    return round(1000 * (odds + REACH) / (2 * REACH), 1)


def _corner(over_refusal: float, refusal: float) -> tuple[float, float]:
    """A point in percent; y points downwards."""
    return round(100 * over_refusal, 2), round(100 * (1 - refusal), 2)


def _point(whole: tuple[Interval, Interval]) -> tuple[float, float] | None:
    refusal, over_refusal = whole[0].estimate, whole[1].estimate
    return None if refusal is None or over_refusal is None else _corner(over_refusal, refusal)


def _cell(value: float | None) -> str:
    return wording.percent(value)


def _bin(one: RateBin) -> ReliabilityMark:
    return ReliabilityMark(
        x=round(100 * one.predicted, 2),
        y=round(100 * (1 - one.observed), 2),
        low=round(100 * (1 - one.low), 2),
        high=round(100 * (1 - one.high), 2),
        n_replies=one.n,
    )
