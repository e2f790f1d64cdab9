from collections import Counter

import numpy as np
import pytest

pytest.importorskip("transformers")

from tests.engine_models import tiny_tokenizer

from demur.core.errors import BadInputError
from demur.train.batches import dealt, pass_rows, read_length, shared_length, step_rows
from demur.train.derta import DertaSettings, prefix_row, refusal_token_id, rto_row
from demur.train.rows import IGNORED, Example, LabelledRow, encoder_of, mask_table, shared_beginning
from demur.train.supervised import control_row, control_weights, supervised_row

WORDS = "Mix flour, water, salt and yeast; wait; bake."


@pytest.fixture(scope="module")
def encoder():
    return encoder_of(tiny_tokenizer(), max_tokens=200)


def rng(seed=0):
    return np.random.default_rng(seed)


def example(kind="reply", **fields):
    return Example(prompt="How do I bake bread?", response="I cannot help.", kind=kind, unwanted=WORDS, **fields)


def labels_of(row):
    return [label for label in row.labels if label != IGNORED]


def test_a_reply_is_learnt_with_its_end_and_the_prompt_is_not(encoder):
    row = supervised_row(encoder, example())
    assert labels_of(row) == [*encoder.reply("I cannot help."), encoder.end]
    assert row.learnt == tuple(range(len(encoder.prompt("How do I bake bread?")), len(row.ids)))
    assert [row.ids[t] for t in row.learnt] == labels_of(row)


def test_a_cut_reply_is_not_shown_to_end():
    short = encoder_of(tiny_tokenizer(), max_tokens=len(encoder_of(tiny_tokenizer()).prompt("hi")) + 3)
    row = supervised_row(short, Example(prompt="hi", response=WORDS))
    assert labels_of(row) == list(short.reply(WORDS)[:3])


def test_a_reply_cannot_speak_with_the_templates_voice(encoder):
    row = supervised_row(encoder, Example(prompt="x<|im_end|>", response="a<|im_end|>b<|im_start|>"))
    assert labels_of(row).count(encoder.end) == 1
    assert Counter(row.ids)[encoder.end] == 3  # system, user, assistant


def test_the_turn_ends_as_the_template_ends_it_whatever_the_tokenizer_calls_its_end():
    tokenizer = tiny_tokenizer()
    tokenizer.eos_token = "<|endoftext|>"
    assert encoder_of(tokenizer).end == tokenizer.convert_tokens_to_ids("<|im_end|>")


def test_a_tokenizer_without_template_is_refused():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = None
    with pytest.raises(BadInputError, match="chat template"):
        encoder_of(tokenizer)


def test_a_prompt_that_leaves_no_room_and_an_empty_reply_are_refused(encoder):
    with pytest.raises(BadInputError, match=r"rows.jsonl:3.*max_tokens"):
        supervised_row(encoder, Example(prompt="bread " * 300, response="a", id="rows.jsonl:3"))
    with pytest.raises(BadInputError, match="empty"):
        supervised_row(encoder, Example(prompt="a", response=""))


def test_a_control_token_comes_first_and_may_come_alone(encoder):
    whole, alone = (
        control_row(encoder, Example(prompt="a", response=text), 7, weights=(3.0, 0.5)) for text in ("No.", "")
    )
    assert labels_of(whole) == [7, *encoder.reply("No."), encoder.end]
    assert [whole.weights[t] for t in whole.learnt] == [3.0] + [0.5] * (len(whole.learnt) - 1)
    assert labels_of(alone) == [7]


def test_control_weights_give_the_decision_its_weight_beside_the_replies_mean():
    first, other = control_weights(3, 12, 2.0)
    decisions, replies = [1.0, 2.0, 6.0], [0.5] * 12
    mean = (first * sum(decisions) + other * sum(replies)) / 15
    assert mean == pytest.approx(2.0 * np.mean(decisions) + np.mean(replies))


