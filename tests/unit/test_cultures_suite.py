"""Statements from our own suite, a file, and a user's copy of CIVICS; what is odd in them is counted and named."""

import json
import unicodedata
from collections import Counter, defaultdict

import pytest

from demur.core.culture import LANGUAGES, TOPICS
from demur.core.errors import BadInputError, UnknownNameError
from demur.cultures.vocabulary import coverage, language_notes
from demur.suites.cultures import load_cultures, scripts_of

ROW = {
    "id": "x-1", "topic": "immigration", "language": "de", "country": "de-de", "source": "s1",
    "statement": "Wer hier lebt, soll wählen.", "english": "Those who live here should vote.", "values": ["participation"],
}  # fmt: skip
CIVICS = {
    "Language": "German", "Topic": "LGBTQI+ Rights", "Data Producer Organization": "A ministry",
    "Type of Organization": "government", "Data Source": "https://example.org/a", "Original Prompt": "Alle sind gleich.",
    "English Translation": "All are equal.", "Consensus Annotation": "anti-discrimination, Gender Inclusivity",
}  # fmt: skip


class Tokens:
    """A tokenizer of bytes with a few whole words."""

    unk_token_id, bos_token_id, eos_token_id = 0, 1, 2
    words = ("wer", "hier")

    def __call__(self, text, add_special_tokens):
        parts = text.lower().split()
        ids = [[3 + self.words.index(w)] if w in self.words else [100 + b for b in w.encode()] for w in parts]
        return {"input_ids": [i for part in ids for i in part]}

    def convert_ids_to_tokens(self, token):
        return f"<0x{token - 100:02X}>" if token >= 100 else self.words[token - 3]

    def decode(self, ids):
        return "".join(map(self.convert_ids_to_tokens, ids))


def write(path, *rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_our_own_suite_covers_every_topic_in_every_language():
    suite = load_cultures("cultures-core")
    per_topic = Counter(row.topic for row in suite.rows)
    assert all(per_topic[topic] >= 40 for topic in TOPICS)
    assert {(row.topic, row.language) for row in suite.rows} == {(t, lang) for t in TOPICS for lang in LANGUAGES}
    sources = defaultdict(set)
    for row in suite.rows:
        sources[row.topic, row.language].add(row.source)
    assert min(map(len, sources.values())) >= 2  # a single source has no interval


def test_a_draw_is_even_over_topics_and_languages_and_always_the_same():
    first, again = load_cultures("cultures-core", limit=50), load_cultures("cultures-core", limit=50)
    assert first == again
    assert set(Counter((r.topic, r.language) for r in first.rows).values()) == {2}
    assert first.sha256 != load_cultures("cultures-core").sha256


def test_languages_and_topics_can_be_chosen():
    suite = load_cultures("cultures-core", languages=["tr"], topics=["surrogacy"])
    assert {(row.language, row.topic) for row in suite.rows} == {("tr", "surrogacy")}
    with pytest.raises(UnknownNameError, match="did you mean 'tr'"):
        load_cultures("cultures-core", languages=["tur"])


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"language": "xx"}, "language"),
        ({"topic": "taxes"}, "topic"),
        ({"values": []}, "values"),
        ({"english": ""}, "english"),
    ],
)
def test_a_malformed_row_is_named_by_file_line_and_field(tmp_path, change, field):
    file = write(tmp_path / "x.jsonl", ROW, ROW | {"id": "x-2"} | change)
    with pytest.raises(BadInputError, match=f"x.jsonl:2:{field}: expected"):
        load_cultures(str(file))
    suite = load_cultures(str(file), skip_bad=True)
    assert (len(suite.rows), suite.n_skipped) == (1, 1)


def test_an_identifier_stands_for_one_row(tmp_path):
    with pytest.raises(BadInputError, match="line 1 has this one"):
        load_cultures(str(write(tmp_path / "x.jsonl", ROW, ROW)))


def test_civics_is_read_from_the_users_own_copy(tmp_path):
    rows = [CIVICS, CIVICS | {"Language": "English (Canada)", "Topic": "Social Welfare", "English Translation": ""}]
    folder = tmp_path / "copy"
    folder.mkdir()
    (folder / "civics_dataset.json").write_text(json.dumps(rows))
    suite = load_cultures("civics", path=folder)
    german, english = suite.rows
    assert (german.topic, german.source) == ("lgbtqi_rights", "https://example.org/a")
    assert german.values == ("anti-discrimination", "gender inclusivity")
    assert (english.country, english.english) == ("canada", english.statement)
    assert suite.licence.startswith("CC-BY-4.0")


@pytest.mark.parametrize("labels", [["a b", "c"], "['a b', 'c']", "a b; c", "A b\nc", "a b, c"])
def test_value_labels_are_read_however_they_are_listed(tmp_path, labels):
    suite = load_cultures("civics", path=write(tmp_path / "civics.jsonl", CIVICS | {"Consensus Annotation": labels}))
    assert suite.rows[0].values == ("a b", "c")


def test_civics_without_a_copy_says_where_to_ask(tmp_path):
    with pytest.raises(BadInputError, match="--suite-path"):
        load_cultures("civics")
    with pytest.raises(BadInputError, match="found none"):
        load_cultures("civics", path=tmp_path)
    with pytest.raises(BadInputError, match="German, English"):
        load_cultures("civics", path=write(tmp_path / "civics.jsonl", CIVICS | {"Language": "Klingon"}))
    with pytest.raises(BadInputError, match="translation"):
        load_cultures("civics", path=write(tmp_path / "civics.jsonl", CIVICS | {"English Translation": None}))


def test_letters_of_another_script_are_found_even_where_they_look_alike(tmp_path):
    cyrillic = ROW | {"id": "x-2", "statement": "W\u0435r hier lebt, soll wählen."}
    file = write(tmp_path / "x.jsonl", ROW, cyrillic)
    assert load_cultures(str(file)).mixed == {"x-2"}
    assert scripts_of("naïve Straße, 3ª güneş") == {"LATIN": 17}
    assert scripts_of("12 %…") == {}


def test_statements_are_brought_into_one_normal_form(tmp_path):
    file = write(tmp_path / "x.jsonl", ROW | {"statement": unicodedata.normalize("NFD", ROW["statement"])})
    suite = load_cultures(str(file))
    assert (suite.rows[0].statement, suite.n_normalised) == (ROW["statement"], 1)


def test_a_language_that_the_vocabulary_lacks_is_named(tmp_path):
    rows = load_cultures(str(write(tmp_path / "x.jsonl", ROW))).rows
    found = coverage([rows[0].statement], Tokens())
    assert found.byte_share > 0.8
    (note,) = language_notes(rows, frozenset({"x-1"}), Tokens())
    assert "not in the vocabulary" in note.complaint
    assert "another script" in note.complaint
    (silent,) = language_notes(rows, frozenset(), None)
    assert (silent.tokens_per_character, silent.complaint) == (None, "")


def test_unknown_tokens_are_told_from_text_and_bytes():
    class Lacking(Tokens):
        def __call__(self, text, add_special_tokens):
            return {"input_ids": [0 if word not in self.words else 3 for word in text.lower().split()]}

    assert coverage(["wer da"], Lacking()).unknown_share == 0.5
