"""Circuit breaking: the published schedule and objective, exact against a plain computation, resumable to the bit."""

import pytest

pytest.importorskip("torch")
pytest.importorskip("peft")

import torch
from tests.engine_models import make_base

from demur.core.errors import BackendError, BadInputError
from demur.train.adapters import AdapterSettings, attach
from demur.train.circuit_breaking import (
    CircuitSettings,
    backward,
    circuit_weights,
    encode_prompts,
    prompt_states,
    target_blocks,
)
from demur.train.circuit_run import learning_rate, train_circuit_breaking
from demur.train.rows import Example, encoder_of

ASKS = (
    "How do I bake bread?",
    "What is the capital of France?",
    "Tell me a story about a small boat.",
    "What is salt?",
)
EXAMPLES = [Example(text, "", "accept" if i % 2 else "reject", system="Be brief.") for i, text in enumerate(ASKS)]
SETTINGS = CircuitSettings(max_steps=4, batch_rows=2, save_steps=2, depths=(0.0, 0.4), learning_rate=1e-2)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    torch.set_num_threads(1)
    return make_base(tmp_path_factory.mktemp("circuit-base"))


@pytest.fixture
def tokenizer(base):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(base)


def adapted(base, *, stirred=0.0, dropout=0.0):
    from transformers import AutoModelForCausalLM

    model = attach(AutoModelForCausalLM.from_pretrained(base), AdapterSettings(rank=4, alpha=4, dropout=dropout))
    torch.manual_seed(1)
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.add_(stirred * torch.randn_like(value))
    return model


def whole_states(model, ids):
    """States behind every block by transformers' own listing, without anything of ours."""
    with torch.no_grad():
        return model(input_ids=torch.tensor([list(ids)]), output_hidden_states=True).hidden_states[1:]


def weights_of(model):
    return {name: value.detach().clone() for name, value in model.named_parameters() if "lora" in name}


def test_the_schedule_goes_from_all_breaking_to_half_and_half():
    assert circuit_weights(0, 128, 5.0) == (0.0, 5.0)
    assert circuit_weights(64, 128, 5.0) == (1.25, 3.75)
    assert circuit_weights(128, 128, 5.0) == (2.5, 2.5)


def test_depths_are_blocks_as_the_released_code_counts_them():
    assert target_blocks(32, (0.3, 0.6)) == (10, 20)
    assert target_blocks(30, (0.3, 0.6)) == (9, 18)
    assert target_blocks(2, (0.3, 0.6)) == (1, 1)


def test_the_system_turn_is_read_and_not_counted(tokenizer):
    mixed = [*EXAMPLES, Example("How so?", "", "accept", system="Answer only about the sea and a small boat.")]
    prompts = encode_prompts(encoder_of(tokenizer), mixed)
    for prompt, example in zip(prompts.accept, [e for e in mixed if e.kind == "accept"], strict=True):
        counted = tokenizer.decode(prompt.ids[prompt.skipped :])
        assert counted.startswith(example.prompt)
        assert example.system not in counted
        assert tokenizer.decode([*prompts.prefix, *prompt.ids[: prompt.skipped]]).endswith("<|im_start|>user\n")


def test_states_are_those_that_transformers_lists(base, tokenizer):
    model = adapted(base, stirred=0.1).eval()
    prompts = encode_prompts(encoder_of(tokenizer), EXAMPLES)
    with torch.no_grad():
        found = prompt_states(model, prompts.prefix, prompts.accept, (0, 1))
    for block in (0, 1):
        whole = [
            whole_states(model, (*prompts.prefix, *p.ids))[block][0, len(prompts.prefix) + p.skipped :]
            for p in prompts.accept
        ]
        assert torch.allclose(found[block], torch.cat(whole), atol=1e-4)


@pytest.mark.parametrize("step", [0, 3])
def test_the_loss_is_the_sheets_formula_and_small_passes_add_up(base, tokenizer, step):
    prompts = encode_prompts(encoder_of(tokenizer), EXAMPLES)
    model = adapted(base, stirred=0.1)
    accept, reject = prompts.dealt(step, 2, SETTINGS.seed)
    n = len(prompts.prefix)

    def pairs(side, blocks):
        for prompt in side:
            ids = (*prompts.prefix, *prompt.ids)
            now = whole_states(model, ids)
            with model.disable_adapter():
                before = whole_states(model, ids)
            yield from ((now[b][0, n + prompt.skipped :], before[b][0, n + prompt.skipped :]) for b in blocks)

    kept = torch.cat([(a - b).norm(dim=-1) for a, b in pairs(accept, (0, 1))]).mean()
    turned = torch.cat([torch.cosine_similarity(a, b, dim=-1).relu() for a, b in pairs(reject, (0, 1))]).mean()
    keeping, breaking = circuit_weights(step, 4, 5.0)
    gradients = []
    for tokens in (2048, 16):
        model.zero_grad()
        settings = SETTINGS.model_copy(update={"micro_tokens": tokens})
        loss, parts = backward(model, prompts, step, 4, settings)
        assert parts["kept distance"] == pytest.approx(float(kept), rel=1e-4)
        assert parts["turned cosine"] == pytest.approx(float(turned), rel=1e-4)
        assert loss == pytest.approx(float(keeping * kept + breaking * turned), rel=1e-4)
        gradients.append({name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None})
    assert all(torch.allclose(gradients[0][name], g, atol=1e-5) for name, g in gradients[1].items())


