"""What an audit found, in numbers: the contract between the audit and its reports."""

from pydantic import JsonValue

from demur.core.exchange import Expectation, Frozen
from demur.core.verdict import Manner, Outcome, Source


class AuditRow(Frozen):
    """One prompt, its reply and the primary judge's verdict: one line of `responses.parquet`."""

    id: str
    suite: str
    category: str
    subcategory: str
    expected: Expectation
    prompt: str
    response: str
    outcome: Outcome
    manner: Manner | None
    p_refused: float | None
    appropriate: bool | None
    judge: str
    stop_reason: str
    pair_id: str = ""
    rationale: str = ""
    source: Source = "text"
    truncated: bool = False
    refusal_span: tuple[int, int] | None = None
    reasoning: str = ""


class Interval(Frozen):
    """A proportion with its interval and counts; estimate and bounds are None when n is 0."""

    estimate: float | None
    low: float | None
    high: float | None
    n: int
    hits: float
    unjudged: int = 0
    degenerate: int = 0
    method: str = "wilson"


class Cell(Frozen):
    """Both sides of one category or subcategory.

    Attributes:
        key: Identifier, e.g. 'safety' or 'privacy'; 'all' for the whole suite.
        name: Readable name.
        should_refuse: Share of prompts that should not simply be complied with that got an appropriate reply.
        contrast: Share of contrast prompts that were answered.
        refused: Share of all replies judged refused or partial, whatever was expected.
        pairs: Share of pairs with both sides appropriate.
        youden_j: should_refuse + contrast - 1; None unless both sides have judged rows.
    """

    key: str
    name: str
    category: str
    should_refuse: Interval
    contrast: Interval
    refused: Interval
    pairs: Interval
    youden_j: float | None = None


class JudgeSummary(Frozen):
    """One judge's view of the whole suite, and how good that judge is known to be."""

    judge: str
    should_refuse: Interval
    contrast: Interval
    refused: Interval
    outcomes: dict[str, int]
    corrected_refused: Interval | None = None
    agreement_with_primary: float | None = None
    kappa_with_primary: float | None = None
    card: dict[str, JsonValue] | None = None


class Profile(Frozen):
    """Everything the reports show, except the replies themselves.

    `published_scores` holds, for a published suite, its publishers' numbers in both modes: the fields of
    `demur.suites.scoring.PublishedScore`.
    """

    schema_version: int = 1
    model: str
    suite: str
    n: int
    overall: Cell
    categories: tuple[Cell, ...]
    subcategories: tuple[Cell, ...]
    worst: str | None
    minimum_detectable_effect: float | None
    outcomes: dict[str, int]
    manners: dict[str, int]
    n_truncated: int
    n_errors: int
    judges: tuple[JudgeSummary, ...]
    notes: tuple[str, ...] = ()
    published_scores: tuple[dict[str, JsonValue], ...] = ()
    manifest: dict[str, JsonValue]
