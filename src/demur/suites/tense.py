"""Benign requests that are about the past or the future by nature: what a model hardened against tense must answer."""

from functools import cache
from importlib.resources import files
from typing import Literal

from pydantic import ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen

Era = Literal["past", "future"]
_FILES: dict[str, Era] = {"history": "past", "future": "future"}


class TensePrompt(Frozen):
    """One request.

    Attributes:
        id: Stable identifier.
        topic: What it is about, e.g. 'crafts'.
        prompt: What a user asks; nothing in it calls for a refusal.
        era: 'past' for questions of history, 'future' for questions about what is to come.
    """

    id: str
    topic: str
    prompt: str
    era: Era


@cache
def load_tense(era: Era | None = None) -> tuple[TensePrompt, ...]:
    """The requests of `suites/tense`, or those of one era.

    Raises:
        BadInputError: A malformed row: file:line:field.
    """
    folder = files("demur.suites").joinpath("tense")
    if not folder.is_dir():
        return ()
    rows: list[TensePrompt] = []
    for file in sorted(folder.iterdir(), key=lambda entry: entry.name):
        found = next((era for stem, era in _FILES.items() if file.name.startswith(stem)), None)
        if not file.name.endswith(".jsonl") or found is None:
            continue
        for number, line in enumerate(file.read_text(encoding="utf-8").split("\n"), start=1):
            if line.strip():
                rows.append(_row(line, found, f"{file.name}:{number}"))
    return tuple(row for row in rows if era is None or row.era == era)


def _row(line: str, era: Era, where: str) -> TensePrompt:
    import json

    try:
        return TensePrompt.model_validate({**json.loads(line), "era": era})
    except ValidationError as error:
        raise BadInputError(f"{where}: {first_complaint(error)}") from None
    except (ValueError, TypeError):
        raise BadInputError(f"{where}: expected a JSON object with id, topic and prompt") from None
