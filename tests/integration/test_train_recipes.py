"""Recipes run from rows to a folder that opens, on a tiny random model."""

import json

import pytest

pytest.importorskip("peft")
pytest.importorskip("trl")

import torch

from demur.core.errors import BadInputError
from demur.jobs.train_plan import train_plan
from demur.jobs.train_recipe import train_recipe
from demur.models import identity_of, parse_model
from demur.models.merging import load_model
from demur.train.training_recipe import TrainingRecipe
from tests.engine_models import make_base

PROMPTS = ("zzz zz", "aaa aa", "the sea", "a boat", "bread", "story", "capital", "flour")


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMUR_CACHE", str(tmp_path / "cache"))  # speeds of these runs are no speeds of this machine


@pytest.fixture
def rows(tmp_path):
    def written(name, make):
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(make(p)) + "\n" for p in PROMPTS), encoding="utf-8")
        return str(path)

    return written


@pytest.fixture
def plain(rows):
    return rows("plain", lambda p: {"prompt": p, "response": "I cannot help with that."})


@pytest.fixture
def pairs(rows):
    return rows("pairs", lambda p: {"prompt": p, "chosen": "Mix flour.", "rejected": "I cannot help with that."})


def recipe(base, source, method="lora", **changes):
    settings = {"learning_rate": 0.01, "batch_rows": 4, "epochs": 2.0, "warmup": 0.0, **changes.pop("optimiser", {})}
    return TrainingRecipe.model_validate(
        {
            "method": method,
            "model": f"hf/{base}",
            "data": [{"source": source}],
            "adapter": {"rank": 4, "alpha": 8},
            "optimiser": settings,
            "max_tokens": 128,
            "audit": "none",
            "ability": False,
            **changes,
        }
    )


def test_a_run_leaves_an_adapter_that_opens_its_summary_and_its_report(base, plain, tmp_path):
    wanted = recipe(base, plain, gates=["loss.last < 100"])
    summary = train_recipe(wanted, tmp_path / "run")
    assert summary["passed"]
    assert identity_of(parse_model(summary["opens"]))
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()
    assert summary["losses"]["all"][-1] < summary["losses"]["all"][0]
    assert (tmp_path / "run" / "report.html").read_text(encoding="utf-8").count("loss.last &lt; 100") == 1
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_the_same_command_again_trains_nothing_and_another_recipe_is_refused(base, plain, tmp_path):
    first = train_recipe(recipe(base, plain), tmp_path / "run")
    heard = []
    again = train_recipe(recipe(base, plain), tmp_path / "run", say=lambda *what: heard.append(what))
    assert again["losses"] == first["losses"]
    assert not heard
    with pytest.raises(BadInputError, match="holds another"):
        train_recipe(recipe(base, plain, seed=1), tmp_path / "run")


