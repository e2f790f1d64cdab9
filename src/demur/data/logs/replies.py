"""A reply as any provider sends it, reduced to its parts; and the text that hides in lists of parts."""

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from demur.core.errors import BadInputError
from demur.core.exchange import ApiSignal, Message, StopReason
from demur.data.tables import SKIP, preview

_CLOSING = re.compile(r"</think(?:ing)?>(?=\s|\Z)")
_OPENING = re.compile(r"\s*<think(?:ing)?>")
REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")


class RecordError(BadInputError):
    """A record is of no known shape; says which field is at fault, and leaves file and line to the reader."""

    def __init__(self, field: str, expected: str, got: object) -> None:
        self.field, self.expected, self.got = field, expected, preview(got)
        super().__init__(f"{field}: expected {expected}, got {self.got}")

    def at(self, file: str, line: int) -> BadInputError:
        """The same complaint with its place and a remedy."""
        return BadInputError(f"{file}:{line}:{self}; {SKIP}")


@dataclass(frozen=True, slots=True, kw_only=True)
class ProviderReply:
    """One reply and what was asked, as far as the record tells.

    Attributes:
        messages: The conversation up to the reply; empty if the record does not hold it.
        text: What the user would read.
        created: When, as the provider writes it: seconds since 1970 or a date.
        record_id: The provider's or the log's own name for it.
    """

    text: str = ""
    reasoning: str = ""
    stop_reason: StopReason = "unknown"
    signals: tuple[ApiSignal, ...] = ()
    model: str = ""
    messages: tuple[Message, ...] = ()
    created: object = None
    record_id: str = ""

    @property
    def prompt(self) -> str:
        """Text of the last user turn; empty if there is none."""
        return next((m.text for m in reversed(self.messages) if m.role == "user"), "")


@dataclass(frozen=True, slots=True)
class Parts:
    """Content of one turn, sorted: text, reasoning, refusals that the provider marked, and tool calls."""

    text: str = ""
    reasoning: str = ""
    refusal: str | None = None
    n_tool_calls: int = 0


def parts_of(content: object) -> Parts:
    """Sort a turn's content: a string, one part, or a list of parts of any provider."""
    if isinstance(content, str):
        return Parts(text=content)
    if isinstance(content, dict):
        return parts_of(content["parts"]) if isinstance(content.get("parts"), list) else parts_of([content])
    if not isinstance(content, list):
        return Parts()
    texts: list[str] = []
    thoughts: list[str] = []
    refusals: list[str] = []
    n_tools = 0
    for part in content:
        kind, text = _part(part)
        if kind == "tool":
            n_tools += 1
        elif kind == "refusal":
            refusals.append(text)
        elif text:
            (thoughts if kind == "reasoning" else texts).append(text)
    return Parts("\n".join(texts), "\n".join(thoughts), "\n".join(refusals) if refusals else None, n_tools)


def _part(part: object) -> tuple[str, str]:
    """Kind of a part (text, reasoning, refusal, tool, other) and its text."""
    if isinstance(part, str):
        return "text", part
    if not isinstance(part, dict):
        return "other", ""
    kind = str(part.get("type") or "").casefold()
    if any(key in part for key in ("toolUse", "functionCall", "function_call")) or kind in _TOOL_PARTS:
        return "tool", ""
    if kind in ("redacted_thinking", "tool_result", "image", "image_url", "input_image", "input_audio"):
        return "other", ""
    if kind in ("thinking", "reasoning") or part.get("thought") is True or "reasoningContent" in part:
        return "reasoning", _thought(part)
    if kind == "refusal" or part.get("refusal"):
        refusal = part.get("refusal")
        return "refusal", refusal if isinstance(refusal, str) else string(part.get("text"))
    return "text", _part_text(part)


_TOOL_PARTS = frozenset(
    ("tool_use", "tool_call", "tool-call", "function_call", "server_tool_use", "mcp_tool_use", "mcp_call",
     "web_search_call", "file_search_call", "computer_call", "code_interpreter_call", "custom_tool_call")
)  # fmt: skip


def _part_text(part: Mapping[str, Any]) -> str:
    for key in ("text", "content", "value", "summary", "input_text", "output_text"):
        value = part.get(key)
        if isinstance(value, str):
            return value
        if isinstance(value, dict) and isinstance(value.get("value"), str):
            return str(value["value"])
    return ""


def _thought(part: Mapping[str, Any]) -> str:
    inner = part.get("reasoningContent")
    if isinstance(inner, dict):
        text = inner.get("reasoningText")
        return string(text.get("text")) if isinstance(text, dict) else string(text)
    for key in ("thinking", "reasoning", "text", "summary", "content"):
        value = part.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list) and value:
            return parts_of(value).text
    return ""


def split_thinking(text: str) -> tuple[str, str]:
    """Take a reasoning span in think tags off a reply: (reply, reasoning).

    Only a span that begins the reply counts, with or without its opening tag (some servers swallow it); a span that
    never closes is reasoning to the end.
    """
    if "<think" in text[:200] and (opening := _OPENING.match(text)):
        reasoning, tag, rest = _partition(text[opening.end() :])
        return (rest.lstrip(), reasoning.strip()) if tag else ("", reasoning.strip())
    if "</think" in text and "<think" not in text:
        reasoning, tag, rest = _partition(text)
        if tag and not reasoning.endswith("`"):
            return rest.lstrip(), reasoning.strip()
    return text, ""


def _partition(text: str) -> tuple[str, str, str]:
    found = _CLOSING.search(text)
    return (text[: found.start()], found.group(), text[found.end() :]) if found else (text, "", "")


def reasoning_of(message: Mapping[str, Any]) -> str:
    """Reasoning that stands beside a turn's content."""
    for key in REASONING_KEYS:
        value = message.get(key)
        if isinstance(value, str) and value:
            return value
        if isinstance(value, list | dict) and (found := parts_of(value)) and (found.reasoning or found.text):
            return found.reasoning or found.text
    details = message.get("reasoning_details")
    return parts_of(details).text if isinstance(details, list) else ""


def joined(pieces: Iterable[str]) -> str:
    """Pieces that hold something, one below the other."""
    return "\n".join(piece for piece in pieces if piece)


def string(value: object) -> str:
    """A string as it is; empty for everything else."""
    return value if isinstance(value, str) else ""


def listed(value: object) -> list[Any]:
    """A list as it is; empty for everything else."""
    return value if isinstance(value, list) else []


def mapping(value: object) -> Mapping[str, Any]:
    """A mapping as it is, also from its JSON text; empty for everything else."""
    if isinstance(value, dict):
        return value
    if isinstance(value, str) and value.lstrip()[:1] == "{":
        value = decoded(value)
    return value if isinstance(value, dict) else {}


def decoded(text: str) -> object:
    """JSON text as its value; the text itself if it is none."""
    try:
        return json.loads(text, strict=False)
    except (ValueError, RecursionError):
        return text


def first(holder: Mapping[str, Any], *keys: str) -> Any:
    """The first of these fields that holds something."""
    for key in keys:
        value = holder.get(key)
        if value or (value is not None and value not in ("", [], {})):
            return value
    return None
