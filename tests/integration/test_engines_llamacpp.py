"""The llama.cpp engine: the scores of transformers, one token evaluated for a reply, no slot ever lost."""

import asyncio
import json
import urllib.request
from pathlib import Path

import numpy as np
import pytest

from demur.core.controlled import ControlledModel, Turn
from demur.core.errors import BackendError, BadInputError
from demur.core.signal import Signal, scores_from_probabilities
from demur.models.controlled_llamacpp import LlamaCppControlled
from tests.engine_models import ask, collected, exported, greedy_text, next_logits, prompt_ids, workshop

pytest.importorskip("xllamacpp")


@pytest.fixture(scope="module")
def merged():
    return workshop().merged[True, "lora"]


def run(use, *, path=None, **settings):
    """Use an engine and close it."""

    async def main():
        options = {"n_copies": 1, "n_slots": 4, "n_context": 2048, **settings}
        model = LlamaCppControlled(path=path or exported(), name="tiny", **options)
        try:
            return await asyncio.wait_for(use(model), 120)
        finally:
            await model.close()

    return asyncio.run(main())


def test_it_is_a_controlled_model_and_a_signal(merged):
    async def use(model):
        turn = await model.open(ask("hi"))
        await turn.close()
        return isinstance(model, ControlledModel), isinstance(model, Signal), isinstance(turn, Turn), model.token_ids

    *kinds, token_ids = run(use)
    assert kinds == [True, True, True]
    assert token_ids == merged.control.token_ids


def test_scores_hardly_depend_on_what_else_is_read(merged):
    requests = [ask("hello sea " * (i % 5 + 1) + TEXTS[i % len(TEXTS)]) for i in range(24)]

    async def use(model):
        alone = [(await model.score([request])).logits[0] for request in requests]
        together = await model.score(list(reversed(requests)))
        return np.array(alone), together.logits[::-1]

    alone, together = run(use, path=exported(quant="q8_0"), n_slots=8)
    assert np.abs(alone - together).max() < 0.02


TEXTS = ("hello", "What is the capital of France?", "naïve 你好 12 345", " \n x", "<|respond|> <|im_end|>", "")


@pytest.mark.parametrize(("tied", "mode"), [(True, "lora"), (True, "rows"), (False, "lora"), (False, "rows")])
def test_scores_are_transformers_scores(tied, mode):
    from demur.models.untrusted import safe_messages

    merged = workshop().merged[tied, mode]

    async def use(model):
        return await model.score([ask(text) for text in TEXTS]), model._forbidden

    scores, forbidden = run(use, path=exported(tied, mode))
    for row, text in enumerate(TEXTS):
        request = ask(text)
        safe = next(m["content"] for m in safe_messages(request.messages, forbidden))
        logits = next_logits(merged, prompt_ids(merged, ask(safe)))
        logp = logits - np.log(np.exp(logits).sum())
        assert scores.logits[row] == pytest.approx(logp[list(merged.control.ids)], abs=2e-4)
        likeliest = int(logits.argmax())
        assert scores.top[row] == (merged.control.ids.index(likeliest) if likeliest in merged.control.ids else -1)


@pytest.mark.parametrize(("quant", "error"), [("f16", 0.03), ("q8_0", 0.3)])
def test_smaller_files_are_off_by_their_rounding_only(merged, quant, error):
    async def use(model):
        return await model.score([ask(text) for text in TEXTS[:3]])

    scores = run(use, path=exported(quant=quant))
    for row, text in enumerate(TEXTS[:3]):
        logits = next_logits(merged, prompt_ids(merged, ask(text)))
        logp = logits - np.log(np.exp(logits).sum())
        assert scores.logits[row] == pytest.approx(logp[list(merged.control.ids)], abs=error)


def test_a_reply_evaluates_one_token_and_says_what_transformers_says(merged):
    async def use(model):
        found = []
        for token in range(-1, 6):
            turn = await model.open(ask("What is the capital?", max_tokens=8))
            found.append((token, turn.input_tokens, *await collected(turn, token=token), turn.evaluated))
        return found

    ids = prompt_ids(merged, ask("What is the capital?"))
    for token, n_prompt, text, last, evaluated in run(use):
        forced = [merged.control.ids[token]] if token >= 0 else []
        assert evaluated == 1
        assert n_prompt == last.input_tokens == len(ids)
        assert same_text(text, greedy_text(merged, ids + forced, 8))


def same_text(ours, theirs):
    """llama.cpp leaves out what may be half a character at the end."""
    return ours == theirs or (theirs.startswith(ours) and "\ufffd" in theirs[len(ours) :])


