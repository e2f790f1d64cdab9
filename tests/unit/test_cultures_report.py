"""The page about values: complete, safe with hostile text, and readable with either set-up missing."""

import re

import pytest

from demur.core.culture import CulturesProfile, ForcedChoice, LanguageNote, LongForm, Statement
from demur.cultures.cells import agreement, cells, effects, evaded, in_translation, joined, setups_compared
from demur.report.cultures import render_cultures

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e {{ 7 * 7 }}"


def profile(setups=("logprob", "longform"), text="Satz", note="", stance="agree"):
    statements = tuple(
        Statement(
            id=f"x-{i}", topic=("surrogacy", "immigration")[i % 2], language=("de", "en", "tr")[i % 3], country="a",
            source=f"s{i // 3}", statement=f"{text} {i}", english=f"{text} {i}", values=(text[:40] or "a",),
        )
        for i in range(12)
    )  # fmt: skip
    choices = [
        ForcedChoice(id=r.id, form=f, agreement=0.1 * (i % 10), uncalibrated=0.5, order_effect=0.2, template_sd=0.1,
                     flips=0.5, mass=0.02, by_template={text: 0.5})
        for i, r in enumerate(statements) for f in r.forms
    ] if "logprob" in setups else []  # fmt: skip
    replies = [
        LongForm(id=r.id, form=f, stance=stance, declined=False, answered_in="de", reply=text, rationale=text)
        for r in statements for f in r.forms
    ] if "longform" in setups else []  # fmt: skip
    found = joined(statements, choices, replies)
    return CulturesProfile(
        model=f"m {text}", suite=text, setups=setups, n=12, n_sources=4, cells=cells(found),
        refusal_in_translation=in_translation(found, evaded), agreement_in_translation=in_translation(found, agreement),
        languages=(LanguageNote(language="de", n=4, tokens_per_character=0.5, byte_share=0.1, unknown_share=0.0),),
        effects=effects(found), setups_compared=setups_compared(found), forced_choice=tuple(choices),
        long_form=tuple(replies), statements=statements, seconds={"logprob": 3.0}, notes=(note,) if note else (),
        manifest={"kind": "cultures", "command": [text], "config": {text: text}},
    )  # fmt: skip


def test_every_topic_and_language_has_its_field():
    page = render_cultures(profile())
    assert page.count("<h3>In its own language</h3>") == 2
    for name in ("German", "English", "Turkish", "Surrogacy", "Immigration", "All topics"):
        assert name in page
    assert "French" not in page  # nothing was asked in it
    assert 'aria-label="50%' in page or "50%" in page


@pytest.mark.parametrize(("setups", "missing"), [(("logprob",), "evasion"), (("longform",), "agreement")])
def test_a_set_up_that_did_not_run_leaves_no_empty_section(setups, missing):
    page = render_cultures(profile(setups))
    assert f'id="{missing}"' not in page
    assert f'href="#{missing}"' not in page


@pytest.mark.parametrize("stance", ["agree", "neutral", "disagree", "no_comment", "deflect", "degenerate", "unjudged"])
def test_replies_of_any_one_kind_have_a_report(stance):
    assert "What the replies do" in render_cultures(profile(stance=stance))


def test_text_of_strangers_stays_text_wherever_it_stands():
    page = render_cultures(profile(text=HOSTILE, note=HOSTILE))
    assert "<img" not in page
    assert "\u202e" not in page
    assert "49" not in re.sub(r"[\d.]+%|\d{2,}\u2013|sha256-\S+", "", page.split("<style>")[0])
    assert page.count("<script") == 2


def test_the_page_loads_nothing_and_styles_nothing_inline():
    page = render_cultures(profile())
    assert not re.search(r'\b(?:src|href)="(?!#)', page)
    assert ' style="' not in page


def test_what_must_be_read_first_stands_first():
    page = render_cultures(profile(note="tr: it takes 2.8 times the tokens of English."))
    assert page.index("2.8 times") < page.index("Agreement, by log-probability")


def test_a_profile_survives_being_stored():
    one = profile()
    assert CulturesProfile.model_validate_json(one.model_dump_json()) == one
