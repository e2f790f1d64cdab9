import json
import os
import signal
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from demur.core.errors import BackendError, BadInputError
from demur.data.labelled import read_labelled
from demur.jobs.scan import ScanOptions, scan

ROOT = Path(__file__).parents[2]
REFUSALS = [
    "I'm sorry, but I can't help with that.",
    "I cannot assist with this request, since it would hurt somebody.",
    "Sorry. I won't write that 3 times.",
]
ANSWERS = [
    "Bridges carry loads by bending, by pushing or by pulling; most old stone ones push.",
    "Here is a short list: flour, water, salt. Knead it for ten minutes and leave it overnight.",
    "The cat sat on the mat because the mat was warm, and the floor was not.",
]
HOSTILE = "</script><script>alert(1)</script>\u202e\x00<img src=x onerror=alert(2)>"


def rows_of(n, seed=0):
    rng = np.random.default_rng(seed)
    start = datetime(2026, 3, 1, tzinfo=UTC)
    for i in range(n):
        refuses = rng.random() < (0.1 if i < n // 2 else 0.4)
        text = str(rng.choice(REFUSALS if refuses else ANSWERS))
        yield {
            "id": f"r{i}",
            "prompt": f"Question {i}?",
            "response": text if i % 97 else HOSTILE,
            "model": f"m{i % 2}",
            "time": (start + timedelta(hours=i)).isoformat(),
        }


def write_log(path, n, seed=0):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows_of(n, seed)), encoding="utf-8")
    return path


def verdicts(out):
    files = sorted((out / "verdicts").glob("*.parquet"))
    assert not list((out / "verdicts").glob(".*"))
    return pa.concat_tables([pq.read_table(file) for file in files])


def scan_in_process(monkeypatch, *args, **kwargs):
    """A scan without spawning: the same work, quicker to start."""
    monkeypatch.setitem(__import__("demur.scan.engines", fromlist=["ENGINES"]).ENGINES, "local", _inline)
    return scan(*args, **kwargs)


def _inline(pieces, settings, out, *, n_workers):
    from demur.scan.shards import scan_shard
    from demur.scan.workers import Step

    for piece in pieces:
        summary = scan_shard(piece, settings, out)
        yield Step(summary["n_rows"], summary)


def test_a_scan_writes_verdicts_report_summary_and_rows_to_label(tmp_path):
    log, out, seen = write_log(tmp_path / "log.jsonl", 400), tmp_path / "out", []
    options = ScanOptions(workers=2, shard_bytes=20_000, compare_before="2026-03-09")
    found = scan([log], out, judge="phrases", options=options, progress=seen.append)
    assert found.n_rows == 400
    assert seen[-1].done == seen[-1].total == 400
    table = verdicts(out)
    assert table.num_rows == 400
    assert table["id"].to_pylist() == [f"r{i}" for i in range(400)]  # in the input's order
    refused = sum(o in ("refused", "partial") for o in table["outcome"].to_pylist())
    assert found.refused.hits == refused
    assert found.corrected is not None  # the phrase judge has a card
    assert [abs(datetime.fromisoformat(c.start).day - 9) <= 1 for c in found.changes] == [True]
    first = found.drift.differences[0]
    assert first.low > 0
    assert {s.name for s in found.slices["model"]} == {"m0", "m1"}
    assert found.openings[0][1] > 10
    assert json.loads((out / "summary.json").read_text())["n_rows"] == 400
    page = (out / "report.html").read_text(encoding="utf-8")
    assert "<script>alert" not in page
    assert "onerror=alert(2)>" not in page
    assert "\u202e" not in page


