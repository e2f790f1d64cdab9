"""The report of a refusal predictor: how well it ranks, whether its probabilities hold, what it looks at."""

from collections.abc import Mapping
from dataclasses import dataclass
from math import ceil
from typing import Any

from demur.core.errors import BadInputError
from demur.report import plots, wording
from demur.report.document import render_document
from demur.report.escaping import INVISIBLE, embedded_json, encodable_values
from demur.report.provenance import sections

HELD_OUT, RANDOM = "templates held out", "random"
_SPLITS = (HELD_OUT, RANDOM)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReliabilityMark:
    """One bin of the reliability diagram in percent of the plot; y points downwards."""

    x: float
    y: float
    low: float
    high: float
    n_replies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CoefficientMark:
    """One n-gram with its weight as words and as a mark."""

    gram: str
    key: str
    weight: str
    bounds: str
    crosses_zero: bool
    n_prompts: int
    refused: float
    mark: plots.Mark | None


def render_predictor(summary: Mapping[str, Any]) -> str:
    """The report as one HTML document.

    Args:
        summary: What `demur.classify.evaluation.evaluate` returns, with a manifest; every text in it is treated as
            hostile.

    Raises:
        BadInputError: A part is missing or of the wrong kind.
    """
    found: dict[str, Any] = encodable_values(dict(summary))
    try:
        context = _context(found)
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise BadInputError(
            f"report of a predictor: expected what 'demur predict fit' wrote; {type(error).__name__}: {error}; "
            "fit it again"
        ) from None
    return render_document("predictor.html.j2", ("common.js",), context)


def _context(found: Mapping[str, Any]) -> dict[str, Any]:
    held_out = found["splits"][HELD_OUT]
    return {
        "found": found,
        "headlines": _headlines(found),
        "facts": _facts(found),
        "split_rows": [(name, _cells(found["splits"][name])) for name in _SPLITS],
        "source_rows": [(one["source"], [(name, _cells(one[name])) for name in _SPLITS]) for one in found["sources"]],
        "bins": [_reliability(one) for one in held_out["bins"]],
        "roc": [(round(100 * x, 2), round(100 * (1 - y), 2)) for x, y in found["roc"]],
        "coefficients": _coefficients(found["coefficients"]),
        "reach": f"{_reach(found['coefficients']):g}",
        "view_rows": [_view_row(one) for one in found["views"]],
        "ceiling_rows": _ceiling(found["ceiling"], held_out),
        "notes": notes_of(found),
        "errors": found["errors"],
        "templates": found["templates"],
        "made": sections(found["manifest"]),
        "data": embedded_json({"invisible": INVISIBLE}),
    }


def _view_row(one: Mapping[str, Any]) -> tuple[str, str, str, str, int]:
    weights = (wording.number(one[key], 2) for key in ("weight", "weight_known"))
    return (one["name"], wording.number(one["auroc"], 3), *weights, one["n_features"])


def notes_of(summary: Mapping[str, Any]) -> list[str]:
    """What a reader must know before believing the figures."""
    held_out, at_random = (summary["splits"][name] for name in _SPLITS)
    notes = []
    gap = (at_random["auroc"]["estimate"] or 0) - (held_out["auroc"]["estimate"] or 0)
    if gap > 0.03:
        notes.append(
            f"A random split flatters this predictor by {100 * gap:.0f} points of AUROC: it remembers templates. "
            "Expect the figures with templates held out on new prompts."
        )
    if held_out["auroc"]["low"] is not None and held_out["auroc"]["low"] <= 0.5:
        notes.append("On prompts of unseen templates it cannot be told from guessing.")
    if not summary["stacked_by_group"]:
        notes.append(
            f"{wording.plural(summary['n_groups'], 'group')} of prompts are too few to hold whole ones out; the views "
            "were weighed on a random split."
        )
    if summary["ceiling"]["method"] == "none":
        notes.append(summary["ceiling"]["note"])
    if summary["n_prompts"] < 200:
        notes.append(
            f"It was fitted on {wording.plural(summary['n_prompts'], 'prompt')}; a few hundred make it steadier."
        )
    judge = summary["manifest"].get("judge")
    if judge and summary["manifest"].get("n_labelled_by_judge"):
        notes.append(f"Labels are those of the judge {judge}, errors included.")
    return notes


