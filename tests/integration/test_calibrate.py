"""`demur calibrate` and `demur policy`, from labelled prompts to a policy file and its report."""

import json
import re

import numpy as np
import pytest
from typer.testing import CliRunner

from demur.cli.calibrate import calibrate_command, policy_app
from demur.control.coverage import synthetic_population
from demur.control.curve import rates_by_category
from demur.control.decision import decide
from demur.control.policy_file import load_policies, read_policy
from demur.core.errors import BadInputError, OutOfRangeError, UnknownNameError
from demur.core.policy import SignalSource
from demur.core.signal import scores_from_probabilities
from demur.jobs.calibrate import CalibrateConfig, calibrate, read_policies, write_presets
from demur.jobs.labelled_prompts import BUILT_IN, read_labelled_prompts
from demur.jobs.predict import FitConfig, fit

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
SOURCE = SignalSource(
    name="refusal-tokens",
    identity="fake@1[max_tokens=1]",
    token_ids={**{c: i for i, c in enumerate(CATEGORIES)}, "respond": 9},
)
HOSTILE = "</script><script>alert(1)</script>\u202e\x07"
ROWS = synthetic_population(330, CATEGORIES, seed=3)


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


@pytest.fixture
def data(tmp_path):
    """The synthetic population as a file whose prompts say which row they are."""
    rows = [
        {
            "prompt": f"row {i}",
            "expected": "refuse" if ROWS.refuse[i] else "comply",
            "category": str(ROWS.category[i]),
            "pair_id": f"pair {ROWS.group[i]}",
        }
        for i in range(len(ROWS))
    ]
    return write_rows(tmp_path / f"labelled {HOSTILE[:6].replace('/', '')}.jsonl", rows)


def score(model, prompts):
    return SOURCE, ROWS.scores[[int(prompt.split()[1]) for prompt in prompts]]


def by_length(model, prompts):
    """Long prompts look suspicious: good enough to rank our own ones a little."""
    p = np.clip(np.array([len(prompt) for prompt in prompts]) / 1500, 0.01, 0.98)
    return SignalSource(name="length", identity="length@1"), scores_from_probabilities(("any",), p[:, None])


def made(tmp_path, data, *targets, **options):
    out = options.pop("out", tmp_path / "policies" / "mine.toml")
    config = CalibrateConfig(model=f"fake{HOSTILE}", targets=targets, out=out, data=data, **options)
    return calibrate(config, score=score), out


def test_a_calibration_leaves_a_policy_that_does_what_it_says_and_a_report(tmp_path, data):
    summary, out = made(tmp_path, data, "over_refusal<=0.1", actions={"safety": "guide"})
    policy = read_policy(out)
    assert policy == summary.policy
    assert (policy.name, policy.kind, policy.source) == ("mine", "sum", SOURCE)
    assert policy.rules["safety"].action == "guide"
    refused = decide(policy, ROWS.scores).refused
    assert refused[~ROWS.refuse].mean() == policy.certificates[0].achieved <= 0.1
    assert rates_by_category(policy, ROWS)["all"]["refusal"][0] == summary.rates["all"][0].hits
    assert sorted(p.name for p in out.parent.iterdir()) == ["mine.html", "mine.toml"]
    assert "# command: []" in out.read_text(encoding="utf-8")
    assert policy.certificates[0].data == data.name
    assert len(policy.certificates[0].data_sha256) == 64


def test_targets_of_categories_give_each_its_threshold(tmp_path, data):
    summary, _ = made(tmp_path, data, "safety:refusal>=0.9", "humanizing:refusal=0.3", preset="lenient")
    policy = summary.policy
    assert policy.kind == "per_category"
    assert policy.threshold_of("unsupported") == 0.7
    assert policy.threshold_of("safety") < 0.7
    assert any("only known to within" in note for note in summary.notes)


def test_the_same_labels_give_the_same_policy(tmp_path, data):
    first, _ = made(tmp_path, data, "refusal>=0.7")
    again, _ = made(tmp_path, data, "refusal>=0.7")
    assert first.policy.model_dump(exclude={"created"}) == again.policy.model_dump(exclude={"created"})


def test_the_report_shows_everything_and_lets_nothing_out(tmp_path, data):
    _, out = made(tmp_path, data, "safety:refusal>=0.8", "over_refusal<=0.3")
    page = out.with_suffix(".html").read_text(encoding="utf-8")
    for part in (
        "What is promised",
        "Spill-over",
        "Reliability diagram",
        "Mass on control tokens",
        "What every threshold would do",
        "safety:refusal&gt;=0.8",
        "How it was made",
        "exchangeable",
    ):
        assert part in page
    assert "<script>alert" not in page
    assert "\u202e" not in page
    assert not re.search(r"""(?:src|href)=["']?https?:""", page)
    assert "default-src &#39;none&#39;" in page
    assert "style=" not in page


def test_targets_out_of_reach_leave_a_page_and_no_policy(tmp_path, data):
    with pytest.raises(OutOfRangeError, match=r"reachable: .*what can be reached: .*mine\.reach\.html") as caught:
        made(tmp_path, data, "refusal>=0.95", "over_refusal<=0.02")
    assert "\n" not in str(caught.value)
    page = (tmp_path / "policies" / "mine.reach.html").read_text(encoding="utf-8")
    assert "No policy was written" in page
    assert "over_refusal&lt;=0.02" in page
    assert "<script>alert" not in page
    assert not (tmp_path / "policies" / "mine.toml").exists()


