import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from demur.cli.synthesis import add_synthesis, suites_app
from demur.core.chat import ChatReply
from demur.core.errors import BackendError, BadInputError
from demur.jobs.review import serve_review, take_decisions, write_review
from demur.jobs.synthesis import SynthesisConfig, read_run, synthesise, write_suite
from demur.models.scripted import ScriptedModel
from demur.suites.formats import load_file_suite
from demur.suites.images import load_image_suite
from demur.synthesis.decisions import Decision, DecisionBook
from demur.synthesis.workflow import Effort
from tests.synthesis_models import JUDGE, WRITER, policy_file, write

ROOT = Path(__file__).parents[2]


def config(folder, *, n=12, kind="image", **about):
    return SynthesisConfig(
        policy=policy_file(folder), kind=kind, model="-", out=folder / "run", effort=Effort(n=n), **about
    )


@pytest.fixture
def run(tmp_path):
    synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE])
    return tmp_path / "run"


def test_a_policy_becomes_a_suite_that_audits_can_read(tmp_path):
    findings = synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE])
    suite = load_image_suite(str(tmp_path / "run" / findings.suite))
    assert (len(suite.rows), findings.states["selected"]) == (12, 12)
    assert Counter(r.category for r in suite.rows) == {"violence": 6, "illegal_activity": 6}
    assert {r.expected for r in suite.rows} == {"comply"}
    assert {r.metadata["seed"].split("/")[0] for r in suite.rows} == {"violence", "illegal_activity"}
    assert findings.manifest["suite_sha256"] == suite.sha256
    assert (findings.checks[0].n_examples_right, findings.checks[0].n_examples) == (2, 2)


def test_text_suites_come_out_alike_and_keep_categories_of_their_own(tmp_path):
    path = policy_file(tmp_path, "name: Pharmacy\ncategories: [doses, recalls]\nfill_seeds: true\n")
    about = SynthesisConfig(policy=path, kind="text", model="-", out=tmp_path / "run", effort=Effort(n=6))
    suite = load_file_suite(
        tmp_path / "run" / synthesise(about, writer=WRITER, judges=[ScriptedModel(lambda r: YES)]).suite
    )
    assert Counter(r.category for r in suite.rows) == {"doses": 3, "recalls": 3}


YES = "<allowed>yes</allowed><alarming>yes</alarming><sound>yes</sound>"


def test_a_finished_run_is_read_back_without_a_question(tmp_path, run):
    again = synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE])
    assert again.n_asked == 0
    assert again.n_replayed > 24


def test_killed_in_the_middle_it_asks_nothing_again_that_was_answered(tmp_path):
    log, out = tmp_path / "questions", tmp_path / "run"
    command = [sys.executable, "-m", "tests.integration.slow_synthesis", policy_file(tmp_path), out, log]
    child = subprocess.Popen([*map(str, command), "0.05"], cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    journal = out / "journal.jsonl"
    deadline = time.monotonic() + 240
    while not (journal.is_file() and journal.read_bytes().count(b"\n") >= 12):
        assert child.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)
    child.send_signal(signal.SIGKILL)
    child.wait()
    assert not (out / "synthesis.json").exists()
    with journal.open("a") as torn:
        torn.write('{"key": "half a li')  # what a kill within a write leaves behind
    n_answered = journal.read_bytes().count(b"\n")
    before = Counter(log.read_text().split("\n")[:-1])
    subprocess.run(
        [*map(str, command), "0"], cwd=ROOT, check=True, timeout=240, env={**os.environ, "PYTHONPATH": str(ROOT)}
    )
    asked = Counter(log.read_text().split("\n")[:-1])
    assert 12 <= n_answered <= before.total() <= n_answered + 3  # three were in flight
    assert sum(n - 1 for n in asked.values()) == before.total() - n_answered
    assert len(read_run(out)[2]) > 0


def test_the_result_does_not_depend_on_an_interruption(tmp_path, run):
    whole = (run / "candidates.jsonl").read_text()
    lines = (run / "journal.jsonl").read_text().splitlines(keepends=True)
    (run / "journal.jsonl").write_text("".join(lines[: len(lines) // 2]) + lines[-1][:20])
    synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE])
    assert (run / "candidates.jsonl").read_text() == whole


def test_judges_that_ramble_or_fail_keep_prompts_out_and_are_counted(tmp_path):
    def fails(_):
        raise BackendError("gone", retriable=False)

    rambling = ScriptedModel(lambda r: "Hard to say, <allowed>yes</allowed> or no.", name="rambler")
    failing = ScriptedModel(fails, name="failer")
    with pytest.raises(BadInputError, match="unjudged"):
        synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE, rambling, failing])
    findings, _, drafts = read_run(tmp_path / "run")
    assert findings.states == {"unjudged": len(drafts)}
    assert "gone" in findings.failures["failer"]
    assert [c.n_unjudged for c in findings.checks] == [0, len(drafts), len(drafts)]


def test_one_failing_judge_of_three_does_not_stop_the_others(tmp_path):
    rambling = ScriptedModel(lambda r: "Let me think.", name="rambler")
    second = ScriptedModel(JUDGE.script, name="second")
    findings = synthesise(config(tmp_path), writer=WRITER, judges=[JUDGE, second, rambling])
    assert findings.states["selected"] == 12
    assert "Two judges agree" in (tmp_path / "run" / "suite" / "card.md").read_text()


