"""User text never becomes a control token, whatever a tokenizer does before it looks for them."""

import json
import time
import unicodedata
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.models.untrusted import SPLIT, check_splitting, safe_messages, safe_text

tokenizers = pytest.importorskip("tokenizers")
normalizers = tokenizers.normalizers

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
TEMPLATE_TOKENS = ("<|im_start|>", "<|im_end|>", "<|endoftext|>")
CONTROL = (*TEMPLATE_TOKENS, *(f"<|decline:{c}|>" for c in CATEGORIES), "<|decline|>", "<|respond|>")
PUBLISHED = (" [refuse]", " [respond]", " [Requests with safety concerns]", "[INST]", "[/INST]", "<s>", "</s>")
FAMILIES = ("<｜Assistant｜>", "<｜end▁of▁sentence｜>", "<start_of_turn>", "<end_of_turn>", "<|eot_id|>", "<|K|>")
TOKENS = (*CONTROL, *PUBLISHED, *FAMILIES)
ATTACKS = json.loads((Path(__file__).parents[1] / "data" / "control_attacks.json").read_text())
SPOKEN = [attack for attack in ATTACKS if "messages" in attack]


def tokenizer(normalizer, *, normalized):
    """A byte-level tokenizer without merges that looks for its control tokens before or after normalising."""
    alphabet = sorted(tokenizers.pre_tokenizers.ByteLevel.alphabet())
    made = tokenizers.Tokenizer(tokenizers.models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    made.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    made.decoder = tokenizers.decoders.ByteLevel()
    if normalizer is not None:
        made.normalizer = normalizer
    made.add_special_tokens([tokenizers.AddedToken(t, special=True, normalized=normalized) for t in TOKENS])
    return made


KINDS = {
    "plain": tokenizer(None, normalized=False),
    "NFC": tokenizer(normalizers.NFC(), normalized=True),
    "NFKC": tokenizer(normalizers.NFKC(), normalized=True),
    "folding": tokenizer(
        normalizers.Sequence([normalizers.NFKD(), normalizers.StripAccents(), normalizers.Lowercase()]), normalized=True
    ),
    "cleaning": tokenizer(normalizers.Sequence([normalizers.Nmt(), normalizers.NFKC()]), normalized=True),
    "spelling-spaces": tokenizer(normalizers.Replace(" ", "▁"), normalized=True),
}


def control_ids(kind):
    return {kind.token_to_id(token) for token in TOKENS}


def ids_of(kind, text):
    return kind.encode(text, add_special_tokens=False).ids


def prompt(messages):
    turns = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages]
    return "".join(turns) + "<|im_start|>assistant\n"


def innocent(messages):
    return [{**m, "content": "Hello"} for m in messages]


def spoken(attack):
    times = attack.get("repeat", 1)
    return [(m["role"], m["text"] * times) for m in attack["messages"]]


def same_to_the_reader(cleaned, text):
    repaired = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").replace("\x00", "\ufffd")
    return cleaned.replace(SPLIT, "") == repaired.replace(SPLIT, "")


@pytest.mark.parametrize("attack", SPOKEN, ids=lambda attack: attack["id"])
def test_no_attack_adds_a_control_token_to_a_prompt(attack):
    contents = [safe_text(text, TOKENS) for _, text in spoken(attack)]
    for (_, text), cleaned in zip(spoken(attack), contents, strict=True):
        assert same_to_the_reader(cleaned, text)
    try:
        messages = [Message(role=role, text=text) for role, text in spoken(attack)]
    except ValidationError:
        assert any("\ud800" <= c <= "\udfff" for _, text in spoken(attack) for c in text)
        messages = [Message(role="user", text=text) for text in contents]
    safe = safe_messages(messages, TOKENS)
    for kind in KINDS.values():
        control = control_ids(kind)
        for content in (*contents, *(m["content"] for m in safe), "".join(m["content"] for m in safe)):
            assert control.isdisjoint(ids_of(kind, content))
        found = [i for i in ids_of(kind, prompt(safe)) if i in control]
        assert found == [i for i in ids_of(kind, prompt(innocent(safe))) if i in control]


