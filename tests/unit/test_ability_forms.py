"""Form checks: exact where the instruction is, forgiving where people would be."""

import pytest

from demur.ability.formats import format_result
from demur.ability.forms import has_form
from demur.suites.ability import FormCheck, InstructionItem

CASES = [
    ("words_at_most", 3, ["One two three.", "don't stop"], ["one two three four"]),
    ("words_between", [2, 3], ["one two", "one, two: three!"], ["one", "one two three four"]),
    ("starts_with", "Beyond", ["Beyond the sea", '"beyond" is a word'], ["The sea beyond"]),
    ("ends_with", "and then it rained.", ["x and then it rained.", "x and then it rained"], ["it rained a lot"]),
    ("ends_with", "Welcome!", ["Come. Welcome!"], ["Welcome! Come."]),
    ("contains", ["apples", "copper"], ["Copper and apples"], ["apples"]),
    ("contains", "owl", ["An OWL."], ["A bird."]),
    ("lower_case", None, ["all small, 3 times"], ["Not small", "123"]),
    ("upper_case", None, ["WET FLOOR!"], ["Wet FLOOR", "!!!"]),
    ("numbered_list", 2, ["1. a\n2. b", "Here:\n1) a\n2) b"], ["1. a", "2. a\n3. b", "1. a\n2. b\n3. c"]),
    ("bullets", 2, ["- a\n- b", "* a\n• b"], ["- a", "- a\n- b\n- c"]),
    ("bullets", None, ["- a\n- b\n- c"], ["- a"]),
    ("json_object", ["a"], ['{"a": 1}', '```json\n{"a": 1}\n```'], ['{"a": 1, "b": 2}', '[1]', 'Sure: {"a": 1}', "{a: 1}"]),
    ("json_object", None, ['{"x": []}'], ["null"]),
    ("one_sentence", None, ["A bridge spans a river.", "Dr. Hall came at 3.30 p.m."], ["One. Two.", "One\ntwo"]),
    ("no_letter", "e", ["A dog ran"], ["The dog"]),
    ("n_paragraphs", 2, ["a\n\nb", "a\nc\n \nb"], ["a\nb", "a\n\nb\n\nc"]),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "value", "kept", "lost"), CASES)
def test_a_form_is_seen_where_it_is_and_only_there(kind, value, kept, lost):
    check = FormCheck.model_validate({"kind": kind, "value": value})
    assert [has_form(check, text) for text in kept] == [True] * len(kept)
    assert [has_form(check, text) for text in lost] == [False] * len(lost)


@pytest.mark.parametrize("kind", ["lower_case", "one_sentence", "bullets", "json_object"])
def test_an_empty_reply_has_no_form(kind):
    assert not has_form(FormCheck(kind=kind), " \n")


def item(kind, value=None):
    return InstructionItem(id=kind, prompt="Do it well, please.", check=FormCheck(kind=kind, value=value))


def test_a_broken_reply_never_passes():
    loop = "the cat sat on the mat " * 12
    result = format_result([item("lower_case")], {"lower_case": (loop, False)})
    assert (result.rate.estimate, result.rate.degenerate) == (0.0, 1)


def test_a_reply_cut_off_has_not_shown_that_it_ends_in_form():
    text = "One sentence that goes on about a bridge over a quiet river"
    items = [item("one_sentence"), item("starts_with", "One")]
    result = format_result(items, dict.fromkeys(("one_sentence", "starts_with"), (text, True)))
    assert [reply.passed for reply in result.replies] == [False, True]