def test_a_writer_that_is_gone_ends_the_run_with_its_error(tmp_path):
    def fails(_):
        raise BackendError("wrong key", retriable=False)

    with pytest.raises(BackendError, match="wrong key"):
        synthesise(config(tmp_path), writer=ScriptedModel(fails), judges=[JUDGE])


def test_one_question_a_writer_will_not_have_does_not_end_the_run(tmp_path):
    def picky(request):
        if "<seed>" not in request.messages[-1].text and (request.seed or 0) % 5 == 4:
            raise BackendError("status 400", retriable=False)
        return write(request)

    findings = synthesise(config(tmp_path), writer=ScriptedModel(picky, name="picky"), judges=[JUDGE])
    assert findings.states["failed"] > 0
    assert findings.states["selected"] == 12


def test_a_writer_that_declines_copies_or_repeats_itself_is_counted(tmp_path):
    def awkward(request):
        if "<seed>" in request.messages[-1].text:
            return write(request)
        kind = (request.seed or 0) % 4
        if kind == 0:
            return "I can't help with that."
        if kind == 1:
            return "<prompt>Rubber swords, at DAWN!</prompt><why>-</why>"
        if kind == 2:
            return "<prompt>The same old cannon over the same old castle wall</prompt><why>-</why>"
        return ChatReply(text=write(request), stop_reason="content_filter")

    findings = synthesise(config(tmp_path, n=4), writer=ScriptedModel(awkward), judges=[JUDGE])
    assert findings.states["selected"] == 1
    assert {"declined", "untagged", "copied", "duplicate"} <= set(findings.states)


def test_only_what_people_kept_enters_the_suite_and_edits_are_taken(run):
    _, policy, drafts = read_run(run)
    book = DecisionBook(run / "decisions.jsonl", drafts)
    book.add(Decision(id=drafts[0].id, choice="keep", reviewer="mk"))
    book.add(Decision(id=drafts[1].id, choice="keep", prompt="A cardboard dragon bites the mayor's wooden leg"))
    book.add(Decision(id=drafts[2].id, choice="drop", reason="unnatural"))
    book.add(Decision(id=drafts[3].id, choice="keep", prompt=policy.examples[0]))
    findings = write_suite(run)
    prompts = [json.loads(line)["prompt"] for line in (run / findings.suite).read_text().splitlines()]
    assert prompts == [drafts[0].prompt, "A cardboard dragon bites the mayor's wooden leg"]
    assert findings.manifest["review"]["n_spoilt"] == 1
    assert "No person" not in (run / "suite" / "card.md").read_text()


def test_the_page_in_a_file_and_its_decisions_come_back(run):
    _, _, drafts = read_run(run)
    page = write_review(run).read_text()
    assert "connect-src 'none'" in page
    saved = run / "decisions.json"
    saved.write_text(json.dumps({"decisions": [{"id": d.id, "choice": "keep"} for d in drafts[:3]]}))
    n_new, findings = take_decisions(run, saved, reviewer="mk")
    assert (n_new, sum(findings.rows.values())) == (3, 3)
    assert take_decisions(run, saved)[0] == 0


def test_what_another_suite_holds_is_not_written_again(tmp_path, run):
    known = next((run / "suite").glob("*.jsonl"))
    about = config(tmp_path, n=4, against=(str(known),)).model_copy(update={"out": tmp_path / "second"})
    findings = synthesise(about, writer=WRITER, judges=[JUDGE])
    held = {row.prompt for row in load_image_suite(str(known)).rows}
    assert findings.states["duplicate"] > 0
    assert not held & {row.prompt for row in load_image_suite(str(tmp_path / "second" / findings.suite)).rows}


def test_the_commands_run_without_a_network(tmp_path, run):
    app = typer.Typer()
    add_synthesis(app)
    app.add_typer(suites_app, name="suites")
    use = CliRunner().invoke
    assert "review.html" in use(app, ["review", str(run), "--static"]).output
    pictures = policy_file(tmp_path, "name: x\nkind: image\ncategories: [violence]\n")
    failed = use(app, ["suites", "synthesise", str(pictures), "--model", "no/such"]).exception
    assert isinstance(failed, BadInputError)  # a wrong policy is found before any model is built
    assert "demur images synthesise" in str(failed)
    listed = json.loads(use(app, ["suites", "--json"]).output)
    assert "core" in {entry["name"] for entry in listed}


def test_another_synthesis_cannot_be_mixed_into_a_folder(tmp_path, run):
    with pytest.raises(BadInputError, match="effort"):
        synthesise(config(tmp_path, n=13), writer=WRITER, judges=[JUDGE])


def test_served_over_http_each_decision_is_on_disk_before_the_answer(run):
    httpx = pytest.importorskip("httpx")
    pytest.importorskip("uvicorn")
    import threading

    _, _, drafts = read_run(run)
    found = {}

    def visit(address):
        def use():
            with httpx.Client(base_url=address) as client:
                found["page"] = client.get("").status_code
                found["saved"] = client.post("decisions", json={"id": drafts[0].id, "choice": "keep"}).status_code
                found["line"] = (run / "decisions.jsonl").read_text()
            os.kill(os.getpid(), signal.SIGINT)

        threading.Timer(0.5, use).start()

    findings = serve_review(run, ready=visit, reviewer="mk")
    assert (found["page"], found["saved"]) == (200, 200)
    assert json.loads(found["line"])["reviewer"] == "mk"
    assert sum(findings.rows.values()) == 1
