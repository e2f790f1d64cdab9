"""The review page as a local application: a token in the address, loopback names only, each decision saved at once."""

import asyncio
import hmac
import re
from collections.abc import Callable
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import ValidationError

from demur.core.errors import BadInputError, first_complaint
from demur.synthesis.decisions import Decision, DecisionBook

MAX_BODY = 64_000
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
HEADERS = {
    "Cache-Control": "no-store",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def build_review_app(
    page: Callable[[], str], book: DecisionBook, finish: Callable[[], str], *, token: str, reviewer: str = ""
) -> FastAPI:
    """The application.

    Args:
        page: The page as it stands now.
        book: Where decisions go.
        finish: Writes the suite from the decisions, and says what was written.
        token: First part of every address; whoever lacks it gets 404.
        reviewer: Stands in every decision.
    """
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    desk = _Desk(page, book, finish, token, reviewer)
    app.add_api_route("/{given}/", desk.show, methods=["GET"], response_model=None)
    app.add_api_route("/{given}/decisions", desk.decide, methods=["POST"], response_model=None)
    app.add_api_route("/{given}/finish", desk.write, methods=["POST"], response_model=None)
    return app


@dataclass(frozen=True, slots=True)
class _Desk:
    """What the three addresses share."""

    page: Callable[[], str]
    book: DecisionBook
    finish: Callable[[], str]
    token: str
    reviewer: str
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def show(self, given: str, request: Request) -> Response:
        if not self._lets_in(given, request):
            return _refused()
        return HTMLResponse(self.page(), headers=HEADERS)

    async def decide(self, given: str, request: Request) -> Response:
        if not self._lets_in(given, request):
            return _refused()
        if request.headers.get("content-type", "").split(";")[0] != "application/json":
            return _said(415, "expected application/json")
        body = await _body(request)
        if body is None:
            return _said(413, f"expected at most {MAX_BODY} bytes")
        try:
            decision = Decision.model_validate_json(body)
            async with self.lock:
                kept = self.book.add(decision.model_copy(update={"reviewer": self.reviewer, "time": ""}))
        except ValidationError as error:
            return _said(422, first_complaint(error))
        except BadInputError as error:
            return _said(409, str(error))
        except OSError as error:
            return _said(507, f"not saved: {error.strerror or error}")
        return JSONResponse(kept.model_dump(), headers=HEADERS)

    async def write(self, given: str, request: Request) -> Response:
        if not self._lets_in(given, request):
            return _refused()
        try:
            async with self.lock:
                return _said(200, self.finish())
        except BadInputError as error:
            return _said(409, str(error))

    def _lets_in(self, given: str, request: Request) -> bool:
        """Whether a request has the token, names this machine (or an address was rebound), and is the page's own."""
        name = re.sub(r":\d+$", "", request.headers.get("host", ""))
        own = request.method == "GET" or request.headers.get("sec-fetch-site", "none") in ("none", "same-origin")
        fits = hmac.compare_digest(given.encode("utf-8", "replace"), self.token.encode())
        return fits and own and name in LOOPBACK


async def _body(request: Request) -> bytes | None:
    found = b""
    async for part in request.stream():
        found += part
        if len(found) > MAX_BODY:
            return None
    return found


def _refused() -> Response:
    return _said(404, "there is no such page; use the address that the command printed")


def _said(status: int, message: str) -> Response:
    return JSONResponse({"message": message}, status_code=status, headers=HEADERS)
