"""What a scan is: everything a verdict depends on, and where each file of its folder lies."""

import json
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.data.logs import Shard

FORMAT = 1


class ScanSettings(Frozen):
    """Everything that can change a verdict, besides the input.

    Attributes:
        judge: Judge of every row.
        judge_label: Its name and version.
        escalate: Judge of the rows the first one is unsure of, and of the sample that corrects the rate.
        escalate_label: Its name and version.
        budget: Rows the second judge may see: a number, or a share such as '2%'.
        skip_bad: Leave unreadable rows out.
        language_every: One row in so many is asked for its language and category; changes no verdict.
    """

    judge: str
    judge_label: str
    escalate: str | None = None
    escalate_label: str | None = None
    budget: str | None = None
    skip_bad: bool = False
    language_every: int = 1

    @property
    def digest(self) -> str:
        """Hash of all of it, 16 hexadecimal digits."""
        return _digest({"format": FORMAT, **self.model_dump()})


@dataclass(frozen=True, slots=True)
class Piece:
    """One shard with its place in the scan: what a worker is given.

    The place is in the name, so that files sort like the input and two shards of equal content stay two.
    """

    number: int
    shard: Shard

    @property
    def name(self) -> str:
        """Stem of this shard's files."""
        return f"{self.number:06d}-{self.shard.id}"


@dataclass(frozen=True, slots=True)
class ScanFolder:
    """Where a scan keeps what."""

    root: Path

    def verdicts(self, piece: Piece) -> Path:
        """Verdicts of a shard."""
        return self.root / "verdicts" / f"{piece.name}.parquet"

    def manifest(self, piece: Piece) -> Path:
        """Counts of a shard; its presence says that the shard is done."""
        return self.root / "manifest" / f"{piece.name}.json"

    def strata(self, piece: Piece) -> Path:
        """Stratum and random order of each row, for the second judge."""
        return self.root / "manifest" / f"{piece.name}.npy"

    def is_done(self, piece: Piece, digest: str) -> bool:
        """Whether a shard was scanned before with these settings, and nothing of it was removed."""
        try:
            held = json.loads(self.manifest(piece).read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return False
        if held.get("settings") != digest or held.get("shard") != piece.shard.id:
            return False
        return held.get("n_rows") == 0 or self.verdicts(piece).is_file()

    def sweep(self) -> None:
        """Remove what killed workers left half-written."""
        for folder in (self.root / "verdicts", self.root / "manifest"):
            for partial in folder.glob(".*.partial"):
                partial.unlink(missing_ok=True)

    def claim(self, settings: ScanSettings, pieces: list[Piece]) -> dict[str, Any]:
        """The record of this scan for `run.json`, checked against the one that is there.

        Raises:
            BadInputError: The folder holds a scan of other input or with other settings.
        """
        wanted = {
            "kind": "scan",
            "settings": settings.model_dump(),
            "n_shards": len(pieces),
            "input": _digest([piece.name for piece in pieces]),
        }
        path = self.root / "run.json"
        if path.is_file():
            self._compare(path, wanted)
        return wanted

    def _compare(self, path: Path, wanted: dict[str, Any]) -> None:
        try:
            held = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            held = None
        remedy = "choose another --out or remove it"
        if not isinstance(held, dict) or held.get("kind") != "scan" or not isinstance(held.get("settings"), dict):
            raise BadInputError(f"{self.root}: expected the folder of a scan or a new one, got another run; {remedy}")
        for key, value in wanted["settings"].items():
            if held["settings"].get(key) != value:
                before = held["settings"].get(key)
                raise BadInputError(
                    f"{self.root}: expected the scan it holds ({key} {before!r}), got {key} {value!r}; {remedy}"
                )
        if held.get("input") != wanted["input"]:
            raise BadInputError(
                f"{self.root}: expected the input it was begun with ({held.get('n_shards')} shards), "
                f"got other or changed files ({wanted['n_shards']} shards); {remedy}"
            )


def parse_budget(text: str, n_rows: int) -> int:
    """Rows of a budget such as '500' or '2%'.

    Raises:
        BadInputError: Neither a whole number above 0 nor a share between 0 and 100 %.
    """
    try:
        rows = round(n_rows * _share(text)) if text.endswith("%") else int(text)
    except ValueError:
        rows = -1
    if rows < 0 or (rows == 0 and not text.endswith("%")):
        raise BadInputError(
            f"--budget: expected a number of rows or a share such as 2%, got {text!r}; give one of them"
        )
    return min(rows, n_rows)


def _share(text: str) -> float:
    share = float(text.removesuffix("%")) / 100
    if not 0 < share <= 1:
        raise ValueError(text)
    return share


def _digest(value: Any) -> str:
    return sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]