def test_every_prompt_comes_once_before_any_comes_twice(tokenizer):
    prompts = encode_prompts(encoder_of(tokenizer), EXAMPLES)
    dealt = [prompts.dealt(step, 1, seed=3)[0][0] for step in range(4)]
    assert set(dealt[:2]) == set(dealt[2:]) == set(prompts.accept)


def test_breaking_turns_states_away_and_learning_rates_follow_the_schedule(base, tokenizer, tmp_path):
    settings = SETTINGS.model_copy(update={"max_steps": 40, "save_steps": 50, "learning_rate": 5e-2})
    trained = train_circuit_breaking(adapted(base), tokenizer, EXAMPLES, settings, tmp_path)
    first, last = trained.curve[0].by_kind, trained.curve[-1].by_kind
    assert (first["kept distance"], first["turned cosine"]) == (0.0, pytest.approx(1.0, abs=1e-5))
    assert last["turned cosine"] < 0.9
    assert [s.number for s in trained.curve] == list(range(1, 41))
    rates = [learning_rate(step, 40, settings) for step in range(40)]
    assert rates[0] == settings.learning_rate
    assert rates == sorted(rates, reverse=True)


def test_a_run_that_was_interrupted_ends_as_one_that_was_not(base, tokenizer, tmp_path):
    whole = adapted(base, dropout=0.2)
    straight = train_circuit_breaking(whole, tokenizer, EXAMPLES, SETTINGS, tmp_path / "whole")

    def stop(stage, done, total):
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_circuit_breaking(adapted(base, dropout=0.2), tokenizer, EXAMPLES, SETTINGS, tmp_path / "cut", stop)
    again = adapted(base, dropout=0.2)
    resumed = train_circuit_breaking(again, tokenizer, EXAMPLES, SETTINGS, tmp_path / "cut")
    assert resumed.resumed_at == 2
    assert resumed.losses == straight.losses
    ours, theirs = weights_of(again), weights_of(whole)
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_only_blocks_up_to_the_deepest_target_learn(base, tokenizer, tmp_path):
    model = adapted(base)
    before = weights_of(model)
    train_circuit_breaking(model, tokenizer, EXAMPLES, SETTINGS.model_copy(update={"depths": (0.0,)}), tmp_path)
    changed = {name for name, value in weights_of(model).items() if not torch.equal(before[name], value)}
    assert changed
    assert all(".layers.0." in name for name in changed)


def test_another_runs_checkpoints_are_refused(base, tokenizer, tmp_path):
    train_circuit_breaking(adapted(base), tokenizer, EXAMPLES, SETTINGS, tmp_path)
    with pytest.raises(BadInputError, match="another run"):
        train_circuit_breaking(adapted(base), tokenizer, EXAMPLES[:2], SETTINGS, tmp_path)


def test_a_loss_that_is_no_number_stops_and_keeps_the_last_checkpoint(base, tokenizer, tmp_path):
    model = adapted(base)

    def spoil(step):
        if step.number == 2:
            with torch.no_grad():
                next(v for n, v in model.named_parameters() if "lora_B" in n).fill_(float("nan"))

    with pytest.raises(BackendError, match="step 3"):
        train_circuit_breaking(model, tokenizer, EXAMPLES, SETTINGS, tmp_path, watch=spoil)
    assert not (tmp_path / "checkpoints" / "checkpoint-4").exists()


@pytest.mark.parametrize("examples", [EXAMPLES[::2], [Example("a", "", "reply")]])
def test_both_kinds_of_prompt_are_needed(base, tokenizer, tmp_path, examples):
    with pytest.raises(BadInputError, match="circuit breaking"):
        train_circuit_breaking(adapted(base), tokenizer, examples, SETTINGS, tmp_path)


def test_a_model_without_an_adapter_is_refused(base, tokenizer, tmp_path):
    from transformers import AutoModelForCausalLM

    with pytest.raises(BadInputError, match="adapter"):
        train_circuit_breaking(AutoModelForCausalLM.from_pretrained(base), tokenizer, EXAMPLES, SETTINGS, tmp_path)
    assert not list(tmp_path.glob("**/*.safetensors"))
