"""The one HTTP client for images interfaces: asks, polls, downloads, retries what may pass, and never raises for it.

Whatever cannot be had becomes an `infrastructure_error` slot. Answers are hostile input: bodies and downloads are
bounded, redirects are not followed, and an address a vendor hands out may not point into the private network unless
the vendor itself is there.
"""

import asyncio
import ipaddress
import json
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any
from urllib.parse import urljoin, urlsplit

import httpx

from demur.images.answer import Answer, Slot, broken
from demur.images.request import ImageRequest
from demur.images.vendor_shapes import read_answer
from demur.images.vendors import Call, Dialect, waits_at

MAX_BODY = 128 * 2**20
MAX_WAIT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How long and how often to try; seconds."""

    timeout: float = 180.0
    tries: int = 6
    backoff: float = 1.0
    poll_every: float = 1.0
    poll_for: float = 300.0


@dataclass(slots=True, kw_only=True)
class ImagesClient:
    """Asks one vendor for images.

    Attributes:
        dialect: How it is asked.
        model: The vendor's name of the model.
        base_url: Its address.
        key: The key, if it takes one.
        patience: How long to try.
    """

    dialect: Dialect
    model: str
    base_url: str
    key: str = field(default="", repr=False)
    patience: Patience = Patience()
    _http: httpx.AsyncClient | None = field(default=None, repr=False)

    async def images(self, request: ImageRequest) -> list[Slot]:
        """One slot for each image wanted; several requests where the vendor takes fewer at once."""
        slots: list[Slot] = []
        while len(slots) < request.n:
            n = min(self.dialect.most, request.n - len(slots))
            seed = None if request.seed is None else request.seed + len(slots)
            part = request.model_copy(update={"n": n, "seed": seed})
            found = await self._patiently(self.dialect.call(part, self.model), n)
            slots += [await self._with_data(slot) for slot in found]
        return slots

    async def close(self) -> None:
        """Let go of the connections."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def _patiently(self, call: Call, n: int) -> list[Slot]:
        slots: list[Slot] = []
        for number in range(self.patience.tries):
            answer = await self._ask(call)
            slots = read_answer(answer, n, silent=self.dialect.silent)
            if not all(slot.retriable for slot in slots) or number + 1 == self.patience.tries:
                break
            pause = self.patience.backoff * 2**number if answer.retry_after is None else answer.retry_after
            await asyncio.sleep(min(MAX_WAIT, pause))
        return slots

    async def _ask(self, call: Call) -> Answer:
        address = self.base_url.rstrip("/") + call.path
        headers = {**self.dialect.headers(self.key), **call.headers}
        if call.is_form:
            # A form with a file field is multipart; an empty one makes it so without sending a file.
            sent: dict[str, Any] = {"files": {name: (None, value) for name, value in call.body.items()}}
        else:
            sent = {"json": call.body}
        answer = await self._send("POST", address, headers=headers, **sent)
        return await self._polled(answer, headers)

    async def _polled(self, answer: Answer, headers: dict[str, str]) -> Answer:
        waited = 0.0
        while (
            answer.status in (200, 201, 202) and (address := waits_at(answer.body)) and waited < self.patience.poll_for
        ):
            address = urljoin(self.base_url.rstrip("/") + "/", address)
            if not self._may_visit(address):
                return Answer(status=0, text=f"the task is at {_shown(address)}, which is not the vendor's")
            await asyncio.sleep(self.patience.poll_every)
            waited += max(self.patience.poll_every, 0.01)
            polled = await self._send("GET", address, headers=headers)
            if polled.status == 429 or polled.status >= 500:
                continue  # the task goes on; only asking after it failed
            if polled.status == 404 and isinstance(polled.body, dict) and "status" in polled.body:
                polled = replace(polled, status=200)
            answer = polled
        return replace(answer, status=200) if answer.status in (201, 202) else answer

    async def _with_data(self, slot: Slot) -> Slot:
        if not slot.url or slot.data is not None or slot.outcome is not None:
            return slot
        address = urljoin(self.base_url.rstrip("/") + "/", slot.url)
        if not self._may_visit(address):
            return _lost(slot, broken(f"the image is at {_shown(address)}, which may not be fetched", code="address"))
        answer = Answer(status=0)
        for number in range(self.patience.tries):
            answer = await self._send("GET", address, headers={})
            if answer.status == 200 or not (answer.status in (0, 429) or answer.status >= 500):
                break
            await asyncio.sleep(min(MAX_WAIT, self.patience.backoff * 2**number))
        if answer.status == 200 and answer.image is not None:
            return replace(slot, data=answer.image)
        what = f"the image could not be fetched: HTTP {answer.status} {answer.text[:80]}"
        return _lost(slot, broken(what, code="download", retriable=answer.status != 200, http_status=answer.status))

    async def _send(self, method: str, address: str, **sent: Any) -> Answer:
        try:
            async with self._client().stream(method, address, **sent) as response:
                data = bytearray()
                async for chunk in response.aiter_bytes():
                    data += chunk
                    if len(data) > MAX_BODY:
                        return Answer(status=200, text=f"the answer is larger than {MAX_BODY // 2**20} MB")
                return _answer(response, bytes(data))
        except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
            return Answer(status=0, text=f"{type(error).__name__}: {error}"[:300])

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            self._http = httpx.AsyncClient(
                timeout=self.patience.timeout, follow_redirects=False, verify=_certificates()
            )
        return self._http

    def _may_visit(self, address: str) -> bool:
        target, home = urlsplit(address), urlsplit(self.base_url)
        if target.hostname and target.hostname == home.hostname:
            return target.scheme in ("http", "https")
        return target.scheme == "https" and bool(target.hostname) and not _is_private(target.hostname or "")


@asynccontextmanager
async def open_client(client: ImagesClient) -> AsyncIterator[ImagesClient]:
    """Close the connections at the end of the block."""
    try:
        yield client
    finally:
        await client.close()


@cache
def _certificates() -> ssl.SSLContext:
    return httpx.create_ssl_context()  # reading them takes a good part of a second


def _answer(response: httpx.Response, data: bytes) -> Answer:
    kind = response.headers.get("content-type", "")
    retry_after = _seconds(response.headers.get("retry-after", ""))
    if kind.startswith(("image/", "application/octet-stream")) and response.status_code == 200:
        return Answer(status=200, image=data)
    text = data[:2000].decode("utf-8", "replace")
    try:
        body = json.loads(data)
    except (ValueError, RecursionError):
        # Buckets label pictures as anything; what is no JSON and begins like a picture is one.
        is_picture = response.status_code == 200 and data[:4] in _MAGIC
        return Answer(
            status=response.status_code, text=text, image=data if is_picture else None, retry_after=retry_after
        )
    return Answer(status=response.status_code, body=body, text=text[:300], retry_after=retry_after)


_MAGIC = (b"\x89PNG", b"\xff\xd8\xff\xe0", b"\xff\xd8\xff\xe1", b"\xff\xd8\xff\xdb", b"RIFF", b"GIF8")


def _lost(slot: Slot, why: Slot) -> Slot:
    return replace(why, revised_prompt=slot.revised_prompt, flagged=slot.flagged)


def _seconds(text: str) -> float | None:
    try:
        return max(0.0, float(text))
    except ValueError:
        return None


def _is_private(host: str) -> bool:
    if host == "localhost" or host.endswith((".localhost", ".local", ".internal")):
        return True
    try:
        return not ipaddress.ip_address(host.strip("[]")).is_global
    except ValueError:
        return False


def _shown(address: str) -> str:
    parts = urlsplit(address)
    return f"{parts.scheme}://{parts.hostname or '?'}"
