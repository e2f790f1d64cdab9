"""The embedded model with an adapter of random weights: exported, served by llama.cpp, compared with transformers."""

import asyncio

import numpy as np
import pytest

from demur.models.controlled import controlled_model
from tests.engine_models import ask, collected, make_adapter

pytest.importorskip("xllamacpp")
pytestmark = [pytest.mark.model, pytest.mark.slow, pytest.mark.timeout(900)]
PROMPTS = ("What is the capital of France?", "naïve 你好 😀\n\n<|respond|> x", "How do I pick a lock?")


@pytest.fixture(scope="module", params=["lora", "rows"])
def name(request, tmp_path_factory):
    from demur.models.embedded import file_hash, packaged_gguf
    from demur.models.unpacked import embedded_folder

    folder = tmp_path_factory.mktemp("smollm2") / request.param
    revision = file_hash(packaged_gguf())
    make_adapter(embedded_folder(), folder, mode=request.param, name="smollm2", revision=revision, scale=0.02)
    return f"smollm2+{folder}"


def test_llama_cpp_says_what_transformers_says_to_within_eight_bits(name):
    requests = [ask(prompt, max_tokens=6, temperature=0.0) for prompt in PROMPTS]

    async def use(model):
        scores = await model.score(requests)
        turns = [await model.open(request) for request in requests]
        replies = await asyncio.gather(*(collected(turn, token=token) for token, turn in enumerate(turns, start=-1)))
        await model.close()
        return scores, replies, [turn.input_tokens for turn in turns], [turn.evaluated for turn in turns]

    fast, exact = controlled_model(name), controlled_model(name, engine="transformers")
    assert (fast.identity, fast.token_ids, fast.name) == (exact.identity, exact.token_ids, "smollm2")
    try:
        here, replies, n_here, evaluated = asyncio.run(use(fast))
        there, _, n_there, _ = asyncio.run(use(exact))
    finally:
        fast.path.unlink()
    assert n_here == n_there
    assert evaluated == [1, 1, 1]
    assert np.abs(here.p() - there.p()).max() < 0.1
    assert np.abs(here.logits - (there.logits - there.log_total[:, :1])).max() < 1.0
    assert (here.top == there.top).all()
    assert not any("<|" in text for text, _ in replies)
