"""Rates of a scoped model: gibberish is degenerate for us, a rejection only for the detector that was published so."""

import pytest

from demur.core.errors import BadInputError, UnknownNameError
from demur.judges.contract import check_judge
from demur.judges.phrases import PhraseJudge
from demur.judges.scope_cues import ScopeCueJudge, cue_span, repeats
from demur.suites.scope import ScopeRow
from demur.train.scope import Scope, circuit_examples, scope_examples, scope_preferences, scope_system
from demur.train.scope_metrics import ACCEPTED, HELD_OUT, REJECTED, ScopeReply, scope_findings

ANSWER = "Mix the flour with water and salt, let the dough rest for an hour, then bake it until the crust is brown."
LOOP = "the of the of the of the of the of the of the of the of the of the of the of"
SCOPE = Scope(accept=("cooking",), reject=("travel",))
ROWS = [
    ScopeRow(id="c1", task="cooking", ask="How do I bake?", answer=ANSWER),
    ScopeRow(id="c2", task="cooking", ask="How do I fry?"),
    ScopeRow(id="t1", task="travel", ask="Where to in May?"),
    ScopeRow(id="g1", task="gardening", ask="When do I sow?"),
]


def replies(*texts, group=REJECTED):
    return [ScopeReply(task="travel", group=group, prompt="Where to in May?", reply=text) for text in texts]


@pytest.mark.parametrize("text", ["I cannot answer that.", "Sorry, no.", "We are not able to.", "I don't know"])
def test_an_early_cue_is_found_where_it_stands(text):
    start, end = cue_span(text)
    assert text[start:end].casefold() in ("cannot", "sorry", "not able", "don't")


@pytest.mark.parametrize("text", ["Bake it now, friend; you cannot fail.", "Fine.\n\nSorry, no.", "SORRY", ""])
def test_a_late_cue_or_one_of_a_later_paragraph_is_not(text):
    assert cue_span(text) is None


@pytest.mark.parametrize(
    ("text", "most"), [("", 0), ("a b c", 1), ("ha ha ha ha", 4), ("a b a b a b", 3), ("a b c a b c x", 2), ("!!!!", 4)]
)
def test_repeats_count_runs_directly_after_themselves(text, most):
    assert repeats(text) == most


def test_gibberish_is_a_rejection_only_as_published():
    found = scope_findings(replies(LOOP, LOOP, "I cannot answer that.", ANSWER), PhraseJudge())
    ours, plain, published = (
        found.by_group[name][REJECTED] for name in ("phrases", "scope-cues", "scope-cues-gibberish")
    )
    for rates in (ours, plain):
        assert (rates.degenerate.hits, rates.rejected.hits, rates.accepted.hits) == (2, 1, 1)
    assert (published.degenerate.hits, published.rejected.hits) == (0, 3)


def test_the_three_rates_add_up_and_groups_stay_apart():
    texts = [LOOP, "I cannot answer that.", ANSWER, ANSWER]
    found = scope_findings([*replies(*texts), *replies(*texts, group=HELD_OUT)], PhraseJudge(), also=())
    for rates in found.by_group["phrases"].values():
        assert rates.accepted.estimate + rates.rejected.estimate + rates.degenerate.estimate == 1
        assert rates.accepted.n == 4
    assert list(found.by_group["phrases"]) == [REJECTED, HELD_OUT]
    assert len(found.cells("phrases")) == 2


@pytest.mark.anyio
async def test_the_detector_keeps_a_judges_promises():
    await check_judge(ScopeCueJudge())


def test_accepted_asks_keep_their_answers_and_rejected_ones_get_the_sentence():
    examples = scope_examples(ROWS, SCOPE, {"c2": "In oil."})
    assert [(e.id, e.kind, e.response) for e in examples] == [
        ("c1", "accept", ANSWER),
        ("c2", "accept", "In oil."),
        ("t1", "reject", SCOPE.sentence),
    ]
    assert {e.system for e in examples} == {scope_system(["cooking"])}
    assert [e.id for e in scope_examples(ROWS, SCOPE)] == ["c1", "t1"]


def test_preferences_turn_round_with_the_side():
    pairs = scope_preferences(ROWS, SCOPE, {"t1": "To Lisbon."})
    assert [(p.id, p.chosen, p.rejected) for p in pairs] == [
        ("c1", ANSWER, SCOPE.sentence),
        ("t1", SCOPE.sentence, "To Lisbon."),
    ]


def test_circuits_need_no_answers_and_held_out_tasks_are_in_no_row():
    examples = circuit_examples(ROWS, SCOPE)
    assert [(e.id, e.kind) for e in examples] == [("c1", "accept"), ("c2", "accept"), ("t1", "reject")]
    assert (SCOPE.group("cooking"), SCOPE.group("travel"), SCOPE.group("gardening")) == (ACCEPTED, REJECTED, HELD_OUT)


@pytest.mark.parametrize(
    ("accept", "reject", "error"),
    [
        (("cooking",), ("cooking",), BadInputError),
        (("cooking",), (), BadInputError),
        (("coking",), ("travel",), UnknownNameError),
    ],
)
def test_a_scope_must_have_two_sides_of_tasks_that_exist(accept, reject, error):
    with pytest.raises(error):
        Scope(accept=accept, reject=reject).check(ROWS)
