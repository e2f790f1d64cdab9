"""A run's folder: files that appear whole or not at all."""

import errno
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from threading import get_ident
from typing import Any

from demur.core.errors import BadInputError
from demur.core.profile import AuditRow, Profile

ROW_COLUMNS = tuple(AuditRow.model_fields)


def write_text(path: Path, text: str) -> None:
    """Write a file atomically; lone surrogates become U+FFFD."""
    write_bytes(path, text.encode("utf-8", "replace"))


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file atomically.

    Raises:
        BadInputError: The disk is full or the folder cannot be written; nothing is left half-written.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}-{get_ident()}.partial")  # two threads may write one file
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        what = "the disk is full" if error.errno == errno.ENOSPC else (error.strerror or str(error))
        raise BadInputError(
            f"{path}: cannot be written: {what}; free space or choose another --out and run again"
        ) from None


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write JSON atomically; not-a-number becomes null."""
    write_text(path, json.dumps(value, indent=1, ensure_ascii=True, allow_nan=False, default=str) + "\n")


def write_rows(path: Path, rows: Sequence[AuditRow]) -> None:
    """Write `responses.parquet`: one line for each prompt."""
    import io

    import polars

    schema = {
        name: polars.List(polars.Int64)
        if name == "refusal_span"
        else polars.Float64
        if name == "p_refused"
        else polars.Boolean
        if name in ("appropriate", "truncated")
        else polars.String
        for name in ROW_COLUMNS
    }
    clean = [{name: _storable(value) for name, value in row.model_dump().items()} for row in rows]
    buffer = io.BytesIO()
    polars.DataFrame(clean, schema=schema).write_parquet(buffer)
    write_bytes(path, buffer.getvalue())


def read_rows(folder: Path) -> list[AuditRow]:
    """Rows of a finished audit.

    Raises:
        BadInputError: The folder holds no finished audit.
    """
    import polars

    path = folder / "responses.parquet"
    if not path.is_file():
        raise BadInputError(
            f"{folder}: expected the folder of a finished audit with responses.parquet; "
            f"run 'demur audit ... --out {folder}'"
        )
    try:
        return [AuditRow.model_validate(row) for row in polars.read_parquet(path).to_dicts()]
    except (polars.exceptions.PolarsError, ValueError) as error:
        raise BadInputError(f"{path}: expected demur's columns; {str(error).splitlines()[0]}") from None


def read_profile(folder: Path) -> Profile:
    """Profile of a finished audit.

    Raises:
        BadInputError: There is none, or it is of another version.
    """
    path = folder / "profile.json"
    if not path.is_file():
        raise BadInputError(f"{folder}: expected the folder of a finished audit with profile.json")
    try:
        return Profile.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(f"{path}: expected a profile; {str(error).splitlines()[0]}") from None


def claim(folder: Path, claim_as: Mapping[str, Any]) -> bool:
    """Mark a folder as belonging to one audit; True if the same audit was begun there before.

    Raises:
        BadInputError: Another audit lives there.
    """
    path = folder / "run.json"
    wanted = json.loads(json.dumps(claim_as, default=str))
    if not path.is_file():
        write_json(path, wanted)
        return False
    held = json.loads(path.read_text(encoding="utf-8"))
    different = [key for key in wanted if held.get(key) != wanted[key]]
    if different:
        key = different[0]
        raise BadInputError(
            f"{folder} holds another audit ({key}: {held.get(key)!r}, now {wanted[key]!r}); "
            "choose another --out or remove it"
        )
    return True


def _storable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    return list(value) if isinstance(value, tuple) else value
