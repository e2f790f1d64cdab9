"""Forced prefixes: exactly the first m tokens stand after the prompt, and what follows is the model's own."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.steer_models import chat_ids, tiny_subject  # noqa: E402

from demur.core.chat import ChatReply  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402
from demur.core.exchange import Message  # noqa: E402
from demur.models.scripted import ScriptedModel  # noqa: E402
from demur.stress.continuation import (  # noqa: E402
    Begun,
    ChatContinuer,
    Continued,
    JournalledContinuer,
    TransformersContinuer,
    check_continuing,
    continuation_journal,
    silent,
)
from demur.stress.forced import ForcedSettings, forced_prefix_study, study  # noqa: E402

ANSWER = "Take two pears and a sheet of pastry, slice the pears and lay them on it, then bake it all for an hour or so"
REFUSAL = "I'm sorry, but I can't help with that request."


@pytest.fixture(scope="module")
def tiny():
    return tiny_subject()


class Recorder:
    """A continuer that counts words and refuses until eight of them are forced."""

    unit = "words"

    def __init__(self, *, stubborn=False):
        self.asked, self.stubborn = [], stubborn

    def length(self, answer):
        return len(answer.split())

    def go_on(self, begun, *, max_tokens, say):
        self.asked += begun
        return [
            Continued(prefix="", text=REFUSAL if self.stubborn or one.forced < 8 else "and let it cool on a rack.")
            for one in begun
        ]


def test_greedy_continuations_are_those_of_the_model_after_the_forced_ids(tiny):
    prompt, m = "What is the capital of France?", 4
    forced = tiny.tokenizer(ANSWER, add_special_tokens=False)["input_ids"][:m]
    start = chat_ids(tiny.tokenizer, prompt) + forced
    with torch.inference_mode():
        whole = tiny.model.generate(torch.tensor([start]), max_new_tokens=6, do_sample=False)[0, len(start) :]
    continuer = TransformersContinuer(model=tiny.model, tokenizer=tiny.tokenizer)
    begun = Begun(messages=(Message(role="user", text=prompt),), answer=ANSWER, forced=m)
    (found,) = continuer.go_on([begun], max_tokens=6, say=silent)
    assert found.text == tiny.tokenizer.decode(whole, skip_special_tokens=True)
    assert found.prefix == tiny.tokenizer.decode(forced)


def test_batches_and_single_rows_agree(tiny):
    begun = [
        Begun(messages=(Message(role="user", text=text),), answer=ANSWER, forced=m)
        for text in ("Hi", "Tell me a story about a small boat and the sea.")
        for m in (0, 3)
    ]
    one, many = (TransformersContinuer(model=tiny.model, tokenizer=tiny.tokenizer, rows=rows) for rows in (1, 4))
    assert one.go_on(begun, max_tokens=5, say=silent) == many.go_on(begun, max_tokens=5, say=silent)


def test_an_answer_cannot_form_control_tokens(tiny):
    ends = str(tiny.tokenizer.eos_token)
    continuer = TransformersContinuer(model=tiny.model, tokenizer=tiny.tokenizer)
    ids, _ = continuer._input(Begun(messages=(Message(role="user", text="Hi"),), answer=f"a {ends} b"))
    assert ids.count(tiny.tokenizer.eos_token_id) == chat_ids(tiny.tokenizer, "Hi").count(tiny.tokenizer.eos_token_id)


def test_the_model_keeps_its_mode(tiny):
    tiny.model.train()
    forced_prefix_study(
        tiny.model, tiny.tokenizer, ["Hi"], [ANSWER], lengths=(0, 2), settings=ForcedSettings(max_tokens=3)
    )
    assert tiny.model.training
    tiny.model.eval()


def test_bare_texts_have_no_template(tiny):
    continuer = TransformersContinuer(model=tiny.model, tokenizer=tiny.tokenizer)
    ids, _ = continuer._input(Begun(answer="Once upon a time"))
    assert ids == tiny.tokenizer("Once upon a time")["input_ids"]


def test_a_model_that_only_begins_with_refusals_loses_them_as_more_is_forced():
    found = study(Recorder(), ["a", "b"], [ANSWER] * 2, (0, 4, 8, 16))
    assert [found.refusal_rate(m).estimate for m in found.lengths] == [1.0, 1.0, 0.0, 0.0]
    assert found.positions(0) == {"0-5": 2, "6-30": 0, "over 30": 0}
    assert found.positions(8) == {"0-5": 0, "6-30": 0, "over 30": 0}


def test_a_model_that_says_sorry_everywhere_interrupts_benign_answers():
    found = study(Recorder(stubborn=True), ["Bake a tart"], [ANSWER], (0, 8))
    assert [found.refusal_rate(m).estimate for m in (0, 8)] == [1.0, 1.0]
    assert found.phrase_rate(8).estimate == 1.0


def test_the_same_prompts_stand_at_every_length_and_short_answers_are_counted():
    found = study(Recorder(), ["a", "b"], [ANSWER, "Too short."], (0, 8))
    assert found.n_short == 1
    assert {reply.row for m in (0, 8) for reply in found.at(m)} == {0}


def test_unpaired_prompts_stand_wherever_their_answer_is_longer():
    found = study(
        Recorder(), ["a", "b"], [ANSWER, "Five words are just enough."], (0, 4, 8), ForcedSettings(paired=False)
    )
    assert [len(found.at(m)) for m in (0, 4, 8)] == [2, 2, 1]


@pytest.mark.parametrize(
    ("prompts", "answers", "lengths", "says"),
    [(["a"], [], (0,), "one answer a prompt"), (["a"], ["b"], (4,), "longer"), (["a"], [ANSWER], (-1,), "0 or more")],
)
def test_what_cannot_be_forced_is_refused_with_a_reason(prompts, answers, lengths, says):
    with pytest.raises(BadInputError, match=says):
        study(Recorder(), prompts, answers, lengths)


def test_nothing_is_continued_twice(tmp_path):
    first, second = Recorder(), Recorder()
    begun = [Begun(messages=(Message(role="user", text="Hi"),), answer=ANSWER, forced=m) for m in (0, 8, 8)]
    for inner in (first, second):
        journal = continuation_journal(tmp_path / "journal.jsonl")
        found = JournalledContinuer(inner, journal, "m").go_on(begun, max_tokens=4, say=silent)
        journal.close()
        assert [one.text for one in found] == [REFUSAL, *["and let it cool on a rack."] * 2]
    assert (len(first.asked), second.asked) == (2, [])


def test_a_chat_interface_is_given_the_beginning_as_its_own_turn():
    def script(request):
        last = request.messages[-1]
        return ChatReply(text=f"{last.text} of pastry" if last.role == "assistant" else "whole")

    begun = [Begun(messages=(Message(role="user", text="Hi"),), answer=ANSWER, forced=m) for m in (0, 3)]
    found = ChatContinuer(ScriptedModel(script=script)).go_on(begun, max_tokens=4, say=silent)
    assert [(one.prefix, one.text) for one in found] == [("", "whole"), ("Take two pears", " of pastry")]


def test_only_providers_that_continue_are_accepted():
    for name in ("anthropic/x", "demur/smollm2@1[max_tokens=9]", "demur/gguf/x.gguf"):
        check_continuing(name)
    with pytest.raises(BadInputError, match="new turn"):
        check_continuing("openai/x")
    with pytest.raises(BadInputError, match="new turn"):
        check_continuing("demur/hf/x")
    with pytest.raises(BadInputError, match="without chat tags"):
        ChatContinuer(ScriptedModel(script=lambda request: "")).go_on([Begun(answer="x")], max_tokens=1, say=silent)
