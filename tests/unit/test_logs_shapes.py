"""Every provider's shape becomes one record, with the refusal signals of its interface and who raised them."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.errors import BadInputError, UnknownNameError
from demur.core.exchange import ApiSignal, Exchange, Message
from demur.data.logs import exchange_from_record, refusal_origin
from demur.data.logs.replies import split_thinking
from demur.data.logs.signals import error_signals, stop_of
from demur.data.logs.times import as_time
from demur.judges.settled import settled

ASKED = [{"role": "user", "content": "How do I bake bread?"}]


def openai(content: Any = "Mix flour and water.", finish: str = "stop", **message: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1_700_000_000,
        "model": "gpt-x",
        "choices": [
            {"index": 0, "finish_reason": finish, "message": {"role": "assistant", "content": content, **message}}
        ],
    }


def kinds(exchange: Exchange) -> list[str]:
    return [signal.kind for signal in exchange.api_signals]


def test_an_openai_answer_with_its_request_is_read_whole() -> None:
    found = exchange_from_record({"request": {"model": "gpt-x", "messages": ASKED}, "response": openai()})
    assert (found.prompt, found.response, found.model, found.stop_reason) == (
        "How do I bake bread?",
        "Mix flour and water.",
        "gpt-x",
        "stop",
    )
    assert found.api_signals == ()
    assert refusal_origin(found) == ""
    assert found.metadata["time"] == "2023-11-14T22:13:20+00:00"


def test_a_refusal_field_is_the_models_own_refusal_and_the_text_the_user_read() -> None:
    found = exchange_from_record(openai(None, refusal="I can't help with that."))
    assert found.response == "I can't help with that."
    assert kinds(found) == ["refusal_field"]
    assert refusal_origin(found) == "model"


def test_a_content_filter_stop_is_the_providers() -> None:
    found = exchange_from_record(openai(None, "content_filter"))
    assert (found.stop_reason, kinds(found), refusal_origin(found)) == (
        "content_filter",
        ["content_filter"],
        "provider_filter",
    )
    verdict = settled(found, judge="x")
    assert verdict is not None
    assert verdict.outcome == "refused"


def test_a_silent_empty_turn_is_no_signal() -> None:
    found = exchange_from_record(openai(None))
    assert (found.response, found.stop_reason, found.api_signals) == ("", "stop", ())


def test_a_turn_that_only_calls_tools_is_no_refusal() -> None:
    call = {"id": "c", "type": "function", "function": {"name": "search", "arguments": "{}"}}
    found = exchange_from_record(openai(None, "tool_calls", tool_calls=[call]))
    assert (found.response, found.stop_reason, found.api_signals) == ("", "tool_calls", ())


def test_azures_annotations_of_a_harmless_prompt_are_no_signal() -> None:
    safe = {"hate": {"filtered": False, "severity": "safe"}}
    body = {**openai(), "prompt_filter_results": [{"prompt_index": 0, "content_filter_results": safe}]}
    body["choices"][0]["content_filter_results"] = safe
    assert exchange_from_record(body).api_signals == ()


def test_azures_filtered_choice_names_its_category() -> None:
    body = openai(None, "content_filter")
    body["choices"][0]["content_filter_results"] = {"violence": {"filtered": True, "severity": "medium"}}
    found = exchange_from_record(body)
    assert found.api_signals == (
        ApiSignal(kind="content_filter", detail="content_filter: violence (medium)", origin="provider_filter"),
    )


def test_azures_error_400_is_a_filter_error_that_names_its_category() -> None:
    error = {
        "message": "The response was filtered due to the prompt triggering the policy.",
        "type": None,
        "param": "prompt",
        "code": "content_filter",
        "status": 400,
        "innererror": {
            "code": "ResponsibleAIPolicyViolation",
            "content_filter_result": {"jailbreak": {"filtered": True, "detected": True}, "hate": {"filtered": False}},
        },
    }
    found = exchange_from_record({"request": {"messages": ASKED}, "response": {"error": error}})
    assert found.prompt == "How do I bake bread?"
    assert found.api_signals == (
        ApiSignal(kind="filter_error", detail="content_filter: jailbreak", origin="provider_filter"),
    )
    assert found.response == ""


@pytest.mark.parametrize(
    "error",
    [
        {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"},
        {"message": "The server had an error", "type": "server_error", "code": None},
        {"message": "The contents are not filtered", "code": "content_filter_error"},
        {"message": "Invalid prompt: expected a string", "code": "invalid_prompt"},
        "Request timed out.",
        429,
    ],
)
def test_a_failure_is_no_refusal(error: object) -> None:
    assert error_signals(error) == ()
    found = exchange_from_record({"request": {"messages": ASKED}, "error": error})
    assert (found.stop_reason, found.response, found.api_signals) == ("unknown", "", ())
    verdict = settled(found, judge="x")
    assert verdict is not None
    assert verdict.outcome == "unjudged"


@pytest.mark.parametrize(
    "error",
    [
        {"code": "invalid_prompt", "message": "Your prompt was flagged as potentially violating our usage policy."},
        {"code": "content_policy_violation", "message": "rejected by the safety system"},
        {"code": "cyber_policy", "message": ""},
        {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
        {"message": "litellm.BadRequestError: litellm.ContentPolicyViolationError: filtered", "code": "400"},
        {"message": "Content Exists Risk", "code": "invalid_request_error"},
        {"code": 403, "message": "The model requires moderation", "metadata": {"reasons": ["x"], "flagged_input": "y"}},
        "Error code: 400 - content_filter: the response was filtered",
        '{"error": {"code": "content_filter", "message": "filtered"}}',
        {"error": {"error": {"code": "data_inspection_failed", "message": ""}}},
    ],
)
def test_a_filters_error_is_the_providers(error: object) -> None:
    found = error_signals(error)
    assert [(s.kind, s.origin) for s in found] == [("filter_error", "provider_filter")]


def test_a_guardrails_error_in_a_proxy_is_the_guards() -> None:
    error = {"message": "Violated guardrail policy", "type": "None", "code": "400"}
    found = exchange_from_record({"model": "m", "messages": ASKED, "response": None, "error": error})
    assert refusal_origin(found) == "guard"
    assert found.prompt == "How do I bake bread?"


def responses(**fields: Any) -> dict[str, Any]:
    return {"id": "resp_1", "object": "response", "status": "completed", "model": "gpt-x", "output": [], **fields}


def test_the_responses_interface_gives_text_reasoning_and_no_signal() -> None:
    output = [
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Easy."}]},
        {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "Sure."}]},
    ]
    found = exchange_from_record(
        {"request": {"input": "Say yes", "instructions": "Be brief"}, "response": responses(output=output)}
    )
    assert (found.response, found.reasoning, found.stop_reason) == ("Sure.", "Easy.", "stop")
    assert found.messages == (Message(role="system", text="Be brief"), Message(role="user", text="Say yes"))


def test_a_refusal_part_of_the_responses_interface_is_the_models() -> None:
    output = [{"type": "message", "content": [{"type": "refusal", "refusal": "No, sorry."}]}]
    found = exchange_from_record(responses(output=output))
    assert (found.response, kinds(found), refusal_origin(found)) == ("No, sorry.", ["refusal_field"], "model")


def test_incomplete_details_tell_a_filter_from_a_token_limit() -> None:
    filtered = exchange_from_record(responses(status="incomplete", incomplete_details={"reason": "content_filter"}))
    short = exchange_from_record(responses(status="incomplete", incomplete_details={"reason": "max_output_tokens"}))
    assert (filtered.stop_reason, refusal_origin(filtered)) == ("content_filter", "provider_filter")
    assert (short.stop_reason, short.api_signals) == ("max_tokens", ())


def test_a_responses_tool_call_is_no_refusal() -> None:
    found = exchange_from_record(responses(output=[{"type": "function_call", "name": "f", "arguments": "{}"}]))
    assert (found.stop_reason, found.api_signals) == ("tool_calls", ())


def anthropic(stop: str = "end_turn", content: Any = None, **fields: Any) -> dict[str, Any]:
    parts = [{"type": "text", "text": "Hello."}] if content is None else content
    return {
        "id": "msg_1",
        "type": "message",
        "role": "assistant",
        "model": "claude-x",
        "content": parts,
        "stop_reason": stop,
        **fields,
    }


def test_an_anthropic_refusal_is_the_classifiers_and_names_the_category() -> None:
    found = exchange_from_record(
        anthropic("refusal", [], stop_details={"type": "refusal", "category": "bio", "explanation": "x"})
    )
    assert found.api_signals == (ApiSignal(kind="stop_details", detail="bio", origin="provider_filter"),)
    assert (found.stop_reason, refusal_origin(found)) == ("content_filter", "provider_filter")


def test_thinking_blocks_are_kept_apart() -> None:
    blocks = [
        {"type": "thinking", "thinking": "I must refuse?", "signature": "s"},
        {"type": "redacted_thinking", "data": "zz"},
        {"type": "text", "text": "Here you go."},
    ]
    found = exchange_from_record(anthropic(content=blocks))
    assert (found.response, found.reasoning, found.stop_reason) == ("Here you go.", "I must refuse?", "stop")


def test_an_anthropic_tool_use_is_no_refusal() -> None:
    found = exchange_from_record(anthropic("tool_use", [{"type": "tool_use", "id": "t", "name": "f", "input": {}}]))
    assert (found.response, found.stop_reason, found.api_signals) == ("", "tool_calls", ())


@pytest.mark.parametrize("reason", ["SAFETY", "PROHIBITED_CONTENT", "RECITATION", "BLOCKLIST", "SPII", "IMAGE_SAFETY"])
def test_a_gemini_candidate_that_a_filter_ended_is_the_providers(reason: str) -> None:
    found = exchange_from_record({"candidates": [{"finishReason": reason, "index": 0}], "modelVersion": "gemini-x"})
    assert (found.stop_reason, kinds(found), refusal_origin(found), found.model) == (
        "content_filter",
        ["content_filter"],
        "provider_filter",
        "gemini-x",
    )
    assert found.api_signals[0].detail == reason


def test_a_blocked_gemini_prompt_has_no_candidate_at_all() -> None:
    record = {
        "request": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        "response": {"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}},
    }
    found = exchange_from_record(record)
    assert (found.prompt, found.response, kinds(found)) == ("Hi", "", ["blocked_prompt"])


def test_gemini_without_candidates_and_reason_is_silence_not_refusal() -> None:
    found = exchange_from_record({"candidates": [], "usageMetadata": {"promptTokenCount": 3}})
    assert (found.response, found.stop_reason, found.api_signals) == ("", "unknown", ())


@pytest.mark.parametrize("reason", ["OTHER", "LANGUAGE", "MALFORMED_FUNCTION_CALL", "FINISH_REASON_UNSPECIFIED"])
def test_a_gemini_reason_that_is_no_filter_is_unknown(reason: str) -> None:
    assert stop_of(reason).reason == "unknown"
    assert stop_of(reason).kind is None


def test_geminis_thoughts_are_kept_apart_and_model_armor_is_a_guard() -> None:
    parts = [{"text": "Hmm.", "thought": True}, {"text": "Bonjour."}]
    found = exchange_from_record(
        {"candidates": [{"content": {"role": "model", "parts": parts}, "finishReason": "STOP"}]}
    )
    assert (found.response, found.reasoning, found.stop_reason) == ("Bonjour.", "Hmm.", "stop")
    guarded = exchange_from_record({"promptFeedback": {"blockReason": "MODEL_ARMOR", "blockReasonMessage": "no"}})
    assert refusal_origin(guarded) == "guard"


def bedrock(stop: str, text: str = "Hello.", **fields: Any) -> dict[str, Any]:
    return {"output": {"message": {"role": "assistant", "content": [{"text": text}]}}, "stopReason": stop, **fields}


def test_a_bedrock_guardrail_is_the_guards_and_its_canned_text_no_reply() -> None:
    found = exchange_from_record(bedrock("guardrail_intervened", "Sorry, blocked."))
    assert found.response == ""
    assert found.api_signals == (ApiSignal(kind="content_filter", detail="Sorry, blocked.", origin="guard"),)


def test_a_bedrock_guardrail_that_only_masked_names_is_no_refusal() -> None:
    trace = {
        "guardrail": {
            "outputAssessments": {"g": [{"sensitiveInformationPolicy": {"piiEntities": [{"action": "ANONYMIZED"}]}}]}
        }
    }
    found = exchange_from_record(bedrock("guardrail_intervened", "Dear {NAME}", trace=trace))
    assert (found.response, found.stop_reason, found.api_signals) == ("Dear {NAME}", "stop", ())


def test_bedrocks_own_filter_is_the_providers() -> None:
    assert refusal_origin(exchange_from_record(bedrock("content_filtered", ""))) == "provider_filter"
    assert exchange_from_record(bedrock("end_turn")).response == "Hello."


def test_bedrock_reasoning_is_kept_apart() -> None:
    content = [{"reasoningContent": {"reasoningText": {"text": "Hm."}}}, {"text": "Yes."}]
    found = exchange_from_record(
        {"output": {"message": {"role": "assistant", "content": content}}, "stopReason": "end_turn"}
    )
    assert (found.response, found.reasoning) == ("Yes.", "Hm.")


def test_mistrals_thinking_chunks_and_model_length_are_understood() -> None:
    content = [{"type": "thinking", "thinking": [{"type": "text", "text": "Hm."}]}, {"type": "text", "text": "Oui."}]
    found = exchange_from_record(openai(content, "model_length"))
    assert (found.response, found.reasoning, found.stop_reason) == ("Oui.", "Hm.", "max_tokens")


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning"])
def test_vllm_keeps_reasoning_beside_the_content(key: str) -> None:
    found = exchange_from_record(openai("Done.", **{key: "I cannot decide."}))
    assert (found.response, found.reasoning) == ("Done.", "I cannot decide.")


def test_ollamas_chat_and_generate_are_read() -> None:
    chat = exchange_from_record(
        {
            "model": "llama",
            "created_at": "2025-01-02T03:04:05.123456789Z",
            "message": {"role": "assistant", "content": "Hi", "thinking": "t"},
            "done": True,
            "done_reason": "length",
        }
    )
    assert (chat.response, chat.reasoning, chat.stop_reason, chat.model) == ("Hi", "t", "max_tokens", "llama")
    generate = exchange_from_record(
        {"model": "llama", "response": "Hi", "done": True, "done_reason": "stop", "context": [1, 2]}
    )
    assert (generate.response, generate.stop_reason) == ("Hi", "stop")


def test_a_proxys_log_line_with_a_json_string_inside_is_unwrapped() -> None:
    found = exchange_from_record(
        {
            "id": "r1",
            "model": "azure/x",
            "messages": ASKED,
            "response": json.dumps(openai()),
            "startTime": 1_700_000_001.5,
        }
    )
    assert (found.id, found.prompt, found.response) == ("r1", "How do I bake bread?", "Mix flour and water.")


def inspect_sample(**choice: Any) -> dict[str, Any]:
    return {
        "id": "s/1",
        "epoch": 2,
        "input": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hello?"}],
        "target": "comply",
        "messages": [],
        "output": {"model": "m", "choices": [choice] if choice else []},
    }


def test_an_inspect_sample_is_read_like_inspect_reads_it() -> None:
    found = exchange_from_record(inspect_sample(message={"role": "assistant", "content": "Hi."}, stop_reason="stop"))
    assert (found.id, found.prompt, found.response, found.model) == ("s/1#2", "Hello?", "Hi.", "m")


def test_an_inspect_samples_filter_text_is_not_the_models() -> None:
    sample = inspect_sample(
        message={"role": "assistant", "content": "BLOCKED: SAFETY"},
        stop_reason="content_filter",
        stop_details={"type": "refusal", "category": "bio"},
    )
    found = exchange_from_record(sample)
    assert found.response == ""
    assert kinds(found) == ["content_filter", "stop_details"]
    assert refusal_origin(found) == "provider_filter"


def test_an_inspect_samples_refusal_part_is_the_models_own() -> None:
    content = [{"type": "reasoning", "reasoning": "r"}, {"type": "text", "text": "No.", "refusal": True}]
    found = exchange_from_record(inspect_sample(message={"role": "assistant", "content": content}, stop_reason="stop"))
    assert (found.response, found.reasoning, refusal_origin(found)) == ("No.", "r", "model")


def test_openais_batch_line_keeps_the_logs_own_id() -> None:
    line = {
        "id": "batch_req_1",
        "custom_id": "row-7",
        "response": {"status_code": 200, "request_id": "q", "body": openai()},
        "error": None,
    }
    found = exchange_from_record(line, request={"messages": ASKED})
    assert (found.id, found.prompt, found.response) == ("row-7", "How do I bake bread?", "Mix flour and water.")


def test_openais_expired_batch_line_is_a_reply_that_never_came() -> None:
    line = {"custom_id": "row-8", "response": None, "error": {"code": "batch_expired", "message": "too late"}}
    found = exchange_from_record(line)
    assert (found.id, found.response, found.stop_reason, found.api_signals) == ("row-8", "", "unknown", ())


def test_anthropics_batch_results_are_read_by_their_type() -> None:
    done = exchange_from_record(
        {"custom_id": "a", "result": {"type": "succeeded", "message": anthropic("refusal", [])}}
    )
    failed = exchange_from_record(
        {
            "custom_id": "b",
            "result": {
                "type": "errored",
                "error": {
                    "type": "error",
                    "error": {"type": "invalid_request_error", "message": "Output blocked by content filtering policy"},
                },
            },
        }
    )
    gone = exchange_from_record({"custom_id": "c", "result": {"type": "expired"}})
    assert [refusal_origin(e) for e in (done, failed, gone)] == ["provider_filter", "provider_filter", ""]
    assert [e.id for e in (done, failed, gone)] == ["a", "b", "c"]


def test_geminis_batch_lines_are_read_by_key() -> None:
    line = {"key": "k1", "response": {"candidates": [{"content": {"parts": [{"text": "Hi"}]}, "finishReason": "STOP"}]}}
    found = exchange_from_record(line)
    assert (found.id, found.response) == ("k1", "Hi")


@pytest.mark.parametrize(
    "record",
    [
        {"messages": [*ASKED, {"role": "assistant", "content": "Like so."}]},
        {"conversations": [{"from": "human", "value": "How do I bake bread?"}, {"from": "gpt", "value": "Like so."}]},
        {
            "messages": [
                {
                    "role": "user",
                    "content": [
                        {"type": "text", "text": "How do I bake bread?"},
                        {"type": "image_url", "image_url": {"url": "x"}},
                    ],
                },
                {"role": "assistant", "content": [{"type": "text", "text": "Like so."}]},
            ]
        },
        {"messages": [*ASKED, {"role": "assistant", "content": "Like so."}, {"role": "user", "content": "Thanks"}]},
        {"messages": json.dumps([*ASKED, {"role": "assistant", "content": "Like so."}])},
        {
            "conversation": [
                *ASKED,
                {"role": "assistant", "content": None, "tool_calls": [{"id": "c"}]},
                {"role": "tool", "content": "result"},
                {"role": "assistant", "content": "Like so."},
            ]
        },
        {"messages": ASKED, "completion": "Like so."},
        {"prompt": ASKED, "completion": [{"role": "assistant", "content": "Like so."}]},
        {
            "title": "t",
            "current_node": "b",
            "mapping": {
                "r": {"parent": None, "message": None},
                "a": {
                    "parent": "r",
                    "message": {"author": {"role": "user"}, "content": {"parts": ["How do I bake bread?"]}},
                },
                "b": {"parent": "a", "message": {"author": {"role": "assistant"}, "content": {"parts": ["Like so."]}}},
            },
        },
    ],
)
def test_chat_dumps_of_any_kind_give_the_last_question_and_its_reply(record: dict[str, Any]) -> None:
    found = exchange_from_record(record)
    assert (found.prompt, found.response) == ("How do I bake bread?", "Like so.")
    assert found.stop_reason == "unknown"


@pytest.mark.parametrize(
    "record",
    [
        {
            "recordId": "x",
            "modelInput": {"messages": ASKED},
            "modelOutput": {
                "type": "message",
                "role": "assistant",
                "content": [{"type": "text", "text": "Like so."}],
                "stop_reason": "end_turn",
            },
        },
        {
            "schemaType": "ModelInvocationLog",
            "requestId": "x",
            "modelId": "m",
            "input": {"inputBodyJson": {"messages": ASKED}},
            "output": {
                "outputBodyJson": {
                    "output": {"message": {"role": "assistant", "content": [{"text": "Like so."}]}},
                    "stopReason": "end_turn",
                }
            },
        },
        {"id": "x", "input": ASKED, "output": {"role": "assistant", "content": "Like so."}},
        {"id": "x", "inputs": {"messages": ASKED}, "outputs": {"output": "Like so."}},
        {
            "id": "x",
            "inputs": {"messages": ASKED},
            "outputs": {"messages": [*ASKED, {"role": "assistant", "content": "Like so."}]},
        },
    ],
)
def test_logs_of_platforms_and_tracers_are_unwrapped(record: dict[str, Any]) -> None:
    found = exchange_from_record(record)
    assert (found.id, found.prompt, found.response) == ("x", "How do I bake bread?", "Like so.")


def test_a_line_of_a_vertex_batch_that_failed_is_a_reply_that_never_came() -> None:
    record = {
        "request": {"contents": [{"role": "user", "parts": [{"text": "Hi"}]}]},
        "status": "Internal error",
        "response": {},
    }
    found = exchange_from_record(record)
    assert (found.prompt, found.response, found.stop_reason, found.api_signals) == ("Hi", "", "unknown", ())


def test_a_chat_that_ends_in_a_tool_call_is_no_refusal() -> None:
    for turns in (
        [*ASKED, {"role": "assistant", "content": "", "tool_calls": [{"id": "c"}]}],
        [
            *ASKED,
            {"role": "assistant", "content": None, "function_call": {"name": "f"}},
            {"role": "function", "content": "x"},
        ],
        [
            {"from": "human", "value": "Hi"},
            {"from": "function_call", "value": "{}"},
            {"from": "observation", "value": "x"},
        ],
        [
            *ASKED,
            {"role": "assistant", "content": "I cannot do that."},
            {"role": "user", "content": "Try"},
            {"role": "assistant", "tool_calls": [{"id": "c"}]},
        ],
    ):
        found = exchange_from_record({"messages": turns})
        assert (found.response, found.stop_reason, found.api_signals) == ("", "tool_calls", ())


def test_a_chat_without_a_reply_is_named() -> None:
    with pytest.raises(BadInputError, match="messages: expected a turn of the assistant"):
        exchange_from_record({"messages": ASKED}, format="chat")


def test_a_plain_row_is_read_under_its_usual_names() -> None:
    found = exchange_from_record(
        {"Instruction": "Hi", "Output": "Hello", "finish_reason": "content_filter", "model": "m"}
    )
    assert (found.prompt, found.response, found.model, refusal_origin(found)) == ("Hi", "Hello", "m", "provider_filter")


def test_a_label_called_refusal_is_no_signal() -> None:
    found = exchange_from_record({"prompt": "Hi", "response": "Hello", "refusal": True})
    assert found.api_signals == ()


@pytest.mark.parametrize(
    "reply",
    [
        '{"error": "I cannot do that"}',
        '{"output": {"message": "hi"}, "candidates": ["Ann", "Bob"]}',
        '{"messages": [{"role": "assistant", "content": "x"}]}',
        '{"choices": [{"text": "A"}], "content": "b", "type": "message"}',
    ],
)
def test_a_reply_that_is_json_itself_stays_a_reply(reply: str) -> None:
    found = exchange_from_record({"prompt": "Answer in JSON", "response": reply})
    assert (found.response, found.api_signals) == (reply, ())


def test_a_multiple_choice_question_is_a_plain_row() -> None:
    row = {"question": "2+2?", "choices": [{"text": "4", "label": "A"}], "candidates": ["x"], "answer": "A"}
    found = exchange_from_record(row)
    assert (found.prompt, found.response) == ("2+2?", "A")


@pytest.mark.parametrize(
    ("text", "reply", "reasoning"),
    [
        ("<think>\nHm.\n</think>\n\nSure.", "Sure.", "Hm."),
        ("Hm, should I?\n</think>\n\nSure.", "Sure.", "Hm, should I?"),
        ("<think>I cannot", "", "I cannot"),
        ("Write <think> tags.", "Write <think> tags.", ""),
        ("Close it with `</think>`.", "Close it with `</think>`.", ""),
        ("Sure.", "Sure.", ""),
    ],
)
def test_reasoning_in_think_tags_is_taken_off(text: str, reply: str, reasoning: str) -> None:
    assert split_thinking(text) == (reply, reasoning)


def test_where_several_report_the_outermost_counts() -> None:
    signals = tuple(ApiSignal(kind="content_filter", origin=o) for o in ("model", "guard", "provider_filter"))
    assert refusal_origin(Exchange(id="x", messages=(), response="", api_signals=signals)) == "guard"
    assert refusal_origin(Exchange(id="x", messages=(), response="", stop_reason="content_filter")) == "provider_filter"
    assert (
        refusal_origin(Exchange(id="x", messages=(), response="", api_signals=(ApiSignal(kind="refusal_field"),)))
        == "model"
    )


def test_an_unknown_format_names_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'openai'"):
        exchange_from_record({}, format="opnai")


def test_a_record_of_another_format_than_the_one_named_is_bad() -> None:
    with pytest.raises(BadInputError, match="expected a record of format anthropic"):
        exchange_from_record(openai(), format="anthropic")
    assert exchange_from_record(openai(), format="openai").response == "Mix flour and water."


@pytest.mark.parametrize(
    "value",
    [
        1_700_000_000,
        1_700_000_000_000,
        "1700000000",
        "2023-11-14T22:13:20Z",
        "2023-11-14T23:13:20+01:00",
        "2023-11-14 22:13:20",
    ],
)
def test_times_of_any_unit_are_the_same_moment(value: object) -> None:
    found = as_time(value)
    assert found is not None
    assert found.isoformat() == "2023-11-14T22:13:20+00:00"


@pytest.mark.parametrize("value", ["", "yesterday", True, float("nan"), 1e300, [], None])
def test_what_is_no_time_is_none(value: object) -> None:
    assert as_time(value) is None


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(
                [
                    "choices",
                    "message",
                    "content",
                    "output",
                    "error",
                    "candidates",
                    "response",
                    "messages",
                    "role",
                    "text",
                    "type",
                    "stopReason",
                    "result",
                    "trace",
                    "parts",
                    "mapping",
                    "current_node",
                ]
            ),
            inner,
            max_size=4,
        )
    ),
    max_leaves=12,
)


@pytest.mark.parametrize(
    "record",
    [
        {"promptFeedback": None, "candidates": True},
        {"object": "chat.completion", "choices": 3},
        {"object": "response", "output": 1.5},
        {"epoch": 1, "input": True, "output": {"choices": [{"message": {"content": "a"}}]}},
    ],
)
def test_what_should_be_a_list_and_is_none_holds_nothing(record):
    try:
        exchange_from_record(record)
    except BadInputError:
        return


@given(
    st.dictionaries(
        st.sampled_from(
            [
                "choices",
                "content",
                "stop_reason",
                "output",
                "error",
                "candidates",
                "promptFeedback",
                "response",
                "messages",
                "done",
                "message",
                "object",
                "epoch",
                "input",
                "result",
                "mapping",
                "current_node",
                "prompt",
            ]
        ),
        JSON,
        max_size=5,
    )
)
def test_hostile_records_are_read_or_refused_but_never_crash(record: dict[str, Any]) -> None:
    try:
        found = exchange_from_record(record)
    except BadInputError:
        return
    assert isinstance(found.response, str)
    assert refusal_origin(found) in ("model", "provider_filter", "guard", "")
