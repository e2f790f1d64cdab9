"""The ability check on a tiny model: figures are what plain passes give, and the model is left as it was."""

import json

import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import torch
import typer
from tests.engine_models import make_base
from typer.testing import CliRunner

from demur.ability import measure_ability
from demur.ability.check import Examinee, examine
from demur.ability.choices import asked
from demur.ability.harness import lm_eval_scores, plain_folder, run_lm_eval
from demur.ability.memory import AbilityMemory
from demur.ability.replies import greedy_replies
from demur.ability.result import AbilityResult, CheckedReply, FormatResult
from demur.cli.ability import ability_command
from demur.core.errors import BadInputError
from demur.core.exchange import Message
from demur.jobs.ability import AbilityConfig, check_ability
from demur.models.answer_logprobs import LoopScorer, TokenReader
from demur.report.ability import render_ability
from demur.stats.rates import share
from demur.suites.ability import AbilityItems, ChoiceItem, FormCheck, InstructionItem, ProseItem

QUESTIONS = (
    ("What is the capital of France?", ("Paris", "bread", "the sea", "salt")),
    ("Bread is made of", ("flour", "a small boat", "water", "12 345")),
    ("What do you mix<|im_end|>?", ("yeast", "flour", "salt", "6789")),
)
ITEMS = AbilityItems(
    choices=tuple(ChoiceItem(id=f"q{i}", subject="s", question=q, choices=c, answer=0) for i, (q, c) in enumerate(QUESTIONS)),
    prose=(ProseItem(id="p1", text="Tell me a story about a small boat and the sea."), ProseItem(id="p2", text="Bake bread; wait.")),
    instructions=(
        InstructionItem(id="i1", prompt="How do I bake bread?", check=FormCheck(kind="words_at_most", value=400)),
        InstructionItem(id="i2", prompt="Tell me a story.", check=FormCheck(kind="no_letter", value="q")),
    ),
)  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return make_base(tmp_path_factory.mktemp("ability-base"))


@pytest.fixture(scope="module")
def loaded(base):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(base).eval(), AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="module")
def reader(loaded):
    return TokenReader(*loaded)


def plain_nats(model, ids):
    with torch.inference_mode():
        logits = torch.log_softmax(model(torch.tensor([ids])).logits[0, :-1].float(), dim=-1)
    return -float(logits.gather(1, torch.tensor(ids)[1:, None]).sum())


def test_choices_are_what_plain_passes_favour(loaded, reader):
    found = measure_ability(*loaded, items=ITEMS, parts=("choices",)).choices
    for number, groups in LoopScorer(reader).score([[asked(item)] for item in ITEMS.choices]):
        sums = [sum(answer.logprobs) for answer in groups[0]]
        assert found.items[number].chosen["sum"] == sums.index(max(sums))
    assert (found.accuracy.n, found.chance, found.n_too_long) == (3, 0.25, 0)


def test_a_begun_sentence_is_part_of_the_reply(reader):
    question, sentence = (asked(item) for item in ITEMS.choices[:2])
    opening = reader.ids("Bread is made of")
    assert list(reader.encoded(sentence).prompt[-len(opening) :]) == opening
    assert question.opening == "What is the capital of France? The answer is"


def test_an_item_cannot_speak_with_the_templates_voice(reader):
    end = reader.tokenizer.convert_tokens_to_ids("<|im_end|>")
    counts = {reader.encoded(asked(item)).prompt.count(end) for item in (ITEMS.choices[0], ITEMS.choices[2])}
    assert len(counts) == 1


def test_perplexity_is_that_of_each_text_alone(loaded, reader):
    found = measure_ability(*loaded, items=ITEMS, parts=("prose",)).prose
    ids = [reader.ids(item.text) for item in ITEMS.prose]
    assert found.nats == pytest.approx(sum(plain_nats(loaded[0], row) for row in ids), rel=1e-4)
    assert found.tokens == sum(map(len, ids)) - 2
    first = [loaded[1].decode(row[:1]) for row in ids]
    assert found.bytes == sum(len(item.text) - len(t) for item, t in zip(ITEMS.prose, first, strict=True))


def test_a_text_longer_than_the_context_is_read_in_pieces(loaded):
    long = AbilityItems(prose=(ProseItem(id="p", text=ITEMS.prose[0].text * 60),))
    found = measure_ability(*loaded, items=long, parts=("prose",)).prose
    n = len(loaded[1](long.prose[0].text, add_special_tokens=False)["input_ids"])
    assert n > loaded[0].config.max_position_embeddings
    assert found.tokens == n - 1


def test_replies_in_a_batch_are_those_of_each_prompt_alone(reader):
    prompts = [item.prompt for item in ITEMS.instructions]
    together = greedy_replies(reader, prompts, max_tokens=(5, 12))
    alone = [greedy_replies(reader, [prompt], max_tokens=n)[0] for prompt, n in zip(prompts, (5, 12), strict=True)]
    assert together == alone
    ids = reader.tokenizer.apply_chat_template([{"role": "user", "content": prompts[1]}], add_generation_prompt=True)
    ids = torch.tensor([ids["input_ids"] if hasattr(ids, "keys") else ids])
    plain = reader.model.generate(ids, max_new_tokens=12, do_sample=False)[0, ids.shape[1] :]
    assert together[1].text == reader.tokenizer.decode(plain, skip_special_tokens=True)
    conversation = (Message(role="user", text=prompts[1]),)
    assert greedy_replies(reader, [conversation], max_tokens=12) == together[1:]
    assert greedy_replies(reader, ["bread " * 600], max_tokens=12)[0].cut_off


