"""`demur export` and the factory: one model under every name and engine, and nothing overwritten by mistake."""

import asyncio
import json
import shutil

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

from demur.cli.export import export_command
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.signal import scores_from_probabilities
from demur.jobs.export import ExportConfig, export
from demur.models.controlled import controlled_model
from demur.models.controlled_llamacpp import LlamaCppControlled
from demur.models.controlled_transformers import TransformersControlled
from demur.models.embedded import file_hash
from demur.models.gguf_header import read_header
from tests.engine_models import ask, make_adapter, workshop


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A GGUF base with an adapter trained on it, and a cache of its own."""
    shop, root = workshop(), tmp_path_factory.mktemp("export")
    base = shutil.copy(shop.ggufs[True], root / "base.gguf")
    make_adapter(shop.bases[True], root / "tokens", name=f"gguf/{base}", revision=file_hash(base))
    return root


@pytest.fixture(autouse=True)
def _own_cache(home, monkeypatch):
    monkeypatch.setenv("DEMUR_CACHE", str(home / "cache"))


@pytest.fixture
def name(home):
    return f"gguf/{home}/base.gguf+{home}/tokens"


@pytest.fixture
def command():
    app = typer.Typer()
    app.command()(export_command)

    def call(*args):
        return CliRunner().invoke(app, [*map(str, args)], catch_exceptions=False)

    return call


def scores(model):
    async def read():
        found = await model.score([ask("hello"), ask("What is the capital?")])
        await model.close()
        return found

    return asyncio.run(read())


def test_one_model_is_the_same_under_every_name_and_engine(home, name, tmp_path):
    export(ExportConfig(model=name, gguf=tmp_path / "t.gguf", quant="f32"))
    export(ExportConfig(model=name, merged=tmp_path / "m"))
    models = [
        controlled_model(name, engine="transformers"),
        controlled_model(name),
        controlled_model(f"gguf/{tmp_path}/t.gguf"),
        controlled_model(f"hf/{tmp_path}/m"),
    ]
    kinds = [TransformersControlled, LlamaCppControlled, LlamaCppControlled, TransformersControlled]
    assert [type(m) for m in models] == kinds
    assert len({m.identity for m in models}) == 1
    assert len({json.dumps(m.token_ids) for m in models}) == 1
    assert {(m.signal, m.text_follows) for m in models} == {("refusal-tokens", "token")}
    assert [m.name for m in models[:2]] == [f"gguf/{home}/base.gguf"] * 2
    reference, *others = [scores(model).p() for model in models]
    for found, off in zip(others, (0.03, 1e-3, 1e-4), strict=True):
        assert np.abs(found - reference).max() < off


def test_the_cached_file_is_made_once(name):
    first = controlled_model(name).path
    made = first.stat().st_mtime_ns
    assert controlled_model(name).path == first
    assert first.stat().st_mtime_ns == made
    assert not [p for p in first.parent.iterdir() if "partial" in p.name]


def test_what_was_measured_after_the_file_was_cached_counts(home, name):
    assert controlled_model(name).text_follows == "token"
    path = home / "tokens" / "demur_tokens.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps({**record, "follows": 0.4}))
    try:
        assert controlled_model(name).text_follows == "nothing"
    finally:
        path.write_text(json.dumps(record))


def test_the_command_says_what_it_wrote_and_how_to_serve_it(command, name, tmp_path):
    done = command(name, "--gguf", tmp_path / "t.gguf")
    assert done.exit_code == 0
    assert f"demur serve gguf/{tmp_path}/t.gguf" in done.stdout
    assert read_header(tmp_path / "t.gguf").control.identity in done.stdout
    found = json.loads(command(name, "--merged", tmp_path / "m", "--json").stdout)
    assert (found["kind"], found["dtype"], found["mode"]) == ("merged", "float32", "lora")
    assert found["logit_difference"] < 1e-4
    assert (tmp_path / "m" / "tokenizer.json").is_file()
    assert found["bytes"] > 100_000


def test_nothing_is_overwritten_unless_forced(name, tmp_path):
    config = ExportConfig(model=name, gguf=tmp_path / "t.gguf")
    export(config)
    with pytest.raises(BadInputError, match="--force"):
        export(config)
    export(config.model_copy(update={"force": True}))
    folder = ExportConfig(model=name, merged=tmp_path / "m")
    export(folder)
    with pytest.raises(BadInputError, match="--force"):
        export(folder)
    export(folder.model_copy(update={"force": True}))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m", "t.gguf"]


def test_what_no_export_wrote_is_never_replaced(home, name, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    for target in (
        {"merged": tmp_path / "mine"},
        {"gguf": tmp_path / "mine"},
        {"merged": home / "tokens"},
        {"gguf": home / "base.gguf"},
    ):
        with pytest.raises(BadInputError, match="choose another"):
            export(ExportConfig(model=name, force=True, **target))
    assert (tmp_path / "mine" / "thesis.txt").read_text() == "years of work"


def test_an_export_that_fails_leaves_nothing(home, name, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BadInputError):
        export(ExportConfig(model=name, gguf=tmp_path / "file" / "t.gguf"))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({}, "one of --gguf FILE and --merged DIR"),
        ({"gguf": "a", "merged": "b"}, "one of --gguf FILE and --merged DIR"),
        ({"gguf": "a", "model": "smollm2"}, r"expected BASE\+ADAPTER"),
        ({"gguf": "a", "model": "smollm2+nowhere"}, "adapter's folder, found none"),
        ({"gguf": "a", "model": "hf/x+nowhere"}, "write --merged"),
        ({"gguf": "a", "model": "gguf/nowhere.gguf+x"}, "found none"),
    ],
)
def test_what_cannot_be_exported_is_refused_before_anything_is_loaded(name, tmp_path, config, complaint):
    paths = {key: tmp_path / value for key, value in config.items() if key != "model"}
    with pytest.raises(BadInputError, match=complaint):
        export(ExportConfig(model=config.get("model", name), **paths))


@pytest.mark.parametrize(
    ("model", "engine", "complaint"),
    [
        ("openai/gpt-4.1", "auto", "expected control tokens, found none"),
        ("gguf/{home}/base.gguf", "auto", "expected control tokens, found none"),
        ("smollm2+{home}/tokens", "auto", "was trained on gguf/"),
        ("smollm2+{home}", "auto", "expected demur_tokens.json"),
        ("hf/{base}+{home}/tokens", "llamacpp", "was trained on gguf/"),
    ],
)
def test_what_cannot_be_controlled_says_why(home, model, engine, complaint):
    with pytest.raises(BadInputError, match=complaint):
        controlled_model(model.format(home=home, base=workshop().bases[True]), engine=engine)


def test_an_unknown_name_is_refused():
    with pytest.raises(UnknownNameError):
        controlled_model("smolm2")


class HalfSure:
    name, identity, categories = "guess", "guess@1", ("safety",)

    async def score(self, requests):
        return scores_from_probabilities(self.categories, np.full((len(requests), 1), 0.5))


def test_any_model_can_be_controlled_by_a_signal_of_its_own(home):
    for name in (f"gguf/{home}/base.gguf", f"hf/{workshop().bases[True]}"):
        model = controlled_model(name, signal=HalfSure())
        assert (model.signal, model.identity, model.token_ids) == ("guess", "guess@1", {})
        assert scores(model).p_any.tolist() == [0.5, 0.5]
    far = controlled_model("openai/gpt-4.1", signal=HalfSure(), upstream="http://127.0.0.1:9")
    assert (far.signal, far.identity, far.text_follows) == ("guess", "guess@1", "nothing")


def test_an_upstream_gets_the_tokens_of_the_adapter_and_the_key_of_the_environment(name, monkeypatch):
    monkeypatch.setenv("DEMUR_UPSTREAM_KEY", "sk-1")
    model = controlled_model(name, upstream="http://127.0.0.1:9")
    assert model.token_ids["respond"] == 405
    assert model.address.key == "sk-1"
    assert model.identity == controlled_model(name).identity
    with pytest.raises(BadInputError, match="http://host:8000/v1"):
        controlled_model(name, upstream="localhost")
