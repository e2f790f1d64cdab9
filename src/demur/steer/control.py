"""Steering strength as a dial: views of one loaded model, each at its own setting, that do not disturb each other."""

import math
from dataclasses import dataclass

from demur.core.chat import ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import OutOfRangeError
from demur.core.exchange import StopReason
from demur.steer.model import SteeredModel, SteeredTurn

DEFAULT_BOUNDS = (-2.0, 2.0)


@dataclass(frozen=True, slots=True, eq=False)
class SteeringControl:
    """One number that moves a model's refusal rate.

    The setting multiplies every strength of the model's plan: with additions of strength 1 it is their strength in
    local residual norms, and 0 is exactly the untouched model.

    Attributes:
        model: The model; loaded once, whatever the settings.
        bounds: Lowest and highest setting that may be used.
        gated: Steer only requests whose gate opens; False steers all.
    """

    model: SteeredModel
    bounds: tuple[float, float] = DEFAULT_BOUNDS
    gated: bool = True

    @property
    def name(self) -> str:
        """Stable name, e.g. 'steer/1a2b3c4d'."""
        return f"steer/{self.model._plan.hash}"

    def at(self, setting: float, /) -> "SteeredChat":
        """The model under a setting: a view, cheap to make.

        Raises:
            OutOfRangeError: The setting lies outside the bounds.
        """
        low, high = self.bounds
        if not (math.isfinite(setting) and low <= setting <= high):
            raise OutOfRangeError(
                f"steering strength {setting} is outside the bounds {low:g} to {high:g} of {self.name}"
            )
        return SteeredChat(self.model, setting, gated=self.gated)

    async def close(self) -> None:
        """Free the model."""
        await self.model.close()


@dataclass(frozen=True, slots=True, eq=False)
class SteeredChat:
    """A chat model under one setting of a steering dial.

    Attributes:
        model: The model.
        setting: Factor on the plan's strengths.
        gated: Steer only requests whose gate opens.
    """

    model: SteeredModel
    setting: float
    gated: bool = True

    @property
    def name(self) -> str:
        """Identity: the model, its steering and the setting."""
        plan = self.model._plan
        return f"{plan.model}!{plan.hash}*{self.setting:g}" + ("" if self.gated else "/all")

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        """Answer one request; see `demur.core.chat.ChatModel`."""
        from contextlib import aclosing

        from demur.models.local import split_reasoning

        turn = await self.model.open(request)
        assert isinstance(turn, SteeredTurn)
        turn.dial = self.setting
        text, n_in, n_out = "", turn.input_tokens, 0
        stop: StopReason = "unknown"
        try:
            async with aclosing(turn.reply(token=self._column(turn))) as pieces:
                async for piece in pieces:
                    text += piece.text
                    if piece.stop_reason is not None:
                        stop, n_out = piece.stop_reason, piece.output_tokens
                    elif enough is not None and piece.text and enough(text):
                        stop = "settled"
                        break
        finally:
            await turn.close()
        reply, reasoning = split_reasoning(text)
        return ChatReply(text=reply, reasoning=reasoning, stop_reason=stop, input_tokens=n_in, output_tokens=n_out)

    def _column(self, turn: SteeredTurn) -> int:
        """Column of the gates' own decision: the likeliest category where it beats answering."""
        scores = turn.scores
        likeliest = int(scores.logits[0, :-1].argmax())
        if not self.gated or scores.logits[0, likeliest] >= scores.logits[0, -1]:
            return likeliest
        return len(scores.categories)
