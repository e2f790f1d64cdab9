"""The transformers engine: batched, cached and streamed, it says what one plain forward pass says."""

import asyncio
import json
import random
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from demur.core.controlled import ControlledModel, Turn
from demur.core.errors import BackendError, BadInputError
from demur.core.signal import TEMPERATURES, Signal
from demur.models.controlled_transformers import TransformersControlled
from demur.models.controlled_writing import may_batch
from tests.engine_models import ask, collected, greedy_text, next_logits, prompt_ids, workshop

ATTACKS = Path(__file__).parents[1] / "data" / "control_attacks.json"


@pytest.fixture(scope="module")
def merged():
    return workshop().merged[True, "lora"]


def engine(merged, **settings):
    return TransformersControlled(
        "tiny", "tiny+1", merged.control, lambda: (merged.model, merged.tokenizer), **settings
    )


def run(merged, use, **settings):
    """Use an engine and close it."""

    async def main():
        model = engine(merged, **settings)
        try:
            return await asyncio.wait_for(use(model), 120)
        finally:
            await model.close()

    return asyncio.run(main())


def mixed_requests(n, **fields):
    draw = random.Random(1)
    words = ["hello", "what", "is", "the", "capital", "sea", "boat", "12", "你好", "naïve"]
    systems = ["", "", "Be brief.", "You are a parrot that sings of the sea"]
    return [
        ask(" ".join(draw.choices(words, k=draw.randint(1, 30))), system=draw.choice(systems), **fields)
        for _ in range(n)
    ]


def test_it_is_a_controlled_model_and_a_signal(merged):
    async def use(model):
        turn = await model.open(ask("hi"))
        kinds = isinstance(model, ControlledModel), isinstance(model, Signal), isinstance(turn, Turn)
        await turn.close()
        return kinds

    assert run(merged, use) == (True, True, True)


def test_batched_scores_are_those_of_one_plain_pass(merged):
    requests = mixed_requests(24)

    async def use(model):
        scores = await model.score(requests)
        return scores, len(model._worker.reader.prefix)

    scores, n_shared = run(merged, use)
    assert n_shared > 10
    for row, request in enumerate(requests):
        logits = next_logits(merged, prompt_ids(merged, request))
        assert np.abs(scores.logits[row] - logits[list(merged.control.ids)]).max() < 1e-4
        for column, t in enumerate(TEMPERATURES):
            assert scores.log_total[row, column] == pytest.approx(np.log(np.exp(logits / t).sum()), abs=1e-4)
        likeliest = int(logits.argmax())
        assert scores.top[row] == (merged.control.ids.index(likeliest) if likeliest in merged.control.ids else -1)


@pytest.mark.parametrize("max_rows", [1, 32])
def test_replies_decoded_together_are_those_decoded_alone(merged, max_rows):
    requests = mixed_requests(12, max_tokens=12)

    async def one(model, i, request):
        return await collected(await model.open(request), token=i % 7 - 1)

    async def use(model):
        return await asyncio.gather(*(one(model, i, request) for i, request in enumerate(requests)))

    for i, (text, last) in enumerate(run(merged, use, max_rows=max_rows)):
        ids = prompt_ids(merged, requests[i])
        forced = [merged.control.ids[i % 7 - 1]] if i % 7 else []
        assert text == greedy_text(merged, ids + forced, 12)
        assert last.input_tokens == len(ids)
        assert last.output_tokens <= 12


def test_replies_may_end_after_the_memory_of_all_has_grown(merged):
    lengths = (60, 150, 220, 90, 180)
    requests = [ask("hello sea " * (i + 1), max_tokens=n) for i, n in enumerate(lengths)]

    async def one(model, i, request):
        await asyncio.sleep(0.02 * i)  # the later ones join when the first are well under way
        return await collected(await model.open(request), token=-1)

    async def use(model):
        return await asyncio.gather(*(one(model, i, request) for i, request in enumerate(requests)))

    for (text, last), request, n in zip(run(merged, use), requests, lengths, strict=True):
        assert text == greedy_text(merged, prompt_ids(merged, request), n)
        assert last.output_tokens <= n


def test_a_model_whose_rows_may_not_be_padded_says_the_same(merged, monkeypatch):
    from transformers import LlamaConfig, MistralConfig

    assert may_batch(LlamaConfig())
    assert not may_batch(MistralConfig(sliding_window=64))
    monkeypatch.setattr(merged.model.config, "sliding_window", 4096, raising=False)
    requests = mixed_requests(4, max_tokens=6)

    async def use(model):
        turns = [await model.open(request) for request in requests]
        return [await collected(turn, token=i - 1) for i, turn in enumerate(turns)], model._worker.reader.batched

    replies, batched = run(merged, use)
    assert not batched
    for i, (text, _) in enumerate(replies):
        forced = [merged.control.ids[i - 1]] if i else []
        assert text == greedy_text(merged, prompt_ids(merged, requests[i]) + forced, 6)


def test_no_control_token_is_written_even_where_it_would_be_the_likeliest(merged):
    import torch

    loud = merged.model.get_output_embeddings().weight
    quiet = loud[list(merged.control.ids)].clone()
    with torch.no_grad():
        loud[list(merged.control.ids)] *= 40
    try:

        async def use(model):
            turn = await model.open(ask("hello", max_tokens=16))
            return turn.scores.mass[0], await collected(turn)

        mass, (text, last) = run(merged, use)
    finally:
        with torch.no_grad():
            loud[list(merged.control.ids)] = quiet
    assert mass > 0.5
    assert last.output_tokens > 0
    assert not any(token in text for token in merged.control.texts)


