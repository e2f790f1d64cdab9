"""How good a judge is known to be: measured against people, kept by judge and version, shown with every rate."""

import json
import os
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path

from demur.core.exchange import Frozen
from demur.core.profile import Interval
from demur.stats.agreement import BinaryAgreement
from demur.stats.correction import rogan_gladen


class Agreement(Frozen):
    """A judge's 'refused or partial' against human labels: the fields of `BinaryAgreement`, None where undefined."""

    n: int
    unjudged: int
    accuracy: float | None
    precision: float | None
    recall: float | None
    specificity: float | None
    f1: float | None
    macro_f1: float | None
    kappa: float | None
    true_positive: int
    false_positive: int
    false_negative: int
    true_negative: int

    @classmethod
    def of(cls, measured: BinaryAgreement) -> "Agreement":
        """The same figures as a record that can be stored."""
        values = {name: getattr(measured, name) for name in cls.model_fields}
        return cls(**{name: None if value != value else value for name, value in values.items()})


class JudgeCard(Frozen):
    """Agreement of one judge version with people, over all labelled rows and by source."""

    judge: str
    created: str
    data: str
    overall: Agreement
    sources: dict[str, Agreement] = {}
    n_left_out: int = 0


def make_card(
    judge: str, data: str, overall: BinaryAgreement, sources: dict[str, BinaryAgreement], *, n_left_out: int
) -> JudgeCard:
    """A card with today's date."""
    return JudgeCard(
        judge=judge,
        created=datetime.now(UTC).date().isoformat(),
        data=data,
        overall=Agreement.of(overall),
        sources={name: Agreement.of(measured) for name, measured in sources.items()},
        n_left_out=n_left_out,
    )


def corrected(observed: Interval, card: JudgeCard) -> Interval | None:
    """A refusal rate corrected for its judge's error against people, with one interval for both."""
    known = card.overall
    return rogan_gladen(
        observed,
        true_positive=known.true_positive,
        false_negative=known.false_negative,
        true_negative=known.true_negative,
        false_positive=known.false_positive,
    )


def load_card(judge: str) -> JudgeCard | None:
    """The user's own card of that judge version, else the one that ships, else None."""
    name = _file_name(judge)
    own = card_folder() / name
    packaged = files("demur.judges").joinpath("measured", name)
    for place in (own, packaged):
        if place.is_file():
            return JudgeCard.model_validate_json(place.read_text(encoding="utf-8"))
    return None


def save_card(card: JudgeCard, folder: Path | None = None) -> Path:
    """Keep a card where `load_card` finds it; returns the file."""
    folder = folder or card_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / _file_name(card.judge)
    partial = path.with_suffix(".partial")
    partial.write_text(json.dumps(card.model_dump(mode="json"), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def card_folder() -> Path:
    """Where a user's cards are kept: $DEMUR_HOME, else the user's data folder."""
    own = os.environ.get("DEMUR_HOME")
    base = os.environ.get("XDG_DATA_HOME")
    return (Path(own) if own else (Path(base) if base else Path.home() / ".local" / "share") / "demur") / "judge-cards"


def _file_name(judge: str) -> str:
    return "".join(c if c.isalnum() or c in "@.-" else "_" for c in judge) + ".json"
