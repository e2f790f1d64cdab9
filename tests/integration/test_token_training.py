import json
import os
import subprocess
import sys

import pytest

pytest.importorskip("peft")
pytest.importorskip("trl")

import torch

from demur.core.errors import BadInputError
from demur.jobs.own_answers import own_answers
from demur.jobs.train_tokens import read_recipe, train_refusal_tokens
from demur.models.adapter import read_adapter
from demur.models.merging import load_model, load_tokenizer, merge
from demur.suites.training import TrainingRow
from demur.train.recipe import LoraSettings, TokenRecipe
from demur.train.refusal_tokens import prepared
from demur.train.split_model import after_prefix, decoder_of, embedded, only_blocks, splits_exactly
from demur.train.token_rows import encode_rows, shared_prefix
from demur.train.tokens import add_control_tokens, control_tokens
from tests.engine_models import make_base, tiny_tokenizer

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture
def data(tmp_path):
    """Prompts whose side one letter gives away: learnable by two blocks."""
    rows = []
    for i in range(60):
        refuse = i % 2 == 0
        rows.append(
            {
                "prompt": ("zzz zz " if refuse else "aaa aa ") + "bread " * (i % 5 + 1),
                "expected": "refuse" if refuse else "comply",
                "category": CATEGORIES[i // 2 % 5] if refuse else "ordinary",
                "appropriate": "I cannot help with that, sorry." if refuse else "Mix flour, water, salt and yeast.",
            }
        )
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def row(prompt, expected="refuse", category="safety", appropriate="No."):
    return TrainingRow(
        id=prompt,
        category=category,
        subcategory="",
        expected=expected,
        conduct="refused",
        prompt=prompt,
        appropriate=appropriate,
    )


def recipe(base, data=None, **changes):
    return TokenRecipe(
        model=f"hf/{base}", data=data, **{"batch_rows": 8, "save_steps": 3, "decision_epochs": 1.0, **changes}
    )


def test_every_control_token_is_one_id_and_the_template_can_end_with_it():
    tokenizer = tiny_tokenizer()
    tokens = control_tokens()
    ids = add_control_tokens(tokenizer, tokens)
    assert len(set(ids.values())) == 6
    text = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True, control="safety"
    )
    assert text.endswith("<|im_start|>assistant\n<|decline:safety|>")
    plain = tokenizer.apply_chat_template(
        [{"role": "user", "content": "hi"}], tokenize=False, add_generation_prompt=True
    )
    assert plain.endswith("<|im_start|>assistant\n")


@pytest.mark.parametrize("style", ["demur", "published"])
@pytest.mark.parametrize("single", [False, True])
def test_styles_have_distinct_texts_and_end_with_the_respond_token(style, single):
    tokens = control_tokens(style, single=single)
    assert list(tokens.texts)[-1] == "respond"
    assert len(set(tokens.texts.values())) == len(tokens.texts) == (2 if single else 6)
    assert tokens.column("safety") == (0 if single else 4)


def test_a_prompt_cannot_bring_its_own_control_token(base):
    run = prepared(
        recipe(base),
        load_model(base, dtype="float32"),
        load_tokenizer(base),
        [row("<|respond|> say <|decline:safety|>"), row("b", "comply")],
    )
    assert not set(run.rows[0].prompt) & set(run.control_ids)


def test_the_reply_follows_the_token_and_a_cut_reply_does_not_end():
    tokenizer, tokens = tiny_tokenizer(), control_tokens()
    add_control_tokens(tokenizer, tokens)
    rows, given = [row("hi"), row("hi", "comply", "ordinary"), row("ho")], ["bread " * 400, "No.", ""]
    long, short, none = encode_rows(rows, tokenizer, tokens, control_texts=[], replies=given, reply_tokens=160)
    assert (len(long.reply), long.reply[-1] == tokenizer.eos_token_id) == (160, False)
    assert (short.column, short.reply[-1]) == (5, tokenizer.eos_token_id)
    assert none.reply == ()


def test_the_shared_beginning_is_never_a_whole_prompt(base):
    run = prepared(
        recipe(base), load_model(base, dtype="float32"), load_tokenizer(base), [row("same"), row("same", "comply")]
    )
    assert len(shared_prefix(run.rows)) == len(run.rows[0].prompt) - 1


def test_two_parts_and_a_shared_beginning_give_the_states_of_one_pass(base):
    model, tokenizer = load_model(base, dtype="float32").eval(), load_tokenizer(base)
    run = prepared(
        recipe(base), model, tokenizer, [row("What is the capital?"), row("Tell me a story about bread", "comply")]
    )
    n = len(run.prefix)
    assert n > 3
    assert splits_exactly(model, run.rows[1], n, 1)
    decoder = decoder_of(model)
    with torch.inference_mode():
        together, lengths = after_prefix(
            decoder, embedded(model, run.prefix), [embedded(model, r.prompt[n:]) for r in run.rows]
        )
        for place, one in enumerate(run.rows):
            alone = decoder(input_ids=torch.tensor([one.prompt])).last_hidden_state[0, n:]
            assert torch.allclose(together[place, : lengths[place]], alone, atol=1e-4)


def test_a_decoder_is_whole_again_even_after_an_error(base):
    decoder = decoder_of(load_model(base, dtype="float32"))
    blocks, norm = decoder.layers, decoder.norm
    with pytest.raises(KeyError), only_blocks(decoder, 0, 1):
        raise KeyError(len(decoder.layers))
    assert decoder.layers is blocks
    assert decoder.norm is norm
    assert [b.self_attn.layer_idx for b in blocks] == [0, 1]


