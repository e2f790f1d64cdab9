"""Gates as expressions: precedence, truth and margins agree, and what does not parse says where."""

import itertools

import numpy as np
import pytest

from demur.core.errors import BadInputError
from demur.steer.expression import And, Compare, Not, Or, evaluate, margin, parse_expression

VALUES = [dict(zip("abc", map(float, bits), strict=True)) for bits in itertools.product((0, 1), repeat=3)]


def truth(text):
    scores = {name: np.array([row[name] for row in VALUES]) for name in "abc"}
    return evaluate(parse_expression(text), scores).tolist()


@pytest.mark.parametrize(
    ("text", "python"),
    [
        ("a > .5 and b > .5 or c > .5", "a and b or c"),
        ("a > .5 or b > .5 and c > .5", "a or b and c"),
        ("not a > .5 and b > .5", "not a and b"),
        ("not (a > .5 and b > .5)", "not (a and b)"),
        ("(a > .5 or b > .5) and not c > .5", "(a or b) and not c"),
        ("not not a >= 1", "a"),
        ("a < .5 or b <= 0 and c > .5", "not a or not b and c"),
    ],
)
def test_precedence_is_that_of_python(text, python):
    assert truth(text) == [bool(eval(python, {}, row)) for row in VALUES]


def test_a_rule_with_both_words_is_not_an_or_of_everything():
    # Published code splits on spaces, sees an 'or' and fires if any condition does.
    only_a = {"a": np.array([1.0]), "b": np.array([0.0]), "c": np.array([0.0])}
    assert not evaluate(parse_expression("a > .5 and b > .5 or c > .5"), only_a)[0]


def test_the_margin_is_positive_exactly_where_the_expression_holds():
    rng = np.random.default_rng(0)
    scores = {name: rng.normal(size=500) for name in "abc"}
    for text in ("a > 0.1 and not (b > 0.2)", "a>0 or b<0 and not c>0.3", "not (a > 0 or not b > 0)"):
        tree = parse_expression(text)
        assert np.array_equal(margin(tree, scores) > 0, evaluate(tree, scores))


def test_a_tree_reads_back_from_its_own_words():
    for text in ("a > 0.1 and not (b > 0.2 or c <= -3e-05)", "not not a >= 1", "(a > 1 or b > 2) and c > 3"):
        tree = parse_expression(text)
        assert parse_expression(str(tree)) == tree


def test_words_need_no_spaces_and_names_may_hold_dots():
    assert parse_expression("harm.en>0.12and(b<2)") == And((Compare("harm.en", ">", 0.12), Compare("b", "<", 2.0)))
    assert parse_expression("a>1 or not b<2") == Or((Compare("a", ">", 1.0), Not(Compare("b", "<", 2.0))))


def test_a_bare_name_means_its_own_threshold():
    assert parse_expression("harm", thresholds={"harm": 0.2}) == Compare("harm", ">=", 0.2)
    with pytest.raises(BadInputError, match="no threshold of its own"):
        parse_expression("harm", thresholds={"harm": None})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "word 1, got the end"),
        ("a > 1 and", "word 5, got the end"),
        ("a > 1 b > 2", "word 4, got 'b'"),
        ("(a > 1", "expected ')'"),
        ("a > x", "expected a number"),
        ("a = 1", "expected a comparison"),
        ("and > 1", "expected the name"),
        ("((" * 60 + "a", "at most 50 nested"),
        ("not " * 60 + "a", "at most 50 nested"),
    ],
)
def test_what_does_not_parse_says_where(text, expected):
    with pytest.raises(BadInputError) as failed:
        parse_expression(text)
    assert expected in str(failed.value)


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(BadInputError, match="a condition among harm, health"):
        parse_expression("hram > 1", thresholds={"harm": 0.1, "health": None})
