"""Request bodies read within limits of size and time, whether or not their length was announced."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from typing import Any

from demur.serve.faults import Fault, bad_request
from demur.serve.settings import ServerSettings

Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
# A client that is still sending would lose our 413 to a reset connection: so much more is read and dropped.
DROPPED_BYTES = 32 << 20


class HungUp(Exception):
    """The client is gone."""


async def read_body(headers: Mapping[bytes, bytes], receive: Receive, settings: ServerSettings) -> bytes:
    """The whole body of a request.

    Args:
        headers: Lower-case names and values.
        receive: ASGI's receive.
        settings: Limits.

    Raises:
        Fault: 413 too large, 408 too slow, 400 unusable length.
        HungUp: The client left before the end.
    """
    limit = settings.max_body_bytes
    hopeless = _announced(headers) > limit
    if hopeless and headers.get(b"expect", b"").lower() == b"100-continue":
        raise _too_large(limit)
    try:
        async with asyncio.timeout(settings.body_timeout_s):
            body = await _collected(receive, 0 if hopeless else limit)
    except TimeoutError:
        if hopeless:
            raise _too_large(limit) from None
        raise Fault(
            408, f"the body did not arrive within {settings.body_timeout_s:g} seconds", code="body_timeout"
        ) from None
    if body is None or hopeless:
        raise _too_large(limit)
    return body


def _announced(headers: Mapping[bytes, bytes]) -> int:
    value = headers.get(b"content-length", b"0")
    if not value.isdigit() or len(value) > 18:
        raise bad_request("Content-Length: expected a number of bytes", param="Content-Length")
    return int(value)


async def _collected(receive: Receive, limit: int) -> bytes | None:
    """The body, or None if it is larger; what is too much is dropped as it arrives."""
    parts: list[bytes] = []
    size, more = 0, True
    while more and size <= limit + DROPPED_BYTES:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise HungUp
        part = message.get("body", b"")
        size += len(part)
        if size <= limit:
            parts.append(part)
        else:
            parts.clear()
        more = message.get("more_body", False)
    return b"".join(parts) if size <= limit else None


def _too_large(limit: int) -> Fault:
    return Fault(
        413, f"expected a body of at most {limit} bytes, got more; shorten the conversation", code="body_too_large"
    )
