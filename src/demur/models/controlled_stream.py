"""Pieces of a reply on their way from a worker thread to whoever reads them."""

import asyncio
from collections.abc import AsyncGenerator, Iterable

from demur.core.controlled import Piece
from demur.core.errors import BackendError, DemurError
from demur.core.exchange import StopReason
from demur.models.controlled_text import ReplyFilter


class PieceStream:
    """A queue between one worker thread and one reader in an event loop.

    Attributes:
        abandoned: Set when nobody reads any more; the worker looks at it between tokens.
    """

    def __init__(self, tokens: Iterable[str]) -> None:
        self.abandoned = False
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | Exception] = asyncio.Queue()
        self._filter = ReplyFilter(tokens)
        self._ended = False

    def text(self, piece: str) -> None:
        """Pass text on; called in the worker."""
        if safe := self._filter.add(piece):
            self._put(Piece(text=safe))

    def end(self, stop_reason: StopReason, *, input_tokens: int, output_tokens: int) -> None:
        """Say that the reply is complete; called in the worker."""
        self._put(
            Piece(
                text=self._filter.end(),
                stop_reason=stop_reason,
                input_tokens=input_tokens,
                output_tokens=output_tokens,
            )
        )

    def fail(self, error: Exception) -> None:
        """Say that the reply failed; called in the worker."""
        self._put(error if isinstance(error, DemurError) else _wrapped(error))

    async def pieces(self) -> AsyncGenerator[Piece, None]:
        """What was passed on, until the end.

        Raises:
            BackendError: The worker failed.
        """
        try:
            while True:
                found = await self._queue.get()
                if isinstance(found, Exception):
                    raise found
                yield found
                if found.stop_reason is not None:
                    return
        finally:
            self.abandoned = True

    def _put(self, item: Piece | Exception) -> None:
        if self._ended:
            return
        self._ended = isinstance(item, Exception) or item.stop_reason is not None
        try:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, item)
        except RuntimeError:  # the loop is closed: nobody is left to read
            self.abandoned = True


def _wrapped(error: Exception) -> BackendError:
    reason = str(error).splitlines()[0][:200] if str(error) else ""
    return BackendError(f"{type(error).__name__}: {reason}".rstrip(": "), retriable=False)