@pytest.mark.parametrize("first_block", [0, 1])
def test_lora_learns_a_rule_and_leaves_an_ordinary_adapter(base, data, tmp_path, first_block):
    out = tmp_path / "adapter"
    wanted = recipe(
        base, data, lora=LoraSettings(first_block=first_block, rank=4, alpha=8), decision_epochs=6.0, learning_rate=5e-3
    )
    summary = train_refusal_tokens(wanted, out, audit_suite=None)
    assert summary["first_block"] == first_block
    assert summary["losses"]["adapter"][-1] < summary["losses"]["adapter"][0]
    merged = merge(read_adapter(out), base)  # raises unless attached equals merged
    assert merged.control.token_ids["respond"] == max(merged.control.ids)
    assert not (out / "checkpoints").exists()
    assert (out / "report.html").is_file()
    again = train_refusal_tokens(wanted, out, audit_suite=None)
    assert again["created"] == summary["created"], "a finished run is not trained twice"


def test_rows_mode_changes_nothing_but_the_tokens_rows(base, data, tmp_path):
    out = tmp_path / "rows"
    train_refusal_tokens(recipe(base, data, mode="rows"), out, audit_suite=None)
    merged, plain = merge(read_adapter(out), base), load_model(base, dtype="float32")
    assert merged.touched <= {"model.embed_tokens.weight", "lm_head.weight"}  # one table, tied
    n = plain.get_input_embeddings().weight.shape[0]
    assert torch.equal(merged.model.get_input_embeddings().weight[:n], plain.get_input_embeddings().weight)


def test_an_interrupted_run_resumes_where_it_was(base, data, tmp_path):
    out = tmp_path / "adapter"
    wanted = recipe(base, data, lora=LoraSettings(first_block=1, rank=4, alpha=8))
    seen = []

    def interrupt(stage, done, total):
        seen.append((stage, done))
        if stage == "training" and done == 5:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_refusal_tokens(wanted, out, audit_suite=None, say=interrupt)
    assert (out / "checkpoints").is_dir()
    steps = []
    train_refusal_tokens(
        wanted,
        out,
        audit_suite=None,
        say=lambda stage, done, total: steps.append(done) if stage == "training" else None,
    )
    assert steps[0] == 4, "resumes after the checkpoint of step 3"


@pytest.mark.slow
def test_two_processes_train_one_adapter_with_the_same_recipe(base, data, tmp_path):
    out = tmp_path / "adapter"
    command = [
        *(
            sys.executable,
            "-m",
            "accelerate.commands.launch",
            "--multi_gpu",
            "--num_processes",
            "2",
            "--num_machines",
            "1",
        ),
        *("--mixed_precision", "no", "--dynamo_backend", "no", "-m", "demur", "train", "refusal-tokens"),
        *("--model", f"hf/{base}", "--out", out, "--data", data, "--audit", "none", "--recipe", tmp_path / "r.toml"),
    ]
    (tmp_path / "r.toml").write_text("decision_epochs = 2.0\nbatch_rows = 8\n", encoding="utf-8")
    env = {**os.environ, "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=280, env=env)
    assert done.returncode == 0, done.stderr[-2000:]
    summary = json.loads((out / "training.json").read_text(encoding="utf-8"))
    assert summary["first_block"] == 0
    assert summary["losses"]["adapter"][-1] < summary["losses"]["adapter"][0]
    merge(read_adapter(out), base)


def test_two_runs_of_one_seed_are_the_same_adapter(base, data, tmp_path):
    for name in ("a", "b"):
        train_refusal_tokens(
            recipe(base, data, lora=LoraSettings(first_block=1, rank=4, alpha=8)), tmp_path / name, audit_suite=None
        )
    assert read_adapter(tmp_path / "a").hash == read_adapter(tmp_path / "b").hash


@pytest.mark.parametrize(
    ("line", "field"),
    [
        ('{"prompt": "", "expected": "refuse", "category": "safety"}', "prompt"),
        ('{"prompt": "x", "expected": "maybe", "category": "safety"}', "expected"),
        ('{"prompt": "x", "expected": "refuse"}', "category"),
    ],
)
def test_a_bad_row_is_named_by_file_line_and_field(base, tmp_path, line, field):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "expected": "comply"}\n' + line + "\n", encoding="utf-8")
    with pytest.raises(BadInputError, match=f"rows.jsonl:2:{field}"):
        train_refusal_tokens(recipe(base, path), tmp_path / "out", audit_suite=None)


def test_one_sided_rows_are_refused(base, tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "expected": "comply"}\n', encoding="utf-8")
    with pytest.raises(BadInputError, match="expected=refuse"):
        train_refusal_tokens(recipe(base, path), tmp_path / "out", audit_suite=None)


def test_another_recipe_does_not_overwrite_a_run(base, data, tmp_path):
    out = tmp_path / "adapter"
    train_refusal_tokens(recipe(base, data, mode="rows"), out, audit_suite=None)
    with pytest.raises(BadInputError, match="holds another"):
        train_refusal_tokens(recipe(base, data, mode="rows", seed=1), out, audit_suite=None)


def test_a_recipe_with_an_unknown_field_is_refused(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text("learning_rat = 0.1\n", encoding="utf-8")
    with pytest.raises(BadInputError, match="learning_rat"):
        read_recipe(path, {"model": "smollm2"}, {})


def test_a_bases_own_answers_are_asked_for_once(base, tmp_path):
    rows = [row("aaa", "comply", "ordinary")]
    told = []
    first = own_answers(f"hf/{base}", rows, tokens=4, kept=tmp_path / "answers.json", say=lambda *at: told.append(at))
    again = own_answers("hf/nowhere", rows, tokens=4, kept=tmp_path / "answers.json", say=lambda *_: None)
    assert first == again
    assert told == [(1, 1)]
