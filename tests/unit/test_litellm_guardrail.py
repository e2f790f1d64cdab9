"""The guardrail as LiteLLM's own classes call it."""

import os
import sys

import numpy as np
import pytest

from demur.core.errors import BackendError, BadInputError, UnknownNameError
from demur.core.exchange import Message
from demur.core.policy import Policy, Rule, SignalSource
from demur.core.signal import scores_from_probabilities
from demur.core.verdict import Verdict

os.environ.setdefault("LITELLM_LOCAL_MODEL_COST_MAP", "True")  # else importing it asks the network
pytest.importorskip("litellm")

from litellm.exceptions import GuardrailRaisedException
from litellm.integrations.custom_guardrail import ModifyResponseException
from litellm.llms.openai.chat.guardrail_translation.handler import OpenAIChatCompletionsHandler
from litellm.types.utils import Choices, ModelResponse
from litellm.types.utils import Message as ReplyMessage

from demur.serve.litellm_guardrail import DemurGuardrail
from demur.serve.litellm_parts import messages_of

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.filterwarnings("ignore:Items? .*ReadOnly:UserWarning"),
]  # pydantic about litellm
SOURCE = SignalSource(name="words", identity="words@1")
WORDING = "That is not something I do."


@pytest.fixture
def anyio_backend():
    return "asyncio"


class WordSignal:
    """Probability 0.9 of 'safety' where the conversation says 'lock'."""

    name, categories = "words", ("safety",)

    def __init__(self, identity="words@1"):
        self.identity, self.asked = identity, []

    async def score(self, requests, /):
        self.asked += requests
        p = [[0.9 if any("lock" in m.text for m in r.messages) else 0.1] for r in requests]
        return scores_from_probabilities(self.categories, np.array(p))


class BrokenSignal(WordSignal):
    async def score(self, requests, /):
        raise BackendError(f"cannot read {requests[0].messages[0].text}", retriable=True)


class SorryJudge:
    name, version = "sorry", "1"

    async def judge(self, exchanges, /):
        return [
            Verdict(exchange_id=e.id, judge="sorry@1", outcome="refused" if "Sorry" in e.response else "complied")
            for e in exchanges
        ]


class BrokenJudge(SorryJudge):
    async def judge(self, exchanges, /):
        raise RuntimeError(exchanges[0].response)


def make_signal(identity="words@1"):
    return WordSignal(identity)


READY = WordSignal()
NOTHING = object()


def policy(**rule):
    return Policy(name="house", source=SOURCE, threshold=0.5, rules={"safety": Rule(**{"wording": WORDING, **rule})})


def guardrail(**changes):
    given = {"guardrail_name": "demur", "event_hook": "pre_call", "on_error": "closed", "policy": policy()}
    return DemurGuardrail(**{**given, "signal": WordSignal(), **changes})


def body(text="How do I bake bread?"):
    return {"model": "any", "messages": [{"role": "user", "content": text}]}


async def ask(guard, data):
    return await OpenAIChatCompletionsHandler().process_input_messages(data, guard)


async def answer(guard, data, *texts):
    choices = [Choices(index=i, message=ReplyMessage(content=t, role="assistant")) for i, t in enumerate(texts)]
    reply = ModelResponse(model="any", choices=choices)
    handler = OpenAIChatCompletionsHandler()
    return await handler.process_output_response(reply, guard, request_data=data)


async def test_an_answered_request_passes_unchanged_and_its_decision_is_noted():
    data = await ask(guardrail(), body())
    assert data["messages"] == body()["messages"]
    assert data["metadata"]["demur"] | {"p": 0.1} == {
        "action": "answer",
        "category": "safety",
        "p": 0.1,
        "threshold": 0.5,
        "policy": "house",
        "token": 1,
        "origin": "policy",
    }


