"""Speaking to an upstream over HTTP: JSON in and out, server-sent events, and every failure as one short sentence."""

import codecs
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import httpx

from demur.core.errors import BackendError, BadInputError, DemurError
from demur.core.exchange import Frozen

LARGEST_ANSWER = 16 << 20
LARGEST_EVENT = 1 << 20
_SHOWN = 200


class Address(Frozen):
    """Where an upstream is and how to speak to it.

    Attributes:
        url: Base of its OpenAI-compatible interface, e.g. 'http://127.0.0.1:8000/v1'; '/v1' is added to a bare host.
        key: Sent as bearer token; never shown in any message.
        timeout: Seconds without a byte after which it counts as failed.
    """

    url: str
    key: str = ""
    timeout: float = 120.0

    def __repr__(self) -> str:
        return f"Address(url={self.url!r})"

    __str__ = __repr__

    @property
    def base(self) -> str:
        """The base without a slash at its end.

        Raises:
            BadInputError: It is no http or https address.
        """
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise BadInputError(f"upstream: expected an address like http://host:8000/v1, got {self.url!r}")
        return self.url.rstrip("/") + ("" if parts.path.strip("/") else "/v1")


class Connection:
    """A pool of connections to one upstream."""

    def __init__(self, address: Address) -> None:
        self.address = address
        headers = {"Authorization": f"Bearer {address.key}"} if address.key else {}
        self._client = httpx.AsyncClient(
            headers=headers,
            timeout=httpx.Timeout(address.timeout, connect=min(10.0, address.timeout)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )
        self._base = address.base

    async def close(self) -> None:
        """Close every connection."""
        await self._client.aclose()

    async def get(self, path: str) -> Any:
        """Ask for JSON.

        Raises:
            BackendError: The upstream failed.
        """
        async with self._exchange("GET", path, None) as response:
            return _parsed(await self._body(response))

    async def post(self, path: str, body: Mapping[str, Any]) -> Any:
        """Send JSON and get JSON.

        Raises:
            BadInputError: The prompt does not fit the model's context.
            BackendError: The upstream failed.
        """
        async with self._exchange("POST", path, body) as response:
            return _parsed(await self._body(response))

    async def stream(self, path: str, body: Mapping[str, Any]) -> AsyncGenerator[Any, None]:
        """Send JSON and get the objects of an event stream; an upstream that answers at once gives one object.

        Raises:
            BackendError: The upstream failed, also in the middle.
        """
        async with self._exchange("POST", path, body) as response:
            if response.headers.get("content-type", "").startswith("application/json"):
                yield _parsed(await self._body(response))
                return
            events = Events()
            async for block in response.aiter_bytes():
                for data in events.feed(block):
                    if data == "[DONE]":
                        return
                    if (found := _object(data)) is not None:
                        yield found

    @asynccontextmanager
    async def _exchange(self, method: str, path: str, body: Mapping[str, Any] | None) -> AsyncIterator[httpx.Response]:
        content = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if content else {}
        try:
            request = self._client.stream(method, self._base + path, content=content, headers=headers)
            async with request as response:
                if response.status_code != 200:
                    raise self.refused(response.status_code, await self._body(response))
                yield response
        except httpx.TimeoutException:
            raise BackendError(
                f"the upstream did not answer within {self.address.timeout:g} s", retriable=True
            ) from None
        except httpx.HTTPError as error:
            raise BackendError(f"the upstream cannot be reached: {type(error).__name__}", retriable=True) from None

    async def _body(self, response: httpx.Response) -> bytes:
        parts, size = [], 0
        async for block in response.aiter_bytes():
            parts.append(block)
            size += len(block)
            if size > LARGEST_ANSWER:
                raise BackendError(f"the upstream's answer exceeds {LARGEST_ANSWER >> 20} MiB", retriable=False)
        return b"".join(parts)

    def refused(self, status: int, body: bytes) -> DemurError:
        """An answer with an error status, as our error: a prompt that does not fit is the caller's to shorten."""
        # What an upstream says of a key may contain the key.
        reason = "" if status in (401, 403) else self._reason(body)
        if status in (400, 413, 422) and "context" in reason.casefold():
            return BadInputError(f"the upstream refuses the prompt: {reason}; shorten it")
        retriable = status in (408, 409, 425, 429) or status >= 500
        return BackendError(f"the upstream answered {status}{': ' if reason else ''}{reason}", retriable=retriable)

    def _reason(self, body: bytes) -> str:
        found = _object(body.decode("utf-8", "replace"))
        detail = found.get("error", found.get("detail", found.get("message", ""))) if isinstance(found, dict) else ""
        text = detail.get("message", "") if isinstance(detail, dict) else detail
        return self.shown(text if isinstance(text, str) else "")

    def shown(self, text: str) -> str:
        """An upstream's own words, fit for a message: short, one line, without the key."""
        clean = text.replace(self.address.key, "***") if self.address.key else text
        return " ".join(clean.split())[:_SHOWN]


class Events:
    """Data of server-sent events out of bytes, wherever these are cut; comments and other fields are skipped."""

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._line = ""
        self._data: list[str] = []

    def feed(self, block: bytes) -> list[str]:
        """Events that are complete now.

        Raises:
            BackendError: An event is larger than any sensible one.
        """
        found: list[str] = []
        text = self._line + self._decoder.decode(block)
        # A lone carriage return at the end may be half of a line break.
        held = "\r" if text.endswith("\r") else ""
        lines = text.removesuffix("\r").replace("\r\n", "\n").replace("\r", "\n").split("\n")
        self._line = lines.pop() + held
        for line in lines:
            if line.startswith("data:"):
                self._data.append(line[5:].removeprefix(" "))
            elif not line and self._data:
                found.append("\n".join(self._data))
                self._data = []
        if len(self._line) + sum(map(len, self._data)) > LARGEST_EVENT:
            raise BackendError("the upstream sent an event without an end", retriable=False)
        return found


def _parsed(body: bytes) -> Any:
    found = _object(body.decode("utf-8", "replace"))
    if not isinstance(found, dict):
        raise BackendError("the upstream answered something that is no JSON object", retriable=True)
    return found


def _object(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None
