"""When to steer: conditions on a prompt's states, combined by an expression, decided for each row by itself.

A condition is the signed cosine of a state with a direction, at a template span or averaged over the whole prompt; or
its projection, where a direction was calibrated so. The published similarity (CAST) is offered too: it does not see
the sign of a projection, which is why its rules flip between '<' and '>' from layer to layer.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.activations.direction import Direction
from demur.core.errors import BadInputError
from demur.core.signal import SignalScores, scores_from_probabilities
from demur.steer.expression import RESERVED, Compare, Expression, evaluate, margin, names_in, parse_expression

Measure = Literal["cosine", "projection", "cast"]
MEASURES: tuple[Measure, ...] = ("cosine", "projection", "cast")
Floats = NDArray[np.float64]
MEAN = "mean"
# Scores move by hundredths; this much of a cosine is one unit of log-odds.
DEFAULT_SCALE = 0.02
_POST = re.compile(r"t_post\[(-?\d+)\]")


@dataclass(frozen=True, slots=True, eq=False)
class Condition:
    """One number about a prompt.

    Attributes:
        direction: Compared with the state at its own residual index.
        span: Template span read, 'mean' for the average over the whole prompt; '' takes the direction's own.
        measure: 'cosine' is signed; 'projection' is too, in units of the direction's local norm; 'cast' is the
            published similarity, the same for a direction and its negative.
    """

    direction: Direction
    span: str = ""
    measure: Measure = "cosine"

    @property
    def where(self) -> str:
        """The span that is read."""
        return self.span or self.direction.span

    @property
    def threshold(self) -> float | None:
        """Calibrated border of the score; None if there is none: directions are calibrated as projections."""
        known = self.direction.threshold
        return None if known is None or self.measure != "projection" else known / self.direction.local_norm

    def place(self, n_post: int | None) -> int | None:
        """Token it reads, counted from the prompt's end (-1 is the last); None for the mean over the prompt.

        Args:
            n_post: Tokens that the chat template adds after the user's text; None if unknown.

        Raises:
            BadInputError: The span is not one of a prompt, or cannot be found without the template.
        """
        found = _POST.fullmatch(self.where)
        if self.where == MEAN:
            return None
        if found and int(found[1]) < 0:
            return int(found[1])
        if self.where != "t_inst" and not found:
            raise BadInputError(
                f"condition {self.direction.name!r}: expected a span of the prompt (t_inst, t_post[k] or mean), "
                f"got {self.where!r}; a gate decides before there is a reply"
            )
        if n_post is None:
            raise BadInputError(
                f"condition {self.direction.name!r}: span {self.where!r} needs the chat template to be found; "
                "steer a Subject (demur.activations.subject) instead of a bare model"
            )
        return int(found[1]) - n_post if found else -n_post - 1

    def score(self, states: NDArray[np.float32]) -> Floats:
        """Scores of states; (n_rows, d) -> (n_rows,)."""
        match self.measure:
            case "cosine":
                return self.direction.cosines(states)
            case "projection":
                return self.direction.project(states) / self.direction.local_norm
            case "cast":
                return cast_similarity(states, self.direction)


@dataclass(frozen=True, slots=True, eq=False)
class Gate:
    """An expression over conditions.

    Attributes:
        expression: The rule.
        conditions: What its names mean.
        scale: Distance from the border, in units of the scores, that multiplies the odds by e.
    """

    expression: Expression
    conditions: Mapping[str, Condition]
    scale: float = DEFAULT_SCALE

    def __post_init__(self) -> None:
        unknown = sorted(set(names_in(self.expression)) - set(self.conditions))
        if unknown or not self.scale > 0:
            raise BadInputError(
                f"gate '{self.expression}': expected known conditions ({', '.join(self.conditions) or 'none'}) and a "
                f"scale above 0, got {', '.join(unknown) or 'no unknown one'} and {self.scale}"
            )

    def scores(self, states: Mapping[str, NDArray[np.float32]]) -> dict[str, Floats]:
        """Score of each condition; from its states, (n_rows, d) each."""
        return {name: condition.score(states[name]) for name, condition in self.conditions.items()}

    def fires(self, states: Mapping[str, NDArray[np.float32]]) -> NDArray[np.bool_]:
        """Rows to steer; (n_rows,)."""
        return evaluate(self.expression, self.scores(states))

    def margin(self, states: Mapping[str, NDArray[np.float32]]) -> Floats:
        """Distance of each row from the border, positive inside; (n_rows,)."""
        return margin(self.expression, self.scores(states))


def parse_gate(text: str, conditions: Mapping[str, Condition], *, scale: float = DEFAULT_SCALE) -> Gate:
    """A gate from text such as `harm > 0.12 and not (health > 0.2)`; a bare name means its calibrated threshold.

    Raises:
        BadInputError: It does not parse or names what is not there.
    """
    thresholds = {name: condition.threshold for name, condition in conditions.items()}
    expression = parse_expression(text, thresholds=thresholds)
    used = set(names_in(expression))
    return Gate(expression, {name: c for name, c in conditions.items() if name in used}, scale)


def single_gate(direction: Direction, threshold: float | None = None, *, span: str = "") -> Gate:
    """The gate of one condition: its signed cosine reaches a threshold, or its projection the calibrated one.

    Args:
        direction: Compared with the prompt's state.
        threshold: A cosine; None takes the direction's own threshold, which is a projection.
        span: Where to read; '' = the direction's own span.

    Raises:
        BadInputError: No threshold is given and the direction has none.
    """
    condition = Condition(direction, span, "projection" if threshold is None else "cosine")
    border = condition.threshold if threshold is None else threshold
    if border is None:
        raise BadInputError(
            f"direction {direction.name!r}: expected a calibrated threshold, it has none; give one (a cosine, e.g. 0.1)"
        )
    name = condition_name(direction.name)
    return Gate(Compare(name, ">=", float(border)), {name: condition})


def condition_name(text: str) -> str:
    """A name that an expression can hold, from any text."""
    name = re.sub(r"\W+", "_", text).strip("_")
    return name if re.match(r"[^\W\d]", name) and name not in RESERVED else f"c_{name}"


def gate_scores(gates: Mapping[str, Gate], states: Mapping[str, Mapping[str, NDArray[np.float32]]]) -> SignalScores:
    """What gates say as a signal: a column for each category, so that policies and calibration apply.

    With one gate the probability is sigmoid(margin / scale): 1/2 at the gate's own border. Several share their
    probability with 'respond' as a softmax of the same log-odds, whose own border is 0.

    Args:
        gates: By category.
        states: States of each gate's conditions, by category.
    """
    odds = np.stack([gate.margin(states[name]) / gate.scale for name, gate in gates.items()], axis=1)
    whole = np.hstack([odds, np.zeros((len(odds), 1))])
    whole = np.exp(whole - whole.max(axis=1, keepdims=True))
    return scores_from_probabilities(tuple(gates), whole[:, :-1] / whole.sum(axis=1, keepdims=True))


def cast_similarity(states: NDArray[np.float32], direction: Direction) -> Floats:
    """Published condition score: the cosine of a state with tanh of its projection; (n_rows, d) -> (n_rows,).

    It is the same for a state and its negative, and for a direction and its negative.

    Source:
        Lee et al. (2024), "Programming Refusal with Conditional Activation Steering", section 3.
    """
    h = np.asarray(states, dtype=np.float64)
    squashed = np.tanh(direction.project(h)[:, None] * direction.vector.astype(np.float64))
    lengths = np.linalg.norm(h, axis=1) * np.linalg.norm(squashed, axis=1)
    return np.asarray((h * squashed).sum(axis=1) / np.where(lengths > 0, lengths, 1.0))
