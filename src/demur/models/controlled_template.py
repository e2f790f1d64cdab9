"""Chat templates rendered without a tokenizer, as transformers renders them: for engines that only need text."""

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from demur.core.errors import BackendError, BadInputError

# Marks what training computes its loss on; says nothing about the text.
_GENERATION = re.compile(r"\{%-?\s*(?:end)?generation\s*-?%\}")


def without_training_marks(template: str) -> str:
    """The template without `{% generation %}`, which only training code knows."""
    return _GENERATION.sub("", template)


class ChatTemplate:
    """A compiled chat template; it may be hostile, so it runs in a sandbox.

    Raises:
        BadInputError: It is no Jinja template.
    """

    def __init__(self, source: str, *, tokens: Mapping[str, str], origin: str) -> None:
        from jinja2 import TemplateSyntaxError
        from jinja2.ext import loopcontrols
        from jinja2.sandbox import ImmutableSandboxedEnvironment

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[loopcontrols])
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise
        environment.globals["strftime_now"] = _now
        try:
            self._template = environment.from_string(without_training_marks(source))
        except TemplateSyntaxError as error:
            raise BadInputError(f"{origin}: expected a chat template in Jinja; {error.message}") from None
        self._tokens = dict(tokens)

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """The prompt up to where the reply begins.

        Raises:
            BackendError: The template does not take these messages, e.g. two user turns in a row.
        """
        from jinja2 import TemplateError

        try:
            return self._template.render(messages=messages, add_generation_prompt=True, **self._tokens)
        except (TemplateError, TypeError) as error:
            raise BackendError(f"the chat template does not take these messages: {error}", retriable=False) from None


def _to_json(value: Any, indent: int | None = None, **_: Any) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _raise(message: str) -> None:
    from jinja2 import TemplateError

    raise TemplateError(message)


def _now(form: str) -> str:
    return datetime.now().strftime(form)
