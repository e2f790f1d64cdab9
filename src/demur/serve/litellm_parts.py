"""What the LiteLLM guardrail is put together from: a signal, its policy, a judge, and messages out of a request."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from demur.control.policy_file import read_policy
from demur.core.errors import BadInputError
from demur.core.exchange import Message, Role
from demur.core.judge import Judge
from demur.core.policy import Policy
from demur.core.signal import Signal
from demur.judges import load_judge
from demur.serve.fields import text_of

ROLES: Mapping[str, Role] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
    "tool": "tool",
    "function": "tool",
}


def signal_of(given: Signal | str, args: Sequence[str] = ()) -> Signal:
    """A signal, or the one at an import path; what is there and is no signal is called with `args`.

    Raises:
        BadInputError: The path leads nowhere, or to something else.
    """
    if not isinstance(given, str):
        return given
    module, colon, name = given.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError, ValueError):
        found = None
    if not colon or found is None:
        raise BadInputError(f"signal {given!r}: expected 'package.module:name' of a signal or of what makes one")
    made = found if isinstance(found, Signal) and not isinstance(found, type) else _called(given, found, args)
    if not isinstance(made, Signal):
        raise BadInputError(f"signal {given!r}: expected a Signal, got {type(made).__name__}")
    return made


def policy_of(given: Policy | str, signal: Signal) -> Policy:
    """A policy, or the one in a file, which must have been made for the signal.

    Raises:
        BadInputError: It is no policy, or was made for another signal.
    """
    policy = read_policy(Path(given)) if isinstance(given, str) else given
    kind = str(getattr(signal, "signal", signal.name))  # a controlled model's own name is not its signal's
    made_for = policy.source
    if (made_for.name, made_for.identity) != (kind, signal.identity):
        raise BadInputError(
            f"policy {policy.name!r} was made for {made_for.name} of {made_for.identity}, the signal is {kind} of "
            f"{signal.identity}; calibrate it for this signal"
        )
    return policy


def judge_of(given: Judge | str) -> Judge:
    """A judge, or the one that the command line calls so.

    Raises:
        UnknownNameError: There is none.
    """
    return load_judge(given) if isinstance(given, str) else given


def messages_of(source: Mapping[str, Any]) -> tuple[Message, ...]:
    """The text of a conversation in OpenAI's form; parts that are no text are left out.

    Args:
        source: LiteLLM's inputs of a guardrail, or a request's body. Where there are no messages, its texts count as
            the user's.

    Raises:
        Fault: A role or text is not of OpenAI's form.
    """
    found = source.get("structured_messages") or source.get("messages")
    if not isinstance(found, list):
        texts = source.get("texts") or ()
        return tuple(Message(role="user", text=text_of(text, "texts")) for text in texts)
    messages = [Message(role=_role(m.get("role")), text=_text(m.get("content"))) for m in found]
    return tuple(m for m in messages if m.text)


def _role(value: object) -> Role:
    role = ROLES.get(value) if isinstance(value, str) else None
    if role is None:
        raise BadInputError(f"messages: role: expected one of {', '.join(ROLES)}, got {str(value)[:60]!r}")
    return role


def _text(content: object) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return text_of(content, "content")
    if not isinstance(content, list):
        raise BadInputError(f"messages: content: expected a text or a list of parts, got {type(content).__name__}")
    texts = [part.get("text") for part in content if isinstance(part, dict)]
    return "".join(text_of(text, "content") for text in texts if text is not None)


def _called(given: str, made_by: Any, args: Sequence[str]) -> object:
    if not callable(made_by):
        raise BadInputError(f"signal {given!r}: expected a Signal or a function, got {type(made_by).__name__}")
    return made_by(*args)
