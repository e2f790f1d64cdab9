"""The server as a process: a socket bound before anything is loaded, signals, and an end that finishes what began."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
from collections.abc import Callable, Iterator

import uvicorn
from fastapi import FastAPI

from demur.core.errors import BadInputError
from demur.serve.service import Service

# Beyond the time to drain: our own, polite ending comes first.
AFTER_DRAIN_S = 10
BACKLOG = 2048


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine's own."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def bound_socket(host: str, port: int) -> socket.socket:
    """A socket that is bound but does not listen yet.

    Raises:
        BadInputError: The address is taken or not this machine's.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        bound = socket.socket(family, kind, protocol)
    except OSError as error:
        raise BadInputError(f"--host {host}: {error.strerror or error}; choose an address of this machine") from None
    try:
        bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        bound.bind(address)
    except OSError as error:
        bound.close()
        raise BadInputError(f"{host}:{port}: {error.strerror or error}; choose another --host or --port") from None
    return bound


def run(app: FastAPI, bound: socket.socket, *, ready: Callable[[str], None]) -> None:
    """Serve until a signal: SIGTERM or Ctrl-C finish what has begun, SIGHUP reloads the policies.

    Args:
        app: As built by `build_app`.
        bound: Where to listen; closed at the end.
        ready: Called with the address once requests are taken.

    Raises:
        DemurError: A model could not be made ready.
    """
    host, port = bound.getsockname()[:2]
    url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
    DrainingServer(app, lambda: ready(url)).run(sockets=[bound])
    failed: Exception | None = app.state.service.failed
    if failed is not None:
        raise failed


class DrainingServer(uvicorn.Server):
    """Uvicorn that tells the application when it stops, and whose end by a signal is an ordinary one."""

    def __init__(self, app: FastAPI, ready: Callable[[], None]) -> None:
        service: Service = app.state.service
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="on",
            backlog=BACKLOG,
            timeout_graceful_shutdown=int(service.settings.drain_s) + AFTER_DRAIN_S,
        )
        super().__init__(config)
        self._app, self._service, self._ready = app, service, ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen."""
        await super().startup(sockets=sockets)
        if self._service.failed is not None:
            self.should_exit = True
            return
        if self._app.state.watch is not None:
            self._reload_on_hangup()
        self._ready()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Stop listening, finish what has begun, end."""
        self._service.drain()
        await super().shutdown(sockets=sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Stop on signals while serving; the old handlers are put back."""
        caught = (signal.SIGINT, signal.SIGTERM)
        old = {number: signal.signal(number, self.handle_exit) for number in caught}
        try:
            yield
        finally:
            for number, handler in old.items():
                signal.signal(number, handler)

    def _reload_on_hangup(self) -> None:
        loop, tasks = asyncio.get_running_loop(), set[asyncio.Task[bool]]()

        def reload() -> None:
            task = loop.create_task(self._app.state.watch.reload())
            tasks.add(task)  # a task nobody holds may be collected before it has run
            task.add_done_callback(tasks.discard)

        with contextlib.suppress(NotImplementedError):  # no such signal on Windows
            loop.add_signal_handler(signal.SIGHUP, reload)
