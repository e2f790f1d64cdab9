"""Pieces of the engines that need no model: reply text, slots, server-sent events, chat templates, GGUF headers."""

import asyncio
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.core.errors import BackendError, BadInputError
from demur.models.controlled_http import Address, Events
from demur.models.controlled_slots import Slots, shared_length
from demur.models.controlled_template import ChatTemplate
from demur.models.controlled_text import ReplyFilter
from demur.models.gguf_header import read_header
from demur.models.untrusted import SPLIT

TOKENS = ("<|decline:safety|>", "<|respond|>", " [refuse]")


def cuts(text, sizes):
    """A text in pieces of the given sizes."""
    pieces = []
    for size in sizes:
        pieces.append(text[:size])
        text = text[size:]
    return [*pieces, text]


@given(
    st.lists(st.sampled_from([*TOKENS, "<|res", "pond|>", "|>", "<", " [ref", "use]", "hello ", "\n"]), max_size=12),
    st.lists(st.integers(1, 9), max_size=30),
)
def test_no_control_token_can_be_read_however_a_reply_is_cut(parts, sizes):
    text = "".join(parts)
    reply = ReplyFilter(TOKENS)
    heard = "".join([reply.add(piece) for piece in cuts(text, sizes)] + [reply.end()])
    assert not any(token in heard for token in TOKENS)
    assert heard.replace(SPLIT, "") == text


@given(st.text(max_size=60), st.lists(st.integers(1, 9), max_size=20))
def test_ordinary_replies_pass_unchanged(text, sizes):
    reply = ReplyFilter(TOKENS)
    heard = "".join([reply.add(piece) for piece in cuts(text, sizes)] + [reply.end()])
    assert heard == text or any(token in text for token in TOKENS)


@given(st.text("ab", max_size=30), st.text("ab", max_size=30))
def test_shared_length_is_that_of_the_common_prefix(a, b):
    n = shared_length(a, b)
    assert a[:n] == b[:n]
    assert n == min(len(a), len(b)) or a[n] != b[n]


def test_a_turn_gets_the_slot_that_already_holds_its_conversation():
    async def run():
        slots = Slots(["one", "two"], 2)
        first, other = await slots.take("x" * 600), await slots.take("y" * 600)
        slots.give(first)
        slots.give(other)
        return first, await slots.take("x" * 600 + "more")

    first, again = asyncio.run(run())
    assert again is first


def test_new_prompts_go_where_there_is_least_to_do():
    async def run():
        slots = Slots(["one", "two"], 3)
        return [(await slots.take(f"prompt {i}")).server for i in range(6)]

    servers = asyncio.run(run())
    assert sorted(servers[:2]) == sorted(servers[2:4]) == ["one", "two"]


def test_a_request_waits_for_a_slot_and_a_vanished_one_does_not_keep_it():
    async def run():
        slots = Slots(["one"], 1)
        held = await slots.take("a")
        waiting = [asyncio.ensure_future(slots.take(name)) for name in "bc"]
        await asyncio.sleep(0)
        waiting[0].cancel()
        slots.give(held)
        got = await asyncio.wait_for(waiting[1], 5)
        return got.prompt, slots.n_free

    assert asyncio.run(run()) == ("c", 0)


STREAM = (
    ': comment\r\n\r\ndata: {"a": 1}\r\n\r\nevent: x\nid: 3\ndata: first\ndata: second\n\n'
    'data:{"text": "naïve \u2028 你好"}\n\nretry: 5\n\ndata: [DONE]\n\n'
).encode()
EVENTS = ['{"a": 1}', "first\nsecond", '{"text": "naïve \u2028 你好"}', "[DONE]"]


@given(st.lists(st.integers(1, 13), max_size=80))
def test_events_are_the_same_wherever_the_bytes_are_cut(sizes):
    events, data, found = Events(), STREAM, []
    for size in [*sizes, len(STREAM)]:
        found += events.feed(data[:size])
        data = data[size:]
    assert found == EVENTS


