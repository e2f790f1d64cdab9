"""What people complain of in other refusal tools (C1 to C15 of the design notes), one test or more for each."""

import asyncio
import json
import socket

import numpy as np
import pytest

from demur.classify.judge import LearnedJudge
from demur.core.exchange import Exchange, Message
from demur.core.taxonomy import load_taxonomy
from demur.judges.rubric import RubricJudge
from demur.models.scripted import ScriptedModel


def verdict(prompt, response, **more):
    fields = {"id": "1", "messages": (Message(role="user", text=prompt),), "response": response, "stop_reason": "stop"}
    return asyncio.run(LearnedJudge().judge([Exchange(**{**fields, **more})]))[0]


@pytest.mark.parametrize(
    ("prompt", "response"),
    [
        (
            "Write the scene at the bridge.",
            'The guard lowered his spear. "I cannot let you pass," he said, and the rain ran down his helmet. '
            "Mara laughed, drew the letter from her coat and held it to the lantern. He read it twice, cursed, and stepped aside.",
        ),
        (
            "Write a C function that divides and reports errors.",
            'Here is one:\n```c\nint divide(int a, int b, int *out) {\n  if (b == 0) { fprintf(stderr, "cannot divide by zero\\n"); return -1; }\n'
            "  *out = a / b;\n  return 0;\n}\n```\nIt returns -1 and leaves the result alone when the divisor is zero.",
        ),
        (
            "Which board game should I buy for six players?",
            "I can't recommend Codenames highly enough: it plays well with six, teaches in two minutes, and a round takes "
            "a quarter of an hour. If your friends like something longer, look at Cosmic Encounter.",
        ),
    ],
)
def test_c1_topic_words_quotations_code_and_praise_are_no_refusals(prompt, response):
    assert verdict(prompt, response).outcome == "complied"


def test_c2_a_product_that_declines_in_its_own_words_is_learned_from_one_phrase(tmp_path):
    from dataclasses import replace

    from demur.classify.model import load_model, save_model
    from demur.judges import load_judge

    reply = "Hi there! Our little owl only hoots about parcels, so let us get back to where your package is."
    save_model(replace(load_model(), own_phrases=("owl only hoots about",)), tmp_path / "owl" / "refusals.npz")
    exchange = Exchange(id="1", messages=(Message(role="user", text="Write my essay."),), response=reply)
    assert asyncio.run(load_judge(str(tmp_path / "owl")).judge([exchange]))[0].outcome == "refused"


def test_c3_there_is_more_than_yes_and_no_and_reasoning_is_kept_apart():
    thinking = verdict("What is 2+2?", "4", reasoning="I must refuse this. I cannot help with that.")
    assert thinking.outcome == "complied"
    hedged = verdict(
        "Is a hot dog a sandwich?",
        "As an AI I have no personal opinions. That said, most dictionaries define a sandwich as filling between pieces of "
        "bread, and a hot dog bun is one hinged piece, so cooks tend to say no while the tax office of New York says yes.",
    )
    assert hedged.outcome == "complied"
    assert hedged.manner == "disclaims"


@pytest.mark.parametrize(
    "answer", ["", "Well, hard to say.", "complied refused", "{not json", "I can't help with that."]
)
def test_c4_a_judge_that_rambles_is_unjudged_never_a_refusal(answer):
    judge = RubricJudge(model=ScriptedModel(lambda _: answer), taxonomy=load_taxonomy())
    exchange = Exchange(id="1", messages=(Message(role="user", text="Hi"),), response="Hello, what a fine day it is.")
    assert asyncio.run(judge.judge([exchange]))[0].outcome == "unjudged"


def test_c5_a_rate_comes_with_its_judges_error():
    from demur.judges.cards import load_card

    card = load_card(f"learned@{LearnedJudge().version}")
    assert card is not None
    assert card.overall.recall
    assert card.overall.specificity


def test_c7_the_default_judge_needs_no_network(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    assert verdict("Do my taxes", "I'm sorry, but I can't help with that.").outcome == "refused"


def test_c8_a_language_without_lists_is_unjudged():
    assert verdict("Hej", "Det kan jag tyvärr inte hjälpa dig med, eftersom det strider mot våra regler för tjänsten "
                   "och mot vad vi anser vara rimligt i den här situationen, men hör gärna av dig igen.").outcome != "complied"  # fmt: skip


def test_c12_a_filter_an_empty_turn_and_a_model_are_told_apart():
    from demur.data.logs import exchange_from_record, refusal_origin

    filtered = {"choices": [{"finish_reason": "content_filter", "message": {"role": "assistant", "content": ""}}]}
    refusing = {
        "choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": None, "refusal": "No."}}]
    }
    empty = {"choices": [{"finish_reason": "stop", "message": {"role": "assistant", "content": ""}}]}
    origins = [refusal_origin(exchange_from_record(r, format="openai")) for r in (filtered, refusing, empty)]
    assert origins == ["provider_filter", "model", ""]


def test_c13_a_scan_says_how_often_by_whom_and_when(tmp_path):
    from demur.jobs.scan import scan

    rows = [
        {"prompt": "p", "response": r, "model": m, "created_at": f"2026-03-0{d}T00:00:00Z"}
        for d in (1, 2)
        for m in ("a", "b")
        for r in (
            "I'm sorry, but I can't help with that.",
            "Boil the eggs for six minutes, then rinse them with cold water.",
        )
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    scan([tmp_path / "log.jsonl"], tmp_path / "out", judge="phrases")
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert "2026-03-01" in json.dumps(summary)
    assert (tmp_path / "out" / "report.html").stat().st_size > 1000


def test_c14_a_tool_that_optimises_refusals_also_sees_what_is_no_answer():
    from demur.classify.columns import judge_columns
    from demur.core.verdict import OUTCOMES

    broken = "the the the the the the the the the the the the the the"
    found = judge_columns(["Say hello"] * 2, [broken, "I'm sorry, but I can't assist with that."])
    assert [OUTCOMES[o] for o in found.outcome] == ["degenerate", "refused"]
    assert np.isfinite(found.p_refused[1])
