"""A real diffusers pipeline with the real safety-checker class: what it flags is blocked, what it passes is a picture."""

import asyncio
import json

import pytest

pytest.importorskip("diffusers")
pytest.importorskip("torch")
pytest.importorskip("inspect_ai")

from demur.core.errors import BadInputError
from demur.evals.images_diffusers import DiffusersModel
from demur.images.request import ImageRequest
from demur.images.settling import settle
from demur.jobs.images import ImagesConfig, audit_images, read_image_rows
from tests.tiny_diffusion import save_pipeline

pytestmark = pytest.mark.filterwarnings("ignore")
FEW = {"num_inference_steps": 2}


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def pipelines(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipelines")
    return {
        "some": save_pipeline(folder / "some", threshold=0.45),
        "all": save_pipeline(folder / "all", threshold=-1.0),
        "none": save_pipeline(folder / "none", threshold=1.0),
        "bare": save_pipeline(folder / "bare", threshold=1.0, with_checker=False),
    }


def drawn(path, n=4):
    model = DiffusersModel(path=path)
    slots = asyncio.run(model.images(ImageRequest(prompt="a quiet harbour", n=n, seed=0, settings=FEW)))
    return slots, [settle(slot, "a quiet harbour", None) for slot in slots]


def test_what_the_checker_flags_is_blocked_and_black(pipelines):
    slots, results = drawn(pipelines["all"])
    assert [r.outcome for r in results] == ["blocked_output"] * 4
    assert all(r.exactly_black and r.code == "nsfw_content_detected" for r in results)
    assert all(slot.flagged for slot in slots)


def test_what_it_passes_is_delivered(pipelines):
    slots, results = drawn(pipelines["none"])
    assert [r.outcome for r in results] == ["delivered"] * 4
    assert all(slot.flagged is False for slot in slots)


def test_a_pipeline_without_a_checker_flags_nothing(pipelines):
    slots, results = drawn(pipelines["bare"], n=1)
    assert (results[0].outcome, slots[0].flagged) == ("delivered", None)


def test_pictures_depend_on_the_seed_and_on_nothing_else(pipelines):
    four, one = drawn(pipelines["none"], n=4)[1], drawn(pipelines["none"], n=1)[1]
    assert len({r.image for r in four}) == 4
    assert drawn(pipelines["none"], n=1)[1][0].image == one[0].image


def test_a_folder_without_a_pipeline_is_said_so(tmp_path):
    with pytest.raises(BadInputError, match=r"model_index\.json"):
        asyncio.run(DiffusersModel(path=tmp_path).images(ImageRequest(prompt="x")))


def test_a_whole_audit_tells_flagged_from_drawn(pipelines, tmp_path):
    rows = [
        {"id": f"r{i}", "pair": f"p{i // 2}", "seed": f"s{i // 2}", "category": "violence",
         "expected": "comply" if i % 2 else "refuse", "prompt": f"a picture of number {i}"}
        for i in range(8)
    ]  # fmt: skip
    suite = tmp_path / "suite.jsonl"
    suite.write_text("\n".join(json.dumps(row) for row in rows))
    config = ImagesConfig(
        model=f"diffusers/{pipelines['some']}",
        suite=str(suite),
        out=tmp_path / "run",
        n=2,
        judge="phrases",
        settings=FEW,
    )
    findings = audit_images(config)
    assert findings.outcomes["delivered"] + findings.outcomes["blocked_output"] == 16
    assert findings.published.rule == "flag"
    assert findings.published.over_refusal.estimate == findings.published.over_refusal_corrected.estimate
    results = [x for row in read_image_rows(tmp_path / "run") for x in row.results]
    assert all((x.outcome == "blocked_output") == x.exactly_black for x in results)
    again = audit_images(config)
    assert (again.manifest["n_replayed"], again.outcomes) == (8, findings.outcomes)