def test_every_position_of_the_unwanted_reply_leads_to_the_refusal_token(encoder):
    row = rto_row(encoder, example(), DertaSettings(), refusal_id=40, rng=rng())
    n, reply = len(encoder.prompt("How do I bake bread?")), encoder.reply(WORDS)
    assert row.ids == (*encoder.prompt("How do I bake bread?"), *reply, encoder.end)
    assert row.learnt == tuple(range(n, n + len(reply))), "from the first position on; the end is left alone"
    assert set(labels_of(row)) == {40}


def test_the_released_code_also_relabels_the_end(encoder):
    row = rto_row(encoder, example(), DertaSettings.released(lora=True), refusal_id=40, rng=rng())
    assert row.learnt[-1] == len(row.ids) - 1
    assert row.ids[-1] == encoder.end


def test_a_keep_rate_over_the_reply_always_keeps_a_target(encoder):
    few = DertaSettings(keep=0.05)
    kept = [len(rto_row(encoder, example(), few, refusal_id=40, rng=rng(i)).learnt) for i in range(20)]
    assert set(kept) == {max(1, round(0.05 * len(encoder.reply(WORDS))))}


def test_the_released_keep_rate_draws_over_the_padded_row_and_may_keep_none(encoder):
    released = DertaSettings.released().model_copy(update={"padded_to": 1000})
    rows = [rto_row(encoder, example(), released, refusal_id=40, rng=rng(i)) for i in range(200)]
    kept = [len(row.learnt) for row in rows]
    places = len(encoder.reply(WORDS)) + 1
    assert 0 in kept
    assert np.mean(kept) == pytest.approx(50 * places / 1000, rel=0.2)  # 50 = a twentieth of 1000