def test_an_event_without_end_is_not_collected_for_ever():
    with pytest.raises(BackendError, match="without an end"):
        Events().feed(b"data: " + b"x" * (2 << 20))


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("http://h:1", "http://h:1/v1"),
        ("http://h:1/", "http://h:1/v1"),
        ("https://h/v1/", "https://h/v1"),
        ("http://h/api/openai", "http://h/api/openai"),
    ],
)
def test_an_upstream_is_named_by_its_base(url, base):
    assert Address(url=url).base == base


@pytest.mark.parametrize("url", ["", "localhost:8000", "ftp://h", "http://"])
def test_an_upstream_that_is_no_address_is_refused(url):
    with pytest.raises(BadInputError, match="http://host:8000/v1"):
        _ = Address(url=url).base


def test_an_address_never_shows_its_key():
    address = Address(url="http://h:1", key="sk-very-secret")
    assert "secret" not in f"{address} {address!r}"


def test_a_template_is_rendered_as_transformers_renders_it():
    from tests.engine_models import tiny_tokenizer

    tokenizer = tiny_tokenizer()
    ours = ChatTemplate(tokenizer.chat_template, tokens={"bos_token": "<|im_start|>"}, origin="test")
    for messages in (
        [{"role": "user", "content": "hi\n  there "}],
        [{"role": "system", "content": "s"}, {"role": "user", "content": "{{ 7 * 7 }}"}],
        [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}, {"role": "user", "content": "<b>"}],
    ):
        theirs = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        assert ours.render(messages) == theirs


def test_training_marks_in_a_template_say_nothing():
    template = "{% generation %}x{%- endgeneration -%}{{ messages[0].content }}"
    assert ChatTemplate(template, tokens={}, origin="test").render([{"content": "y"}]) == "xy"


@pytest.mark.parametrize("hostile", ["{{ ''.__class__.__mro__[1].__subclasses__() }}", "{{ raise_exception('no') }}"])
def test_a_template_that_misbehaves_is_a_failed_model(hostile):
    with pytest.raises(BackendError, match="chat template"):
        ChatTemplate(hostile, tokens={}, origin="test").render([{"role": "user", "content": ""}])


def test_a_broken_template_is_refused_when_loaded():
    with pytest.raises(BadInputError, match=r"x\.gguf: expected a chat template"):
        ChatTemplate("{% if %}", tokens={}, origin="x.gguf")


def small_gguf(path):
    values = [("general.architecture", 8, "llama"), ("n", 4, 7), ("list", 9, ["a", "bc"]), ("numbers", 9, [1, 2, 3])]
    out = struct.pack("<4sIQQ", b"GGUF", 3, 0, len(values))
    text = lambda s: struct.pack("<Q", len(s)) + s.encode()  # noqa: E731
    for key, kind, value in values:
        out += text(key) + struct.pack("<I", kind)
        if kind == 8:
            out += text(value)
        elif kind == 4:
            out += struct.pack("<I", value)
        elif isinstance(value[0], str):
            out += struct.pack("<IQ", 8, len(value)) + b"".join(map(text, value))
        else:
            out += struct.pack(f"<IQ{len(value)}i", 5, len(value), *value)
    path.write_bytes(out)
    return out


def test_a_header_is_read_with_its_types(tmp_path):
    small_gguf(tmp_path / "x.gguf")
    header = read_header(tmp_path / "x.gguf")
    assert header.values == {"general.architecture": "llama", "n": 7, "list": ["a", "bc"], "numbers": [1, 2, 3]}
    assert header.kinds["list"] == (9, 8)
    assert header.architecture == "llama"


def test_a_truncated_or_foreign_file_is_refused_at_every_length(tmp_path):
    path = tmp_path / "x.gguf"
    whole = small_gguf(path)
    for n in range(len(whole)):
        path.write_bytes(whole[:n])
        with pytest.raises(BadInputError, match=r"x\.gguf: expected"):
            read_header(path)
    path.write_bytes(b"PK" + whole[2:])
    with pytest.raises(BadInputError, match="another kind of file"):
        read_header(path)
