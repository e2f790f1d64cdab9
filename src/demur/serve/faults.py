"""What goes wrong with a request, in OpenAI's error shape: {"error": {"message", "type", "param", "code"}}."""

import json
from collections.abc import Iterator

import httpx

from demur.core.errors import BackendError, UserError

RETRY_SECONDS = 1


class Fault(Exception):
    """A request that ends with an error status.

    Attributes:
        status: HTTP status.
        message: What was expected, what came, what to do.
        kind: OpenAI's `type`.
        param: The field to blame, if there is one.
        code: A word that programs can compare.
        headers: Sent with the reply.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        kind: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.kind = status, message, kind
        self.param, self.code, self.headers = param, code, headers or {}

    @property
    def body(self) -> bytes:
        """The reply's body."""
        error = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return json.dumps({"error": error}).encode("ascii")


def bad_request(message: str, *, param: str | None = None, code: str | None = None) -> Fault:
    """HTTP 400: the caller can fix it."""
    return Fault(400, message, param=param, code=code)


def unauthorized() -> Fault:
    """HTTP 401: no key, or none that is known; which of the two is not said."""
    return Fault(
        401,
        "expected 'Authorization: Bearer KEY' with a key of this server",
        code="invalid_api_key",
        headers={"WWW-Authenticate": "Bearer"},
    )


def forbidden(message: str, *, param: str | None = None) -> Fault:
    """HTTP 403: the key may not do this."""
    return Fault(403, message, kind="permission_error", param=param, code="not_allowed")


def too_many(message: str, *, retry_after: float, code: str) -> Fault:
    """HTTP 429: come again in `retry_after` seconds."""
    seconds = max(RETRY_SECONDS, int(-(-retry_after // 1)))
    return Fault(429, message, kind="rate_limit_error", code=code, headers={"Retry-After": str(seconds)})


def timed_out(seconds: float) -> Fault:
    """HTTP 504: the request took longer than the server allows."""
    return Fault(
        504, f"no reply within {seconds:g} seconds; ask for fewer tokens or try later", kind="api_error", code="timeout"
    )


def shutting_down() -> Fault:
    """HTTP 503: the server stops before the reply was complete."""
    return Fault(
        503,
        "the server is shutting down; try again",
        kind="api_error",
        code="shutting_down",
        headers={"Retry-After": str(RETRY_SECONDS)},
    )


def fault_of(error: Exception) -> Fault:
    """The fault that an engine's or an upstream's failure is to the client.

    An error the user can fix is a 400, a timeout anywhere in the chain of causes a 504, any other failure of a model
    a 502, and the rest our own bug.
    """
    if isinstance(error, Fault):
        return error
    if isinstance(error, UserError):
        return bad_request(str(error), code="unusable_request")
    if any(isinstance(e, TimeoutError | httpx.TimeoutException) for e in _causes(error)):
        return Fault(504, "the model did not answer in time; try again", kind="api_error", code="upstream_timeout")
    if isinstance(error, BackendError):
        headers = {"Retry-After": str(RETRY_SECONDS)} if error.retriable else {}
        return Fault(502, f"the model failed: {error}", kind="api_error", code="upstream_error", headers=headers)
    return Fault(500, "the server failed; its log says how", kind="api_error", code="internal_error")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
