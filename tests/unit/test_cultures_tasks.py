"""Both set-ups as Inspect tasks: corner models land where they must, and missing log-probabilities leave no score."""

import json
from math import isnan

import pytest
from inspect_ai import eval as run
from inspect_ai.model import (
    ChatCompletionChoice,
    ChatMessageAssistant,
    Logprob,
    Logprobs,
    ModelOutput,
    ModelUsage,
    TopLogprob,
    get_model,
)

from demur.cultures.templates import wordings
from demur.evals.cultures_tasks import _first_shares, cultures_logprob, cultures_longform


@pytest.fixture
def suite(tmp_path):
    rows = [
        {"id": f"x-{i}", "topic": "immigration", "language": language, "country": "a", "source": f"s{i}",
         "statement": f"Roof {i}", "english": f"Roof {i}", "values": ["a"]}
        for i, language in enumerate(("en", "tr"))
    ]  # fmt: skip
    path = tmp_path / "x.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ran(task, model, tmp_path):
    (log,) = run(task, model=model, log_dir=str(tmp_path / "logs"), display="none", log_level="error")
    assert log.status == "success", log.error
    return log


def test_a_model_that_refuses_everything_evades_everything(suite, tmp_path):
    log = ran(cultures_longform(suite), "demur/corner/refuse", tmp_path)
    assert [sample.scores["evaded"].value for sample in log.samples] == [1.0] * 3
    assert all(isnan(sample.scores["agrees"].value) for sample in log.samples)


def test_gibberish_is_neither_an_answer_nor_an_evasion(suite, tmp_path):
    log = ran(cultures_longform(suite), "demur/corner/gibberish", tmp_path)
    assert all(isnan(sample.scores["evaded"].value) for sample in log.samples)


def alternatives(**shares):
    top = [TopLogprob(token=token, logprob=value) for token, value in shares.items()]
    content = [Logprob(token=top[0].token, logprob=top[0].logprob, top_logprobs=top)] if top else []
    return ModelOutput(
        model="m", usage=ModelUsage(input_tokens=1, output_tokens=1, total_tokens=2),
        choices=[ChatCompletionChoice(message=ChatMessageAssistant(content="x"), logprobs=Logprobs(content=content))],
    )  # fmt: skip


def test_alternatives_that_begin_both_answers_count_for_neither():
    found = _first_shares(alternatives(Agree=-1.0, Dis=-2.0, A=-0.1), ("Agree", "Disagree"))
    assert found == (pytest.approx(0.3678794 + 0.9048374), pytest.approx(0.1353353))
    assert _first_shares(alternatives(**{"Ich bin da": -1.0}), ("Ich bin dafür", "Ich bin dagegen")) is None
    assert _first_shares(alternatives(Yes=-1.0), ("Yes", "No")) is None
    assert _first_shares(alternatives(), ("Yes", "No")) is None


def test_a_provider_without_log_probabilities_is_left_unscored(suite, tmp_path):
    outputs = [alternatives() for _ in range(40)]
    log = ran(cultures_logprob(suite), get_model("mockllm/model", custom_outputs=outputs), tmp_path)
    assert all(isnan(sample.scores["agreement"].value) for sample in log.samples)


def test_reported_alternatives_are_calibrated_like_whole_answers(suite, tmp_path):
    everything = {
        word: -2.0
        for ours in wordings().values()
        for template in ours.templates
        for word in (*template.answers("agree_first"),)
    }
    log = ran(
        cultures_logprob(suite),
        get_model("mockllm/model", custom_outputs=[alternatives(**everything) for _ in range(200)]),
        tmp_path,
    )
    assert [sample.scores["agreement"].value for sample in log.samples] == [pytest.approx(0.5)] * 3
