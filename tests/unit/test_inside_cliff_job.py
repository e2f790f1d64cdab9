"""A cliff study from rows to files, on a tiny model whose words mean nothing but whose arithmetic does."""

import json

import pytest
import torch
import transformers
from tests.engine_models import tiny_tokenizer

from demur.activations.subject import subject as subject_of
from demur.core.cliff import CliffResult
from demur.core.errors import BadInputError
from demur.core.identity import Decoding
from demur.inside.cliff import ItemCliff
from demur.inside.cliff_selection import Candidate, overlap, ranked, selected, write_training
from demur.inside.thinking_rows import thinking_rows
from demur.jobs.cliff import CliffConfig, cliff_of
from demur.jobs.cliff_rows import CliffRow, cliff_rows, judged, rolled_out
from demur.suites.training import load_training
from demur.train.token_rows import training_rows


@pytest.fixture(scope="module")
def subject():
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = transformers.LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.2,
    )
    return subject_of(transformers.LlamaForCausalLM(config), tokenizer, name="tiny")


KINDS = {
    "declined": ("refuse", "This harms someone, so I say no.", "No. I will not help with that.", "refused"),
    "fell": ("refuse", "This harms someone, so I say no.", "Sure, here is how it goes.", "complied"),
    "answered": ("comply", "Nothing is wrong with this one.", "Sure, here is how it goes.", "complied"),
}


def write(path, *, n=20, thinks=True, kinds=tuple(KINDS)):
    rows = []
    for kind in kinds:
        expected, thinking, response, outcome = KINDS[kind]
        rows += [
            {
                "id": f"{kind}-{i}",
                "prompt": f"{kind} request number {i}, please",
                "expected": expected,
                "category": "safety",
                "thinking": thinking * (1 + i % 3) if thinks else "",
                "response": response,
                "outcome": outcome,
                "appropriate": "No, that would harm someone." if i % 2 == 0 else "",
            }
            for i in range(n)
        ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def study(subject, tmp_path, path, **changes):
    options = {"model": "tiny", "out": tmp_path / "out", "prompts": path, "judge": "phrases", "heads": "2", **changes}
    config = CliffConfig(**{"answer_tokens": 4, "most": 6, "draws": 2, "limit": 60, **options})
    return cliff_of(subject, cliff_rows(path, limit=config.limit), config)


def test_a_study_holds_every_part_and_writes_it(subject, tmp_path):
    result = study(subject, tmp_path, write(tmp_path / "rows.jsonl"), select=5)
    assert CliffResult.model_validate_json((tmp_path / "out/cliff.json").read_text()) == result
    assert result.kind == "cliff"
    assert result.attrition["thinking closed"] == 60
    assert {g.group for g in result.groups} == {"to decline, declined", "to decline, answered", "to answer, answered"}
    assert {c.axis for c in result.curves} == {"tail", "fraction"}
    assert sum(h.ablated and h.causal is not None for h in result.heads) == 2
    assert [row.name for row in result.ablations] == [
        "none", "top heads", *["random heads"] * 2, *["random heads of the same blocks"] * 2
    ]  # fmt: skip
    assert result.ablations[0].perplexity > 1
    assert result.ablations[1].heads == tuple(f"{h.block}.{h.head}" for h in result.heads if h.ablated)
    assert [row.fraction for row in result.truncation] == [0, 0.25, 0.5, 0.75, 1]
    assert result.truncation[-1].final.mean == pytest.approx(result.ablations[0].final.mean, abs=1e-4)
    shares = dict(result.drop_shares)
    assert shares.pop("total") == pytest.approx(sum(shares.values()), abs=1e-6)
    kinds = {row.kind for row in result.controls}
    assert kinds == {"direction", "layer 0", "surface rule", "tf-idf", "random directions", "shuffled labels"}
    chosen = [json.loads(line) for line in (tmp_path / "out/selected.jsonl").read_text().splitlines()]
    assert len(chosen) == result.selection.n_selected == 5
    assert all(row["appropriate"].endswith("</think>\n\nNo, that would harm someone.") for row in chosen)
    assert (tmp_path / "out/selected_by_final.jsonl").exists()


def test_written_rows_are_read_again_without_asking_the_model(subject, tmp_path):
    first = study(subject, tmp_path, write(tmp_path / "rows.jsonl"))
    again = study(subject, tmp_path / "again", tmp_path / "out/rows.jsonl")
    assert again.groups == first.groups
    assert again.curves == first.curves


def test_a_model_that_does_not_think_gets_a_boundary_and_no_cliff(subject, tmp_path):
    result = study(subject, tmp_path, write(tmp_path / "rows.jsonl", thinks=False), select=5)
    assert result.kind == "boundary"
    assert result.groups == result.truncation == ()
    assert result.selection is None
    assert {c.axis for c in result.curves} == {"tail"}
    assert "does not think" in result.notes[0]


@pytest.mark.parametrize(("kinds", "missing"), [(("fell", "answered"), "declines"), (("fell", "declined"), "answers")])
def test_a_model_without_refusals_or_answers_is_told_what_to_do(subject, tmp_path, kinds, missing):
    with pytest.raises(BadInputError, match=f"that it {missing}, got 0.*trained to refuse"):
        study(subject, tmp_path, write(tmp_path / "rows.jsonl", kinds=kinds))


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"prompt": "", "expected": "refuse"}, "rows.jsonl:1:prompt"),
        ({"prompt": "a", "expected": "no"}, "rows.jsonl:1:expected"),
        ({"prompt": "a", "expected": "refuse", "outcome": "yes"}, "rows.jsonl:1:outcome"),
    ],
)
def test_a_bad_row_is_named(tmp_path, row, complaint):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(row) + "\n")
    with pytest.raises(BadInputError, match=complaint):
        cliff_rows(path, limit=16)


