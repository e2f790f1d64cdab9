"""Replies in OpenAI's shapes, whole and as server-sent events, with one `demur` object about the decision.

Written as JSON text directly: a streamed token costs one `json.dumps` of its text.
"""

import json
import time
from collections.abc import Mapping
from typing import Any

from demur.core.exchange import StopReason
from demur.core.policy import Decision
from demur.serve.faults import Fault
from demur.serve.visit import Visit

DONE = b"data: [DONE]\n\n"
FINISH: Mapping[StopReason, str] = {"max_tokens": "length", "content_filter": "content_filter"}


def decision_object(decision: Decision, version: str) -> dict[str, Any]:
    """The `demur` object of a reply."""
    return {
        "refused": decision.refused,
        "action": decision.action,
        "category": decision.category or None,
        "p": decision.p,
        "threshold": decision.threshold,
        "origin": decision.origin,
        "policy": decision.policy,
        "policy_version": version,
    }


def decision_headers(decision: Decision, version: str) -> list[tuple[bytes, bytes]]:
    """The same as headers."""
    found = {
        "x-demur-policy": decision.policy,
        "x-demur-policy-version": version,
        "x-demur-action": decision.action,
        "x-demur-category": decision.category,
        "x-demur-p": f"{decision.p:.6f}",
    }
    return [(name.encode("ascii"), value.encode("latin-1", "replace")) for name, value in found.items()]


class ReplyShape:
    """The JSON of one reply.

    Attributes:
        declined: Whether the text is a refusal: it then stands in `refusal`, and in `content` only on request.
            A question back or a pointer to help is ordinary content.
    """

    def __init__(self, visit: Visit, version: str, *, content_on_refusal: bool, include_usage: bool) -> None:
        assert visit.decision is not None, "a reply has a decision"
        self.declined = visit.decision.action == "refuse"
        self._visit, self._both, self._with_usage = visit, content_on_refusal, include_usage
        self._demur = decision_object(visit.decision, version)
        head = {"id": visit.id, "created": int(time.time()), "model": visit.model}
        self._head = json.dumps(head)[1:-1]
        keys = ['"refusal"'] if self.declined else ['"content"']
        if self.declined and content_on_refusal:
            keys.append('"content"')
        self._keys = keys
        usage = ', "usage": null' if include_usage else ""
        self._tail = f', "logprobs": null, "finish_reason": null}}]{usage}}}\n\n'
        self._delta = f'data: {{{self._head}, "object": "chat.completion.chunk", "choices": [{{"index": 0, "delta": {{'

    def whole(self, text: str) -> bytes:
        """The body of a reply that is not streamed."""
        message = {
            "role": "assistant",
            "content": text if not self.declined or self._both else None,
            "refusal": text if self.declined else None,
        }
        choice = {"index": 0, "message": message, "logprobs": None, "finish_reason": self._finish}
        rest = {"choices": [choice], "usage": self._usage, "demur": self._demur}
        return f'{{{self._head}, "object": "chat.completion", {json.dumps(rest)[1:]}'.encode("ascii")

    def first(self) -> bytes:
        """The event that opens a stream: the role and the decision."""
        empty = ", ".join(f'{key}: ""' for key in self._keys)
        tail = self._tail[: -len("}\n\n")]
        return f'{self._delta}"role": "assistant", {empty}}}{tail}, "demur": {json.dumps(self._demur)}}}\n\n'.encode(
            "ascii"
        )

    def piece(self, text: str) -> bytes:
        """The event of some more text."""
        quoted = json.dumps(text)
        return f"{self._delta}{', '.join(f'{key}: {quoted}' for key in self._keys)}}}{self._tail}".encode("ascii")

    def last(self) -> bytes:
        """The events that close a stream: the end, counts if asked for, the mark of the end."""
        ending = {"index": 0, "delta": {}, "logprobs": None, "finish_reason": self._finish}
        events = self._event(
            {"choices": [ending], **({"usage": None} if self._with_usage else {}), "demur": self._demur}
        )
        if self._with_usage:
            events += self._event({"choices": [], "usage": self._usage})
        return events + DONE

    @property
    def _finish(self) -> str:
        return FINISH.get(self._visit.stop_reason, "stop")

    @property
    def _usage(self) -> dict[str, int]:
        put, got = self._visit.input_tokens, self._visit.output_tokens
        return {"prompt_tokens": put, "completion_tokens": got, "total_tokens": put + got}

    def _event(self, rest: dict[str, Any]) -> bytes:
        return f'data: {{{self._head}, "object": "chat.completion.chunk", {json.dumps(rest)[1:]}\n\n'.encode("ascii")


def fault_event(fault: Fault) -> bytes:
    """The event that ends a stream in an error, once its status is sent."""
    return b"data: " + fault.body + b"\n\n"


def model_list(names: list[str], created: int) -> dict[str, Any]:
    """The reply of /v1/models."""
    return {"object": "list", "data": [model_card(name, created) for name in names]}


def model_card(name: str, created: int) -> dict[str, Any]:
    """One model of /v1/models."""
    return {"id": name, "object": "model", "created": created, "owned_by": "demur"}
