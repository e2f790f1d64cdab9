"""The same policy and the same requests: the same decision on every engine, and on the logits recorded for others."""

import asyncio
import json

import numpy as np
import pytest

from demur.control.decision import decide_one
from demur.core.policy import Policy
from demur.core.signal import TEMPERATURES, SignalScores
from demur.models.controlled import check_policy
from demur.models.controlled_transformers import TransformersControlled
from tests.engine_models import ask, workshop
from tests.engine_recording import PATH, PROMPTS, loud, policies, record

RECORDED = json.loads(PATH.read_text(encoding="utf-8"))
NEAR = 1e-3


def recorded_scores():
    """Scores worked out from the recorded logits over the whole vocabulary, as a logits processor would."""
    logits = np.array([row["logits"] for row in RECORDED["rows"]])
    ids = RECORDED["ids"]
    totals = [np.log(np.exp(logits / t).sum(axis=1)) for t in TEMPERATURES]
    top = [ids.index(i) if i in ids else -1 for i in logits.argmax(axis=1).tolist()]
    return SignalScores(
        categories=tuple(RECORDED["categories"]),
        logits=logits[:, ids],
        log_total=np.stack(totals, axis=1),
        top=np.array(top),
    )


@pytest.mark.parametrize("policy", RECORDED["policies"], ids=lambda p: p["name"])
def test_recorded_logits_give_the_recorded_decisions(policy):
    scores = recorded_scores()
    for row, expected in enumerate(RECORDED["decisions"][policy["name"]]):
        found = decide_one(Policy.model_validate(policy), scores, row=row)
        assert (found.token, found.action, found.category) == (
            expected["token"],
            expected["action"],
            expected["category"],
        )
        assert found.p == pytest.approx(expected["p"], abs=1e-4)
        assert found.threshold == pytest.approx(expected["threshold"], abs=1e-4)


def test_recorded_decisions_go_both_ways_and_stay_clear_of_their_thresholds():
    assert {p["kind"] for p in RECORDED["policies"]} == {"two_way", "sum", "bias", "category_set", "per_category"}
    for name, decisions in RECORDED["decisions"].items():
        assert len({d["action"] == "answer" for d in decisions}) == 2, name
        assert all(abs(d["p"] - d["threshold"]) > NEAR for d in decisions), name


def test_the_recording_is_what_the_engine_says_today():
    today = record()
    assert today["decisions"].keys() == RECORDED["decisions"].keys()
    for then, now in zip(RECORDED["rows"], today["rows"], strict=True):
        assert now["prompt_ids"] == then["prompt_ids"]
        for key in ("logits", "control_logits", "log_total"):
            assert np.abs(np.subtract(now[key], then[key])).max() < 1e-3
        assert now["top"] == then["top"]


@pytest.mark.parametrize(("quant", "off"), [("f32", 1e-4), ("f16", 5e-3)])
def test_llama_cpp_decides_as_transformers_does(quant, off):
    pytest.importorskip("xllamacpp")
    from demur.models.controlled_llamacpp import LlamaCppControlled
    from demur.models.gguf_export import export_gguf

    adapter, merged = loud()
    shop = workshop()
    path = shop.root / f"loud-{quant}.gguf"
    export_gguf(merged, shop.ggufs[True], path, quant=quant, identity=adapter.identity)

    async def read():
        local = LlamaCppControlled(path=path, name="t", n_copies=1, n_slots=4, n_context=2048)
        exact = TransformersControlled("t", adapter.identity, merged.control, lambda: (merged.model, merged.tokenizer))
        requests = [ask(prompt) for prompt in PROMPTS]
        found = await local.score(requests), await exact.score(requests)
        assert (local.identity, local.signal, local.token_ids) == (exact.identity, exact.signal, exact.token_ids)
        usable = [p for p in policies(adapter.identity, adapter.token_ids) if (p.view, p.temperature) != ("full", 2.0)]
        for policy in usable:
            check_policy(local, policy)
        await local.close()
        await exact.close()
        return *found, usable

    fast, exact, usable = asyncio.run(read())
    for view in ("posterior", "full"):
        assert np.abs(fast.p(view) - exact.p(view)).max() < off
    assert len({p.kind for p in usable}) == 5
    for policy in usable:
        for row in range(len(PROMPTS)):
            here, there = decide_one(policy, fast, row=row), decide_one(policy, exact, row=row)
            assert (here.token, here.action) == (there.token, there.action) or abs(there.p - there.threshold) < off
            assert here.p == pytest.approx(there.p, abs=5 * off)


def test_a_view_that_an_engine_knows_only_roughly_is_refused():
    from demur.core.errors import BadInputError

    class Rough:
        exact_temperatures = (1.0,)

    published = next(p for p in policies("tiny", {}) if p.name == "published")
    with pytest.raises(BadInputError, match="needs engine 'transformers'"):
        check_policy(Rough(), published)
    check_policy(Rough(), published.model_copy(update={"temperature": 1.0}))
    check_policy(Rough(), published.model_copy(update={"view": "posterior"}))
    check_policy(TransformersControlled("t", "t", None, lambda: (None, None)), published)
