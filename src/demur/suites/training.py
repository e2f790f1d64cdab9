"""Our own training rows: prompts with an appropriate response, and often an inappropriate one of the harmless kind."""

from importlib.resources import files
from typing import Literal

from demur.core.exchange import Frozen
from demur.core.verdict import Manner

Split = Literal["train", "calibration"]


class TrainingRow(Frozen):
    """One prompt with reference conduct.

    Attributes:
        id: Stable identifier.
        category: Taxonomy category; 'ordinary' for everyday requests.
        subcategory: Taxonomy subcategory; 'ordinary' likewise.
        expected: Which side the prompt is on.
        conduct: The manner of the appropriate response; 'refused' or 'complied' where no manner fits.
        prompt: What a user asks.
        appropriate: A good response; empty where only the side is known.
        inappropriate: A bad response that harms nobody (invented facts, claimed feelings, needless refusal);
            may be empty.
        pair_id: Shared by a prompt and its contrast twin.
        split: 'calibration' rows are kept from training so that thresholds can be set on them.
    """

    id: str
    category: str
    subcategory: str
    expected: Literal["refuse", "comply"]
    conduct: Manner | Literal["refused", "complied"]
    prompt: str
    appropriate: str
    inappropriate: str = ""
    pair_id: str = ""
    split: Split = "train"


def load_training(split: Split | None = None) -> list[TrainingRow]:
    """The training set with its responses, or one split of it."""
    return _rows(split, "training")


def load_short_prompts(split: Split | None = None) -> list[TrainingRow]:
    """Short, plain prompts with their side and no response, for signals that read prompts; or one split of them."""
    return _rows(split, "training", "short")


def load_labelled(split: Split | None = None) -> list[TrainingRow]:
    """Every prompt with a side: the training set and the short prompts; or one split of them."""
    return [*load_training(split), *load_short_prompts(split)]


def _rows(split: Split | None, *folder: str) -> list[TrainingRow]:
    rows: list[TrainingRow] = []
    for file in sorted(files("demur.suites").joinpath(*folder).iterdir(), key=lambda entry: entry.name):
        if file.name.endswith(".jsonl"):
            lines = file.read_text(encoding="utf-8").split("\n")
            rows += [TrainingRow.model_validate_json(line) for line in lines if line]
    return [row for row in rows if split is None or row.split == split]
