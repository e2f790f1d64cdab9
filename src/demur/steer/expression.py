"""Conditions combined with `and`, `or` and `not`: read from text into a tree, evaluated for many rows at once.

`not` binds tighter than `and`, `and` tighter than `or`, as everywhere; brackets override. A rule split on spaces, as
published code does it, takes 'a and b or c' for an *or* of everything; a tree cannot.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError

Floats = NDArray[np.float64]
Op = Literal[">", ">=", "<", "<="]
_OPS: tuple[Op, ...] = (">", ">=", "<", "<=")
_TOKEN = re.compile(r"\s*(>=|<=|[<>()]|[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?|[^\W\d][\w./-]*|\S)")
_NUMBER = re.compile(r"[-+]?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?")
_NAME = re.compile(r"[^\W\d][\w./-]*")
RESERVED = frozenset({"and", "or", "not"})
_DEEPEST = 50


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition's score against a number; true where `margin` is positive, or 0 for '>=' and '<='."""

    name: str
    op: Op
    threshold: float

    def __str__(self) -> str:
        return f"{self.name} {self.op} {self.threshold!r}"


@dataclass(frozen=True, slots=True)
class Not:
    """True where its part is not."""

    part: "Expression"

    def __str__(self) -> str:
        return f"not {_bracketed(self.part, (And, Or))}"


@dataclass(frozen=True, slots=True)
class And:
    """True where all of its parts are."""

    parts: tuple["Expression", ...]

    def __str__(self) -> str:
        return " and ".join(_bracketed(part, (Or, And)) for part in self.parts)


@dataclass(frozen=True, slots=True)
class Or:
    """True where some part is."""

    parts: tuple["Expression", ...]

    def __str__(self) -> str:
        return " or ".join(_bracketed(part, (Or,)) for part in self.parts)


Expression = Compare | Not | And | Or


def parse_expression(text: str, *, thresholds: Mapping[str, float | None] | None = None) -> Expression:
    """Read an expression such as `harm > 0.12 and not (health > 0.2)`.

    Args:
        text: Comparisons of named conditions with numbers, joined by and, or, not and brackets.
        thresholds: What a bare name means: 'harm' is 'harm >= ' its threshold. Its keys are the known names;
            None knows every name and no threshold.

    Raises:
        BadInputError: It does not parse, names an unknown condition, or a bare name has no threshold.
    """
    reader = _Reader(text, thresholds)
    found = reader.either(0)
    if reader.next:
        raise reader.wrong("'and', 'or' or the end")
    return found


def names_in(expression: Expression) -> Iterator[str]:
    """Names of the conditions an expression reads, in order, perhaps repeated."""
    match expression:
        case Compare(name=name):
            yield name
        case Not(part=part):
            yield from names_in(part)
        case And(parts=parts) | Or(parts=parts):
            for part in parts:
                yield from names_in(part)


def evaluate(expression: Expression, scores: Mapping[str, Floats]) -> NDArray[np.bool_]:
    """Where an expression holds; scores are (n_rows,) each. A score that is no number makes its comparison false."""
    match expression:
        case Compare(name=name, op=op, threshold=threshold):
            score = np.asarray(scores[name])
            held = {">": score > threshold, ">=": score >= threshold, "<": score < threshold, "<=": score <= threshold}
            return np.asarray(held[op])
        case Not(part=part):
            return ~evaluate(part, scores)
        case And(parts=parts):
            return np.asarray(np.logical_and.reduce([evaluate(part, scores) for part in parts]))
        case Or(parts=parts):
            return np.asarray(np.logical_or.reduce([evaluate(part, scores) for part in parts]))


def margin(expression: Expression, scores: Mapping[str, Floats]) -> Floats:
    """How far rows are from the border: positive where the expression holds, in the scores' own unit; (n_rows,).

    A comparison's distance from its threshold; the least of its parts for `and`, the largest for `or`, negated for
    `not`. A dial on it therefore loosens or tightens every threshold of the expression by the same amount.
    """
    match expression:
        case Compare(name=name, op=op, threshold=threshold):
            distance = np.asarray(scores[name], dtype=np.float64) - threshold
            return distance if op in (">", ">=") else -distance
        case Not(part=part):
            return -margin(part, scores)
        case And(parts=parts):
            return np.asarray(np.minimum.reduce([margin(part, scores) for part in parts]))
        case Or(parts=parts):
            return np.asarray(np.maximum.reduce([margin(part, scores) for part in parts]))


class _Reader:
    """Recursive descent over the words of an expression."""

    def __init__(self, text: str, thresholds: Mapping[str, float | None] | None) -> None:
        self.text, self.thresholds = text, thresholds
        self.words = _TOKEN.findall(text)
        self.at = 0

    @property
    def next(self) -> str:
        return self.words[self.at] if self.at < len(self.words) else ""

    def take(self) -> str:
        self.at += 1
        return str(self.words[self.at - 1])

    def wrong(self, expected: str) -> BadInputError:
        got = f"{self.next!r}" if self.next else "the end"
        return BadInputError(
            f"gate {self.text!r}: expected {expected} as word {self.at + 1}, got {got}; "
            "write e.g. 'harm > 0.12 and not (health > 0.2)'"
        )

    def either(self, depth: int) -> Expression:
        return self._joined("or", self.both, depth)

    def both(self, depth: int) -> Expression:
        return self._joined("and", self.negated, depth)

    def negated(self, depth: int) -> Expression:
        if depth > _DEEPEST:
            raise self.wrong(f"at most {_DEEPEST} nested brackets or nots")
        if self.next == "not":
            self.take()
            return Not(self.negated(depth + 1))
        if self.next != "(":
            return self.compared()
        self.take()
        inner = self.either(depth + 1)
        if self.next != ")":
            raise self.wrong("')'")
        self.take()
        return inner

    def compared(self) -> Expression:
        name = self.next
        if not _NAME.fullmatch(name) or name in RESERVED:
            raise self.wrong("the name of a condition")
        if self.thresholds is not None and name not in self.thresholds:
            raise self.wrong(f"a condition among {', '.join(sorted(self.thresholds))}")
        self.take()
        op = next((known for known in _OPS if known == self.next), None)
        if op is None:
            threshold = (self.thresholds or {}).get(name)
            if threshold is None:
                raise self.wrong(f"a comparison, since {name!r} has no threshold of its own")
            return Compare(name, ">=", float(threshold))
        self.take()
        if not _NUMBER.fullmatch(self.next):
            raise self.wrong("a number")
        return Compare(name, op, float(self.take()))

    def _joined(self, word: str, part: Callable[[int], Expression], depth: int) -> Expression:
        parts: list[Expression] = [part(depth)]
        while self.next == word:
            self.take()
            parts.append(part(depth))
        return parts[0] if len(parts) == 1 else Or(tuple(parts)) if word == "or" else And(tuple(parts))


def _bracketed(part: Expression, kinds: Sequence[type]) -> str:
    return f"({part})" if isinstance(part, tuple(kinds)) else str(part)