def test_a_seed_fixes_a_sampled_reply_and_none_does_not(merged):
    async def use(model):
        seeds = [5, 5, 6, None, None]
        turns = [await model.open(ask("hello", temperature=1.5, seed=seed, max_tokens=16)) for seed in seeds]
        return [text for text, _ in await asyncio.gather(*(collected(turn, token=0) for turn in turns))]

    a, b, *others = run(merged, use)
    assert a == b
    assert len({a, *others}) == 4


def test_sampling_follows_the_models_probabilities(merged):
    async def use(model):
        counts = Counter()
        for _ in range(4):
            turns = [await model.open(ask("hello", temperature=1.0, max_tokens=1)) for _ in range(32)]
            replies = await asyncio.gather(*(collected(turn) for turn in turns))
            counts.update(text for text, _ in replies)
        return counts

    counts = run(merged, use)
    logits = next_logits(merged, prompt_ids(merged, ask("hello")))
    logits[list(merged.control.ids)] = -np.inf
    p = np.exp(logits - logits.max())
    expected = Counter()
    for token, share in enumerate(128 * p / p.sum()):
        expected[merged.tokenizer.decode([token], skip_special_tokens=True)] += share
    for text, n in expected.most_common(5):
        assert abs(counts[text] - n) < 5 * np.sqrt(n)


def test_readers_that_leave_free_their_place(merged):
    async def use(model):
        async def leave(i):
            turn = await model.open(ask(f"hello {i}", max_tokens=400))
            async for _ in turn.reply(token=0):
                break
            await turn.close()
            await turn.close()

        await asyncio.gather(*(leave(i) for i in range(12)))
        again = await collected(await model.open(ask("still there?", max_tokens=3)))
        while model._worker.writer.active:
            await asyncio.sleep(0.01)
        return again, len(model._worker.writer.active), model._open._value

    (_, last), active, free = run(merged, use, max_open=3)
    assert last.stop_reason in ("stop", "max_tokens")
    assert (active, free) == (0, 3)


def test_a_turn_replies_once(merged):
    async def use(model):
        turn = await model.open(ask("hi", max_tokens=2))
        await collected(turn)
        with pytest.raises(RuntimeError, match="once"):
            await collected(turn)

    run(merged, use)


def test_a_prompt_that_does_not_fit_fails_alone(merged):
    async def use(model):
        jobs = [model.open(ask("hello")), model.open(ask("x " * 600)), model.open(ask("there"))]
        return await asyncio.gather(*jobs, return_exceptions=True)

    first, failed, third = run(merged, use)
    assert isinstance(failed, BadInputError)
    assert "expected at most 510" in str(failed)
    assert isinstance(first, Turn)
    assert isinstance(third, Turn)


def test_a_reply_ends_where_the_context_does(merged):
    async def use(model):
        return await collected(await model.open(ask("x " * 220, max_tokens=4000, temperature=3.0, seed=1)))

    _, last = run(merged, use)
    assert last.input_tokens + last.output_tokens <= 512
    assert last.stop_reason in ("max_tokens", "stop")


def test_a_model_that_cannot_be_loaded_says_so_to_everyone(merged):
    def load():
        raise BadInputError("no such model")

    async def use():
        model = TransformersControlled("tiny", "tiny+1", merged.control, load)
        answers = await asyncio.gather(*(model.open(ask("hi")) for _ in range(3)), return_exceptions=True)
        answers.append((await asyncio.gather(model.open(ask("late")), return_exceptions=True))[0])
        await model.close()
        return answers

    answers = asyncio.run(use())
    assert [str(answer) for answer in answers] == ["no such model"] * 4
    assert all(isinstance(answer, BadInputError) for answer in answers)


def test_closing_ends_what_is_running(merged):
    async def use():
        model = engine(merged)
        turn = await model.open(ask("hello", max_tokens=400, temperature=5.0))
        reply = turn.reply()
        await anext(reply)
        await model.close()
        with pytest.raises(BackendError, match="closed"):
            async for _ in reply:
                pass

    asyncio.run(use())


def test_no_attack_on_the_list_becomes_a_control_token(merged):
    from demur.core.chat import ChatRequest
    from demur.core.exchange import Message

    attacks = [attack for attack in json.loads(ATTACKS.read_text(encoding="utf-8")) if "messages" in attack]
    requests = [
        ChatRequest(messages=tuple(Message(role=m["role"], text=m["text"][:400]) for m in attack["messages"]))
        for attack in attacks
    ]

    async def use(model):
        await model.score(requests[:1])
        worker = model._worker
        from demur.models.untrusted import safe_messages

        return [worker._ids(safe_messages(request.messages, worker._forbidden)) for request in requests]

    special = set(merged.tokenizer.all_special_ids) | set(merged.control.ids)
    for attack, request, ids in zip(attacks, requests, run(merged, use), strict=True):
        harmless = [{"role": m.role, "content": "x"} for m in request.messages]
        plain = merged.tokenizer.apply_chat_template(harmless, tokenize=False, add_generation_prompt=True)
        expected = [i for i in merged.tokenizer(plain, add_special_tokens=False)["input_ids"] if i in special]
        assert [i for i in ids if i in special] == expected, attack["id"]
