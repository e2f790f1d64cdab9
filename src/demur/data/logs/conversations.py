"""What was asked: conversations of any provider as messages, and chat dumps with the reply among the turns."""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

from demur.core.exchange import Message, Role
from demur.data.logs.replies import (
    Parts,
    ProviderReply,
    RecordError,
    decoded,
    first,
    joined,
    mapping,
    parts_of,
    reasoning_of,
    split_thinking,
    string,
)
from demur.data.logs.signals import signal, stop_signals

CHAT_KEYS = ("messages", "conversations", "conversation", "dialogue", "dialog", "turns", "chat", "history")
PROMPT_KEYS = ("contents", "input", "prompt", "inputText", "question", "instruction", "query")
_ROLES: dict[str, Role] = {
    **dict.fromkeys(("system", "developer"), "system"),
    **dict.fromkeys(("user", "human", "prompter", "instruction", "question"), "user"),
    **dict.fromkeys(
        ("assistant", "gpt", "bot", "model", "ai", "chatbot", "chatgpt", "bing", "bard", "llm"), "assistant"
    ),
    **dict.fromkeys(("tool", "function", "observation", "function_response", "tool_response", "ipython"), "tool"),
}  # fmt: skip
_CALLS = frozenset(("function_call", "tool_call"))


def turns_of(record: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The list of turns in a chat dump's record, also from its JSON text; None if there is none."""
    for key in CHAT_KEYS:
        if key not in record:
            continue
        value = record[key]
        if isinstance(value, str) and value.lstrip()[:1] == "[":
            value = decoded(value)
        if is_turns(value):
            return value
    return _thread(record)


def _thread(record: Mapping[str, Any]) -> list[Mapping[str, Any]] | None:
    """The visible thread of a conversation kept as a tree of edits (ChatGPT's export)."""
    nodes, here = record.get("mapping"), record.get("current_node")
    if not isinstance(nodes, dict) or not isinstance(here, str):
        return None
    thread: list[Mapping[str, Any]] = []
    for _ in range(len(nodes)):
        node = mapping(nodes.get(str(here)))
        if isinstance(node.get("message"), dict):
            thread.append(node["message"])
        here = node.get("parent")
    thread.reverse()
    return thread if is_turns(thread) else None


def is_turns(value: object) -> TypeGuard[list[Mapping[str, Any]]]:
    """Whether a value is a list of turns: objects that name who speaks."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(turn, dict) and ("role" in turn or "from" in turn or "author" in turn) for turn in value)
    )


def role_of(turn: Mapping[str, Any]) -> Role:
    """Who speaks; anyone unknown is taken for a tool, whose words are neither asked nor answered."""
    name = first(turn, "role", "from", "author")
    if isinstance(name, dict):
        name = name.get("role")
    if str(name).casefold() in _CALLS:
        return "assistant"
    return _ROLES.get(str(name).casefold(), "tool")


def _parts(turn: Mapping[str, Any]) -> Parts:
    parts = parts_of(first(turn, "content", "value", "text", "message", "parts", "body"))
    calls = str(turn.get("from")).casefold() in _CALLS
    n_calls = parts.n_tool_calls + bool(calls or turn.get("tool_calls") or turn.get("function_call"))
    text = "" if calls else parts.text
    if turn.get("type") in ("function_call", "function_call_output"):
        n_calls, text = 1, ""
    return Parts(text, parts.reasoning, parts.refusal, n_calls)


def messages_of(turns: Sequence[object]) -> tuple[Message, ...]:
    """Turns as messages; reasoning and tool calls are left out of their text."""
    messages = []
    for turn in turns:
        if isinstance(turn, str):
            messages.append(Message(role="user", text=turn))
        elif isinstance(turn, dict) and any(key in turn for key in ("role", "from", "author", "parts", "content")):
            named = any(key in turn for key in ("role", "from", "author"))
            messages.append(Message(role=role_of(turn) if named else "user", text=_parts(turn).text))
    return tuple(messages)


def request_messages(request: Mapping[str, Any]) -> tuple[Message, ...]:
    """What a request of any provider asked: messages, contents, input or prompt, with the system prompt first."""
    system = first(request, "system", "instructions", "systemInstruction", "system_instruction", "system_prompt")
    found: tuple[Message, ...] = ()
    if (turns := turns_of(request)) is not None:
        found = messages_of(turns)
    else:
        asked = first(request, *PROMPT_KEYS)
        if isinstance(asked, str) and asked.lstrip()[:2] in ("[{", '{"'):
            asked = _turns_in(decoded(asked)) or asked
        if isinstance(asked, dict):
            return request_messages(asked)
        if isinstance(asked, str):
            found = (Message(role="user", text=asked),)
        elif isinstance(asked, list):
            found = messages_of(asked)
    text = system if isinstance(system, str) else parts_of(system).text
    return (Message(role="system", text=text), *found) if text else found


def _turns_in(value: object) -> object:
    """A decoded value, if it is a conversation rather than a question that happens to be JSON."""
    if is_turns(value) or (isinstance(value, dict) and turns_of(value) is not None):
        return value
    return None


def chat_reply(record: Mapping[str, Any], turns: Sequence[Mapping[str, Any]]) -> ProviderReply:
    """The last reply of a chat dump: the last text the model said after the last question that it answered.

    A turn that only calls tools is no reply and no refusal: its stop reason is tool_calls.

    Raises:
        RecordError: No turn of the model.
    """
    roles = [role_of(turn) for turn in turns]
    if "assistant" not in roles:
        raise RecordError("messages", "a turn of the assistant", sorted(set(roles)))
    last = len(roles) - 1 - roles[::-1].index("assistant")
    asked = last - 1
    while asked >= 0 and roles[asked] != "user":
        asked -= 1
    candidates = [i for i in range(asked + 1, last + 1) if roles[i] == "assistant"]
    parts = {i: _parts(turns[i]) for i in candidates}
    spoken = [i for i in candidates if parts[i].text.strip() or parts[i].refusal or turns[i].get("refusal")]
    reply = spoken[-1] if spoken else last
    turn, found = turns[reply], parts[reply]
    stop, signals = stop_signals(first(turn, "finish_reason", "stop_reason") or _stop_word(record))
    refusal = found.refusal or string(turn.get("refusal")) or None
    if refusal:
        signals = (*signals, signal("refusal_field", refusal, "model"))
    if found.n_tool_calls and stop in ("unknown", "stop"):
        stop = "tool_calls"
    text, thought = split_thinking(found.text)
    context = messages_of(turns[:reply])
    return ProviderReply(
        text=text or refusal or "",
        reasoning=joined((reasoning_of(turn), found.reasoning, thought)),
        stop_reason=stop,
        signals=signals,
        messages=context if any(m.role == "system" for m in context) else (*_system(record), *context),
        model=string(first(turn, "model", "model_slug") or first(record, "model", "model_name", "generator")),
        created=first(record, "created_at", "timestamp", "created", "time", "date"),
        record_id=str(first(record, "id", "conversation_id", "uuid", "chat_id") or ""),
    )


def _stop_word(record: Mapping[str, Any]) -> Any:
    return first(record, "finish_reason", "stop_reason") or mapping(record.get("metadata")).get("finish_reason")


def _system(record: Mapping[str, Any]) -> tuple[Message, ...]:
    text = first(record, "system", "system_prompt")
    return (Message(role="system", text=text),) if isinstance(text, str) else ()
