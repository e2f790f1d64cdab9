"""Which column of a table holds what, under the names people give them."""

import json
from collections.abc import Collection, Iterable, Mapping
from difflib import get_close_matches
from typing import Any

from demur.core.errors import BadInputError

NAMES: dict[str, tuple[str, ...]] = {
    "prompt": ("prompt", "user_prompt", "question", "instruction", "query", "user_message", "user_input", "input",
               "input_text", "request", "user", "goal", "behavior", "prompt_text", "human"),
    "response": ("response", "reply", "completion", "answer", "output", "model_response", "model_output", "generation",
                 "response_text", "assistant_response", "generated_text", "output_text", "assistant", "result",
                 "model_answer", "bot_response", "completion_text", "prediction"),
    "reasoning": ("reasoning", "reasoning_content", "thinking", "thought", "thoughts", "chain_of_thought", "cot"),
    "model": ("model", "model_name", "model_id", "model_slug", "engine", "deployment", "generator"),
    "stop_reason": ("stop_reason", "finish_reason", "stopreason", "finishreason", "done_reason",
                    "native_finish_reason"),
    "time": ("time", "timestamp", "created_at", "created", "datetime", "date", "ts", "createtime", "created_time",
             "request_time", "start_time", "starttime", "completed_at"),
    "id": ("id", "custom_id", "exchange_id", "request_id", "conversation_id", "uuid", "row_id", "prompt_id"),
    "error": ("error", "error_message", "exception", "error_str"),
}  # fmt: skip
ROLES = tuple(NAMES)
_TO_JSON = json.JSONEncoder(ensure_ascii=False, default=str).encode


def guess(columns: Iterable[str]) -> dict[str, str]:
    """The column of each kind, by its usual names in any case; only those that are there."""
    present: dict[str, str] = {}
    for column in columns:
        present.setdefault(str(column).casefold().replace(" ", "_").replace("-", "_"), column)
    found = {}
    for kind, names in NAMES.items():
        if (name := next((name for name in names if name in present), None)) is not None:
            found[kind] = present[name]
    return found


def resolve(
    file: str, columns: Collection[str], named: Mapping[str, str] | None, *, needs_reply: bool = True
) -> dict[str, str]:
    """Which column holds what: the user's choice first, then the usual names.

    Raises:
        BadInputError: A named column is not there, or none holds the reply; names the nearest.
    """
    for kind, column in (named or {}).items():
        if kind not in NAMES:
            raise BadInputError(f"columns: expected {', '.join(ROLES)}, got {kind!r}; name one of those")
        if column not in columns:
            raise missing(file, column, columns, kind)
    found = {**guess(columns), **(named or {})}
    if found.get("prompt") == found.get("response"):
        found.pop("prompt", None)
    if needs_reply and "response" not in found:
        raise missing(file, "response", columns, "response")
    return found


def missing(file: str, column: str, columns: Collection[str], kind: str) -> BadInputError:
    """The error for a column that is not there."""
    shown = ", ".join(str(name) for name in list(columns)[:12]) or "none"
    wanted = [column, *NAMES.get(kind, ())]
    near = next((m for name in wanted for m in get_close_matches(name, [str(c) for c in columns], n=1)), None)
    hint = f"did you mean {near!r}? name it" if near else "name the column"
    return BadInputError(f"{file}:1:{column}: expected a column {column!r}, got {shown}; {hint} as {kind}=COLUMN")


def cell_text(value: Any) -> str:
    """A cell as text: strings as they are, everything else as JSON, whole numbers without a decimal point."""
    if isinstance(value, str):
        return value
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return str(int(value))
    return _TO_JSON(value)
