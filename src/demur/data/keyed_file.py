"""A TOML, JSON or YAML file of a person's settings as one mapping; YAML only where a reader of it is installed."""

import json
import tomllib
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError

MAX_BYTES = 1_000_000


def read_keyed_file(path: Path) -> dict[str, Any]:
    """The mapping that a file holds, by its suffix: .toml, .json, else YAML.

    Raises:
        BadInputError: No such file, too large, not readable, or not a mapping.
        MissingExtraError: YAML without a YAML reader.
    """
    if not path.is_file():
        raise BadInputError(f"{path}: expected a .toml, .yaml or .json file, found none")
    if path.stat().st_size > MAX_BYTES:
        raise BadInputError(f"{path}: expected at most {MAX_BYTES} bytes of settings; is it the right file?")
    try:
        found = _parsed(path.suffix.lower(), path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # TOML's and JSON's errors are ValueErrors, and so is bad UTF-8
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise BadInputError(f"{path}: not readable as {path.suffix or 'YAML'}: {why}") from None
    if not isinstance(found, dict):
        raise BadInputError(f"{path}: expected names with values, got {type(found).__name__}")
    return found


def _parsed(suffix: str, text: str) -> Any:
    if suffix == ".toml":
        return tomllib.loads(text)
    if suffix == ".json":
        return json.loads(text)
    try:
        import yaml  # type: ignore[import-untyped]
    except ImportError:
        raise MissingExtraError("a file in YAML (TOML and JSON need nothing)", extra="evals") from None
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from None
