"""An image audit over real HTTP: a whole folder, nothing asked twice even after a kill, findings under other policies."""

import json
import os
import signal
import subprocess
import sys
import time
import zlib

import pytest

pytest.importorskip("PIL")
pytest.importorskip("inspect_ai")

from demur.core.chat import ChatReply
from demur.core.errors import BackendError, BadInputError
from demur.core.image import ImageFindings, ImageRow
from demur.images.store import ImageStore
from demur.jobs.image_rewriting import study_rewriting
from demur.jobs.images import ImagesConfig, audit_images, read_findings, read_image_rows, reassess
from demur.suites.images import load_image_suite
from tests.image_vendors import error, openai, picture, shown, vendor_server

REFUSED = (400, error("content_policy_violation"))


def number(text):
    return zlib.crc32(text.encode())


def well_behaved(refuse):
    """Draws everything but what `refuse` says of a prompt."""
    return lambda prompt, _: REFUSED if refuse(prompt) else (200, openai(shown(picture(number(prompt)))))


@pytest.fixture(scope="module")
def expected():
    return {row.prompt: row.expected for row in load_image_suite().rows}


def config(url, out, **fields):
    fields = {"limit": 36, "judge": "phrases", "tries": 1, "connections": 4} | fields
    return ImagesConfig(model="openai/pictures", base_url=url, out=out, **fields)


def test_a_perfect_system_scores_one_and_leaves_a_whole_folder(tmp_path, expected):
    with vendor_server(well_behaved(lambda p: expected[p] == "refuse")) as (url, asked):
        found = audit_images(config(url, tmp_path))
        assert found.overall.youden == 1
        assert found.overall.benign.refused.estimate == 0
        assert found.overall.pairs.right == found.overall.pairs.n > 0
        names = {p.name for p in tmp_path.iterdir()}
        assert names >= {"images.json", "rows.jsonl", "manifest.json", "journal.jsonl", "images", "thumbnails", "logs"}
        again = audit_images(config(url, tmp_path))
        assert max(asked.values()) == 1
    assert again.manifest["n_replayed"] == found.n_prompts
    assert again.overall == found.overall
    assert read_findings(tmp_path) == again


def test_pictures_lie_outside_the_log_and_every_hash_is_there(tmp_path, expected):
    with vendor_server(well_behaved(lambda p: False)) as (url, _):
        found = audit_images(config(url, tmp_path, limit=18))
    store = ImageStore(folder=tmp_path)
    shown_images = [x.image for row in read_image_rows(tmp_path) for x in row.results]
    assert all(store.read(image) for image in shown_images)
    assert found.overall.safety.estimate == 0
    log = next((tmp_path / "logs").iterdir())
    assert log.stat().st_size < sum(p.stat().st_size for p in (tmp_path / "images").rglob("*.*"))


def test_what_the_network_does_is_no_refusal_and_is_asked_again(tmp_path):
    prompts = [row.prompt for row in load_image_suite(limit=36).rows]
    lame = set(prompts[::3])

    def flaky(prompt, _):
        return (
            (503, error("server_error", "overloaded"))
            if prompt in lame
            else (200, openai(shown(picture(number(prompt)))))
        )

    with vendor_server(flaky) as (url, asked):
        found = audit_images(config(url, tmp_path, connections=1))
        assert found.outcomes["infrastructure_error"] == len(lame)
        assert found.overall.benign.refused.estimate == 0
        assert found.published.over_refusal.estimate > 0.2  # the published harness calls them refusals
        lame.clear()
        healed = audit_images(config(url, tmp_path, connections=1))
        assert healed.outcomes["infrastructure_error"] == 0
        assert max(asked.values()) == 2


def test_a_dead_key_ends_the_run_early_and_says_why(tmp_path):
    with vendor_server(lambda *_: (401, error("invalid_api_key", "Incorrect API key provided"))) as (url, asked):
        with pytest.raises(BackendError, match="invalid_api_key"):
            audit_images(config(url, tmp_path, limit=100, connections=1))
        assert sum(asked.values()) <= 15


def test_another_audit_in_the_folder_is_refused(tmp_path):
    with vendor_server(well_behaved(lambda p: False)) as (url, _):
        audit_images(config(url, tmp_path, limit=9))
        with pytest.raises(BadInputError, match="another audit"):
            audit_images(config(url, tmp_path, limit=9, settings={"moderation": "low"}))


def test_several_images_a_prompt_show_chance(tmp_path):
    turns = {}

    def coin(prompt, _):
        turns[prompt] = turns.get(prompt, 0) + 1
        return (
            200,
            openai(
                *(shown(picture(number(prompt) * 10 + i)) if i % 2 else error("moderation_blocked") for i in range(4))
            ),
        )

    with vendor_server(coin) as (url, _):
        found = audit_images(config(url, tmp_path, limit=9, n=4))
    assert found.n_images == 4 * found.n_prompts
    assert found.overall.benign.n_mixed == found.overall.benign.n_prompts
    assert found.overall.benign.refused.estimate == 0.5


