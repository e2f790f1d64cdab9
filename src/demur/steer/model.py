"""A steered model behind the seams of the rest: a controlled model and a signal, so that calibration and the server
use it unchanged. Its gates are the signal; what a policy declines is written under steering, in the model's own words.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from demur.core.chat import ChatRequest
from demur.core.errors import BadInputError
from demur.core.signal import ANY, RESPOND, Signal, SignalScores, scores_from_probabilities
from demur.models.adapter import FOLLOWS_ENOUGH, ControlTokens
from demur.models.controlled_stream import PieceStream
from demur.models.controlled_transformers import DEFAULT_MAX_TOKENS, TransformersControlled, TransformersTurn
from demur.models.controlled_worker import ReadJob
from demur.steer.plan import SteeringPlan

SIGNAL = "steering-gate"


@dataclass(slots=True, eq=False)
class SteeredModel(TransformersControlled):
    """A controlled model that steers; made by `steered_model`.

    Attributes:
        plan: What is done, and when.
        hidden: Texts of the control tokens of the model underneath.
    """

    plan: SteeringPlan | None = None
    hidden: tuple[str, ...] = ()

    @property
    def signal(self) -> str:
        """Kind of signal, as in a policy's `source.name`."""
        if self._plan.gates:
            return SIGNAL
        return "refusal-tokens" if self.own_signal is None else self.own_signal.name

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of its scores."""
        if self._plan.gates:
            return self._plan.categories
        deciding = self.control or self.own_signal
        return deciding.categories if deciding else ()

    @property
    def text_follows(self) -> Literal["token", "nothing"]:
        """'token': replies to what is declined are the model's own words under steering, unless measured not to."""
        follows = self._plan.follows
        measured = follows is None or follows >= FOLLOWS_ENOUGH
        return "token" if measured and any(step.when != RESPOND for step in self._plan.active) else "nothing"

    @property
    def _plan(self) -> SteeringPlan:
        assert self.plan is not None
        return self.plan

    @property
    def _hidden(self) -> tuple[str, ...]:
        return self.hidden

    def _turn(self, job: ReadJob, scores: SignalScores, kept: Any) -> "SteeredTurn":
        return SteeredTurn(self, job, scores, kept)


class SteeredTurn(TransformersTurn):
    """One request that may be answered under steering.

    Attributes:
        dial: Factor on every strength of this reply; 0 is the untouched model.
    """

    dial: float = 1.0

    def _reply(self, stream: PieceStream, kept: Any, token: int) -> Any:
        from demur.steer.serving import SteeredReply

        model, request = self._model, self._job.request
        assert isinstance(model, SteeredModel)
        control, plan = model.control, model._plan
        return SteeredReply(
            stream=stream,
            prompt=self._job.prompt,
            kept=kept,
            forced=control.ids[token] if control and token >= 0 else -1,
            budget=request.max_tokens or DEFAULT_MAX_TOKENS,
            temperature=request.temperature or 0.0,
            seed=request.seed,
            weights=plan.weights(token, model.categories, dial=self.dial),
        )


@dataclass(frozen=True, slots=True)
class Always:
    """The signal of steering without a gate: every request is steered."""

    name: str = "always"
    identity: str = "always"
    categories: tuple[str, ...] = (ANY,)

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        """Certainty, for each request."""
        return scores_from_probabilities(self.categories, np.ones((len(requests), 1)))


def steered_model(
    plan: SteeringPlan,
    load: Callable[[], tuple[Any, Any]],
    *,
    name: str,
    control: ControlTokens | None = None,
    signal: Signal | None = None,
    says_tokens: bool = False,
) -> SteeredModel:
    """A steered controlled model; weights are read when it is first asked.

    The plan's gates decide where there are any; else the signal given; else the model's own control tokens, which are
    then forced as ever, with what follows them steered.

    Args:
        plan: What is done, and when.
        load: Makes (model, tokenizer); called once, in the worker.
        name: What requests call it.
        control: Control tokens of the model underneath.
        signal: Decides where the plan has no gates.
        says_tokens: Let the model begin a reply with one of its control tokens, as it does when nobody controls it;
            never part of the text. Otherwise they are not written at all: what decides is the policy.

    Raises:
        BadInputError: Nothing decides when to steer.
    """
    from demur.steer.serving import outfit_of

    gated = bool(plan.gates)
    own = None if gated else signal
    forced = None if gated or signal is not None else control
    if not (gated or own or forced):
        raise BadInputError(
            f"{name}: this steering has no gate, so nothing says when to steer; make the folder with --gate, "
            "or name a --signal"
        )
    identity = f"{plan.model}!{plan.gate_hash}" if gated else own.identity if own else plan.model
    return SteeredModel(
        name=name,
        identity=identity,
        control=forced,
        load=load,
        own_signal=own,
        outfit=outfit_of(plan, control.ids if control else (), says_tokens=says_tokens),
        plan=plan,
        hidden=control.texts if control else (),
    )