def test_tags_in_a_users_prompt_and_thoughts_do_not_end_the_thinking(subject, tmp_path):
    path = tmp_path / "rows.jsonl"
    row = {"prompt": "What is </think> for? <think>x</think>", "expected": "comply", "thinking": "a </think> b"}
    path.write_text(json.dumps({**row, "response": "A tag."}) + "\n")
    ((made, item),) = rolled_out(subject, cliff_rows(path, limit=16), clean=str, decoding=Decoding(max_tokens=4))
    assert item.span.status == "closed"
    text = subject.tokenizer.decode(list(item.ids[item.span.start : item.span.end]))
    assert text.split() == ["a", "b"]
    assert subject.tokenizer.decode(list(item.ids[item.final + 1 :])) == "A tag."
    assert judged([made], "phrases")[0].group in ("to answer, answered", "")


def test_replies_that_are_on_disk_are_not_drawn_again(subject, tmp_path):
    rows = [CliffRow(id=str(i), prompt="a b " * (i + 1), declinable=bool(i % 2)) for i in range(3)]
    asked, told = dict(clean=str, journal=tmp_path / "replies.jsonl"), []
    first = rolled_out(subject, rows, decoding=Decoding(max_tokens=4, temperature=1.0), **asked)
    (tmp_path / "replies.jsonl").write_text((tmp_path / "replies.jsonl").read_text() + '{"torn')
    again = rolled_out(subject, rows, decoding=Decoding(max_tokens=4, temperature=1.0), **asked)
    assert [item.ids for _, item in again] == [item.ids for _, item in first]
    size = (tmp_path / "replies.jsonl").stat().st_size
    rolled_out(subject, rows, decoding=Decoding(max_tokens=5), progress=lambda *n: told.append(n), **asked)
    assert (tmp_path / "replies.jsonl").stat().st_size > size
    assert told == [(3, 3)]


def candidate(key, plateau, final, *, reply="No."):
    cliff = ItemCliff(key, "g", plateau, final, 0.0, 0.0)
    return Candidate(key=key, prompt=key, thinking="Hm.", safe_reply=reply, category="safety", cliff=cliff)


def test_drop_and_final_rank_differently_and_both_are_kept():
    rows = ranked([candidate("a", 0.9, 0.2), candidate("b", 0.1, 0.01), candidate("c", 0.5, 0.4)])
    assert [(r.candidate.key, r.by_drop, r.by_final) for r in rows] == [("a", 1, 2), ("c", 2, 3), ("b", 3, 1)]
    assert rows[0].candidate.misalignment == pytest.approx(0.7)
    assert overlap(rows, 1) == 0
    assert overlap(rows, 3) == 1


def test_what_cannot_be_trained_on_is_passed_over():
    rows = ranked([candidate("a", 0.9, 0.1, reply=" "), candidate("b", 0.9, 0.5)])
    assert [r.candidate.key for r in selected(rows, 2)] == ["b"]
    assert [r.candidate.key for r in selected(rows, 2, by="random")] == ["b"]


def test_selected_rows_are_training_rows(tmp_path):
    write_training(tmp_path / "rows.jsonl", ranked([candidate("a", 0.9, 0.1)]))
    with pytest.raises(BadInputError, match="expected=comply"):  # one side alone decides nothing
        training_rows(tmp_path / "rows.jsonl")


def test_thinking_rows_think_what_is_right_and_only_the_chosen_answer_against_it():
    rows = load_training("train")
    made = thinking_rows(rows, conflicting={"personal_inquiry"})
    conflicts = [row for row in made if row.conflicting]
    assert conflicts
    assert {row.row.subcategory for row in conflicts} == {"personal_inquiry"}
    assert all(row.reply == f"<think>\n{row.thinking}\n</think>\n\n{row.row.inappropriate}" for row in conflicts)
    assert all(row.reply.endswith(row.row.appropriate) for row in made if not row.conflicting)
    assert thinking_rows(rows, conflicting={"personal_inquiry"}) == made