def test_another_policy_needs_no_picture(tmp_path, expected):
    policy = tmp_path / "policy.toml"
    policy.write_text('name = "no violence at all"\n[[rule]]\ncategory = "violence"\nexpected = "refuse"\n')
    with vendor_server(well_behaved(lambda p: expected[p] == "refuse")) as (url, asked):
        before = audit_images(config(url, tmp_path / "run"))
        n_asked = sum(asked.values())
        after = reassess(tmp_path / "run", policy)
        assert sum(asked.values()) == n_asked
    assert after.n_moved > 0
    assert after.overall.safety.estimate < before.overall.safety.estimate == 1
    assert (tmp_path / "run" / "policy-no-violence-at-all" / "images.json").is_file()


class Says:
    name = "says"

    def __init__(self, answer):
        self.answer, self.asked = answer, 0

    async def complete(self, request, /, *, enough=None):
        self.asked += 1
        return ChatReply(text=self.answer)


def test_the_rewriting_study_reports_its_price_and_remembers(tmp_path):
    def only_meadows(prompt, _):
        return (200, openai(shown(picture(number(prompt))))) if "meadow" in prompt else REFUSED

    with vendor_server(only_meadows) as (url, _):
        audit_images(config(url, tmp_path, limit=18))
        again = config(url, tmp_path / "rewriting")
        rewriter, judge = Says("<prompt>a meadow</prompt>"), Says("<kept>no</kept>")
        study = study_rewriting(tmp_path, again, rewriter=rewriter, judge=judge)
        assert (study.refused_before.estimate, study.recovered.estimate) == (1, 0)
        first = rewriter.asked
        assert study_rewriting(tmp_path, again, rewriter=rewriter, judge=judge) == study
        assert rewriter.asked == first


def test_a_killed_run_asks_nothing_twice(tmp_path):
    """`kill -9` in the middle; the second run asks only what was not answered."""

    def slow(prompt, _):
        time.sleep(0.25)
        return 200, openai(shown(picture(number(prompt))))

    with vendor_server(slow) as (url, asked):
        command = [
            sys.executable, "-c",
            "from demur.cli.images import images_app; images_app()",
            "audit", "openai/pictures", "--base-url", url, "--limit", "36", "--judge", "phrases", "--connections", "2",
            "--out", str(tmp_path / "run"), "--json",
        ]  # fmt: skip
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=dict(os.environ))
        journal = tmp_path / "run" / "journal.jsonl"
        deadline = time.monotonic() + 200
        while (
            process.poll() is None
            and time.monotonic() < deadline
            and not (journal.is_file() and journal.read_bytes().count(b"\n") >= 8)
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        _, complaint = process.communicate()
        assert journal.is_file(), complaint.decode()[-2000:]
        kept = journal.read_bytes().count(b"\n")
        assert 8 <= kept < 36
        done = subprocess.run(command, capture_output=True, text=True, timeout=250)
        assert done.returncode == 0, done.stderr
        found = ImageFindings.model_validate_json(done.stdout)
        twice = [prompt for prompt, n in asked.items() if n > 1]
    assert found.manifest["n_replayed"] == kept
    assert len(twice) <= 2  # those in flight at the kill
    assert found.outcomes["delivered"] == found.n_images


def test_the_command_prints_both_sides_and_the_mechanisms(tmp_path, expected):
    from typer.testing import CliRunner

    from demur.cli.images import images_app

    with vendor_server(well_behaved(lambda p: expected[p] == "refuse")) as (url, _):
        args = ["audit", "openai/pictures", "--base-url", url, "--limit", "18", "-j", "phrases", "-o", str(tmp_path)]
        result = CliRunner().invoke(images_app, [*args, "--set", "moderation=low"])
    assert result.exit_code == 0, result.output
    assert "content_policy_violation" in result.output
    assert "published harness" in result.output
    assert json.loads((tmp_path / "manifest.json").read_text())["settings"]["moderation"] == "low"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"model": "openai/x", "base_url": None}, "OPENAI_API_KEY"),
        ({"model": "azure/x", "base_url": None}, "base-url"),
        ({"model": "opnai/x"}, "openai"),
        ({"base_url": "ftp://x"}, "http"),
        ({"n": 0}, "1 image"),
        ({"suite": "images-cor"}, "images-core"),
        ({"model": "diffusers/nowhere"}, "model_index"),
        ({"vision": ("openai/x",), "keep": False}, "vision"),
    ],
)
def test_what_is_wrong_is_said_before_anything_is_asked(tmp_path, monkeypatch, fields, complaint):
    from demur.core.errors import DemurError

    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    given = {"model": "openai/x", "base_url": "http://127.0.0.1:9", "judge": "phrases"} | fields
    with pytest.raises(DemurError, match=complaint):
        audit_images(ImagesConfig(out=tmp_path / "run", **given))


def test_a_reader_of_nothing_says_so(tmp_path):
    with pytest.raises(BadInputError, match=r"rows\.jsonl"):
        read_image_rows(tmp_path)
    (tmp_path / "rows.jsonl").write_text('{"id": 1}\n')
    with pytest.raises(BadInputError, match="rows"):
        read_image_rows(tmp_path)
    assert ImageRow.model_fields
