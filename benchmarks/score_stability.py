"""Does a prompt have the same scores in any company? python benchmarks/score_stability.py [--model smollm2+adapters/tokens-0].

The same prompts alone, alone in another order, and all at once; largest and median change of a control token's
posterior, with keys and values in 16 and in 32 bits. What moves between calls no threshold can promise about.
"""

import argparse
import asyncio

import numpy as np
from record import record

from demur.core.chat import ChatRequest
from demur.core.exchange import Message
from demur.models.controlled import controlled_model
from demur.suites import load_suite

N_PROMPTS = 40


async def posterior(model, request):
    turn = await model.open(request)
    try:
        return turn.scores.p()[0]
    finally:
        await turn.close()


async def changes(name, requests, *, full_cache):
    model = controlled_model(name)
    model.full_cache = full_cache
    try:
        alone = np.array([await posterior(model, request) for request in requests])
        backwards = np.array([await posterior(model, request) for request in reversed(requests)])[::-1]
        together = np.array(await asyncio.gather(*(posterior(model, request) for request in requests)))
    finally:
        await model.close()
    moved = {"in another order": backwards, "all at once": together}
    return {
        what: {
            "largest": float(np.abs(found - alone).max()),
            "median": float(np.median(np.abs(found - alone).max(axis=1))),
        }
        for what, found in moved.items()
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="smollm2+adapters/tokens-0")
    given = parser.parse_args()
    rows = list(load_suite("core").rows)
    prompts = [rows[i].prompt for i in np.linspace(0, len(rows) - 1, N_PROMPTS).round().astype(int)]
    requests = [ChatRequest(messages=(Message(role="user", text=p),), max_tokens=4, temperature=0.0) for p in prompts]
    result = {"model": given.model, "n": len(requests)}
    for bits, full_cache in ((16, False), (32, True)):
        result[f"{bits} bits"] = asyncio.run(changes(given.model, requests, full_cache=full_cache))
        print(bits, result[f"{bits} bits"], flush=True)
    record("score_stability", result, packages=("xllamacpp",))


if __name__ == "__main__":
    main()
