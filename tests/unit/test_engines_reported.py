"""Scores from what servers report: exact where they can be, honest bounds where they cannot."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demur.core.errors import BackendError, BadInputError
from demur.core.signal import TEMPERATURES
from demur.models.adapter import ControlTokens
from demur.models.controlled_dialects import kind_of, reading, reported, served_name, writing
from demur.models.controlled_reported import BIAS, Reported, biased_call, plain_call, scores_of, with_biased

CONTROL = ControlTokens.model_validate(
    {
        "format": 1,
        "mode": "lora",
        "base": "m",
        "tokens": {
            "safety": {"text": "<|decline:safety|>", "id": 3},
            "humanizing": {"text": "<|decline:humanizing|>", "id": 4},
            "respond": {"text": "<|respond|>", "id": 5},
        },
    }
)


class SoftmaxServer:
    """Reports as llama.cpp does: plain log-probabilities whatever the bias, or biased 32-bit probabilities."""

    def __init__(self, logits):
        self.logits = np.asarray(logits, dtype=np.float64)

    def handle_completions(self, body, hear):
        z = self.logits.copy()
        if body.get("post_sampling_probs"):
            for number, bias in body["logit_bias"]:
                z[number] += bias
        p = np.exp(z - z.max())
        p = p / p.sum()
        order = np.argsort(-p)[: body["n_probs"]]
        if body.get("post_sampling_probs"):
            entry = {"top_probs": [{"id": int(i), "prob": float(np.float32(p[i]))} for i in order]}
        else:
            entry = {"top_logprobs": [{"id": int(i), "logprob": math.log(p[i])} for i in order]}
        hear({"choices": [{"logprobs": {"content": [entry]}}], "usage": {"prompt_tokens": 9}})


@settings(max_examples=50)
@given(st.integers(0, 10_000), st.floats(-30, 10), st.integers(1, 40))
def test_control_tokens_far_down_the_list_are_still_exact(seed, depth, n_probs):
    logits = np.random.default_rng(seed).normal(0, 3, 200)
    logits[3:6] += depth
    server, ids = SoftmaxServer(logits), CONTROL.ids
    plain = plain_call(server, {"n_probs": n_probs}, ids)
    found = with_biased(plain, biased_call(server, {"n_probs": n_probs + 3}, ids), ids)
    exact = logits - np.log(np.exp(logits).sum())
    assert [found.logp[i] for i in ids] == pytest.approx(exact[list(ids)], abs=1e-4)
    assert found.n_tokens == 9


def test_a_token_that_stays_missing_gets_the_bound_and_not_less():
    scores = scores_of(Reported(logp={3: -1.0, 9: -5.0}, top=3, bound=-5.0), CONTROL)
    assert scores.logits.tolist() == [[-1.0, -5.0, -5.0]]
    assert scores.top.tolist() == [0]
    assert scores.log_total[0, TEMPERATURES.index(1.0)] == 0.0


def test_an_ordinary_likeliest_token_is_no_column():
    assert scores_of(Reported(logp={9: -0.1, 3: -3.0}, top=9, bound=-3.0), CONTROL).top.tolist() == [-1]


class SilentServer:
    def __init__(self, answer):
        self.answer = answer

    def handle_completions(self, body, hear):
        hear(self.answer)


@pytest.mark.parametrize(
    "answer",
    [{}, [], {"choices": []}, {"choices": [{"logprobs": None}]}, {"choices": [{"logprobs": {"content": []}}]}, 7],
)
def test_an_answer_without_probabilities_is_a_failed_model(answer):
    with pytest.raises(BackendError):
        plain_call(SilentServer(answer), {}, CONTROL.ids)


def test_what_llama_cpp_complains_about_is_passed_on():
    with pytest.raises(BackendError, match=r"llama\.cpp: out of memory"):
        plain_call(SilentServer({"error": {"message": "out of memory"}}), {}, CONTROL.ids)


def test_a_prompt_that_does_not_fit_is_the_callers_to_shorten():
    error = {"type": "exceed_context_size_error", "n_prompt_tokens": 900, "n_ctx": 512, "message": "too long"}
    with pytest.raises(BadInputError, match="prompt of 900 tokens: expected at most 512"):
        plain_call(SilentServer({"error": error}), {}, CONTROL.ids)


def chat_answer(*tops, drawn=None):
    first = {**(drawn or (tops[0] if tops else {})), "top_logprobs": list(tops)}
    return {"choices": [{"logprobs": {"content": [first]}}], "usage": {"prompt_tokens": 12}}


@pytest.mark.parametrize(
    "named",
    [
        lambda i: {"token": f"token_id:{i}"},
        lambda i: {"token": {3: "<|decline:safety|>", 4: "<|decline:humanizing|>", 5: "<|respond|>"}.get(i, "The")},
        lambda i: {"id": i, "token": "?"},
    ],
    ids=["ids as text", "texts", "ids"],
)
def test_tokens_are_recognised_however_a_server_names_them(named):
    found = reported(chat_answer(*({**named(i), "logprob": -float(i)} for i in (3, 4, 5, 9))), CONTROL)
    assert [found.logp[i] for i in (3, 4, 5)] == [-3.0, -4.0, -5.0]
    assert (found.top, found.n_tokens) == (3, 12)


def test_the_token_drawn_is_the_likeliest_where_only_the_asked_for_are_listed():
    tops = [{"token": f"token_id:{i}", "logprob": -5.0 - i} for i in (3, 4, 5)]
    found = reported(chat_answer(*tops, drawn={"token": "token_id:77", "logprob": -0.1}), CONTROL)
    assert found.top == 77


@pytest.mark.parametrize("garbage", [{}, {"choices": "x"}, chat_answer(), {"choices": [{"logprobs": 3}]}])
def test_no_log_probabilities_is_not_an_error_of_its_own(garbage):
    assert reported(garbage, CONTROL) is None


@pytest.mark.parametrize("value", ["x", float("nan"), 3.0, None])
def test_log_probabilities_that_make_no_sense_are_refused(value):
    with pytest.raises(BackendError, match="make no sense"):
        reported(chat_answer({"token": "<|respond|>", "logprob": value}), CONTROL)


def test_each_server_is_asked_in_its_own_dialect():
    assert reading("vllm", CONTROL)["logprob_token_ids"] == [3, 4, 5]
    assert reading("llamacpp", CONTROL)["top_logprobs"] == 64
    assert set(reading("openai", CONTROL)) == {"max_tokens", "temperature", "logprobs", "top_logprobs"}
    messages = [{"role": "user", "content": "hi"}]
    vllm = writing("vllm", CONTROL, messages, 0)
    assert vllm["messages"][-1] == {"role": "assistant", "content": "<|decline:safety|>"}
    assert vllm["continue_final_message"] is True
    assert vllm["add_generation_prompt"] is False
    assert writing("openai", CONTROL, messages, -1)["messages"] == messages
    assert writing("openai", None, messages, -1) == {"messages": messages}


@pytest.mark.parametrize("kind", ["vllm", "llamacpp", "openai"])
def test_control_tokens_are_banned_from_every_reply(kind):
    bias = writing(kind, CONTROL, [], 0)["logit_bias"]
    assert bias in ({"3": -100.0, "4": -100.0, "5": -100.0}, [[3, False], [4, False], [5, False]])


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ({"data": [{"id": "m", "owned_by": "vllm"}]}, "vllm"),
        ({"data": [{"id": "m", "owned_by": "llamacpp"}]}, "llamacpp"),
        ({"data": [{"id": "m", "owned_by": "library"}]}, "openai"),
        ({"data": "x"}, "openai"),
        (None, "openai"),
    ],
)
def test_a_server_says_what_it_is(answer, kind):
    assert kind_of(answer) == kind


def test_a_model_is_found_by_its_name_or_by_being_the_only_one():
    two = {"data": [{"id": "a"}, {"id": "b"}]}
    assert served_name("a", two) == "a"
    assert served_name("openai/b", two) == "b"
    assert served_name("x", {"data": [{"id": "/models/m.gguf"}]}) == "/models/m.gguf"
    assert served_name("x", {}) == "x"
    with pytest.raises(BackendError, match="serves a, b"):
        served_name("x", two)


def test_the_bias_keeps_ordinary_tokens_above_the_smallest_number():
    assert math.exp(-BIAS) > np.finfo(np.float32).tiny
