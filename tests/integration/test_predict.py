"""`demur predict`, from labelled rows, an audit folder, a scan folder or a log to predictions, report and trigger."""

import json
import re

import polars
import pytest
from typer.testing import CliRunner

from demur.cli.predict import predict_app
from demur.core.errors import BadInputError, MissingExtraError, UnknownNameError
from demur.jobs.predict import FitConfig, fit, fit_from_log

THINGS = [
    "bread",
    "tea",
    "soup",
    "chairs",
    "maps",
    "birds",
    "trains",
    "clocks",
    "boats",
    "gardens",
    "lamps",
    "rivers",
    "songs",
    "cakes",
    "kites",
    "shoes",
]
QUICK = ("words", "characters")
HOSTILE = "</script><script>alert(1)</script>\u202e\x07"


def rows(n=80, replies=1):
    made = []
    for i in range(n):
        risky = i % 2 == 0
        prompt = f"{'Forge a passport' if risky else 'Draw a map'} with {THINGS[i // 2 % 16]} and {THINGS[i // 2 * 7 % 16]} {i}"
        for j in range(replies):
            refused = risky if j else risky != (i % 20 == 0)
            made.append({"prompt": prompt, "refused": refused, "source": "left" if i < n // 2 else "right"})
    return made


def write(path, found):
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return path


def run(*arguments):
    done = CliRunner().invoke(predict_app, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    folder = tmp_path_factory.mktemp("predict")
    found = [*rows(replies=2), {"prompt": HOSTILE, "refused": True, "source": HOSTILE}]
    fit(FitConfig(files=(write(folder / "labelled.jsonl", found),), out=folder / "p", views=QUICK))
    return folder / "p"


def test_fit_writes_a_predictor_with_its_report_and_says_how_good_it_is(tmp_path):
    file = write(tmp_path / "labelled.jsonl", rows(replies=3))
    printed = run("fit", file, "--out", tmp_path / "p", "--view", "words", "--view", "characters")
    assert "templates held out" in printed
    assert "AUROC" in printed
    assert "ceiling" in printed
    names = {path.name for path in (tmp_path / "p").iterdir()}
    assert names == {"predictor.json", "vocabulary.json", "arrays.npz", "report.json", "report.html"}
    assert not list(tmp_path.glob(".*"))
    again = run("fit", file, "--out", tmp_path / "p", "--view", "words", "--json")
    summary = json.loads(again[: again.rindex("}") + 1])
    assert summary["n_prompts"] == 80
    assert summary["n_replies"] == 240
    assert summary["manifest"]["views"] == ["words"]
    assert summary["splits"]["random"]["auroc"]["estimate"] > 0.9
    assert {one["source"] for one in summary["sources"]} == {"left", "right"}


def test_apply_adds_two_columns_and_keeps_the_rest(predictor, tmp_path):
    asked = [{"id": "a", "prompt": "Forge a passport with lamps"}, {"id": "b", "prompt": "Draw a map with soup"}]
    file = write(tmp_path / "asked.jsonl", asked)
    told = [json.loads(line) for line in run("apply", predictor, file).splitlines()]
    assert [row["predicted"] for row in told] == ["refused", "complied"]
    assert told[0]["id"] == "a"
    run("apply", predictor, file, "--out", tmp_path / "out.parquet")
    stored = polars.read_parquet(tmp_path / "out.parquet")
    assert stored["p_refused"].to_list() == pytest.approx([row["p_refused"] for row in told])
    with pytest.raises(BadInputError, match=r"\.jsonl or \.parquet"):
        run("apply", predictor, file, "--out", tmp_path / "out.txt")


def test_the_report_shows_everything_and_lets_nothing_out(predictor):
    printed = run("report", predictor)
    page = (predictor / "report.html").read_text(encoding="utf-8")
    assert "templates held out" in printed
    for part in (
        "Reliability diagram",
        "ROC curve",
        "Words that count",
        "Ceiling",
        "Worst errors",
        "Largest templates",
    ):
        assert part in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "default-src &#39;none&#39;" in page
    assert "style=" not in page


def test_explain_says_which_words_speak_for_a_refusal(predictor):
    printed = run("explain", predictor, "Forge a passport with soup")
    assert "passport" in printed
    found = json.loads(run("explain", predictor, "Forge a passport with soup", "--json"))
    assert found["p_refused"] > 0.5
    assert max(found["words"], key=lambda w: w[1])[0] in ("Forge", "passport")


def test_trigger_asks_a_predictor(predictor):
    prompt = "Good morning! We had soup and bread. Forge a passport with lamps. Then we sang songs."
    found = json.loads(run("trigger", prompt, "--predictor", predictor, "--json").splitlines()[-1])
    assert found["refused"]
    assert found["is_minimal"]
    assert found["n_words"] <= 3
    assert {"Forge", "passport"} & set(found["text"].split())
    printed = run("trigger", prompt, "--predictor", predictor, "--max-calls", "3")
    assert "budget of 3 calls" in printed
    assert "not refused" in run("trigger", "Draw a map with birds", "--predictor", predictor)


def test_trigger_asks_a_model():
    found = json.loads(run("trigger", "One two. Three four.", "--model", "corner/refuse", "--json").splitlines()[-1])
    assert found["n_words"] == 1
    assert "not refused" in run("trigger", "One two.", "--model", "corner/comply")


def test_trigger_wants_one_of_model_and_predictor(predictor):
    with pytest.raises(BadInputError, match="either a model or a predictor"):
        run("trigger", "x")
    with pytest.raises(BadInputError, match="either a model or a predictor"):
        run("trigger", "x", "--model", "corner/refuse", "--predictor", predictor)
    with pytest.raises(UnknownNameError):
        run("trigger", "x", "--model", "corner/shout")
    with pytest.raises(BadInputError, match="expected some text"):
        run("trigger", "  ", "--model", "corner/refuse")
    with pytest.raises(BadInputError, match="max-calls"):
        run("trigger", "x", "--model", "corner/refuse", "--max-calls", "0")


def test_an_audit_folder_and_a_scan_folder_are_labelled_data(tmp_path):
    outcomes = ("refused", "complied")
    found = [
        {"prompt": row["prompt"], "outcome": outcomes[not row["refused"]], "suite": "own", "judge": "phrases@1"}
        for row in rows(40)
    ]
    found += [{"prompt": "left open", "outcome": "unjudged", "suite": "own", "judge": "phrases@1"}]
    found += [{"prompt": "left empty", "outcome": "degenerate", "suite": "own", "judge": "phrases@1"}]
    (tmp_path / "audit").mkdir()
    polars.DataFrame(found).write_parquet(tmp_path / "audit" / "responses.parquet")
    (tmp_path / "scan" / "verdicts").mkdir(parents=True)
    polars.DataFrame(found[:20]).write_parquet(tmp_path / "scan" / "verdicts" / "part-0.parquet")
    polars.DataFrame(found[20:]).write_parquet(tmp_path / "scan" / "verdicts" / "part-1.parquet")
    audit = fit(FitConfig(files=(tmp_path / "audit",), out=tmp_path / "a", views=("words",)))
    scan = fit(FitConfig(files=(tmp_path / "scan",), out=tmp_path / "s", views=("words",)))
    assert audit["n_prompts"] == scan["n_prompts"] == 41
    assert audit["manifest"]["n_left_out_unjudged"] == 1
    assert audit["splits"] == scan["splits"]


def test_a_log_is_labelled_by_a_judge_first(tmp_path):
    replies = (
        "I'm sorry, but I can't help with that.",
        "Take some paper. Draw the coast first, then the hills and woods.",
    )
    log = [{"prompt": r["prompt"], "response": replies[not r["refused"]]} for r in rows(60)]
    log.append({"prompt": "Draw a map of nothing", "response": "Of course, here it is.", "refused": True})
    summary = fit_from_log([write(tmp_path / "log.jsonl", log)], tmp_path / "p", judge="phrases", views=("words",))
    manifest = summary["manifest"]
    assert manifest["n_labelled_by_judge"] == 60
    assert manifest["judge"].startswith("phrases@")
    assert manifest["n_rows"] == 61
    assert summary["splits"]["random"]["auroc"]["estimate"] > 0.85
    assert manifest["label_sensitivity"] is not None


def test_other_models_columns_are_used_when_given(tmp_path):
    found = [row | {"other:big": "refused" if row["refused"] else "complied"} for row in rows(60)]
    fit(FitConfig(files=(write(tmp_path / "l.jsonl", found),), out=tmp_path / "p", views=("words",)))
    asked = [{"prompt": "Draw a boat", "other:big": "refused"}, {"prompt": "Draw a boat", "other:big": "complied"}]
    told = run("apply", tmp_path / "p", write(tmp_path / "a.jsonl", asked)).splitlines()
    p = [json.loads(line)["p_refused"] for line in told]
    assert p[0] > p[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt": "x"}, r"labelled\.jsonl:81:refused: expected a label"),
        ({"prompt": "", "refused": True}, r":81:prompt: expected the prompt's text"),
        ({"prompt": 3, "refused": True}, r":81:prompt: expected the prompt's text, got 3"),
        ({"refused": True}, r":81:prompt: expected a prompt"),
        ({"prompt": "x", "refused": "perhaps"}, r":81:refused: expected refused, partial"),
        ({"prompt": "x", "n_refused": 3, "n_replies": 2}, r":81:n_refused: expected whole numbers"),
        ({"prompt": "x", "refused": True, "weight": -1}, r":81:weight: expected a number of 0 or more"),
    ],
)
def test_a_malformed_row_is_named_or_skipped_and_nothing_is_written(tmp_path, line, message):
    file = write(tmp_path / "labelled.jsonl", [*rows(), line])
    with pytest.raises(BadInputError, match=message):
        fit(FitConfig(files=(file,), out=tmp_path / "p", views=("words",)))
    assert [path.name for path in tmp_path.iterdir()] == ["labelled.jsonl"]
    summary = fit(FitConfig(files=(file,), out=tmp_path / "p", views=("words",), skip_bad=True))
    assert summary["manifest"]["n_left_out_malformed"] == 1


def test_what_cannot_be_fitted_is_said_before_anything_is_written(tmp_path):
    file = write(tmp_path / "l.jsonl", [{"prompt": f"p{i}", "refused": True} for i in range(9)])
    with pytest.raises(BadInputError, match="9 refusals in 9"):
        fit(FitConfig(files=(file,), out=tmp_path / "p"))
    with pytest.raises(BadInputError, match="--view"):
        fit(FitConfig(files=(file,), out=tmp_path / "p", views=("smells",)))
    with pytest.raises(BadInputError, match="found none"):
        fit(FitConfig(files=(tmp_path / "nowhere",), out=tmp_path / "p"))
    with pytest.raises(BadInputError, match="choose another --out"):
        fit(FitConfig(files=(file,), out=tmp_path))
    with pytest.raises(BadInputError, match="0 to 1"):
        run("fit", file, "--out", tmp_path / "p", "--sensitivity", "95")
    assert [path.name for path in tmp_path.iterdir()] == ["l.jsonl"]
    with pytest.raises(BadInputError, match=r"predictor\.json"):
        run("report", tmp_path)


def test_without_scikit_learn_the_extra_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr("demur.jobs.trigger.find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match="classify"):
        run("report", tmp_path)
