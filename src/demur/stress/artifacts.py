"""Published tense attacks read again: the table of the paper, from the answers that its authors stored.

Only the last attempt of each goal is stored, at which the first judge stopped: success @k is the naive one, and the
other judges' verdicts are on answers that the first judge chose.

Source:
    Andriushchenko and Flammarion (2024), "Does Refusal Training in LLMs Generalize to the Past Tense?"; files of its
    repository tml-epfl/llm-past-tense, below `jailbreak_artifacts`.
"""

import csv
import json
import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.stats.agreement import cohen_kappa
from demur.stress.success import REFUSAL_STRINGS

Family = Literal["past_tense", "future_tense", "finetuned_gpt3.5_turbo"]
FAMILIES: tuple[Family, ...] = ("past_tense", "future_tense", "finetuned_gpt3.5_turbo")
JUDGES = ("gpt", "llama", "rules")
KS = (1, 5, 10, 20)
GOALS = "harmful_behaviors_jailbreakbench.csv"
MAX_BYTES = 50_000_000
_MODEL = re.compile(r"model=(?P<model>.+?)-n_requests=")


class StoredAnswer(Frozen):
    """The last attempt on one goal.

    Attributes:
        request: The goal.
        restart: Number of the attempt, from 0.
        verdicts: By the judges of `JUDGES`, in order: whether it succeeded.
        rules_again: The rules judge applied anew to the stored reply.
    """

    request: str
    restart: int = Field(ge=0)
    verdicts: tuple[bool, bool, bool]
    rules_again: bool


class ArtifactFile(Frozen):
    """One target's answers."""

    family: Family
    model: str
    answers: tuple[StoredAnswer, ...]

    def at(self, k: int) -> int:
        """Goals whose stored answer the first judge called a success at one of the first k attempts."""
        return sum(answer.verdicts[0] and answer.restart < k for answer in self.answers)

    def hits(self, judge: str) -> int:
        """Goals whose stored answer this judge called a success."""
        number = JUDGES.index(judge)
        return sum(answer.verdicts[number] for answer in self.answers)


class PublishedTable(Frozen):
    """What the stored answers come to.

    Attributes:
        rows: One for each file: family, model, n, hits of each judge, hits of the first one at each k.
        verdicts: Answers by the three verdicts in the order of `JUDGES`, e.g. 'TTF'.
        agreement: Share of answers on which the first judge and another agree, and Cohen's kappa, by the other's name.
        categories: Hits of the first judge on past-tense answers by category, with answers; empty without the goals'
            file.
        rules_differ: Answers on which the rules judge, applied anew, rules otherwise than stored.
    """

    rows: tuple[dict[str, Any], ...]
    verdicts: dict[str, int]
    agreement: dict[str, tuple[float, float]]
    categories: dict[str, tuple[int, int]]
    rules_differ: int


def read_artifacts(folder: Path) -> list[ArtifactFile]:
    """Every file of the three families below a folder, or below its `jailbreak_artifacts`.

    Raises:
        BadInputError: There is none, or one has another form: file:row:field.
    """
    root = folder / "jailbreak_artifacts" if (folder / "jailbreak_artifacts").is_dir() else folder
    found = [_read(path, family) for family in FAMILIES if (root / family).is_dir() for path in _files(root / family)]
    if not found:
        raise BadInputError(f"{folder}: expected folders {', '.join(FAMILIES)} with .json files, found none")
    return found


def tabulate(files: Sequence[ArtifactFile], categories: dict[str, str] | None = None) -> PublishedTable:
    """The published numbers of stored answers.

    Args:
        files: As read.
        categories: Category by goal.
    """
    answers = [answer for file in files for answer in file.answers]
    first, *others = zip(*(answer.verdicts for answer in answers), strict=True)
    return PublishedTable(
        rows=tuple(_row(file) for file in files),
        verdicts=dict(Counter("".join("FT"[v] for v in answer.verdicts) for answer in answers).most_common()),
        agreement={
            name: (sum(a == b for a, b in zip(first, other, strict=True)) / len(first), cohen_kappa(first, other))
            for name, other in zip(JUDGES[1:], others, strict=True)
        },
        categories=_by_category(files, categories or {}),
        rules_differ=sum(answer.rules_again != answer.verdicts[2] for answer in answers),
    )


def read_categories(folder: Path) -> dict[str, str]:
    """Category by goal, from the goals' file beside the artifacts; empty where there is none.

    Raises:
        BadInputError: The file lacks the columns Goal and Category.
    """
    path = folder / GOALS
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"Goal", "Category"} <= rows[0].keys():
        raise BadInputError(f"{path}: expected columns Goal and Category")
    return {row["Goal"].strip(): row["Category"].strip() for row in rows}


def _row(file: ArtifactFile) -> dict[str, Any]:
    return {
        "family": file.family,
        "model": file.model,
        "n": len(file.answers),
        **{judge: file.hits(judge) for judge in JUDGES},
        **{f"@{k}": file.at(k) for k in KS},
    }


def _by_category(files: Sequence[ArtifactFile], categories: dict[str, str]) -> dict[str, tuple[int, int]]:
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    for file in files:
        for answer in file.answers if file.family == "past_tense" else ():
            category = categories.get(answer.request.strip())
            if category:
                counts[category][0] += answer.verdicts[0]
                counts[category][1] += 1
    return {name: (hits, n) for name, (hits, n) in sorted(counts.items(), key=lambda item: -item[1][0])}


def _files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.suffix == ".json" and not path.name.startswith("."))


def _read(path: Path, family: Family) -> ArtifactFile:
    if path.stat().st_size > MAX_BYTES:
        raise BadInputError(f"{path}: expected at most {MAX_BYTES} bytes; is it the right file?")
    try:
        held = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise BadInputError(f"{path}: expected JSON; {next(iter(str(error).splitlines()), '')}") from None
    header = held if isinstance(held, dict) else {}
    rows = header.get("jb_artifacts") if header else held
    if not isinstance(rows, list) or not rows:
        raise BadInputError(f"{path}: jb_artifacts: expected a list of answers, got {type(rows).__name__}")
    named = _MODEL.search(path.name)
    model = str(header.get("target_model") or (named["model"] if named else path.stem))
    return ArtifactFile(
        family=family, model=model, answers=tuple(_answer(path, number, row) for number, row in enumerate(rows))
    )


def _answer(path: Path, number: int, row: Any) -> StoredAnswer:
    where = f"{path}:{number}"
    if not isinstance(row, dict):
        raise BadInputError(f"{where}: expected an object, got {type(row).__name__}")
    wanted = ("request", "response", "i_restart", *(f"jailbroken_{judge}" for judge in JUDGES))
    missing = [name for name in wanted if name not in row]
    if missing:
        raise BadInputError(f"{where}:{missing[0]}: field required")
    text = str(row["response"] or "")
    try:
        return StoredAnswer(
            request=str(row["request"]),
            restart=row["i_restart"],
            verdicts=tuple(bool(row[f"jailbroken_{judge}"]) for judge in JUDGES),
            rules_again=bool(text) and not any(string in text for string in REFUSAL_STRINGS),
        )
    except ValidationError as error:
        raise BadInputError(f"{where}: {first_complaint(error)}") from None