def _headlines(found: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, figure, its interval, how to read it."""
    held_out = found["splits"][HELD_OUT]
    accuracy, auroc, brier = held_out["accuracy"], held_out["auroc"], held_out["brier"]
    majority = wording.percent(held_out["majority"], 1)
    return [
        (
            "AUROC",
            wording.number(auroc["estimate"], 3),
            _range(auroc, 3),
            "how often a refused prompt is rated above an answered one",
        ),
        (
            "Accuracy",
            wording.percent(accuracy["estimate"], 1),
            _range(accuracy, 1, percent=True),
            f"always saying the commoner of the two: {majority}",
        ),
        (
            "Calibration error",
            wording.percent(held_out["ece"], 1),
            f"Brier score {wording.number(brier['estimate'], 3)}",
            "mean distance of the predicted from the observed rate, ten bins",
        ),
    ]


def _facts(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    n_templates = len(found["templates"])
    if found["groups_given"]:
        groups = "as given"
    else:
        groups = f"{wording.plural(n_templates, 'template')} found" if n_templates else "no template found"
    return [
        ("Prompts", wording.count(found["n_prompts"]), ""),
        ("Replies", wording.count(found["n_replies"]), f"{found['n_replies'] / found['n_prompts']:.1f} a prompt"),
        ("Refused", wording.percent(found["refused"], 1), ""),
        ("Groups", wording.count(found["n_groups"]), groups),
    ]


def _range(figure: Mapping[str, Any], digits: int, *, percent: bool = False) -> str:
    if figure["low"] is None or figure["high"] is None:
        return wording.MISSING
    show = wording.percent if percent else wording.number
    return f"95% interval {show(figure['low'], digits)} to {show(figure['high'], digits)}"


def _cells(figures: Mapping[str, Any]) -> dict[str, str]:
    def cell(name: str, *, percent: bool) -> str:
        figure = figures[name]
        show = wording.percent(figure["estimate"], 1) if percent else wording.number(figure["estimate"], 3)
        if figure["low"] is None:
            return show
        low, high = (f"{100 * v:.1f}" if percent else f"{v:.3f}" for v in (figure["low"], figure["high"]))
        return f"{show} [{low}, {high}]"

    return {
        "n": wording.count(figures["n_prompts"]),
        "refused": wording.percent(figures["refused"], 1),
        "majority": wording.percent(figures["majority"], 1),
        "accuracy": cell("accuracy", percent=True),
        "auroc": cell("auroc", percent=False),
        "brier": cell("brier", percent=False),
        "ece": wording.percent(figures["ece"], 1),
        "rate_error": wording.percent(figures["rate_error"], 1),
    }


def _reliability(one: Mapping[str, Any]) -> ReliabilityMark:
    return ReliabilityMark(
        x=round(100 * one["predicted"], 2),
        y=round(100 * (1 - one["observed"]), 2),
        low=round(100 * (1 - one["low"]), 2),
        high=round(100 * (1 - one["high"]), 2),
        n_replies=one["n_replies"],
    )


def _reach(coefficients: list[dict[str, Any]]) -> float:
    ends = [abs(one[name]) for one in coefficients for name in ("weight", "low", "high")]
    return float(max(1, ceil(max(ends, default=1))))


def _coefficients(coefficients: list[dict[str, Any]]) -> list[CoefficientMark]:
    reach = _reach(coefficients)
    return [
        CoefficientMark(
            gram=one["gram"],
            key="should_refuse" if one["weight"] > 0 else "contrast",
            weight=f"{one['weight']:+.2f}".replace("-", "\u2212"),
            bounds=f"{one['low']:+.2f} to {one['high']:+.2f}".replace("-", "\u2212"),
            crosses_zero=one["low"] <= 0 <= one["high"],
            n_prompts=one["n_prompts"],
            refused=one["refused"],
            mark=plots.difference_mark(one["low"], one["weight"], one["high"], reach=reach),
        )
        for one in sorted(coefficients, key=lambda one: -one["weight"])
    ]


def _ceiling(ceiling: Mapping[str, Any], held_out: Mapping[str, Any]) -> list[tuple[str, str, str, str]]:
    """Name, this predictor, the oracle, its interval."""
    rows = []
    for name, key in (("Accuracy", "accuracy"), ("AUROC", "auroc"), ("Brier score", "brier")):
        oracle = ceiling[key]
        if oracle is not None:
            values = (held_out[key]["estimate"], oracle["estimate"], oracle["low"], oracle["high"])
            own, best, low, high = (
                wording.percent(v, 1) if key == "accuracy" else wording.number(v, 3) for v in values
            )
            rows.append((name, own, best, f"{low} to {high}"))
    return rows
