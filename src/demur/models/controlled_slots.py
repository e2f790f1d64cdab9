"""Which request may use which slot of which copy of a llama.cpp model, and for how long.

A turn owns its slot from reading to the end of its reply: only then is the prompt still in the slot's cache when
the reply begins, and one token is evaluated where the whole prompt would be.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

# Saving fewer characters than this is not worth queueing behind a busier copy.
WORTHWHILE_PREFIX = 256


@dataclass(slots=True, eq=False)
class Slot:
    """One sequence in the cache of one copy.

    Attributes:
        home: Where it is lent.
        server: The copy.
        number: Its number within the copy.
        prompt: What was last read into it.
    """

    home: "Slots"
    server: Any
    number: int
    prompt: str = ""

    def give_back(self) -> None:
        """Return it to where it was lent, also if the model has been loaded anew since."""
        self.home.give(self)


class Slots:
    """Slots to lend; a request waits until one is free.

    Args:
        servers: Copies of the model.
        n_slots: Slots of each.
    """

    def __init__(self, servers: Sequence[Any], n_slots: int) -> None:
        self._free = [Slot(self, server, number) for number in range(n_slots) for server in servers]
        self._available = asyncio.Semaphore(len(self._free))
        self._n_busy = {id(server): 0 for server in servers}

    @property
    def n_free(self) -> int:
        """Slots nobody holds."""
        return len(self._free)

    async def take(self, prompt: str) -> Slot:
        """The free slot that already holds most of the prompt, else one of the copy with least to do."""
        await self._available.acquire()
        slot = min(
            self._free,
            key=lambda s: (-(shared_length(s.prompt, prompt) // WORTHWHILE_PREFIX), self._n_busy[id(s.server)]),
        )
        self._free.remove(slot)
        self._n_busy[id(slot.server)] += 1
        slot.prompt = prompt
        return slot

    def give(self, slot: Slot) -> None:
        """Return a slot."""
        self._n_busy[id(slot.server)] -= 1
        self._free.append(slot)
        self._available.release()


def shared_length(a: str, b: str) -> int:
    """Length of the common beginning of two texts."""
    low, high = 0, min(len(a), len(b))
    while low < high:
        middle = (low + high + 1) // 2
        if a[low:middle] == b[low:middle]:
            low = middle
        else:
            high = middle - 1
    return low
