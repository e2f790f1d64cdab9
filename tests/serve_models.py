"""What the server's tests share: policies for the rehearsal model, an application around it, and models that fail."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx

from demur.core.errors import BackendError
from demur.core.policy import Policy, Rule
from demur.serve.app import build_app
from demur.serve.book import make_book
from demur.serve.keys import NO_KEYS
from demur.serve.rehearsal import SOURCE, Rehearsal
from demur.serve.settings import ServerSettings


def policy(name="default", *, threshold=0.5, **rules):
    made = {k: v if isinstance(v, Rule) else Rule(threshold=v) for k, v in rules.items()}
    return Policy(name=name, source=SOURCE, threshold=threshold, rules=made)


def book(*policies):
    found = policies or (policy(), policy("lenient", threshold=0.95), policy("strict", threshold=0.2))
    return make_book([(p.name, p) for p in found], {"smollm2": SOURCE})


def app_of(model=None, *policies, keys=NO_KEYS, **settings):
    return build_app({"smollm2": model or Rehearsal()}, book(*policies), ServerSettings(**settings), keys=keys)


def chat(prompt="hello there", **fields):
    return {"model": "smollm2", "messages": [{"role": "user", "content": prompt}], **fields}


def ask(app, body=None, *, content=None, headers=None, method="POST", path="/v1/chat/completions"):
    """One request to an application in this process."""

    async def send():
        transport = httpx.ASGITransport(app=app)
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            given = {"content": content} if content is not None else {"json": body} if body is not None else {}
            return await client.request(method, path, headers=headers, **given)

    return asyncio.run(send())


def events(text):
    """Chunks of a stream; the last is the mark of the end."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class Failing(Rehearsal):
    """Fails when read, or after some words."""

    def __init__(self, error, *, after=None):
        super().__init__()
        self.error, self.after = error, after

    async def open(self, request, /):
        if self.after is None:
            raise self.error
        turn = await super().open(request)
        write = turn.reply

        async def reply(*, token=-1):
            n = 0
            async for piece in write(token=token):
                if n == self.after:
                    raise self.error
                n += 1
                yield piece

        turn.reply = reply
        return turn


def upstream_timeout():
    error = BackendError("no answer", retriable=True)
    error.__cause__ = httpx.ReadTimeout("")
    return error


@asynccontextmanager
async def listening(app):
    """The application behind a real socket of this machine; its address."""
    from demur.serve.process import DrainingServer, bound_socket

    bound = bound_socket("127.0.0.1", 0)
    up = asyncio.Event()
    server = DrainingServer(app, up.set)
    task = asyncio.create_task(server.serve(sockets=[bound]))
    await asyncio.wait_for(up.wait(), 10)
    try:
        yield f"http://127.0.0.1:{bound.getsockname()[1]}", server
    finally:
        server.should_exit = True
        await asyncio.wait_for(task, 30)
