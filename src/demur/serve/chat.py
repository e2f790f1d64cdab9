"""POST /v1/chat/completions: admit, read, choose a policy, decide, write the reply; nothing outlives the request."""

import asyncio
import logging
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Coroutine, MutableMapping
from contextlib import aclosing
from typing import Any

from demur.control.decision import decide_one, stricter
from demur.core.controlled import Piece, Turn
from demur.core.policy import Decision
from demur.core.signal import ANY
from demur.serve.body import HungUp, Receive, read_body
from demur.serve.book import HeldPolicy
from demur.serve.calls import ChatCall, parse_call
from demur.serve.choice import Choice, choose
from demur.serve.faults import Fault, bad_request, fault_of, shutting_down, timed_out
from demur.serve.gate import Slot
from demur.serve.replies import Plan, guiding, own_words, plan_of, until_stop, worded
from demur.serve.service import Headers, Service
from demur.serve.shapes import ReplyShape, decision_headers, fault_event
from demur.serve.visit import GONE, Visit

log = logging.getLogger("demur.serve")
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
JSON_TYPE = (b"content-type", b"application/json")
STREAM_TYPE = (b"content-type", b"text/event-stream; charset=utf-8")
NO_CACHE = (b"cache-control", b"no-cache")
CLOSING_S = 5.0


