"""People look at synthesised prompts: on a page served to this machine alone, or on one in a file."""

import contextlib
import secrets
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError
from demur.data.folder import write_text
from demur.jobs.synthesis import SynthesisFindings, read_run, write_suite
from demur.report.escaping import visible
from demur.synthesis.decisions import DecisionBook, read_decisions
from demur.synthesis.draft import Draft
from demur.synthesis.review import render_review, reviewable

HOST = "127.0.0.1"


def write_review(folder: Path) -> Path:
    """Write `review.html`: the page as a file, which saves decisions by downloading them.

    Raises:
        BadInputError: No finished synthesis there, or nothing to review.
    """
    page, _ = _page_and_book(folder, served=False)
    path = folder / "review.html"
    write_text(path, page())
    return path


def take_decisions(folder: Path, file: Path, *, reviewer: str = "") -> tuple[int, SynthesisFindings]:
    """Take over decisions that the page in a file saved, and write the suite; how many were new.

    Raises:
        BadInputError: The file is not of that form, or about another run.
    """
    _, book = _page_and_book(folder, served=False)
    found = [d.model_copy(update={"reviewer": reviewer or d.reviewer}) for d in read_decisions(file)]
    known = {d.id for d in reviewable(read_run(folder)[2])}
    stranger = next((d.id for d in found if d.id not in known), None)
    if stranger is not None:
        raise BadInputError(f"{file}: expected decisions about {folder}, got one about {stranger!r}")
    n_new = book.add_all(found)
    return n_new, write_suite(folder)


def serve_review(folder: Path, *, port: int = 0, reviewer: str = "", ready: Callable[[str], None]) -> SynthesisFindings:
    """Serve the page on this machine until Ctrl-C, then write the suite.

    Args:
        folder: Folder of the synthesis.
        port: Where to listen; 0 for any free one.
        reviewer: Stands in every decision.
        ready: Called with the address, which holds a token of its own.

    Raises:
        BadInputError: No finished synthesis there, or the port is taken.
        MissingExtraError: FastAPI or uvicorn is not installed.
    """
    try:
        import uvicorn

        from demur.serve.process import bound_socket
    except ImportError:
        raise MissingExtraError("the review page as a server (--static needs nothing)", extra="serve") from None
    token = secrets.token_urlsafe(24)
    app = review_app(folder, token=token, reviewer=reviewer)
    bound = bound_socket(HOST, port)
    config = uvicorn.Config(app, log_config=None, access_log=False, server_header=False, lifespan="off")
    ready(f"http://{HOST}:{bound.getsockname()[1]}/{token}/")
    with contextlib.suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[bound])
    return write_suite(folder)


def review_app(folder: Path, *, token: str, reviewer: str = "") -> Any:
    """The page as an application, for `serve_review` and for tests.

    Raises:
        BadInputError: No finished synthesis there, or nothing to review.
    """
    page, book = _page_and_book(folder, served=True)
    from demur.synthesis.review_app import build_review_app

    def finish() -> str:
        written = write_suite(folder)
        return f"{sum(written.rows.values())} prompts in {written.suite}"

    return build_review_app(page, book, finish, token=token, reviewer=reviewer)


def _page_and_book(folder: Path, *, served: bool) -> tuple[Callable[[], str], DecisionBook]:
    _, policy, drafts = read_run(folder)
    items = reviewable(drafts)
    if not items:
        raise BadInputError(f"{folder}: expected prompts to review, found none; see candidates.jsonl")
    book = DecisionBook(folder / "decisions.jsonl", items)

    def page() -> str:
        return render_review(policy, items, book.latest, served=served, shown=visible, digest=_digest(items))

    return page, book


def _digest(items: list[Draft]) -> str:
    return sha256("\x1f".join(f"{d.id}\x1e{d.prompt}" for d in items).encode("utf-8", "replace")).hexdigest()[:16]