def test_our_own_calibration_prompts_are_the_default(tmp_path):
    config = CalibrateConfig(model="length", targets=("ordinary:over_refusal<=0.9",), out=tmp_path / "p.toml")
    summary = calibrate(config, score=by_length)
    assert summary.policy.certificates[0].data == BUILT_IN
    assert summary.n_refuse > 400
    assert summary.n_comply > 400
    assert any("demur's own prompts" in note for note in summary.notes)


def test_a_fault_is_found_before_the_model_is_asked(tmp_path, data):
    def never(model, prompts):
        raise AssertionError("asked")

    def start(**changes):
        config = CalibrateConfig(
            **{"model": "m", "targets": ("refusal>=0.5",), "out": tmp_path / "p.toml", "data": data, **changes}
        )
        calibrate(config, score=never)

    (tmp_path / "other.toml").write_text("[project]\n")
    for error, says, changes in (
        (BadInputError, r"ending in \.toml", {"out": tmp_path / "p.json"}),
        (BadInputError, "no policy", {"out": tmp_path / "other.toml"}),
        (BadInputError, "letters, digits", {"name": "a b"}),
        (BadInputError, "--delta", {"delta": 0.0}),
        (BadInputError, "unknown category 'weather'", {"targets": ("weather:refusal>=0.5",)}),
        (BadInputError, "at least one", {"targets": ()}),
        (UnknownNameError, "preset", {"preset": "odd"}),
    ):
        with pytest.raises(error, match=says):
            start(**changes)
    assert (tmp_path / "other.toml").read_text() == "[project]\n"


@pytest.mark.parametrize(
    ("rows", "says"),
    [
        ([{"prompt": "a", "category": "safety"}], "got no label"),
        ([{"prompt": f"p {i}", "expected": "refuse", "category": "safety"} for i in range(20)], "'comply', got 0"),
        ([{"prompt": "a", "expected": "refuse", "category": "safety"}], "at least 10 prompts with 'refuse', got 1"),
        ([{"prompt": "a", "expected": "refuse"}], "category: expected a category"),
        ([{"prompt": "a", "expected": "refuse", "category": "all"}], "rename that category"),
        ([{"prompt": "a", "expected": "maybe", "category": "safety"}], ":1:expected: expected refuse, comply"),
        ([{"expected": "refuse", "category": "safety"}], ":1:prompt: expected"),
    ],
)
def test_data_that_cannot_calibrate_is_refused_in_one_line(tmp_path, rows, says):
    with pytest.raises(BadInputError, match=says) as caught:
        read_labelled_prompts(write_rows(tmp_path / "rows.jsonl", rows))
    assert "\n" not in str(caught.value)


def test_actions_name_categories_of_the_signal(tmp_path, data):
    with pytest.raises(UnknownNameError, match="safety"):
        made(tmp_path, data, "refusal>=0.5", actions={"safty": "guide"})
    with pytest.raises(BadInputError, match="'answer' for all"):
        made(tmp_path, data, "refusal>=0.5", actions=dict.fromkeys(CATEGORIES, "answer"))


def test_presets_are_written_for_a_signal_and_checked_against_it(tmp_path):
    write_presets(SOURCE, CATEGORIES, tmp_path)
    assert set(load_policies(tmp_path)) == {"strict", "default", "lenient"}
    assert len(read_policies(tmp_path, SOURCE)) == 3
    with pytest.raises(BadInputError, match="calibrate it again"):
        read_policies(tmp_path, SOURCE.model_copy(update={"identity": "other@2"}))
    (tmp_path / "strict.toml").write_text("not a policy")
    with pytest.raises(BadInputError, match="choose another --out"):
        write_presets(SOURCE, CATEGORIES, tmp_path)


@pytest.fixture(scope="module")
def predictor(tmp_path_factory):
    """A signal that the command line can load: a predictor fitted in a second."""
    folder = tmp_path_factory.mktemp("predictor")
    rows = [{"prompt": f"{'forge' if i % 2 else 'draw'} a map {i}", "refused": bool(i % 2)} for i in range(80)]
    fit(FitConfig(files=(write_rows(folder / "rows.jsonl", rows),), out=folder / "p", views=("words",)))
    asked = [
        {"prompt": f"{'forge' if i % 2 else 'draw'} a chart {i}", "expected": "refuse" if i % 2 else "comply", "category": "safety"}
        for i in range(120)
    ]  # fmt: skip
    return f"predictor:{folder / 'p'}", write_rows(folder / "labelled.jsonl", asked)


def run(app, *arguments):
    done = CliRunner().invoke(app, [str(a) for a in arguments])
    if done.exception and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.stdout


def test_the_commands_calibrate_check_and_write_presets(tmp_path, predictor):
    import typer

    app = typer.Typer()
    app.command()(calibrate_command)
    model, data = predictor
    out = tmp_path / "policies" / "default.toml"
    common = (model, "--target", "over_refusal<=0.2", "--target", "refusal>=0.5", "--data", data, "--out", out)
    printed = run(app, *common, "--action", "any=guide")
    assert "over_refusal<=0.2" in printed
    assert "report: " in printed
    told = json.loads(run(app, *common, "--json"))
    assert told["certificates"][1]["achieved"] > 0.5
    assert told["rules"]["any"]["action"] == "refuse"
    assert "over_refusal<=0.2" in run(policy_app, "check", out, "--model", model)
    assert json.loads(run(policy_app, "check", out, "--json"))[0]["name"] == "default"
    run(policy_app, "presets", model, "--out", tmp_path / "presets")
    assert "promise nothing" in run(policy_app, "check", tmp_path / "presets")
    with pytest.raises(BadInputError, match="--action"):
        run(app, *common, "--action", "any=scold")
