"""What a chat template adds after the user's text: how a gate finds the end of that text in token ids alone."""

from dataclasses import dataclass
from typing import Any

from demur.activations.spans import tokenized
from demur.core.errors import BadInputError
from demur.steer.sequences import DecoderCall


@dataclass(frozen=True, slots=True)
class TemplateSuffix:
    """Token ids between the user's text and the reply."""

    ids: tuple[int, ...]

    def check(self, call: DecoderCall) -> None:
        """Make sure that prompts end as the template ends them; right padding without a mask does not.

        Raises:
            BadInputError: One does not, so that spans would name other tokens.
        """
        given = call.given.get("input_ids")
        if given is None:
            return
        for ids, positions in zip(given.tolist(), call.positions.tolist(), strict=True):
            real = [token for token, position in zip(ids, positions, strict=True) if position >= 0]
            if tuple(real[-len(self.ids) :]) != self.ids:
                raise BadInputError(
                    f"gate: expected prompts that end as the chat template ends them (tokens {list(self.ids)}), got "
                    f"one that ends in {real[-len(self.ids) :]}; apply the template with add_generation_prompt=True, "
                    "and give an attention mask with padded rows"
                )


def suffix_of(tokenizer: Any) -> TemplateSuffix | None:
    """The suffix of a tokenizer's chat template; None if there is no template, or no suffix to be told apart."""
    if getattr(tokenizer, "chat_template", None) is None:
        return None
    begin, end = (found := tokenized(tokenizer, "What is the capital of France?")).ranges["post"]
    return TemplateSuffix(tuple(found.ids[begin:end])) if end > begin else None