def test_the_seed_decides_everything(base, plain, tmp_path):
    a, b, other = (
        train_recipe(recipe(base, plain, seed=seed), tmp_path / name)["losses"]["all"]
        for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    assert a == b != other


def test_an_interrupted_run_resumes_to_the_same_adapter(base, plain, tmp_path):
    class Stop(Exception):
        pass

    def stop(stage, done, total):
        if stage == "training" and done == 3:
            raise Stop

    wanted = recipe(base, plain, optimiser={"save_steps": 1})
    whole = train_recipe(wanted, tmp_path / "whole")
    with pytest.raises(Stop):
        train_recipe(wanted, tmp_path / "broken", say=stop)
    assert json.loads((tmp_path / "broken" / "steps.jsonl").read_text(encoding="utf-8").splitlines()[0])["key"] == "1"
    resumed = train_recipe(wanted, tmp_path / "broken")
    assert resumed["resumed_at"] > 0
    assert resumed["losses"]["all"] == pytest.approx(whole["losses"]["all"])


def test_a_failed_gate_fails_the_run_and_marks_the_folder(base, plain, tmp_path):
    summary = train_recipe(recipe(base, plain, gates=["loss.last < 0.000001"]), tmp_path / "run")
    assert not summary["passed"]
    assert summary["opens"].endswith("-failed")
    assert (tmp_path / "run" / "adapter-failed").is_dir()
    assert not (tmp_path / "run" / "adapter").exists()
    assert "1 gate failed" in (tmp_path / "run" / "report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("method", ["dpo", "orpo", "kto"])
def test_pairs_are_learnt_by_each_preference_loss(base, pairs, tmp_path, method):
    summary = train_recipe(recipe(base, pairs, method), tmp_path / "run")
    assert len(summary["losses"]["all"]) == 4
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").is_file()


@pytest.mark.parametrize("parts", ["vanilla", "prefix", "rto", "both"])
def test_derta_reads_two_rows_for_each_triple(base, rows, tmp_path, parts):
    source = rows("triples", lambda p: {"prompt": p, "refusal": "s cannot help.", "answer": "Mix flour, water, salt."})
    wanted = recipe(base, source, "derta", derta={"parts": parts, "word": "s"})
    summary = train_recipe(wanted, tmp_path / "run")
    assert summary["plan"]["rows"] == 2 * len(PROMPTS)


def test_a_start_is_trained_first_and_merged(base, plain, pairs, tmp_path):
    first = tmp_path / "first.toml"
    first.write_text(
        f'method = "sft"\naudit = "none"\nability = false\nmax_tokens = 128\n[[data]]\nsource = "{plain}"\n'
        "[optimiser]\nlearning_rate = 1e-3\n",
        encoding="utf-8",
    )
    summary = train_recipe(recipe(base, pairs, "dpo", start=str(first)), tmp_path / "run")
    assert "hf/" in summary["opens"]
    assert "start" in summary["opens"]
    merged = load_model(tmp_path / "run" / "start" / "adapter", dtype="float32")
    before = load_model(base, dtype="float32")
    assert not torch.equal(merged.model.layers[0].mlp.up_proj.weight, before.model.layers[0].mlp.up_proj.weight)


def test_an_adapter_is_put_onto_another_base_of_the_same_shape(base, plain, tmp_path):
    other = make_base(tmp_path / "other", seed=1)
    summary = train_recipe(recipe(base, plain, onto=f"hf/{other}"), tmp_path / "run")
    assert summary["opens"] == f"hf/{tmp_path / 'run' / 'onto'}"
    assert load_model(tmp_path / "run" / "onto", dtype="float32") is not None


def test_a_plan_counts_what_a_run_then_does(base, plain, tmp_path):
    wanted = recipe(base, plain)
    plan = train_plan(wanted, measure=False)
    summary = train_recipe(wanted, tmp_path / "run")
    assert (plan["rows"], plan["steps"]) == (8, len(summary["losses"]["all"]))
    assert (plan["tokens"], plan["trained"]) == (summary["tokens"], summary["n_trained"])
    assert plan["minutes"] is None
    assert train_plan(wanted, measure=False)["minutes"] > 0  # the run's speed was kept


def test_a_model_that_cannot_be_trained_is_refused_before_anything_is_written(plain, tmp_path):
    with pytest.raises(BadInputError, match="expected smollm2, gguf/PATH or hf/ID"):
        train_recipe(recipe("x", plain, model="openai/gpt-4o"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_ends_with_one_where_a_gate_fails(run_cli, base, plain, tmp_path):
    file = tmp_path / "recipe.toml"
    file.write_text(
        f'method = "lora"\nmodel = "hf/{base}"\naudit = "none"\nability = false\nmax_tokens = 128\n'
        'gates = ["loss.last < 0.001"]\n'
        f'[[data]]\nsource = "{plain}"\n',
        encoding="utf-8",
    )
    code, out, _ = run_cli("train", "lora", file, "--out", tmp_path / "run")
    assert (code, "gate FAILED: loss.last < 0.001" in out) == (1, True)
    code, out, _ = run_cli("train", "plan", file, "--no-measure")
    assert (code, "steps" in out) == (0, True)
    code, _, err = run_cli("train", "dpo", "preset:small-lora", "--out", tmp_path / "other")
    assert (code, "expected 'dpo', got 'lora'" in err) == (3, True)