class Sender:
    """One reply on its way out; knows whether its status is already sent."""

    def __init__(self, send: Send, visit: Visit) -> None:
        self._send, self._visit = send, visit
        self.begun = False

    async def begin(self, status: int, headers: list[tuple[bytes, bytes]]) -> None:
        """Send status and headers."""
        self.begun, self._visit.status = True, status
        headers = [*headers, (b"x-request-id", self._visit.id.encode("ascii"))]
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def more(self, data: bytes, *, last: bool = False) -> None:
        """Send a part of the body."""
        await self._send({"type": "http.response.body", "body": data, "more_body": not last})

    async def whole(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """Send a reply at once."""
        await self.begin(status, [JSON_TYPE, (b"content-length", str(len(body)).encode("ascii")), *headers])
        await self.more(body, last=True)

    async def fault(self, fault: Fault) -> None:
        """Send an error: as status and body, or as the last event of a stream that has begun."""
        if self.begun:
            self._visit.status = fault.status
            await self.more(fault_event(fault), last=True)
            return
        headers = [(k.lower().encode("ascii"), v.encode("latin-1")) for k, v in fault.headers.items()]
        await self.whole(fault.status, headers, fault.body)


class ChatEndpoint:
    """An ASGI application; FastAPI's own layers would cost more than the decision."""

    def __init__(self, service: Service) -> None:
        self._service = service

    async def __call__(self, scope: MutableMapping[str, Any], receive: Receive, send: Send) -> None:
        """Serve one request."""
        visit = Visit()
        sender = Sender(send, visit)
        try:
            await self._serve(scope["headers"], receive, sender, visit)
        except HungUp:
            visit.status = GONE
        except Exception as error:
            fault = fault_of(error)
            if fault.status >= 500 and fault is not error:
                # The name only: an engine's message may quote the prompt.
                log.error("%s failed with %d: %s", visit.id, fault.status, type(error).__name__)
            await sender.fault(fault)
        finally:
            self._service.count(visit)

    async def _serve(self, headers: Headers, receive: Receive, sender: Sender, visit: Visit) -> None:
        service = self._service
        key = service.admit(headers)
        visit.key, book = key.name, service.book
        with service.limits.held(key):
            call = parse_call(await read_body(dict(headers), receive, service.settings), service.settings)
            choice = choose(call, _named(headers), key, service.models, book)
            visit.model, visit.policy = choice.name, choice.policy.name
            with service.ending() as ending:
                seconds = service.settings.timeout_s
                await attended(self._answer(call, choice, sender, visit), receive, ending, seconds)

    async def _answer(self, call: ChatCall, choice: Choice, sender: Sender, visit: Visit) -> None:
        async with self._service.gate.slot() as slot:
            visit.admitted = time.perf_counter()
            turn = await choice.model.open(call.request)
            try:
                visit.read = time.perf_counter()
                decision, held = decided(choice, call, turn)
                visit.decision, visit.decided = decision, time.perf_counter()
                visit.input_tokens = turn.input_tokens
                self._service.notice(choice.name, choice.policy, turn.scores)
                plan = plan_of(held.policy, decision, text_follows=choice.model.text_follows)
                shape = ReplyShape(
                    visit,
                    held.version,
                    content_on_refusal=call.options.content_on_refusal,
                    include_usage=call.include_usage,
                )
                headers = [*decision_headers(decision, held.version), (b"server-timing", visit.timing.encode("ascii"))]
                if plan.guided:
                    await turn.close()  # its place is kept for the reply that guides
                elif plan.wording:
                    await let_go(turn, slot)
                async with aclosing(_written(call, choice, turn, plan, decision)) as pieces:
                    if call.stream:
                        await _stream(pieces, shape, sender, visit, headers)
                        return
                    text = await _collected(pieces, visit)
                await let_go(turn, slot)
                await sender.whole(200, headers, shape.whole(text))
            finally:
                await turn.close()


def decided(choice: Choice, call: ChatCall, turn: Turn) -> tuple[Decision, HeldPolicy]:
    """The decision on a request that is read, and the policy it is from: the chosen one or the floor.

    Raises:
        Fault: 400 for a threshold of a category that the signal does not have.
    """
    scores = turn.scores
    unknown = set(call.options.thresholds) - {*scores.categories, ANY}
    if unknown:
        name = min(unknown)
        raise bad_request(
            f"demur.thresholds.{name}: expected one of {', '.join(scores.categories)}",
            param=f"demur.thresholds.{name}",
            code="unknown_category",
        )
    decision = decide_one(choice.policy, scores)
    if choice.floor is None:
        return decision, HeldPolicy(choice.policy, choice.version)
    decision = stricter(decision, decide_one(choice.floor.policy, scores))
    return decision, choice.floor if decision.origin == "floor" else HeldPolicy(choice.policy, choice.version)


async def attended(
    work: Coroutine[Any, Any, None], receive: Receive, ending: asyncio.Future[None], seconds: float
) -> None:
    """Do work while the client is there, the server runs and time is left; else cancel it and wait for its end.

    Raises:
        HungUp: The client left.
        Fault: 504 or 503.
    """
    task, gone = asyncio.ensure_future(work), asyncio.ensure_future(_hung_up(receive))
    try:
        done, _ = await asyncio.wait({task, gone, ending}, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
    finally:
        gone.cancel()
        if not task.done():
            task.cancel()
            await asyncio.wait({task}, timeout=CLOSING_S)
        task.add_done_callback(_forget)
        gone.add_done_callback(_forget)
    if task in done:
        task.result()
    elif gone in done:
        raise HungUp
    else:
        raise shutting_down() if ending in done else timed_out(seconds)


def _written(call: ChatCall, choice: Choice, turn: Turn, plan: Plan, decision: Decision) -> AsyncGenerator[Piece, None]:
    """The pieces of a reply, as planned."""
    if plan.guided:
        return until_stop(guiding(choice.model, call.request, decision.category, plan), call.stop)
    return worded(plan) if plan.wording else own_words(turn, plan, call.stop)


async def let_go(turn: Turn, slot: Slot) -> None:
    """Free the model for others before a reply is sent: a slow reader holds nothing up."""
    await turn.close()
    slot.release()


async def _stream(
    pieces: AsyncGenerator[Piece, None],
    shape: ReplyShape,
    sender: Sender,
    visit: Visit,
    headers: list[tuple[bytes, bytes]],
) -> None:
    headers = [STREAM_TYPE, NO_CACHE, *headers]
    async for piece in pieces:
        _note(visit, piece)
        if not piece.text:
            continue
        data = shape.piece(piece.text)
        if not sender.begun:
            # Not before there is text: until then a failure can still be a status.
            visit.first, data = time.perf_counter(), shape.first() + data
            await sender.begin(200, headers)
        await sender.more(data)
    opening = b""
    if not sender.begun:
        await sender.begin(200, headers)
        opening = shape.first()
    await sender.more(opening + shape.last(), last=True)


async def _collected(pieces: AsyncGenerator[Piece, None], visit: Visit) -> str:
    parts: list[str] = []
    async for piece in pieces:
        _note(visit, piece)
        parts.append(piece.text)
        if piece.text and not visit.first:
            visit.first = time.perf_counter()
    return "".join(parts)


def _note(visit: Visit, piece: Piece) -> None:
    if piece.stop_reason is not None:
        visit.stop_reason = piece.stop_reason
        visit.input_tokens = piece.input_tokens or visit.input_tokens
        visit.output_tokens = piece.output_tokens


def _named(headers: Headers) -> str | None:
    """The policy that headers name.

    Raises:
        Fault: 400 where two of them differ.
    """
    found = {value.decode("latin-1").strip() for name, value in headers if name == b"x-demur-policy"}
    if len(found) > 1:
        raise bad_request("X-Demur-Policy: given twice; name one policy", param="X-Demur-Policy", code="conflict")
    return found.pop() if found else None


def _forget(task: asyncio.Future[None]) -> None:
    """Look at what nobody waits for any more: asyncio would log it, and with it perhaps a prompt."""
    if not task.cancelled():
        task.exception()


async def _hung_up(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
