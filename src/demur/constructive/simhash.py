"""SimHash: 64 bits that texts with the same pieces share; likeness is the share of equal bits."""

import re
from collections import Counter
from functools import lru_cache
from hashlib import blake2b

BITS = 64
GRAM = 4  # characters of the words run together, as in the package that the released code uses; the hash is another
_WORD = re.compile(r"\w+")


@lru_cache(maxsize=4096)
def simhash(text: str) -> int:
    """The 64-bit SimHash of the text's character 4-grams, each counted as often as it stands there."""
    run = "".join(_WORD.findall(text.casefold()))
    grams = Counter(run[i : i + GRAM] for i in range(max(1, len(run) - GRAM + 1)))
    sums = [0] * BITS
    for gram, n in grams.items():
        code = int.from_bytes(blake2b(gram.encode("utf-8", "replace"), digest_size=BITS // 8).digest(), "big")
        for bit in range(BITS):
            sums[bit] += n if code >> bit & 1 else -n
    return sum(1 << bit for bit in range(BITS) if sums[bit] > 0)


def likeness(a: str, b: str) -> float:
    """Share of equal bits, in [0, 1]; about 0.5 for unrelated texts."""
    return 1.0 - (simhash(a) ^ simhash(b)).bit_count() / BITS