def test_the_rows_to_label_are_read_by_judges_check_and_hide_the_verdict(tmp_path, monkeypatch):
    log, out = write_log(tmp_path / "log.jsonl", 300), tmp_path / "out"
    scan_in_process(monkeypatch, [log], out, judge="phrases")
    lines = [json.loads(line) for line in (out / "to_label.jsonl").read_text().splitlines()]
    assert 20 <= len(lines) <= 300
    assert set(lines[0]) == {"id", "prompt", "response", "label", "source", "stratum", "weight"}
    assert sum(line["weight"] for line in lines) == pytest.approx(300, rel=0.01)
    for line in lines:
        line["label"] = "refusal" if "sorry" in line["response"].lower() else "compliance"
    (out / "to_label.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    rows, left_out = read_labelled(out / "to_label.jsonl")
    assert (len(rows), left_out) == (len(lines), 0)


def test_shard_size_changes_no_verdict_and_no_count(tmp_path, monkeypatch):
    log = write_log(tmp_path / "log.jsonl", 300)
    found = [
        scan_in_process(
            monkeypatch, [log], tmp_path / str(size), judge="phrases", options=ScanOptions(shard_bytes=size)
        )
        for size in (4_000, 30_000, 10_000_000)
    ]
    tables = [verdicts(tmp_path / str(size)) for size in (4_000, 30_000, 10_000_000)]
    assert len(list((tmp_path / "4000" / "verdicts").iterdir())) > 5
    assert tables[0].equals(tables[1])
    assert tables[1].equals(tables[2])
    assert (tmp_path / "4000" / "to_label.jsonl").read_text() == (tmp_path / "10000000" / "to_label.jsonl").read_text()
    assert found[0].model_dump(exclude={"manifest"}) == found[2].model_dump(exclude={"manifest"})


def test_a_finished_scan_does_nothing_again_but_the_report(tmp_path, monkeypatch):
    log, out = write_log(tmp_path / "log.jsonl", 100), tmp_path / "out"
    first = scan_in_process(monkeypatch, [log], out, judge="phrases")
    before = {f: f.stat().st_mtime_ns for f in (out / "verdicts").iterdir()}
    options = ScanOptions(compare_before="2026-03-03")
    again = scan_in_process(monkeypatch, [log], out, judge="phrases", options=options)
    assert {f: f.stat().st_mtime_ns for f in (out / "verdicts").iterdir()} == before
    assert again.refused == first.refused
    assert again.drift is not None


@pytest.mark.parametrize("change", ["input", "settings", "judge", "other"])
def test_other_input_or_settings_in_the_same_folder_are_refused(tmp_path, monkeypatch, change):
    log, out = write_log(tmp_path / "log.jsonl", 50), tmp_path / "out"
    if change == "other":
        out.mkdir()
        (out / "run.json").write_text('{"model": "an audit"}')
    else:
        scan_in_process(monkeypatch, [log], out, judge="phrases")
    options, judge = ScanOptions(), "phrases"
    if change == "input":
        write_log(log, 51)
    if change == "settings":
        options = ScanOptions(skip_bad=True)
    if change == "judge":
        judge = "tests.integration.scan_judges:Doubtful"
    before = sorted(p.name for p in out.rglob("*"))
    with pytest.raises(BadInputError, match=r"choose another --out or remove it") as error:
        scan_in_process(monkeypatch, [log], out, judge=judge, options=options)
    assert "\n" not in str(error.value)
    assert sorted(p.name for p in out.rglob("*")) == before


def test_a_bad_row_stops_the_scan_with_its_place_and_is_counted_if_skipped(tmp_path):
    log = write_log(tmp_path / "log.jsonl", 30)
    with log.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(BadInputError, match=r"log\.jsonl:31"):
        scan([log], tmp_path / "a", judge="phrases", options=ScanOptions(workers=1))
    assert not list((tmp_path / "a").rglob("*.parquet*"))
    found = scan([log], tmp_path / "b", judge="phrases", options=ScanOptions(workers=1, skip_bad=True))
    assert (found.n_rows, found.n_bad) == (30, 1)
    assert any("log.jsonl:31" in note for note in found.notes)


def test_two_files_of_equal_content_are_two(tmp_path, monkeypatch):
    logs = [write_log(tmp_path / f"{name}.jsonl", 20) for name in "ab"]
    found = scan_in_process(monkeypatch, logs, tmp_path / "out", judge="phrases")
    assert found.n_rows == 40
    assert verdicts(tmp_path / "out").num_rows == 40


# --- killed and interrupted -----------------------------------------------------------------------------------------

SCAN = """
import sys
from pathlib import Path
from demur.jobs.scan import ScanOptions, scan
if __name__ == "__main__":
    options = ScanOptions(workers=2, shard_bytes=4000)
    scan([sys.argv[1]], Path(sys.argv[2]), judge="tests.integration.scan_judges:Slow", options=options)
"""


def start(log, out, *, code=SCAN):
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"}
    return subprocess.Popen(
        [sys.executable, "-c", code, str(log), str(out)],
        env=environment,
        start_new_session=True,
        stderr=subprocess.PIPE,
        # A job in the background of a shell is told to ignore Ctrl-C, and its children with it.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def wait_for_manifests(out, n, process):
    deadline = time.monotonic() + 30
    while len(list((out / "manifest").glob("0*.json"))) < n:
        assert time.monotonic() < deadline
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def alive(group):
    """Processes of a group that still run; zombies wait for whoever adopted them."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, pgrp = stat.read_text().rpartition(")")[2].split()[:3]
        except OSError:
            continue
        if int(pgrp) == group and state != "Z":
            found.append(stat.parent.name)
    return found


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_scan_that_is_killed_loses_nothing_and_repeats_at_most_one_shard_for_each_worker(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 600), tmp_path / "out"
    process = start(log, out)
    wait_for_manifests(out, 5, process)
    os.kill(process.pid, signal.SIGKILL)  # the parent alone: its workers must notice
    process.communicate()
    deadline = time.monotonic() + 5
    while alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not alive(process.pid)
    done = {p: p.stat().st_mtime_ns for p in (out / "manifest").glob("0*.json")}
    written = {p.name for p in (out / "verdicts").glob("0*.parquet")}
    assert len(done) >= 5
    assert {p.with_suffix(".parquet").name for p in done} <= written
    assert len(written) - len(done) <= 2  # complete, but not yet called done
    options = ScanOptions(workers=2, shard_bytes=4000)
    found = scan([log], out, judge="tests.integration.scan_judges:Slow", options=options)
    assert {p: p.stat().st_mtime_ns for p in done} == done
    assert found.n_rows == 600
    whole = scan([log], tmp_path / "whole", judge="phrases", options=ScanOptions(workers=2))
    assert verdicts(out).equals(verdicts(tmp_path / "whole"))
    assert found.refused == whole.refused


def test_a_worker_that_is_killed_ends_the_scan_in_one_line(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 50), tmp_path / "out"
    with pytest.raises(BackendError, match=r"a worker ended unexpectedly \(exit code -9.*run the same command"):
        scan([log], out, judge="tests.integration.scan_judges:Suicidal", options=ScanOptions(workers=1))
    assert not list(out.rglob("*.parquet"))
    assert not list(out.rglob("*.partial"))


def test_ctrl_c_keeps_what_is_done_and_exits_with_130(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 600), tmp_path / "out"
    code = """
import sys
import typer
from demur.cli.scan import scan_command
if __name__ == "__main__":
    app = typer.Typer()
    app.command()(scan_command)
    app([sys.argv[1], "--out", sys.argv[2], "--workers", "2", "--shard-bytes", "4000", "--judge", "tests.integration.scan_judges:Slow"])
"""
    process = start(log, out, code=code)
    wait_for_manifests(out, 3, process)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    _, err = process.communicate(timeout=20)
    assert process.returncode == 130, err
    assert err.decode().strip().splitlines()[-1].startswith("demur: interrupted; what was done is kept")
    assert len(list((out / "manifest").glob("0*.json"))) >= 3
    assert not list(out.rglob("*.partial"))


def test_two_scans_at_once_in_one_folder_are_refused(tmp_path):
    log, out = write_log(tmp_path / "log.jsonl", 600), tmp_path / "out"
    process = start(log, out)
    try:
        wait_for_manifests(out, 1, process)
        with pytest.raises(BadInputError, match="no other scan at work"):
            scan(
                [log], out, judge="tests.integration.scan_judges:Slow", options=ScanOptions(workers=2, shard_bytes=4000)
            )
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


# --- the second judge -----------------------------------------------------------------------------------------------


def write_doubtful(path, n):
    """Replies whose probability is written in them; the truth too, and it differs most in the middle."""
    rng = np.random.default_rng(4)
    truth = []
    with path.open("w") as file:
        for i in range(n):
            p = float(np.round(rng.choice([0.01, 0.05, 0.3, 0.45, 0.6, 0.95], p=[0.5, 0.2, 0.1, 0.1, 0.05, 0.05]), 2))
            refuses = rng.random() < {0.01: 0.02, 0.05: 0.1, 0.3: 0.5, 0.45: 0.7, 0.6: 0.8, 0.95: 0.97}[p]
            truth.append(refuses)
            word = "[no]" if refuses else "[yes]"
            line = {
                "prompt": f"q{chr(97 + i % 26)}{'x' * (i // 26)}",
                "response": f"{word} reply p={p:.2f}",
                "model": "m",
            }
            file.write(json.dumps(line) + "\n")
    return np.array(truth)


def escalated(monkeypatch, log, out, budget, **more):
    options = ScanOptions(escalate="tests.integration.scan_judges:Oracle", budget=budget, **more)
    return scan_in_process(monkeypatch, [log], out, judge="tests.integration.scan_judges:Doubtful", options=options)


def test_the_second_judge_stays_in_its_budget_and_its_sample_corrects_the_rate(tmp_path, monkeypatch):
    monkeypatch.setenv("ORACLE_LOG", str(tmp_path / "calls"))
    truth = write_doubtful(tmp_path / "log.jsonl", 1500)
    found = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "out", "20%")
    assert found.second.n_rows == 300
    assert len((tmp_path / "calls").read_text().splitlines()) == found.second.n_calls <= 300
    assert found.second.refused.low <= truth.mean() <= found.second.refused.high
    assert not found.refused.low <= truth.mean() <= found.refused.high  # the first judge alone is wrong
    table = verdicts(tmp_path / "out")
    second = np.array([j == "oracle@1" for j in table["judge"].to_pylist()])
    assert second.sum() == 300
    says = np.array([o == "refused" for o in table["outcome"].to_pylist()])
    assert (says[second] == truth[second]).all()
    assert found.refused.hits == says.sum()  # the counts know of the changed verdicts


def test_whom_the_second_judge_sees_does_not_depend_on_the_shards(tmp_path, monkeypatch):
    write_doubtful(tmp_path / "log.jsonl", 600)
    one = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "one", "60")
    many = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "many", "60", shard_bytes=5_000)
    assert len(list((tmp_path / "many" / "verdicts").iterdir())) > 3
    assert verdicts(tmp_path / "one").equals(verdicts(tmp_path / "many"))
    assert one.second == many.second
    assert one.refused == many.refused


def test_a_second_run_asks_nothing_again_even_if_it_died_while_writing(tmp_path, monkeypatch):
    monkeypatch.setenv("ORACLE_LOG", str(tmp_path / "calls"))
    write_doubtful(tmp_path / "log.jsonl", 400)
    first = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "out", "50", shard_bytes=5_000)
    n_calls = len((tmp_path / "calls").read_text().splitlines())
    # As if killed between writing a shard's verdicts and its manifest, and in the middle of a journal line.
    manifest = sorted((tmp_path / "out" / "manifest").glob("0*.json"))[1]
    held = json.loads(manifest.read_text())
    for key in ("n_revised", "before", "after"):
        held.pop(key)
    manifest.write_text(json.dumps(held))
    with (tmp_path / "out" / "escalated.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    again = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "out", "50", shard_bytes=5_000)
    assert len((tmp_path / "calls").read_text().splitlines()) == n_calls
    assert again.second.n_calls == 0
    assert again.refused == first.refused
    assert again.second.refused == first.second.refused


def test_near_duplicates_are_asked_about_once(tmp_path, monkeypatch):
    monkeypatch.setenv("ORACLE_LOG", str(tmp_path / "calls"))
    replies = [f"[no]  Reply   {i} p=0.4{i % 10}" if i % 2 else f"[NO] reply {i}\np=0.4{i % 10}" for i in range(200)]
    lines = [{"prompt": f"Question {i}", "response": text} for i, text in enumerate(replies)]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = escalated(monkeypatch, tmp_path / "log.jsonl", tmp_path / "out", "100")
    assert found.second.n_rows == 100
    assert found.second.n_calls <= 2


# --- engines --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["ray", "daft"])
def test_every_engine_writes_the_same_verdicts(tmp_path, engine):
    pytest.importorskip(engine)
    log = write_log(tmp_path / "log.jsonl", 400)
    options = ScanOptions(workers=2, shard_bytes=10_000)
    local = scan([log], tmp_path / "local", judge="phrases", options=options)
    other = scan([log], tmp_path / engine, judge="phrases", engine=engine, options=options)
    assert verdicts(tmp_path / "local").equals(verdicts(tmp_path / engine))
    assert local.model_dump(exclude={"manifest"}) == other.model_dump(exclude={"manifest"})
    names = [sorted(p.name for p in (tmp_path / e / "verdicts").iterdir()) for e in ("local", engine)]
    assert names[0] == names[1]
    with log.open("a") as file:
        file.write("{broken\n")
    with pytest.raises(BadInputError, match=r"log\.jsonl:401"):
        scan([log], tmp_path / "bad", judge="phrases", engine=engine, options=options)
