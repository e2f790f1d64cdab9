"""What an adapter's folder says, and how it is refused."""

import json

import pytest

from demur.core.errors import BadInputError
from demur.models.adapter import (
    PEFT_CONFIG,
    PEFT_WEIGHTS,
    TOKENS_FILE,
    adapter_hash,
    check_base,
    check_tokenizer,
    read_adapter,
    signal_identity,
)

RECORD = {
    "format": 1,
    "mode": "lora",
    "style": "demur",
    "base": "smollm2",
    "base_revision": "b179c952",
    "tokens": {
        "safety": {"text": "<|decline:safety|>", "id": 10},
        "respond": {"text": "<|respond|>", "id": 12},
        "humanizing": {"text": "<|decline:humanizing|>", "id": 11},
    },
}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / TOKENS_FILE).write_text(json.dumps(RECORD))
    (tmp_path / PEFT_CONFIG).write_text('{"peft_type": "LORA", "e": 1}')
    (tmp_path / PEFT_WEIGHTS).write_bytes(b"weights")
    return tmp_path


def rewrite(folder, **changes):
    (folder / TOKENS_FILE).write_text(json.dumps({**RECORD, **changes}))


def test_the_respond_token_is_the_last_column_wherever_it_is_written(folder):
    adapter = read_adapter(folder)
    assert adapter.control.categories == ("safety", "humanizing")
    assert adapter.control.ids == (10, 11, 12)
    assert list(adapter.token_ids) == ["safety", "humanizing", "respond"]
    assert adapter.mode == "lora"
    assert adapter.control.text_follows == "token"


def test_a_later_versions_extra_fields_do_no_harm(folder):
    rewrite(folder, trained="yesterday")
    assert read_adapter(folder).control.base == "smollm2"


@pytest.mark.parametrize("name", [TOKENS_FILE, PEFT_CONFIG, PEFT_WEIGHTS])
def test_the_hash_changes_with_every_file_that_can_change_a_score(folder, name):
    before = adapter_hash(folder)
    (folder / "README.md").write_text("nothing that matters")
    assert adapter_hash(folder) == before
    (folder / name).write_bytes((folder / name).read_bytes().replace(b"e", b"3"))
    assert adapter_hash(folder) != before
    assert len(before) == 8


def test_what_was_measured_of_the_replies_changes_no_score_and_no_hash(folder):
    before = adapter_hash(folder)
    rewrite(folder, follows=0.5)
    assert adapter_hash(folder) == before
    assert read_adapter(folder).control.text_follows == "nothing"
    rewrite(folder, follows=1.0)
    assert read_adapter(folder).control.text_follows == "token"


def test_the_identity_names_base_revision_and_adapter(folder):
    assert read_adapter(folder).identity == f"smollm2@b179c952+{adapter_hash(folder)}"
    assert signal_identity("m") == "m"


@pytest.mark.parametrize(
    ("changes", "complaint"),
    [
        ({"format": 2}, "format"),
        ({"mode": "prompt"}, "mode"),
        ({"tokens": {}}, "respond"),
        ({"tokens": {"respond": {"text": "<|r|>", "id": 1}}}, "at least one category"),
        ({"tokens": {**RECORD["tokens"], "safety": {"text": "<|s|>", "id": 12}}}, "distinct ids"),
        ({"tokens": {**RECORD["tokens"], "safety": {"text": "<|respond|>", "id": 9}}}, "distinct texts"),
        ({"tokens": {**RECORD["tokens"], "safety": {"text": "x", "id": 9}}}, "tokens.safety.text"),
        ({"tokens": {**RECORD["tokens"], "safety": {"text": "<|s|>", "id": -1}}}, "tokens.safety.id"),
        ({"tokens": [1, 2]}, "tokens"),
    ],
)
def test_a_malformed_record_is_refused_by_file_and_field(folder, changes, complaint):
    rewrite(folder, **changes)
    with pytest.raises(BadInputError, match=complaint) as caught:
        read_adapter(folder)
    assert TOKENS_FILE in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [TOKENS_FILE, PEFT_CONFIG, PEFT_WEIGHTS])
def test_half_a_folder_is_refused(folder, name):
    (folder / name).unlink()
    with pytest.raises(BadInputError, match=name):
        read_adapter(folder)


def test_a_record_that_is_no_json_is_refused(folder):
    (folder / TOKENS_FILE).write_text("{")
    with pytest.raises(BadInputError, match="expected a JSON object"):
        read_adapter(folder)


def test_no_folder_says_how_to_make_one(tmp_path):
    with pytest.raises(BadInputError, match="demur train refusal-tokens"):
        read_adapter(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("base", "revision", "fits"),
    [
        ("smollm2", "b179c952", True),
        ("gguf/copy.gguf", "b179c952", True),
        ("smollm2", "", True),
        ("smollm2", "00000000", False),
        ("hf/other", "", False),
    ],
)
def test_an_adapter_goes_on_the_base_it_was_trained_on(folder, base, revision, fits):
    adapter = read_adapter(folder)
    if fits:
        check_base(adapter, base, revision)
    else:
        with pytest.raises(BadInputError, match=r"trained on smollm2@b179c952"):
            check_base(adapter, base, revision)


class SplittingTokenizer:
    def __call__(self, text, *, add_special_tokens):
        return {"input_ids": [10] if "safety" in text else [7, 8]}


def test_a_token_that_is_not_one_id_is_refused(folder):
    control = read_adapter(folder).control
    with pytest.raises(BadInputError, match=r"tokens\.respond: expected '<\|respond\|>' to be the single id 12"):
        check_tokenizer(control, SplittingTokenizer(), origin="x")
