"""Limits and defaults of a server; every one has a value, so that nothing is unbounded by accident."""

from pathlib import Path
from typing import Annotated

from pydantic import Field

from demur.core.exchange import Frozen

Positive = Annotated[int, Field(gt=0)]
Seconds = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]


class ServerSettings(Frozen):
    """How much a server takes on.

    Attributes:
        max_running: Turns that read or write at the same time.
        max_queue: Requests that may wait for a turn; one more gets 429.
        timeout_s: Longest time from a request's last byte to its reply's last byte.
        body_timeout_s: Longest time for a request's body to arrive.
        max_body_bytes: Size of a request's body; one more gets 413.
        max_tokens: Most tokens a request may ask for.
        default_max_tokens: Tokens of a reply where the request does not say.
        drain_s: After the signal to stop, how long begun requests may go on.
        policy_path: File or folder of policies to watch; None = no reload.
        poll_s: How often it is looked at.
        allowed_hosts: Host names that requests may address; empty = any. Keeps web pages from reaching an open server
            through a name of their own.
        warm_up: Have every model read a word before requests are taken, so that what is missing shows at once.
        access_log: Write one line for each request, never its text.
    """

    max_running: Positive = 32
    max_queue: Annotated[int, Field(ge=0)] = 128
    timeout_s: Seconds = 120.0
    body_timeout_s: Seconds = 30.0
    max_body_bytes: Positive = 1 << 20
    max_tokens: Positive = 4096
    default_max_tokens: Positive = 512
    drain_s: Annotated[float, Field(ge=0.0, allow_inf_nan=False)] = 30.0
    policy_path: Path | None = None
    poll_s: Seconds = 1.0
    allowed_hosts: tuple[str, ...] = ()
    warm_up: bool = False
    access_log: bool = False