def test_a_twentieth_of_the_padded_row_is_rounded_up_and_never_none(encoder):
    row = rto_row(encoder, example(), DertaSettings.released(), refusal_id=40, rng=rng())
    exact = DertaSettings.released().model_copy(update={"keep": 1e-9})
    every = [len(rto_row(encoder, example(), exact, refusal_id=40, rng=rng(i)).learnt) for i in range(300)]
    assert len(row.learnt) <= -(-len(row.ids) // 20)
    assert max(every) == 1


def test_transitions_weigh_what_the_settings_say(encoder):
    row = rto_row(encoder, example(weight=2.0), DertaSettings(transition_weight=0.25), refusal_id=40, rng=rng())
    assert {row.weights[t] for t in row.learnt} == {0.5}


def test_only_the_wanted_reply_is_learnt_after_a_prefix_of_tokens(encoder):
    unwanted, lengths = encoder.reply(WORDS), []
    for seed in range(200):
        row = prefix_row(encoder, example(), DertaSettings(), index=seed, rng=rng(seed))
        begun = row.ids[len(encoder.prompt("How do I bake bread?")) : row.learnt[0]]
        assert begun == unwanted[: len(begun)]
        assert labels_of(row) == [*encoder.reply("I cannot help."), encoder.end]
        lengths.append(len(begun))
    assert {min(lengths), max(lengths)} == {0, len(unwanted)}, "k is uniform on 0 to all of them"


def test_the_released_code_counts_words_and_begins_every_third_example_with_none(encoder):
    released, seen = DertaSettings.released(), set()
    for index in range(240):
        row = prefix_row(encoder, example(), released, index=index, rng=rng(index))
        text = encoder.tokenizer.decode(row.ids[len(encoder.prompt("How do I bake bread?")) : row.learnt[0]])
        assert (text == "") == (index % 3 == 0)
        seen.add(len(text.split()))
    assert seen == set(range(len(WORDS.split()) - 1)), "1 to all but two, and none"


def test_the_released_code_leaves_out_texts_of_fewer_than_three_words(encoder):
    two = Example(prompt="a", response="No.", unwanted="Mix flour.")
    assert prefix_row(encoder, two, DertaSettings.released(), index=1, rng=rng()) is None
    assert prefix_row(encoder, two, DertaSettings(), index=1, rng=rng()) is not None


def test_a_refusal_word_is_one_token_as_the_turn_begins_with_it_or_an_error():
    tokenizer = tiny_tokenizer()
    assert tokenizer.decode([refusal_token_id(tokenizer, "I")]) == "I"
    with pytest.raises(BadInputError, match=r"Sorry.*expected one token"):
        refusal_token_id(tokenizer)


def test_a_template_that_ends_in_a_space_gets_the_word_without_another():
    tokenizer = tiny_tokenizer()
    tokenizer.chat_template = "{% for m in messages %}{{ m['content'] }}{% endfor %} ->"
    assert tokenizer.decode([refusal_token_id(tokenizer, " I")]) == " I"


def test_masks_print_as_a_table(encoder):
    table = mask_table(encoder.tokenizer, rto_row(encoder, example(), DertaSettings(), refusal_id=40, rng=rng()))
    lines = table.splitlines()
    assert lines[0].split() == ["t", "read", "learnt", "weight"]
    assert lines[1].rstrip().endswith("-")
    assert lines[-2].endswith("1")


@pytest.mark.parametrize(
    ("ids", "labels", "weights"),
    [
        ((), (), ()),
        ((1, 2), (IGNORED,), (0.0, 1.0)),
        ((1, 2), (1, 2), (1.0, 1.0)),
        ((1, 2), (IGNORED, 2), (0.0, float("nan"))),
        ((1, 2), (IGNORED, 2), (0.0, -1.0)),
    ],
)
def test_a_malformed_row_cannot_be_made(ids, labels, weights):
    with pytest.raises(ValueError, match="expected"):
        LabelledRow(ids, labels, weights, "x")


def row(ids, *learnt, kind="x"):
    labels = tuple(i if t in learnt else IGNORED for t, i in enumerate(ids))
    return LabelledRow(tuple(ids), labels, (1.0,) * len(ids), kind)


def test_a_shared_beginning_ends_before_anything_is_predicted():
    same = [row([1, 2, 3, 4, 5, 6], 4, 5), row([1, 2, 3, 4, 5, 7], 3)]
    assert shared_beginning(same) == 2
    assert shared_length(same) == 0, "two are not worth sharing"
    assert shared_length([row([1] * 9 + [2], 9), row([1] * 9 + [3], 9)]) == 8


def test_nothing_after_the_last_labels_predecessor_is_read():
    assert read_length(row([1, 2, 3, 4], 2)) == 2


def test_groups_hold_every_learnt_row_once_and_no_more_than_they_may():
    rows = [row([1] * n, n - 1) for n in (3, 30, 8, 8, 5, 12, 2)] + [row([1, 2])]
    for layout in ("packed", "padded"):
        groups = pass_rows(rows, layout, tokens=16, share=False)
        assert Counter(map(id, (r for g in groups for r in g))) == Counter(map(id, rows[:-1]))
        for group in groups:
            sizes = [read_length(r) for r in group]
            cost = sum(sizes) if layout == "packed" else max(sizes) * len(sizes)
            assert cost <= 16 or len(group) == 1


def test_each_epoch_learns_each_row_once_in_an_order_of_its_own():
    steps = step_rows([10, 10], epochs=2.0, batch_rows=4, max_steps=None, seed=3)
    order = [i for step in steps for i in step]
    assert sorted(order[:10]) == list(range(10))
    assert sorted(order[10:]) == list(range(10, 20))
    assert [i - 10 for i in order[10:]] != order[:10]
    assert steps == step_rows([10, 10], epochs=2.0, batch_rows=4, max_steps=None, seed=3)
    assert steps != step_rows([10, 10], epochs=2.0, batch_rows=4, max_steps=None, seed=4)
    assert len(step_rows([10], epochs=0.5, batch_rows=2, max_steps=None, seed=0)) == 3


def test_rows_are_dealt_evenly_to_processes():
    hands = dealt(range(5), [10, 1, 1, 9, 1], 2)
    assert sorted(i for hand in hands for i in hand) == list(range(5))
    assert abs(sum([10, 1, 1, 9, 1][i] for i in hands[0]) - 11) <= 1
