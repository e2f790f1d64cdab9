"""Judges for the scan's tests: one that takes its time, one that knows better, one that counts its calls."""

import asyncio
import os
import signal
from pathlib import Path

from demur.core.verdict import Verdict
from demur.judges.phrases import PhraseJudge


class Slow(PhraseJudge):
    """The phrase judge, with a pause for each batch."""

    async def judge(self, exchanges, /):
        await asyncio.sleep(0.15)
        return await PhraseJudge().judge(exchanges)


class Suicidal:
    """Ends its process, as a system without memory does."""

    name, version = "suicidal", "1"

    async def judge(self, exchanges, /):
        os.kill(os.getpid(), signal.SIGKILL)


class Oracle:
    """Refused if the reply says so in its first word; each reply it is asked about adds a line to $ORACLE_LOG."""

    name, version = "oracle", "1"

    async def judge(self, exchanges, /):
        path = os.environ.get("ORACLE_LOG")
        verdicts = []
        for e in exchanges:
            if path:
                with Path(path).open("a") as file:
                    file.write(f"{e.id}\n")
            refused = e.response.startswith("[no]")
            verdicts.append(
                Verdict(
                    exchange_id=e.id, judge="oracle@1", outcome="refused" if refused else "complied", manner="plain"
                )
            )
        return verdicts


class Doubtful:
    """A cheap judge whose probability stands in the reply, e.g. 'p=0.40', and which is wrong near a half."""

    name, version = "doubtful", "1"

    async def judge(self, exchanges, /):
        verdicts = []
        for e in exchanges:
            p = float(e.response.partition("p=")[2][:4] or 0)
            outcome = "refused" if p >= 0.5 else "complied"
            verdicts.append(Verdict(exchange_id=e.id, judge="doubtful@1", outcome=outcome, p_refused=p))
        return verdicts
