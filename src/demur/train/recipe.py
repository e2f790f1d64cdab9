"""A refusal-token run, described completely."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from demur.core.exchange import Frozen
from demur.train.control_rows import RowSettings
from demur.train.tokens import Style

Mode = Literal["rows", "lora"]
Positive = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class LoraSettings(Frozen):
    """The adapter of LoRA mode; its effective scale is alpha / rank.

    Attributes:
        rank: Rank of each update.
        alpha: Numerator of the scale.
        dropout: Share of inputs dropped.
        first_block: Blocks before this one stay as they are, and their states are computed once; None = three fifths
            of the way up on a processor, 0 on an accelerator; 0 = every block is trained.
        modules: Projections that get an update.
    """

    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    first_block: int | None = None
    modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class TokenRecipe(Frozen):
    """Everything that decides what a refusal-token adapter becomes.

    Attributes:
        model: Base model as typed.
        data: Training rows; None = the built-in training split.
        mode: 'lora' (the reply follows the token) or 'rows' (frozen model, the token only decides).
        single: One refusal token for all categories instead of one each.
        style: Texts of the tokens: demur's own or the published ones.
        rows: How the control-token rows are learnt.
        lora: The adapter of LoRA mode.
        learning_rate: Peak of the adapter's, cosine.
        warmup: Share of steps before the peak.
        decision_epochs: Passes over the prompts for the control token.
        reply_share: Share of rows whose reply is learnt as well; the others teach the token only.
        reply_tokens: Tokens of a reply that are learnt: its opening decides whether it declines.
        openings: Begin replies that decline with a plain sentence of their category, so that a small model learns to
            decline and not only the topic.
        answers: What rows to answer learn after the respond token: 'own', the base's own greedy answers where they
            answer, so that answering stays as it was; 'given', the rows' responses.
        decision_weight: Weight of the control token's loss beside the replies' mean; the paper gives it the weight
            of any other token, which is 1 / tokens of the reply.
        batch_rows: Rows in a step.
        max_rows: Keep this many rows, drawn evenly by category and side; None = all.
        seed: Of order, draws and dropout.
        save_steps: Steps between checkpoints.
    """

    model: str
    data: Path | None = None
    mode: Mode = "lora"
    single: bool = False
    style: Style = "demur"
    rows: RowSettings = RowSettings()
    lora: LoraSettings = LoraSettings()
    learning_rate: Positive = 7e-4
    warmup: float = 0.1
    decision_epochs: Positive = 1.25
    reply_share: Annotated[float, Field(ge=0.0, le=1.0)] = 0.3
    reply_tokens: Annotated[int, Field(ge=1)] = 20
    openings: bool = True
    answers: Literal["own", "given"] = "own"
    decision_weight: Positive = 2.0
    batch_rows: Annotated[int, Field(ge=1)] = 16
    max_rows: Annotated[int, Field(ge=2)] | None = None
    seed: int = 0
    save_steps: Annotated[int, Field(ge=1)] = 50
