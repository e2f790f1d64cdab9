"""The prompts of a batch: providers' result files name a request's id only; its text stands in the request file."""

import json
from collections.abc import Iterable
from typing import Any

from demur.core.exchange import Message
from demur.data.logs.conversations import request_messages
from demur.data.logs.replies import first, mapping
from demur.data.logs.streams import Damaged, chunks, open_file


def is_request(record: object) -> bool:
    """Whether a record is a line of a batch's request file: an id and what is asked, and no answer."""
    if not isinstance(record, dict) or first(record, "custom_id", "key") is None:
        return False
    if any(record.get(key) is not None for key in ("response", "result", "error", "output")):
        return False
    return any(isinstance(record.get(key), dict) for key in ("body", "params", "request"))


class RequestIndex:
    """Where each request stands; the requests themselves stay on disk.

    Args:
        paths: Uncompressed JSON Lines files of requests.
    """

    def __init__(self, paths: Iterable[str]) -> None:
        self._places: dict[str, tuple[str, int, int]] = {}
        for path in paths:
            self._index(path)

    def _index(self, path: str) -> None:
        offset, carry = 0, b""
        try:
            for chunk in chunks(path, ""):
                *whole, carry = (carry + chunk).split(b"\n")
                for raw in whole:
                    self._add(path, offset, raw)
                    offset += len(raw) + 1
        except Damaged:  # pragma: no cover -- only packed files break off
            return
        self._add(path, offset, carry)

    def _add(self, path: str, offset: int, raw: bytes) -> None:
        try:
            record = json.loads(raw)
        except (ValueError, RecursionError):
            return
        if is_request(record):
            self._places[str(first(record, "custom_id", "key"))] = (path, offset, len(raw))

    def messages(self, name: str) -> tuple[Message, ...]:
        """What the request of that id asked; empty if there is none."""
        place = self._places.get(name)
        if place is None:
            return ()
        path, offset, n_bytes = place
        with open_file(path) as file:
            file.seek(offset)
            record: Any = json.loads(file.read(n_bytes))
        inner = mapping(first(record, "body", "params", "request"))
        return request_messages(inner)
