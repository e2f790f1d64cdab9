"""JSON from strangers: parsed strictly, and read field by field with errors that name the field."""

import json
import math
import re
from collections.abc import Mapping
from typing import Any

from demur.serve.faults import Fault, bad_request

_LONE = re.compile("[\ud800-\udfff]")
SHOWN = 60


def parse_object(body: bytes) -> dict[str, Any]:
    """The JSON object of a request's body.

    Stricter than the standard library: no NaN or Infinity, no number too large for a float, no name twice in an object.

    Raises:
        Fault: 400; the message says where.
    """
    try:
        value = json.loads(
            body.decode("utf-8"), object_pairs_hook=_object, parse_constant=_constant, parse_float=_finite
        )
    except UnicodeDecodeError as error:
        raise _not_json(f"byte {error.start} is not UTF-8") from None
    except RecursionError:
        raise _not_json("it is nested too deeply") from None
    except json.JSONDecodeError as error:
        raise _not_json(f"line {error.lineno}, column {error.colno}: {error.msg}") from None
    except ValueError as error:
        raise _not_json(str(error)) from None
    if not isinstance(value, dict):
        raise _not_json(f"got {kind_of(value)}")
    return value


def wrong(param: str, expected: str, value: object) -> Fault:
    """HTTP 400: a field has the wrong type or value."""
    return bad_request(f"{param}: expected {expected}, got {shown(value)}", param=param, code="invalid_value")


def text_of(value: object, param: str) -> str:
    """A string; half surrogates become U+FFFD."""
    if not isinstance(value, str):
        raise wrong(param, "a string", value)
    return value if value.isascii() else _LONE.sub("\ufffd", value)


def flag_of(value: object, param: str) -> bool:
    """True or false; null is false."""
    if value is None:
        return False
    if not isinstance(value, bool):
        raise wrong(param, "true or false", value)
    return value


def whole_of(value: object, param: str, *, low: int, high: int) -> int | None:
    """A whole number within bounds; None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise wrong(param, f"a whole number from {low} to {high}", value)
    return value


def number_of(value: object, param: str, *, low: float, high: float) -> float | None:
    """A finite number within bounds; None for null."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        raise wrong(param, f"a number from {low:g} to {high:g}", value)
    return float(value)


def object_of(value: object, param: str) -> Mapping[str, Any]:
    """An object; null is an empty one."""
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise wrong(param, "an object", value)
    return value


def shown(value: object) -> str:
    """A stranger's value, short enough for a message."""
    if value is None or isinstance(value, dict | list):
        return kind_of(value)
    found = repr(value)
    return found if len(found) <= SHOWN else f"{found[:SHOWN]}..."


def kind_of(value: object) -> str:
    """JSON's name for a value's type."""
    if value is None:
        return "null"
    if value == []:
        return "an empty array"
    names = {bool: "true or false", int: "a number", float: "a number", str: "a string", list: "an array"}
    return names.get(type(value), "an object")


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {shown(twice)} stands twice in one object")
    return found


def _constant(name: str) -> float:
    raise ValueError(f"{name} is not JSON")


def _finite(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise ValueError(f"the number {shown(text)} is too large")
    return value


def _not_json(why: str) -> Fault:
    return bad_request(f"body: expected a JSON object; {why}", code="invalid_json")