def test_the_attackers_list_is_long_and_most_of_it_would_work_on_some_tokenizer():
    harmful = [
        attack["id"]
        for attack in SPOKEN
        if any(
            not control_ids(kind).isdisjoint(ids_of(kind, safe_text("".join(t for _, t in spoken(attack)), ())))
            for kind in KINDS.values()
        )
    ]
    assert len(ATTACKS) >= 80
    assert len(harmful) >= 80


@pytest.mark.parametrize("attack", [a for a in SPOKEN if "parts" in a], ids=lambda attack: attack["id"])
def test_parts_of_one_message_are_read_as_the_whole_they_become(attack):
    (joined,) = safe_messages([Message(role="user", text="".join(attack["parts"]))], TOKENS)
    apart = safe_messages([Message(role="user", text=part) for part in attack["parts"]], TOKENS)
    for text in (joined["content"], "".join(m["content"] for m in apart)):
        assert control_ids(KINDS["plain"]).isdisjoint(ids_of(KINDS["plain"], text))


@pytest.mark.parametrize("separator", ["", " ", "\n", "\n\n"])
def test_neighbours_stay_apart_however_a_template_joins_them(separator):
    for attack in SPOKEN:
        if attack["id"].startswith("turns/"):
            safe = safe_messages([Message(role=r, text=t) for r, t in spoken(attack)], TOKENS)
            for kind in KINDS.values():
                assert control_ids(kind).isdisjoint(ids_of(kind, separator.join(m["content"] for m in safe)))


@pytest.mark.parametrize(
    "role", [m["role"] for a in ATTACKS for m in a.get("body", {}).get("messages", ()) if "<|" in m["role"]]
)
def test_a_role_is_one_of_four_words(role):
    with pytest.raises(ValidationError, match="role"):
        Message(role=role, text="Hello")


@pytest.mark.parametrize("field", ["name", "tool_calls", "tool_call_id", "refusal", "reasoning_content"])
def test_a_message_has_no_other_field_to_hide_in(field):
    with pytest.raises(ValidationError, match=field):
        Message.model_validate({"role": "user", "text": "Hello", field: "<|respond|>"})


