"""Requests off the wire: what is not supported or not sound is refused with the field's name, never ignored."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.serve_models import chat

from demur.serve.calls import parse_call
from demur.serve.faults import Fault
from demur.serve.settings import ServerSettings

SETTINGS = ServerSettings(max_tokens=100, default_max_tokens=20)


def parsed(**fields):
    return parse_call(json.dumps(chat(**fields)).encode(), SETTINGS)


def fault(body):
    with pytest.raises(Fault) as raised:
        parse_call(body if isinstance(body, bytes) else json.dumps(body).encode(), SETTINGS)
    assert raised.value.status == 400
    return raised.value


def test_an_ordinary_request_is_read():
    call = parsed(prompt="hi", temperature=0, seed=3, max_tokens=7, stop=["a", "b"], user="me", n=1, top_p=1.0)
    assert call.request.messages[0].text == "hi"
    assert (call.request.temperature, call.request.seed, call.request.max_tokens) == (0.0, 3, 7)
    assert call.stop == ("a", "b")
    assert not call.stream


def test_a_request_that_says_nothing_gets_the_servers_limit():
    assert parsed().request.max_tokens == 20
    assert parsed(max_completion_tokens=9).request.max_tokens == 9


def test_text_parts_are_one_text_and_developers_are_the_system():
    call = parse_call(
        json.dumps(
            {
                "model": "m",
                "messages": [
                    {"role": "developer", "content": "be brief"},
                    {"role": "assistant", "content": None, "refusal": "no", "tool_calls": None, "audio": None},
                    {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
                ],
            }
        ).encode(),
        SETTINGS,
    )
    assert [(m.role, m.text) for m in call.request.messages] == [
        ("system", "be brief"),
        ("assistant", "no"),
        ("user", "ab"),
    ]


def test_half_a_surrogate_becomes_the_replacement_character():
    body = b'{"model": "m", "messages": [{"role": "user", "content": "a\\ud800b \\ud83d\\ude00"}]}'
    assert parse_call(body, SETTINGS).request.messages[0].text == "a\ufffdb \U0001f600"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model", 3),
        ("model", ""),
        ("model", None),
        ("messages", []),
        ("messages", "hello"),
        ("messages", [3]),
        ("temperature", "hot"),
        ("temperature", -0.1),
        ("temperature", 2.1),
        ("temperature", True),
        ("max_tokens", 0),
        ("max_tokens", 101),
        ("max_tokens", 1.5),
        ("max_tokens", True),
        ("max_completion_tokens", -1),
        ("seed", "x"),
        ("seed", 2**70),
        ("stop", 3),
        ("stop", [""]),
        ("stop", ["a"] * 5),
        ("stream", "yes"),
        ("stream", 1),
        ("demur", []),
        ("demur", "lenient"),
        ("stream_options", {"include_usage": True}),
    ],
)
def test_a_wrong_value_names_its_field(field, value):
    found = fault(chat(**{field: value}))
    assert found.param.startswith(field)
    assert field in found.message


@pytest.mark.parametrize(
    ("options", "param"),
    [
        ({"policy": 3}, "demur.policy"),
        ({"thresholds": [1]}, "demur.thresholds"),
        ({"thresholds": {"safety": "0.2"}}, "demur.thresholds.safety"),
        ({"thresholds": {"safety": None}}, "demur.thresholds.safety"),
        ({"thresholds": {"safety": True}}, "demur.thresholds.safety"),
        ({"thresholds": {"safety": 1.01}}, "demur.thresholds.safety"),
        ({"thresholds": {"safety": -0.01}}, "demur.thresholds.safety"),
        ({"content_on_refusal": 1}, "demur.content_on_refusal"),
        ({"polcy": "lenient"}, "demur.polcy"),
    ],
)
def test_wrong_demur_options_name_their_field(options, param):
    assert fault(chat(demur=options)).param == param


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("n", True),
        ("top_p", 0.9),
        ("logprobs", True),
        ("top_logprobs", 5),
        ("frequency_penalty", 0.5),
        ("logit_bias", {"5": -100}),
        ("tools", [{"type": "function"}]),
        ("tool_choice", "auto"),
        ("response_format", {"type": "json_object"}),
        ("store", True),
        ("reasoning_effort", "high"),
        ("modalities", ["text", "audio"]),
    ],
)
def test_what_is_not_supported_is_refused_not_ignored(field, value):
    found = fault(chat(**{field: value}))
    assert (found.param, found.code) == (field, "unsupported_parameter")


def test_a_field_nobody_knows_is_refused():
    assert fault(chat(tempertaure=0)).code == "unknown_parameter"


def test_max_tokens_given_twice_must_agree():
    assert parsed(max_tokens=5, max_completion_tokens=5).request.max_tokens == 5
    assert fault(chat(max_tokens=5, max_completion_tokens=6)).code == "conflict"


@pytest.mark.parametrize(
    ("message", "param"),
    [
        ({"role": "tool", "content": "x", "tool_call_id": "1"}, "messages[0].role"),
        ({"role": "user"}, "messages[0].content"),
        ({"role": "user", "content": 5}, "messages[0].content"),
        ({"role": "user", "content": []}, "messages[0].content"),
        ({"role": "user", "content": "x", "name": "Bob"}, "messages[0].name"),
        ({"role": ["user"], "content": "x"}, "messages[0].role"),
        (
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:,"}}]},
            "messages[0].content[0].type",
        ),
        ({"role": "user", "content": [{"type": "text"}]}, "messages[0].content[0].text"),
        ({"role": "user", "content": ["text"]}, "messages[0].content[0]"),
        ({"role": "assistant", "content": "Sure, here"}, "messages"),
    ],
)
def test_a_bad_message_names_its_place(message, param):
    assert fault({"model": "m", "messages": [message]}).param == param


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"null",
        b"[1]",
        b'"text"',
        b"\xff\xfe",
        b"\xef\xbb\xbf{}",
        b'{"temperature": NaN}',
        b'{"temperature": Infinity}',
        b'{"temperature": -Infinity}',
        b'{"temperature": 1e999}',
        b'{"seed": ' + b"9" * 5000 + b"}",
        b'{"model": "a", "model": "b"}',
        b'{"demur": {"policy": "strict", "policy": "lenient"}}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
    ],
    ids=lambda body: repr(body[:30]),
)
def test_what_is_no_sound_json_is_a_400(body):
    assert fault(body).code == "invalid_json"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=12), inner, max_size=3),
    max_leaves=12,
)
fields = st.sampled_from(
    [
        "model",
        "messages",
        "max_tokens",
        "temperature",
        "stop",
        "stream",
        "stream_options",
        "demur",
        "n",
        "tools",
        "seed",
    ]
)


@given(st.dictionaries(fields | st.text(max_size=8), json_values, max_size=6))
def test_whatever_comes_is_read_or_a_400(value):
    body = json.dumps(chat() | value).encode()
    found = None
    try:
        parse_call(body, SETTINGS)
    except Fault as fault_:
        found = fault_
    assert found is None or (found.status == 400 and json.loads(found.body)["error"]["message"])


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_a_400(body):
    with pytest.raises(Fault) as raised:
        parse_call(body, SETTINGS)
    assert raised.value.status == 400
