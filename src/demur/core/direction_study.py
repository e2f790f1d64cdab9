"""What a study of harmfulness and refusal directions found, in numbers: the contract between the job and its report.

Tables over layers run over `layers`, the residual indices; `None` stands where a number is not defined, as a cosine
with a direction of length 0.
"""

from typing import Literal

from pydantic import JsonValue

from demur.core.exchange import Frozen

Axis = Literal["harm", "refusal"]
ControlKind = Literal[
    "direction", "layer 0", "surface rule", "tf-idf", "random directions", "shuffled labels", "base model"
]
Numbers = tuple[float | None, ...]


class Ranking(Frozen):
    """How well scores tell two kinds of prompts apart: AUROC, ties counting half, with DeLong's interval."""

    auroc: float | None
    low: float | None
    high: float | None
    n_positive: int
    n_negative: int


class ControlRow(Frozen):
    """One line of an honesty table: the direction itself, or something much simpler that must not be as good.

    Attributes:
        kind: What it is.
        name: Which of that kind, in words.
        ranking: On the same held-out prompts; for repeated draws the one in the middle, its interval their range.
        draws: AUROC of each draw, where something is drawn many times.
        seeds: AUROC by seed.
        note: What a reader must know.
    """

    kind: ControlKind
    name: str
    ranking: Ranking
    draws: tuple[float, ...] = ()
    seeds: tuple[float, ...] = ()
    note: str = ""


class HonestyTable(Frozen):
    """One direction at one place with all its controls, on prompts it was not fitted on.

    Attributes:
        axis: Which direction.
        task: What it has to tell apart.
        span: Where it is read.
        layer: Residual index, chosen on the selection prompts.
        rows: The direction first.
    """

    axis: Axis
    task: str
    span: str
    layer: int
    rows: tuple[ControlRow, ...]


class Curve(Frozen):
    """One number for each layer, over several seeds.

    Attributes:
        name: What is shown.
        axis: Which direction; None for scores that need none.
        span: Where it is read.
        task: What is told apart.
        kind: The direction itself or one of its controls.
        mean: Mean over seeds, by layer.
        low: Lowest of the seeds.
        high: Highest of the seeds.
    """

    name: str
    axis: Axis | None
    span: str
    task: str
    kind: ControlKind
    mean: Numbers
    low: Numbers
    high: Numbers


class PlaceMap(Frozen):
    """One number for each span and layer; `values[i][j]` belongs to `spans[i]` and `layers[j]` of the study."""

    name: str
    spans: tuple[str, ...]
    values: tuple[Numbers, ...]


class MapPoint(Frozen):
    """One prompt in the plane of harmfulness and refusal.

    Attributes:
        prompt: Its beginning.
        category: Kind of request.
        bucket: 'refused_harmful' and so on; '' without a verdict.
        harm: Layer-averaged harmfulness score at `t_inst`.
        refusal: Layer-averaged refusal score at `t_post[-1]`.
    """

    prompt: str
    category: str
    bucket: str
    harm: float
    refusal: float


class Candidate(Frozen):
    """One candidate refusal direction and what intervening with it does.

    Attributes:
        span: Where it was read.
        layer: Residual index.
        variant: 'plain', or 'masked': its loud coordinates zeroed.
        bypass: Mean refusal metric of harmful prompts with the direction projected out everywhere.
        induce: Mean refusal metric of harmless prompts with it added at its own layer.
        kl: Mean divergence of next tokens on harmless prompts when it is projected out.
        n: Prompts of each side it was measured on.
        loudest: Loudest coordinate, in units of the median state's norm.
        masked: Coordinates zeroed.
        rejected: Why it does not survive the published filters; empty if it does.
        rejected_relative: The same with the limit on `kl` taken from random directions.
    """

    span: str
    layer: int
    variant: Literal["plain", "masked"]
    bypass: float | None
    induce: float | None
    kl: float | None
    n: int
    loudest: float
    masked: tuple[int, ...] = ()
    rejected: tuple[str, ...] = ()
    rejected_relative: tuple[str, ...] = ()


class RandomTrial(Frozen):
    """A random direction of the same length put through the same interventions."""

    layer: int
    bypass: float | None
    induce: float | None
    kl: float | None


class Attrition(Frozen):
    """What one filter kept: `kept` of `n`, and why the others fell out."""

    name: str
    n: int
    kept: int
    reason: str = ""