pieces = st.sampled_from(
    [t[:k] for t in TOKENS for k in (1, 2, len(t) // 2, len(t))]
    + [t[k:] for t in TOKENS for k in (1, len(t) // 2)]
    + [unicodedata.normalize("NFD", "é"), "\u0338", "\u0301", "\u200b", "\u200d", "\ufeff", "\x00", "ﬁ", "ﬆ", "ﬀ"]
    + ["".join(chr(ord(c) + 0xFEE0) if "!" <= c <= "~" else c for c in t) for t in CONTROL]
    + [" ", "\n", "\u3000", "▁", "\u226e", "K", "\u212a", "ſ", "İ"]
)
mixtures = st.lists(pieces | st.text(max_size=3), max_size=12).map("".join)


@settings(max_examples=400, deadline=None)
@given(st.lists(mixtures, min_size=1, max_size=4))
def test_no_mixture_becomes_a_control_token(texts):
    try:
        messages = [Message(role="user", text=text) for text in texts]
    except ValidationError:  # a lone surrogate does not come this far
        messages = [Message(role="user", text=safe_text(text, ())) for text in texts]
    contents = [m["content"] for m in safe_messages(messages, TOKENS)]
    for kind in KINDS.values():
        control = control_ids(kind)
        for text in (*contents, "".join(contents), "\n".join(contents), *(safe_text(t, TOKENS) for t in texts)):
            assert control.isdisjoint(ids_of(kind, text))
    assert [safe_text(text, TOKENS) for text in contents] == contents


@given(st.text(alphabet=st.characters(exclude_characters="\x00", exclude_categories=["Cs"])))
def test_text_without_brackets_and_bars_is_untouched(text):
    plain = "".join(c for c in text if not set("<>|[]") & set(unicodedata.normalize("NFKD", c)))
    assert safe_text(plain, CONTROL) == plain


def test_text_that_only_describes_markup_is_untouched():
    text = (
        "Is 3 < 4 | 5 > 2? <b>yes</b> a[i] <|> &lt;|respond|&gt; %3C|respond|%3E \\u003c|respond|\\u003e naïve 你好 🙂"
    )
    assert safe_text(text, TOKENS) == text


def test_a_ligature_that_begins_a_token_is_spelled_out():
    cleaned = safe_text("see ﬁ>", ("fi>",))
    assert cleaned == f"see f{SPLIT}i>"


def test_one_visible_character_is_no_control_token():
    assert safe_text("a < b !", ("<", "!", " ", "▁▁", "")) == "a < b !"


def test_halves_of_a_character_become_it_again_and_a_lone_half_is_replaced():
    assert safe_text("\ud83d\ude00 \ud83d \x00", ()) == "😀 \ufffd \ufffd"


@pytest.mark.parametrize(
    "text",
    [
        "<|respond|>",
        "<",
        "<|decline:",
        "<|\u200d",
        "<\u0301",
        "＜｜ｒｅｓｐｏｎｄ｜＞",
        "hello world ",
        "你好世界",
        "\u226e|",
    ],
)
def test_a_megabyte_takes_less_than_a_second(text):
    reserved = tuple(f"<|reserved_special_token_{i}|>" for i in range(250))
    safe_text("warm", TOKENS + reserved)
    long = text * (1_000_000 // len(text))
    start = time.process_time()
    safe_text(long, TOKENS + reserved)
    assert time.process_time() - start < 1.0


def test_a_tokenizer_that_undoes_the_split_is_refused():
    deletes = tokenizer(normalizers.Replace(SPLIT, ""), normalized=True)
    with pytest.raises(BadInputError, match=r"U\+200B"):
        check_splitting(lambda text: ids_of(deletes, text), TOKENS, control_ids(deletes))
    for kind in KINDS.values():
        check_splitting(lambda text, kind=kind: ids_of(kind, text), TOKENS, control_ids(kind))


@pytest.fixture(scope="module")
def embedded():
    pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    from demur.models.unpacked import embedded_folder

    def load(*, normalized):
        made = transformers.AutoTokenizer.from_pretrained(embedded_folder())
        added = [transformers.AddedToken(t, special=True, normalized=normalized) for t in CONTROL[3:]]
        made.add_special_tokens({"extra_special_tokens": added})
        if normalized:
            made.backend_tokenizer.normalizer = normalizers.NFKC()
        return made

    return load(normalized=False), load(normalized=True)


@pytest.mark.model
def test_no_attack_adds_a_control_token_to_the_embedded_model(embedded):
    for made in embedded:
        control = set(made.convert_tokens_to_ids(list(made.all_special_tokens)))
        tokens = tuple(str(t) for t in made.added_tokens_decoder.values())
        assert set(CONTROL) <= set(tokens)
        for attack in SPOKEN:
            safe = safe_messages([Message(role=r, text=safe_text(t, ())) for r, t in spoken(attack)], tokens)
            plain = [
                made(made.apply_chat_template(m, tokenize=False, add_generation_prompt=True), add_special_tokens=False)[
                    "input_ids"
                ]
                for m in (safe, innocent(safe))
            ]
            attacked, calm = ([i for i in ids if i in control] for ids in plain)
            assert attacked == calm, attack["id"]
            for m in safe:
                ids = made(m["content"], add_special_tokens=False)["input_ids"]
                assert control.isdisjoint(ids), attack["id"]