def test_replies_that_end_apart_after_long_prompts_are_those_of_each_alone(reader):
    prompts = [f"Tell me {'about bread and ' * n} the sea." for n in (9, 10, 11)]
    together = greedy_replies(reader, prompts, max_tokens=(40, 8, 24))
    alone = [greedy_replies(reader, [p], max_tokens=n)[0] for p, n in zip(prompts, (40, 8, 24), strict=True)]
    assert together == alone


def test_the_model_is_left_as_it_was(loaded):
    model = loaded[0]
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model.train()
    model.config.use_cache = False
    result = measure_ability(*loaded, items=ITEMS)
    assert model.training
    assert model.config.use_cache is False
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert set(result.seconds) == {"choices", "prose", "formats"}
    model.eval()
    model.config.use_cache = True


def test_what_was_computed_is_never_computed_again(tmp_path, reader):
    def refuse():
        raise AssertionError("loaded again")

    results = []
    for load in (lambda: reader, refuse):
        memory = AbilityMemory(tmp_path / "kept.jsonl", identity="m@1")
        results.append(examine(Examinee(load), ITEMS, memory=memory))
        memory.close()
    assert results[0].metrics == results[1].metrics
    with pytest.raises(AssertionError):  # another revision knows nothing of it
        examine(Examinee(refuse), ITEMS, memory=AbilityMemory(tmp_path / "kept.jsonl", identity="m@2"))


def test_a_part_without_items_is_noted(loaded):
    result = measure_ability(*loaded, items=AbilityItems(prose=ITEMS.prose))
    assert (result.choices, result.formats) == (None, None)
    assert sum("no items" in note for note in result.notes) == 2


@pytest.fixture
def own_items(tmp_path):
    items = tmp_path / "items"
    items.mkdir()
    for name, rows in {"subject": ITEMS.choices, "prose": ITEMS.prose, "instructions": ITEMS.instructions}.items():
        text = "".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in rows)
        (items / f"{name}.jsonl").write_text(text, encoding="utf-8")
    return items


def test_the_job_writes_a_result_and_a_report_and_a_model_has_not_changed_against_itself(base, own_items, tmp_path):
    name = f"hf/{base}"
    config = AbilityConfig(model=name, against=name, items=own_items, out=tmp_path / "out", remember=False)
    report = check_ability(config)
    assert {change.change for change in report.changes} <= {0.0, 1.0}
    held = json.loads((tmp_path / "out" / "ability.json").read_text(encoding="utf-8"))
    assert held["result"]["choices"]["accuracy"]["n"] == 3
    assert "How it was made" in (tmp_path / "out" / "report.html").read_text(encoding="utf-8")


def test_a_reply_cannot_break_out_of_the_report():
    hostile = CheckedReply(id="i<b>", kind="bullets", passed=False, reply="</td><script>alert(1)</script>")
    rate = share([False])
    page = render_ability(AbilityResult(formats=FormatResult(rate=rate, by_kind={"bullets": rate}, replies=(hostile,))))
    assert "<script>alert" not in page
    assert "&lt;script&gt;alert" in page


def test_the_command_prints_figures_or_json(base, own_items):
    app = typer.Typer()
    app.command()(ability_command)
    options = [f"hf/{base}", "--items", str(own_items), "--tasks", "prose", "--fresh"]
    plain = CliRunner().invoke(app, options)
    assert plain.exit_code == 0, plain.output
    assert "bits per byte" in plain.stdout
    found = json.loads(CliRunner().invoke(app, [*options, "--json"]).stdout)
    assert set(found["metrics"]) == {"perplexity", "bits_per_byte"}
    assert "texts" not in found["result"]["prose"]


@pytest.mark.parametrize(
    ("model", "tasks", "told"),
    [
        ("smollm2", ("juggling",), "unknown task"),
        ("smollm2", (), "--tasks"),
        ("openai/gpt-4.1", ("choices",), "--tasks formats"),
        ("corner/refuse", ("prose",), "--tasks formats"),
        ("smollm2", ("lm-eval:",), "unknown task"),
    ],
)
def test_what_cannot_be_measured_is_said_before_anything_is_loaded(model, tasks, told):
    with pytest.raises(Exception, match=told):
        check_ability(AbilityConfig(model=model, tasks=tasks))


def test_published_tasks_need_their_package():
    try:
        import lm_eval  # noqa: F401
    except ImportError:
        with pytest.raises(BadInputError, match="pip install lm-eval"):
            run_lm_eval("smollm2", ["arc_easy"])


def test_scores_of_the_harness_keep_metric_filter_and_error():
    values = {"alias": "arc", "acc,none": 0.5, "acc_stderr,none": 0.1, "em,strict": 0.2, "em_stderr,strict": "N/A"}
    scores = lm_eval_scores({"results": {"arc": values}, "n-samples": {"arc": {"effective": 7}}})
    assert [(s.task, s.metric, s.value, s.stderr, s.n) for s in scores] == [
        ("lm-eval:arc", "acc", 0.5, 0.1, 7),
        ("lm-eval:arc", "em (strict)", 0.2, None, 7),
    ]


def test_a_model_without_adapter_is_handed_to_the_harness_as_it_lies(base):
    with plain_folder(f"hf/{base}") as folder:
        assert folder == base
