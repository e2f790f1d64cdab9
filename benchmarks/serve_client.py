"""A small HTTP client on raw sockets: what it costs must not count as the server's time."""

import asyncio
import json
import time
from dataclasses import dataclass, field

PATH = "/v1/chat/completions"


@dataclass(slots=True)
class Answer:
    """A whole reply; times count from the request."""

    status: int
    headers: dict
    body: bytes
    first_s: float
    total_s: float

    def json(self):
        return json.loads(self.body)

    def chunks(self):
        """Events of a stream, without the mark of its end; fails where that is missing."""
        lines = [line for line in self.body.decode().split("\n\n") if line]
        if lines[-1] != "data: [DONE]":
            raise ValueError("the stream has no end")
        return [json.loads(line[6:]) for line in lines[:-1]]


@dataclass(slots=True)
class Connection:
    """One kept-alive connection; opened anew where the server closed it."""

    host: str
    port: int
    reader: asyncio.StreamReader = None
    writer: asyncio.StreamWriter = None
    headers: dict = field(default_factory=dict)

    async def open(self):
        self.reader, self.writer = await asyncio.open_connection(self.host, self.port, limit=1 << 20)

    async def send(self, body, headers=()):
        if self.writer is None or self.writer.is_closing():
            await self.open()
        lines = [f"POST {PATH} HTTP/1.1", f"Host: {self.host}", "Content-Type: application/json"]
        lines += [f"Content-Length: {len(body)}", *(f"{k}: {v}" for k, v in dict(headers).items())]
        self.writer.write(("\r\n".join(lines) + "\r\n\r\n").encode() + body)
        await self.writer.drain()

    async def ask(self, body, headers=()):
        started = time.perf_counter()
        await self.send(body, headers)
        status, found = await self.head()
        parts, first = [], 0.0
        async for part in self.parts(found):
            first = first or time.perf_counter() - started
            parts.append(part)
        if found.get("connection") == "close":
            self.vanish()
        return Answer(status, found, b"".join(parts), first, time.perf_counter() - started)

    async def head(self):
        line = await self.reader.readline()
        if not line:
            raise ConnectionError("closed before a reply")
        status, headers = int(line.split()[1]), {}
        while (line := await self.reader.readline()) not in (b"\r\n", b""):
            name, _, value = line.decode("latin-1").partition(":")
            headers[name.lower()] = value.strip()
        return status, headers

    async def parts(self, headers):
        if "content-length" in headers:
            yield await self.reader.readexactly(int(headers["content-length"]))
            return
        while size := int(await self.reader.readline(), 16):
            yield (await self.reader.readexactly(size + 2))[:-2]
        await self.reader.readline()

    def vanish(self):
        if self.writer is not None:
            self.writer.close()
        self.writer = None


def at(url):
    """Host and port of a base URL."""
    host, _, port = url.removeprefix("http://").partition("/")[0].partition(":")
    return host, int(port)
