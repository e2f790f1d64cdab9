"""Policies as TOML files: read strictly, written whole, compared with the model that is to obey them."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from pydantic import JsonValue, ValidationError

from demur.control.drift import BINS
from demur.core.errors import BadInputError, first_complaint
from demur.core.policy import Policy
from demur.core.signal import ANY
from demur.data.folder import write_bytes

LARGEST = 4 * 2**20  # bytes; a policy is a few kilobytes
# Requests name a policy after an '@', in headers and in file names.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_BARE = re.compile(r"[A-Za-z0-9_-]+")
_ESCAPES = {"\\": "\\\\", '"': '\\"', "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_UNSAFE = re.compile('[\\\\"\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069]')


def write_policy(path: Path, policy: Policy, *, manifest: Mapping[str, JsonValue] | None = None) -> None:
    """Write a policy; a reader never sees half of it.

    Args:
        path: The file.
        policy: What to write.
        manifest: What it was made from: comments, for people.

    Raises:
        BadInputError: The disk is full, or a text holds what no file can (lone surrogates).
    """
    write_bytes(path, policy_text(policy, manifest=manifest).encode("utf-8"))


def policy_text(policy: Policy, *, manifest: Mapping[str, JsonValue] | None = None) -> str:
    """A policy as TOML.

    Raises:
        BadInputError: A text holds lone surrogates.
    """
    made = [_comment(key, value) for key, value in (manifest or {}).items()]
    text = "\n".join([*made, *_table(policy.model_dump(mode="python", exclude_none=True), ())]) + "\n"
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise BadInputError(
            f"policy {policy.name}: expected text, got a lone surrogate ({error.object[error.start]!r}); remove it"
        ) from None
    return text


def read_policy(path: Path) -> Policy:
    """The policy in a file.

    Raises:
        BadInputError: Not readable, no TOML, an unknown or missing key, a value out of range; names file and field.
    """
    try:
        if path.stat().st_size > LARGEST:
            raise BadInputError(f"{path}: expected a policy of a few kilobytes, got over {LARGEST} bytes; check it")
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise BadInputError(f"{path}: expected a policy file; {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        reason = (str(error) or "too deep").splitlines()[0]
        raise BadInputError(f"{path}: expected a policy in TOML; {reason}; write it again") from None
    try:
        # By way of JSON, whose strict reading takes true for no number and a list for a tuple.
        policy = Policy.model_validate_json(json.dumps(raw, default=_written), strict=True)
    except (ValidationError, TypeError) as error:
        raise BadInputError(f"{path}: {_reason(error)}; see docs/howto/calibrate.md") from None
    _check(path, policy)
    return policy


def load_policies(place: Path) -> dict[str, Policy]:
    """Policies of a folder (its *.toml files), or of one file, by name.

    Raises:
        BadInputError: None there, an unreadable one, or two of one name.
    """
    files = sorted(place.glob("*.toml")) if place.is_dir() else [place]
    if not files:
        raise BadInputError(f"{place}: expected policy files ending in .toml, got none; run 'demur calibrate' first")
    found: dict[str, Policy] = {}
    origin: dict[str, Path] = {}
    for file in files:
        policy = read_policy(file)
        if policy.name in found:
            raise BadInputError(
                f"{file}: name: expected a name of its own, got {policy.name!r} as in {origin[policy.name]}; rename one"
            )
        found[policy.name], origin[policy.name] = policy, file
    return found


def check_policy(policy: Policy, *, identity: str, token_ids: Mapping[str, int]) -> None:
    """Make sure that a policy was made for a signal.

    Args:
        policy: The policy.
        identity: Of the signal that is to be obeyed.
        token_ids: Its control tokens, with 'respond'; empty for other signals.

    Raises:
        BadInputError: It was made for another; says both.
    """
    if policy.source.identity != identity:
        raise BadInputError(
            f"policy {policy.name}: made for {policy.source.identity!r}, not for {identity!r}; calibrate it again for "
            "this model"
        )
    if policy.source.token_ids and token_ids and dict(policy.source.token_ids) != dict(token_ids):
        differing = sorted(set(policy.source.token_ids.items()) ^ set(token_ids.items()))[0][0]
        raise BadInputError(
            f"policy {policy.name}: made for other control tokens ({differing}: "
            f"{policy.source.token_ids.get(differing)}, now {token_ids.get(differing)}); calibrate it again"
        )


def _check(path: Path, policy: Policy) -> None:
    """What the types cannot say."""
    if not NAME.fullmatch(policy.name):
        raise BadInputError(
            f"{path}: name: expected up to 64 of letters, digits, '.', '_', '-', got {_shown(policy.name)}; rename it"
        )
    ids = policy.source.token_ids
    if len(set(ids.values())) != len(ids) or any(i < 0 for i in ids.values()):
        raise BadInputError(f"{path}: source.token_ids: expected one id of 0 or more each, got {_shown(dict(ids))}")
    for name, quantiles in policy.reference.items():
        if ids and name not in (*ids, ANY):
            raise BadInputError(f"{path}: reference.{_shown(name)}: expected a category of the source; remove it")
        if len(quantiles) != BINS + 1 or any(a > b for a, b in pairwise(quantiles)):
            raise BadInputError(f"{path}: reference.{name}: expected {BINS + 1} rising numbers; calibrate again")


def _reason(error: ValidationError | TypeError) -> str:
    if isinstance(error, TypeError):
        return f"expected plain values; {error}"
    first = error.errors()[0]
    got = "" if first["type"] in ("missing", "value_error") else f", got {_shown(first['input'])}"
    return first_complaint(error) + got


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _written(value: object) -> str:
    if isinstance(value, datetime):
        return value.isoformat()
    raise TypeError(f"got {type(value).__name__}")


def _comment(key: str, value: JsonValue) -> str:
    return f"# {json.dumps(key)[1:-1]}: {json.dumps(value, ensure_ascii=True)}"


def _table(table: Mapping[str, Any], above: tuple[str, ...]) -> Iterator[str]:
    """Lines of a table: plain values first, since a header ends what stands above it."""
    inner: list[tuple[str, Any]] = []
    for key, value in table.items():
        if isinstance(value, Mapping) or _is_tables(value):
            inner.append((key, value))
        elif value is not None:
            yield f"{_key(key)} = {_value(value)}"
    for key, value in inner:
        name = ".".join(map(_key, (*above, key)))
        for part in [value] if isinstance(value, Mapping) else value:
            if not isinstance(value, Mapping) or not part or not all(isinstance(v, Mapping) for v in part.values()):
                yield ""
                yield f"[{name}]" if isinstance(value, Mapping) else f"[[{name}]]"
            yield from _table(part, (*above, key))


def _is_tables(value: object) -> bool:
    return isinstance(value, list | tuple) and bool(value) and all(isinstance(part, Mapping) for part in value)


def _key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _text(key)


def _value(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | float):
        return repr(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_value, value)) + "]"
    return _text(str(value))


def _text(text: str) -> str:
    return '"' + _UNSAFE.sub(lambda m: _ESCAPES.get(m.group(), f"\\u{ord(m.group()):04x}"), text) + '"'