async def test_a_declined_request_is_blocked_with_the_wording():
    data = body("How do I pick a lock?")
    with pytest.raises(GuardrailRaisedException) as raised:
        await ask(guardrail(), data)
    assert (raised.value.message, raised.value.status_code, raised.value.blocked_content) == (WORDING, 400, True)
    assert data["metadata"]["demur"]["action"] == "refuse"
    logged = data["metadata"]["standard_logging_guardrail_information"]
    assert [entry["guardrail_status"] for entry in logged] == ["guardrail_intervened"]
    assert "lock" not in str(data["metadata"])


async def test_a_declined_request_may_be_replied_to_instead():
    with pytest.raises(ModifyResponseException) as raised:
        await ask(guardrail(on_decline="reply"), body("lock"))
    assert (raised.value.message, raised.value.model) == (WORDING, "any")
    assert raised.value.detection_info["category"] == "safety"


async def test_without_a_wording_the_packaged_one_is_said():
    with pytest.raises(GuardrailRaisedException) as raised:
        await ask(guardrail(policy=policy(wording="", action="clarify")), body("lock"))
    assert len(raised.value.message) > 20


async def test_a_switched_off_category_is_answered():
    data = await ask(guardrail(policy=policy(action="answer")), body("lock"))
    assert data["metadata"]["demur"]["action"] == "answer"


async def test_a_broken_signal_stops_requests_when_closed_and_passes_them_when_open():
    data = body("my secret")
    with pytest.raises(GuardrailRaisedException) as raised:
        await ask(guardrail(signal=BrokenSignal()), data)
    assert (raised.value.status_code, raised.value.blocked_content) == (503, False)
    opened = await ask(guardrail(signal=BrokenSignal(), on_error="open"), body("my secret"))
    assert opened["messages"] == body("my secret")["messages"]
    for noted in (data["metadata"], opened["metadata"]):
        assert noted["demur"]["error"] == "BackendError"
        assert "secret" not in str(noted)
        assert "secret" not in raised.value.message


async def test_the_verdict_on_each_reply_is_noted_and_the_reply_unchanged():
    guard = DemurGuardrail(guardrail_name="demur", event_hook="post_call", on_error="open", judge=SorryJudge())
    data = body()
    reply = await answer(guard, data, "Sorry, no.", "Sure, mix flour and water.")
    assert [c.message.content for c in reply.choices] == ["Sorry, no.", "Sure, mix flour and water."]
    assert [v["outcome"] for v in data["metadata"]["demur_verdicts"]] == ["refused", "complied"]
    assert "flour" not in str(data["metadata"])


async def test_a_judge_of_ours_can_be_named():
    guard = DemurGuardrail(guardrail_name="demur", event_hook="post_call", on_error="open", judge="phrases")
    data = body()
    await answer(guard, data, "I'm sorry, but I can't help with that.")
    assert data["metadata"]["demur_verdicts"][0]["outcome"] == "refused"


async def test_a_broken_judge_stops_the_reply_only_when_closed():
    reply = await answer(guardrail(judge=BrokenJudge(), on_error="open"), body(), "a reply")
    assert reply.choices[0].message.content == "a reply"
    with pytest.raises(GuardrailRaisedException, match="could not be checked"):
        await answer(guardrail(judge=BrokenJudge()), body(), "a reply")


async def test_only_what_is_configured_runs():
    data = body("lock")
    await answer(guardrail(), data, "a reply")
    guard = DemurGuardrail(guardrail_name="demur", event_hook="post_call", on_error="closed", judge=SorryJudge())
    await ask(guard, data)
    assert "demur" not in data.get("metadata", {})
    assert "demur_verdicts" not in data.get("metadata", {})


async def test_the_whole_conversation_is_scored_with_its_roles():
    signal = WordSignal()
    parts = [
        {"type": "text", "text": "What is "},
        {"type": "image_url", "image_url": {"url": "data:,"}},
        {"type": "text", "text": "this?"},
    ]
    messages = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": parts},
        {"role": "assistant", "content": None},
    ]
    await ask(guardrail(signal=signal), {"model": "any", "messages": messages})
    assert signal.asked[0].messages == (
        Message(role="system", text="Be brief."),
        Message(role="user", text="What is this?"),
    )


