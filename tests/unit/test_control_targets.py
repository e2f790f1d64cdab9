"""Targets as typed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demur.control.targets import parse_target, parse_targets
from demur.core.errors import BadInputError

KNOWN = ("safety", "humanizing", "ordinary")


def parsed(text):
    target = parse_target(text, known=KNOWN)
    return target.category, target.metric, target.relation, target.value


def test_targets_read_as_they_are_written():
    assert parsed("over_refusal<=0.05") == ("all", "over_refusal", "<=", 0.05)
    assert parsed(" safety : refusal >= 0.95 ") == ("safety", "refusal", ">=", 0.95)
    assert parsed("humanizing:refusal=.30") == ("humanizing", "refusal", "=", 0.30)
    assert parsed("all:refusal>=90%") == ("all", "refusal", ">=", 0.9)
    assert parsed("refusal=1") == ("all", "refusal", "=", 1.0)
    assert parsed("refusal>=1e-1") == ("all", "refusal", ">=", 0.1)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("safty:refusal>=0.9", "did you mean 'safety'"),
        ("weather:refusal>=0.9", "known: humanizing, ordinary, safety"),
        (":refusal>=0.9", "unknown category ''"),
        ("refusal>=nan", "got 'nan'"),
        ("refusal>=inf", "got 'inf'"),
        ("over_refusal<=", "got nothing"),
        ("over_refusal<=1.5", "0.05 means 5%"),
        ("over_refusal<=-0.1", "from 0 to 1"),
        ("over_refusal<=5", "0.05 means 5%"),
        ("over_refusal<=1_0", "from 0 to 1"),
        ("over_refusal", r"expected \[CATEGORY:\]refusal"),
        ("over_refusal<0.05", r"expected \[CATEGORY:\]refusal"),
        ("over_refusal==0.05", r"expected \[CATEGORY:\]refusal"),
        ("compliance>=0.5", r"expected \[CATEGORY:\]refusal"),
        ("safety:safety:refusal>=0.5", r"expected \[CATEGORY:\]refusal"),
        ("", r"expected \[CATEGORY:\]refusal"),
        ("refusal<=0.3", "refusal takes >= or ="),
        ("over_refusal>=0.3", "over_refusal takes <= or ="),
    ],
)
def test_a_bad_target_is_named_in_one_line(text, says):
    with pytest.raises(BadInputError, match=says) as caught:
        parse_target(text, known=KNOWN)
    assert "\n" not in str(caught.value)
    assert repr(text) in str(caught.value)


@pytest.mark.parametrize(
    "pair",
    [
        ("refusal>=0.9", "all:refusal>=0.9"),
        ("refusal>=0.9", "refusal>=0.8"),
        ("safety:refusal=0.2", "safety:refusal>=0.9"),
    ],
)
def test_one_rate_has_one_target(pair):
    with pytest.raises(BadInputError, match="drop one"):
        parse_targets(pair, known=KNOWN)


def test_no_target_is_an_error():
    with pytest.raises(BadInputError, match="at least one"):
        parse_targets([], known=KNOWN)


@given(st.text(max_size=30))
def test_whatever_is_typed_is_a_target_or_a_clear_error(text):
    try:
        target = parse_target(text, known=KNOWN)
    except BadInputError:
        return
    assert 0 <= target.value <= 1
    assert parse_target(target.text, known=KNOWN) == target
