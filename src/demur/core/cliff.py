"""What a study of the refusal cliff found, in numbers: the contract between the study and its report (`cliff.json`)."""

from typing import Literal

from pydantic import JsonValue

from demur.core.direction_study import ControlRow
from demur.core.exchange import Frozen
from demur.core.profile import Interval


class MeanRow(Frozen):
    """A mean over items with a 95% interval; bounds are None for a single item."""

    mean: float
    low: float | None
    high: float | None


class ProbeRow(Frozen):
    """How well one score tells declined from answered items that it was not fitted on.

    Attributes:
        name: 'probe of the end' (fitted before the answer, read here), 'own probe' (fitted here), 'first words'
            (unembedding of the words refusals begin with, minus that of answers), 'refusal apart from kind' (the probe
            of the end among prompts to decline only).
        span: Position that was read.
        accuracy: Mean of both sides' accuracies; None for scores without a threshold.
        auroc: Tie-aware, with its interval in `low` and `high`.
        n_refused: Declined items.
        n_complied: Answered items.
    """

    name: str
    span: str
    accuracy: float | None
    auroc: float | None
    low: float | None
    high: float | None
    n_refused: int
    n_complied: int


class GroupRow(Frozen):
    """Cliff statistics of one group of items; see `demur.inside.cliff.CliffStatistics`."""

    group: str
    n: int
    plateau: MeanRow
    final: MeanRow
    drop: MeanRow
    drop_logit: MeanRow
    n_high: int
    declared: bool
    reason: str


class CurveRow(Frozen):
    """Mean score of a group along an axis; None where no item has the position.

    Attributes:
        group: The group.
        axis: 'tail' counts tokens from the last before the answer (0; the answer's are positive); 'fraction' is the
            share of the thinking.
        x: Positions.
        mean: Mean probability of declining.
        low: Lower bound of its 95% interval.
        high: Upper bound.
        count: Items that have the position.
    """

    group: str
    axis: Literal["tail", "fraction"]
    x: tuple[float, ...]
    mean: tuple[float | None, ...]
    low: tuple[float | None, ...]
    high: tuple[float | None, ...]
    count: tuple[int, ...]


class HeadRow(Frozen):
    """One attention head, most suppressing first.

    Attributes:
        block: Block, from 0.
        head: Query head, from 0.
        contribution: What it adds to the ranked quantity, in logits; negative pushes the score down.
        final: What it adds at the last token before the answer.
        causal: Change of the drop (plateau minus final, logits) when it is taken out; None where it was not run.
        causal_final: Change of the final logit.
        ablated: Whether it is among the heads that were taken out together.
    """

    block: int
    head: int
    contribution: MeanRow
    final: float
    causal: MeanRow | None = None
    causal_final: float | None = None
    ablated: bool = False


class AblationRow(Frozen):
    """The model with some heads scaled.

    Attributes:
        name: 'none', 'top heads', 'random heads', 'random heads of the same blocks', 'lowest probe weights', ...
        heads: As 'block.head'.
        factor: What their outputs were multiplied with.
        rescale: What was made up for: none, token or released.
        plateau: Mean plateau probability on the items of the cliff.
        final: Mean final probability.
        drop: Mean drop.
        final_logit: Mean final logit.
        refusal: Share of prompts to decline that were declined.
        over_refusal: Share of prompts to answer that were declined.
        degenerate: Share of all replies that were degenerate.
        perplexity: Of the unchanged model's own answers to prompts to answer.
    """

    name: str
    heads: tuple[str, ...]
    factor: float
    rescale: str
    plateau: MeanRow
    final: MeanRow
    drop: MeanRow
    final_logit: float
    refusal: Interval | None = None
    over_refusal: Interval | None = None
    degenerate: Interval | None = None
    perplexity: float | None = None


class TruncationRow(Frozen):
    """The same items with only a part of their thinking, closed.

    Attributes:
        fraction: Share of the thinking that stayed.
        n: Items.
        final: Probability before the answer.
        refusal: Share then declined.
    """

    fraction: float
    n: int
    final: MeanRow
    refusal: Interval | None = None


class SelectionSummary(Frozen):
    """Cliff-as-a-Judge: what was ranked and written.

    Attributes:
        n_candidates: Prompts to decline that were answered after thinking.
        n_with_reply: Those with a safe reply to train on.
        n_selected: Rows written for each rule.
        misalignment: Mean misalignment score of all candidates and of the rows chosen by each rule.
        overlap: Share of the rows by drop that the released rule (final score only) chooses as well.
        files: Written files by rule.
    """

    n_candidates: int
    n_with_reply: int
    n_selected: int
    misalignment: dict[str, float | None]
    overlap: float | None
    files: dict[str, str]


class CliffResult(Frozen):
    """Everything the report of a cliff study shows.

    Attributes:
        model: Identity string.
        kind: 'cliff' where the model thinks; 'boundary' where it does not and only the border of the turns is traced.
        attrition: How many items each step left, in order.
        probe_penalty: The probe's penalty.
        contrast_cosine: Cosine of the probe's weight with the unembedding contrast; None where there is none.
        probes: Quality of the probe at several positions, beside probes fitted there.
        controls: What must not be as good as the probe at the end, on the same held-out items.
        groups: Cliff statistics.
        curves: Scores along tokens.
        rank_by: What heads were ranked by: their change between plateau and end, or their contribution at the end.
        n_heads: Query heads of a block.
        n_blocks: Blocks.
        heads: The ranked heads at both ends.
        head_map: Contribution of every head; [block][head], logits.
        drop_shares: The mean change of the logit from plateau to end, split: heads, embedding, rest, total.
        causal_agreement: Rank correlation of contribution and causal change over the heads that were run.
        ablations: The model with heads scaled, and the controls.
        random_p: Share of random draws (add-one) that lift the final logit at least as much as the top heads.
        truncation: Scores with less thinking.
        selection: What was selected.
        notes: What a reader must know first.
        manifest: Inputs, settings and versions.
    """

    model: str
    kind: Literal["cliff", "boundary"]
    attrition: dict[str, int]
    probe_penalty: float
    contrast_cosine: float | None
    probes: tuple[ProbeRow, ...]
    controls: tuple[ControlRow, ...]
    groups: tuple[GroupRow, ...]
    curves: tuple[CurveRow, ...]
    rank_by: str
    n_heads: int
    n_blocks: int
    heads: tuple[HeadRow, ...]
    head_map: tuple[tuple[float, ...], ...]
    drop_shares: dict[str, float]
    causal_agreement: float | None
    ablations: tuple[AblationRow, ...]
    random_p: float | None
    truncation: tuple[TruncationRow, ...]
    selection: SelectionSummary | None
    notes: tuple[str, ...]
    manifest: dict[str, JsonValue] = {}