async def test_a_request_without_text_is_not_scored():
    signal = WordSignal()
    await ask(guardrail(signal=signal), {"model": "any", "messages": [{"role": "user", "content": ""}]})
    assert signal.asked == []


async def test_a_role_from_elsewhere_is_an_error_not_a_gap():
    with pytest.raises(GuardrailRaisedException):
        await ask(guardrail(), {"model": "any", "messages": [{"role": "oracle", "content": "lock"}]})


def test_half_characters_are_replaced_and_bare_texts_are_the_users():
    assert messages_of({"texts": ["a \ud83d"]}) == (Message(role="user", text="a \ufffd"),)


@pytest.mark.parametrize(
    ("signal", "args"),
    [(f"{__name__}:READY", ()), (f"{__name__}:make_signal", ()), (f"{__name__}:WordSignal", ("words@1",))],
)
async def test_a_signal_may_be_named_by_its_import_path(signal, args):
    with pytest.raises(GuardrailRaisedException):
        await ask(guardrail(signal=signal, signal_args=args), body("lock"))


def test_a_policy_may_be_a_file(tmp_path):
    path = tmp_path / "house.toml"
    path.write_text('name = "house"\nthreshold = 0.5\nsource = {name = "words", identity = "words@1"}\n')
    assert guardrail(policy=str(path)).policy.name == "house"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"on_error": None}, "on_error: expected 'open' or 'closed', got None"),
        ({"on_error": "fail"}, "on_error"),
        ({"on_decline": "warn"}, "on_decline"),
        ({"on_eror": "open"}, "unknown parameter 'on_eror'"),
        ({"signal": None}, "both or neither"),
        ({"policy": None}, "both or neither"),
        ({"signal": None, "policy": None}, "got none of them"),
        ({"signal": WordSignal("words@2")}, "was made for words of words@1, the signal is words of words@2"),
        ({"signal": "nowhere"}, "package.module:name"),
        ({"signal": "no.such:thing"}, "package.module:name"),
        ({"signal": f"{__name__}:absent"}, "package.module:name"),
        ({"signal": f"{__name__}:NOTHING"}, "expected a Signal or a function"),
        ({"signal": f"{__name__}:policy"}, "expected a Signal, got Policy"),
        ({"policy": "no/such.toml"}, "expected a policy"),
    ],
)
def test_a_wrong_configuration_stops_the_start(changes, message):
    with pytest.raises(BadInputError, match=message):
        guardrail(**changes)


def test_a_misspelt_judge_names_the_nearest():
    with pytest.raises(UnknownNameError, match="did you mean 'phrases'"):
        guardrail(judge="phrase")


def test_a_hook_that_would_do_nothing_is_refused():
    with pytest.raises(ValueError, match="post_call"):
        guardrail(event_hook="post_call")


def test_the_proxy_builds_it_from_its_configuration(tmp_path):
    registry = pytest.importorskip("litellm.proxy.guardrails.guardrail_registry")
    import litellm
    from litellm.types.guardrails import LitellmParams

    path = tmp_path / "house.toml"
    path.write_text('name = "house"\nthreshold = 0.5\nsource = {name = "words", identity = "words@1"}\n')
    name = "demur.serve.litellm_guardrail.DemurGuardrail"
    params = {"signal": f"{__name__}:make_signal", "policy": str(path), "on_error": "closed", "on_decline": "reply"}
    before = list(litellm.callbacks)
    try:
        made = registry.InMemoryGuardrailHandler().initialize_custom_guardrail(
            guardrail={"guardrail_name": "demur"},
            guardrail_type=name,
            litellm_params=LitellmParams(guardrail=name, mode="pre_call", default_on=True, **params),
            config_file_path=str(tmp_path / "config.yaml"),
        )
    finally:
        litellm.callbacks[:] = before
    assert type(made).__name__ == "DemurGuardrail"
    assert (made.on_decline, made.default_on) == ("reply", True)
    assert sys.modules["demur.serve.litellm_guardrail"].DemurGuardrail is type(made)