def test_control_tokens_are_one_id_and_cannot_be_formed_from_text(merged):
    from demur.models.untrusted import safe_text

    attacks = json.loads((Path(__file__).parents[1] / "data" / "control_attacks.json").read_text(encoding="utf-8"))
    spoken = [m["text"][:400] for attack in attacks if "messages" in attack for m in attack["messages"]]

    async def use(model):
        await model._loaded()
        server = model._slots._free[0].server

        def ids_of(text):
            request = urllib.request.Request(
                f"{server.listening_address}/tokenize",
                json.dumps({"content": text}).encode(),
                {"Authorization": f"Bearer {model._key}", "Content-Type": "application/json"},
            )
            return json.load(urllib.request.urlopen(request, timeout=30))["tokens"]

        whole = [ids_of(f"a{text}b") for text in merged.control.texts]
        return whole, [ids_of(safe_text(text, model._forbidden)) for text in spoken]

    whole, attacked = run(use)
    for ids, number in zip(whole, merged.control.ids, strict=True):
        assert ids.count(number) == 1
        assert len(ids) == 3
    special = {0, 1, 2, *merged.control.ids}
    assert not any(special & set(ids) for ids in attacked)


def test_the_librarys_own_door_is_locked(merged):
    async def use(model):
        await model._loaded()
        address = model._slots._free[0].server.listening_address
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/v1/models/x", timeout=30)
        body = json.dumps({"prompt": "hi", "n_predict": 1}).encode()
        with pytest.raises(urllib.error.HTTPError, match="401"):
            urllib.request.urlopen(f"{address}/completion", body, timeout=30)

    run(use)


def test_more_requests_than_slots_wait_and_none_is_lost(merged):
    async def use(model):
        async def one(i):
            return await collected(await model.open(ask(f"hello {i}", max_tokens=5)), token=i % 6)

        replies = await asyncio.gather(*(one(i) for i in range(20)))
        while model._slots.n_free < 2:
            await asyncio.sleep(0.01)
        return replies

    for i, (text, _) in enumerate(run(use, n_slots=2)):
        ids = prompt_ids(merged, ask(f"hello {i}"))
        assert same_text(text, greedy_text(merged, [*ids, merged.control.ids[i % 6]], 5))


def test_readers_that_leave_give_their_slot_back():
    async def use(model):
        async def leave(i):
            if i % 3 == 0:  # before the prompt is read
                task = asyncio.ensure_future(model.open(ask(f"hello {i} " * 20)))
                await asyncio.sleep(0.002 * (i % 4))
                task.cancel()
                turn = (await asyncio.gather(task, return_exceptions=True))[0]
            else:
                turn = await model.open(ask(f"hello {i}", max_tokens=300))
                if i % 3 == 1:  # in the middle of the reply
                    async for _ in turn.reply(token=0):
                        break
            if isinstance(turn, Turn):
                await turn.close()
                await turn.close()

        await asyncio.gather(*(leave(i) for i in range(18)))
        while model._slots.n_free < 3:
            await asyncio.sleep(0.01)
        return await collected(await model.open(ask("still there?", max_tokens=3)))

    _, last = run(use, n_slots=3)
    assert last.stop_reason in ("stop", "max_tokens")


def test_a_prompt_that_does_not_fit_is_refused_and_keeps_no_slot():
    async def use(model):
        with pytest.raises(BadInputError, match="expected at most 512"):
            await model.open(ask("x " * 900))
        return model._slots.n_free

    assert run(use) == 4


def test_a_forced_token_is_no_part_of_text_and_none_is_written():
    async def use(model):
        turn = await model.open(ask("hello", max_tokens=40, temperature=2.0, seed=3))
        return await collected(turn, token=5)

    text, last = run(use)
    assert not any(token in text for token in workshop().merged[True, "lora"].control.texts)
    assert last.output_tokens > 0


def test_rows_mode_says_that_no_text_follows():
    async def use(model):
        return model.text_follows

    assert run(use, path=exported(mode="rows")) == "nothing"
    assert run(use, path=exported()) == "token"


class HalfSure:
    name, identity, categories = "guess", "guess@1", ("safety",)

    async def score(self, requests):
        return scores_from_probabilities(self.categories, np.full((len(requests), 1), 0.5))


def test_a_file_without_control_tokens_needs_a_signal_of_its_own():
    base = workshop().ggufs[True]
    with pytest.raises(BadInputError, match="demur export"):
        LlamaCppControlled(path=base, name="tiny")

    async def use(model):
        turn = await model.open(ask("hello", max_tokens=4))
        return turn.scores.p_any[0], await collected(turn), model.signal, model.identity, model.token_ids

    p, (_, last), *names = run(use, path=base, own_signal=HalfSure())
    assert p == 0.5
    assert last.stop_reason in ("stop", "max_tokens")
    assert names == ["guess", "guess@1", {}]


def test_a_closed_model_loads_again_and_an_open_turn_fails():
    async def use(model):
        turn = await model.open(ask("hello"))
        await model.close()
        with pytest.raises(BackendError, match="closed"):
            await collected(turn)
        again = await model.open(ask("hello"))
        await again.close()
        return np.abs(again.scores.logits - turn.scores.logits).max()

    assert run(use) < 1e-4
