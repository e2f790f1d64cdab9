"""The contract of a judge."""

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from demur.core.exchange import Exchange
from demur.core.verdict import Verdict


@runtime_checkable
class Judge(Protocol):
    """Turns exchanges into verdicts, one for one and in order."""

    @property
    def name(self) -> str:
        """Short stable name, as used on the command line."""
        ...

    @property
    def version(self) -> str:
        """Changes whenever a verdict could change."""
        ...

    async def judge(self, exchanges: Sequence[Exchange], /) -> list[Verdict]:
        """Judge a batch; a failure is an `unjudged` verdict, never an exception."""
        ...


@runtime_checkable
class SettlingJudge(Judge, Protocol):
    """A judge that can tell, from the start of a reply, that the rest will not change its verdict."""

    def is_settled(self, prompt: str, prefix: str, /) -> bool:
        """Whether the verdict on `prefix` stands for any likely continuation."""
        ...
