"""A synthesis that logs every question, for a test that kills it: python slow_synthesis.py POLICY OUT LOG PAUSE."""

import asyncio
import sys
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from demur.core.chat import ChatReply, ChatRequest
from demur.jobs.synthesis import SynthesisConfig, synthesise
from demur.synthesis.workflow import Effort
from tests.synthesis_models import approve, asked, write


@dataclass
class Logged:
    """A model that writes down what it is asked before it answers."""

    name: str
    script: object
    log: Path
    pause: float

    async def complete(self, request: ChatRequest, /, *, enough: object = None) -> ChatReply:
        with self.log.open("a", encoding="utf-8") as log:
            log.write(f"{self.name} {sha256(asked(request).encode()).hexdigest()}\n")
        await asyncio.sleep(self.pause)
        return ChatReply(text=self.script(request))


if __name__ == "__main__":
    policy, out, log, pause = sys.argv[1:]
    about = (Path(log), float(pause))
    synthesise(
        SynthesisConfig(
            policy=Path(policy), kind="image", model="-", out=Path(out), effort=Effort(n=12), connections=3
        ),
        writer=Logged("writer", write, *about),
        judges=[Logged("judge-a", approve, *about), Logged("judge-b", approve, *about)],
    )
