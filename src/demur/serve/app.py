"""The server as a FastAPI application: chat completions, models, health and metrics."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.routing import Route

from demur import __version__
from demur.core.chat import ChatRequest
from demur.core.controlled import ControlledModel
from demur.core.exchange import Message
from demur.serve.book import PolicyBook, load_book
from demur.serve.chat import ChatEndpoint
from demur.serve.choice import model_and_policy
from demur.serve.faults import Fault, bad_request
from demur.serve.keys import NO_KEYS, ApiKey, KeyRing
from demur.serve.metrics import CONTENT_TYPE
from demur.serve.service import Service
from demur.serve.settings import ServerSettings
from demur.serve.shapes import model_card, model_list
from demur.serve.watch import PolicyWatch


def build_app(
    models: Mapping[str, ControlledModel],
    policies: PolicyBook,
    settings: ServerSettings,
    *,
    keys: KeyRing = NO_KEYS,
    default_policy: str | None = None,
) -> FastAPI:
    """A server for models under policies.

    The application owns the models and closes them when it stops. `app.state.service` is what requests share; its
    `book` can be replaced at any time.

    Args:
        models: Models by the name requests use.
        policies: What requests may choose from.
        settings: Limits.
        keys: Who may call; an empty ring lets anybody in.
        default_policy: For books that are reloaded, as for `load_book`.

    Raises:
        BadInputError: A key names a policy that is not in the book.
    """
    service = Service(models, policies, settings, keys)
    watch = None
    if settings.policy_path is not None:
        path = settings.policy_path
        watch = PolicyWatch(service, path, lambda: load_book(path, service.sources, default=default_policy))
    app = FastAPI(
        title="demur",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=_lifespan(service, watch),
    )
    app.state.service, app.state.watch = service, watch
    app.router.routes.append(Route("/v1/chat/completions", ChatEndpoint(service), methods=["POST"]))
    _add_reading(app, service)
    app.add_exception_handler(Fault, _fault_reply)
    app.add_exception_handler(HTTPException, _http_reply)
    return app


def _lifespan(service: Service, watch: PolicyWatch | None) -> Any:
    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        if service.settings.warm_up:
            await _warm_up(service)
        task = asyncio.create_task(watch.run()) if watch else None
        try:
            yield
        finally:
            if task:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task
            for model in service.models.values():
                await model.close()

    return lifespan


async def _warm_up(service: Service) -> None:
    try:
        for model in service.models.values():
            await (await model.open(ChatRequest(messages=(Message(role="user", text="hello"),), max_tokens=1))).close()
    except Exception as error:  # raised where the process can end: a server would only print it
        service.failed = error


def _add_reading(app: FastAPI, service: Service) -> None:
    """Add what only reads: models, health, metrics."""
    created = int(time.time())

    @app.get("/v1/models", response_model=None)
    async def models(request: Request) -> Response:
        return JSONResponse(model_list(_names(service, service.admit(request.scope["headers"])), created))

    @app.get("/v1/models/{name:path}", response_model=None)
    async def model(name: str, request: Request) -> Response:
        key = service.admit(request.scope["headers"])
        model_and_policy(name, service.models)
        if name not in _names(service, key):
            raise bad_request(f"unknown policy in {name[:100]!r}; see /v1/models", param="model", code="unknown_policy")
        return JSONResponse(model_card(name, created))

    @app.get("/healthz", response_model=None)
    async def health(request: Request) -> Response:
        try:
            service.admit(request.scope["headers"])
            detailed = True
        except Fault:
            detailed = False
        found = service.health(detailed=detailed)
        return JSONResponse(found, status_code=200 if found["ready"] else 503)

    @app.get("/metrics", response_model=None)
    async def metrics(request: Request) -> Response:
        service.admit(request.scope["headers"])
        return Response(service.metrics.text(), headers={"content-type": CONTENT_TYPE})


def _names(service: Service, key: ApiKey) -> list[str]:
    found = []
    for model, shelf in service.book.shelves.items():
        found.append(model)
        found += [f"{model}@{name}" for name in shelf if key.policies is None or name in key.policies]
    return found


async def _fault_reply(_: Request, error: Exception) -> Response:
    assert isinstance(error, Fault)
    return Response(error.body, status_code=error.status, headers=error.headers, media_type="application/json")


async def _http_reply(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "there is no such path", 405: f"{request.method} is not for this path"}
    fault = Fault(error.status_code, f"{what.get(error.status_code, error.detail)}; see docs/reference/server.md")
    fault.headers = dict(error.headers or {})
    return await _fault_reply(request, fault)