class Outcomes(Frozen):
    """Verdicts on replies written under one intervention: three ways, not two.

    Attributes:
        side: Kind of prompts.
        intervention: 'none', 'ablated', 'added' or the same with random directions.
        counts: Replies by outcome: refused, partial, complied, degenerate, unjudged.
    """

    side: Literal["harmful", "harmless"]
    intervention: str
    counts: dict[str, int]


class Selection(Frozen):
    """The search for one direction that carries refusal; that none survives is a result.

    Attributes:
        metric_tokens: Decoded first tokens whose probability is the refusal metric.
        metric_ids: Their ids.
        metric_auroc: How well the metric tells refused from accepted selection prompts apart.
        baseline_harmful: Mean metric on harmful prompts, untouched.
        baseline_harmless: Mean metric on harmless prompts, untouched.
        kl_limit: Published limit on `kl`.
        kl_limit_relative: Largest `kl` of random directions.
        candidates: All of them, as measured.
        random: Random directions put through the same.
        attrition: Prompts and candidates that each filter kept.
        chosen: Index of the best survivor of the published filters; None if none survives.
        chosen_relative: The same with the relative limit.
        outcomes: Verdicts on replies under the best candidate.
        notes: What a reader must know.
    """

    metric_tokens: tuple[str, ...]
    metric_ids: tuple[int, ...]
    metric_auroc: float | None
    baseline_harmful: float | None
    baseline_harmless: float | None
    kl_limit: float
    kl_limit_relative: float | None
    candidates: tuple[Candidate, ...]
    random: tuple[RandomTrial, ...]
    attrition: tuple[Attrition, ...]
    chosen: int | None
    chosen_relative: int | None
    outcomes: tuple[Outcomes, ...] = ()
    notes: tuple[str, ...] = ()


class SavedDirection(Frozen):
    """One file a study wrote, and how its direction was chosen."""

    axis: Axis
    file: str
    span: str
    layer: int
    chosen_by: str
    threshold: float | None
    false_positive_rate: float | None


class DirectionStudy(Frozen):
    """Everything `demur explain directions` found.

    Attributes:
        model: Identity of the model.
        base: Identity of the base model compared with; '' if there is none.
        layers: Residual indices of all tables.
        spans: Template spans of all maps.
        span_texts: What one prompt's tokens at these spans decode to.
        refused_by: What 'refused' means: 'reply' (a judge read it) or 'token' (the control token the model says).
        judge: Judge of the replies.
        design: 'crossed' or 'plain'; see `demur.inside.separation`.
        method: Estimator.
        seeds: Seeds of the draws.
        buckets: Rows of each bucket, by part ('fit', 'selection', 'test').
        attrition: What matching and judging left.
        agreement: Where both are known: prompts by (reply verdict, token), as 'refused/declines' and so on.
        curves: AUROC by layer of the directions and of their controls.
        maps: AUROC and cosines by span and layer.
        cosine_harm_refusal: Cosine of v_harm at `t_inst` and v_ref at `t_post[-1]`, by layer.
        honesty: Each direction at its chosen layer beside its controls.
        delta_correlation: Correlation of the two layer-averaged scores over held-out prompts.
        points: Held-out prompts in the plane of the two.
        categories: Harmful categories.
        category_cosines: Cosines of their directions with each other at the chosen layer; square.
        selection: The search for a single refusal direction; None if it was not asked for.
        saved: Files written.
        notes: What a reader must know.
        manifest: Versions, data hashes, settings.
    """

    schema_version: int = 1
    model: str
    base: str
    layers: tuple[int, ...]
    spans: tuple[str, ...]
    span_texts: tuple[str, ...]
    refused_by: Literal["reply", "token"]
    judge: str
    design: str
    method: str
    seeds: tuple[int, ...]
    buckets: dict[str, dict[str, int]]
    attrition: tuple[Attrition, ...]
    agreement: dict[str, int]
    curves: tuple[Curve, ...]
    maps: tuple[PlaceMap, ...]
    cosine_harm_refusal: Numbers
    honesty: tuple[HonestyTable, ...]
    delta_correlation: float | None
    points: tuple[MapPoint, ...]
    categories: tuple[str, ...]
    category_cosines: tuple[Numbers, ...]
    selection: Selection | None
    saved: tuple[SavedDirection, ...]
    notes: tuple[str, ...]
    manifest: dict[str, JsonValue]
