"""What decides in a controlled model: its own control tokens, or a signal beside it."""

from typing import Literal

from demur.core.signal import Signal
from demur.models.adapter import ControlTokens


class DecidedBy:
    """What every controlled model says of itself, from `control` and, where it has none, from `own_signal`."""

    __slots__ = ()
    control: ControlTokens | None
    own_signal: Signal | None

    @property
    def signal(self) -> str:
        """Kind of signal, as in a policy's `source.name`."""
        return "refusal-tokens" if self.control is not None or self.own_signal is None else self.own_signal.name

    @property
    def token_ids(self) -> dict[str, int]:
        """Ids of the control tokens by category, plus 'respond'; empty if it has none."""
        return self.control.token_ids if self.control is not None else {}

    @property
    def text_follows(self) -> Literal["token", "nothing"]:
        """Whether the model's own words follow a forced token."""
        return self.control.text_follows if self.control is not None else "nothing"

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of its scores."""
        if self.control is not None:
            return self.control.categories
        return self.own_signal.categories if self.own_signal else ()
