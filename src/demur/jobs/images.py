"""Image audit: what became of every requested image, over-refusal and safety together, and the studies on top of it."""

import asyncio
import json
import platform
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from pydantic import JsonValue

from demur import __version__
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.core.image import ImageFindings, ImageRow
from demur.core.suite import Suite
from demur.data.folder import claim, write_json, write_text
from demur.images.declines import with_text_verdicts
from demur.images.drawing import ImageModelName, ImagesAddress, parse_image_model
from demur.images.faithful import rule_of
from demur.images.frames import pillow
from demur.images.policy import ImagePolicy, load_policy, n_moved, read_by_model, under_policy
from demur.images.request import ImageRequest
from demur.images.settling import with_placeholders
from demur.images.statistics import build_findings
from demur.images.store import ImageStore
from demur.judges import load_judge
from demur.models import parse_model
from demur.report.document import write_document
from demur.report.images import render_images
from demur.suites.images import OWN, load_image_suite

Progress = Callable[[int, int], None]
VERSIONED = ("inspect-ai", "pillow", "diffusers", "torch", "httpx")


class ImagesConfig(Frozen):
    """An image audit, completely.

    Attributes:
        model: 'openai/gpt-image-1', 'diffusers/PATH', 'inspect/PROVIDER/MODEL', ...
        out: Folder of the run.
        suite: 'images-core', 'overt' or a file.
        suite_path: Where published files lie.
        base_url: Address of a compatible interface.
        n: Images for each prompt.
        size: As the vendor writes it.
        seed: Seed of the first image.
        settings: The vendor's own knobs.
        limit: Ask about this many prompts.
        skip_bad: Leave malformed rows out.
        judge: Text judge of what is said instead of drawn.
        vision: Inspect models that look at delivered pictures; empty for none.
        policy: File that moves the expectations.
        policy_model: Language model that applies the policy's prose; '' for rules only.
        keep: Keep the pictures; otherwise blurred thumbnails only.
        connections: Requests in flight.
        tries: How often a request that fails for a passing reason is sent.
    """

    model: str
    out: Path
    suite: str = OWN
    suite_path: Path | None = None
    base_url: str | None = None
    n: int = 1
    size: str = ""
    seed: int | None = 0
    settings: dict[str, JsonValue] = {}
    limit: int | None = None
    skip_bad: bool = False
    judge: str = DEFAULT_JUDGE
    vision: tuple[str, ...] = ()
    policy: Path | None = None
    policy_model: str = ""
    keep: bool = True
    connections: int = 8
    tries: int = 6

    @property
    def name(self) -> ImageModelName:
        """The model's name with what changes its pictures."""
        known: dict[str, JsonValue] = {"n": self.n, "size": self.size, "seed": self.seed}
        return parse_image_model(self.model, known | self.settings)


def audit_images(config: ImagesConfig, *, progress: Progress | None = None) -> ImageFindings:
    """Ask an image system a suite's prompts and write `images.json`, `report.html`, `rows.jsonl` and the pictures.

    Everything that can be wrong with the request is checked before a picture is asked for; the same call after an
    interruption asks only the rest.

    Raises:
        UserError: Something the caller can fix.
        BackendError: The interface failed for good; what it answered is kept.
    """
    pillow()  # before anything is asked
    if config.vision and not config.keep:
        raise BadInputError("a vision judge looks at kept pictures: leave out either --vision or --no-keep")
    if config.n < 1:
        raise BadInputError(f"n: expected 1 image a prompt or more, got {config.n}")
    name = config.name
    policy = load_policy(config.policy) if config.policy else None
    judge = load_judge(config.judge, chat_model=_chat_model)
    suite = load_image_suite(config.suite, path=config.suite_path, limit=config.limit, skip_bad=config.skip_bad)
    identity = _identity(name)
    _claim(config, identity, suite)
    started = datetime.now(UTC)
    store = ImageStore(folder=config.out, keep=config.keep)
    rows, log, n_replayed = _ask(config, suite, identity, store, progress)
    rows = asyncio.run(with_text_verdicts(with_placeholders(rows), judge))
    if config.vision:
        rows = _looked_at(config, rows, store, progress)
    manifest = _manifest(config, suite, identity, started) | {
        "log": f"logs/{Path(log).name}",
        "n_replayed": n_replayed,
        "judge": f"{judge.name}@{judge.version}",
    }
    _write_rows(config.out / "rows.jsonl", rows)
    judged = _under(rows, policy, config.policy_model)
    findings = _findings(rows, judged, identity, suite.name, name.provider, manifest, policy)
    findings = findings.model_copy(update={"notes": (*findings.notes, *_model_notes(name, suite))})
    return _written(config.out, findings, render_images(findings, judged, asked=rows, store=store))


def reassessed_folder(folder: Path, policy: str) -> Path:
    """Where a reassessment by a policy of that name goes unless told otherwise."""
    return folder / f"policy-{''.join(c if c.isalnum() else '-' for c in policy)}"


def reassess(folder: Path, policy_file: Path, *, out: Path | None = None, policy_model: str = "") -> ImageFindings:
    """The findings of a finished audit under another policy; no picture is asked for.

    Args:
        folder: Folder of the audit.
        policy_file: The policy.
        out: Where `images.json` and `report.html` go; a folder named after the policy inside `folder` by default.
        policy_model: Language model that applies the policy's prose.

    Raises:
        BadInputError: No finished audit there, or a bad policy.
    """
    policy = load_policy(policy_file)
    rows = read_image_rows(folder)
    before = read_findings(folder)
    provider = str(before.manifest.get("provider", ""))
    judged = _under(rows, policy, policy_model)
    findings = _findings(rows, judged, before.model, before.suite, provider, dict(before.manifest), policy)
    place = out or reassessed_folder(folder, policy.name)
    store = ImageStore(folder=folder, keep=bool(before.manifest.get("pictures_kept", True)))
    page = render_images(findings, judged, asked=rows, store=store)
    return _written(place, findings, page)


def read_image_rows(folder: Path) -> list[ImageRow]:
    """Rows of a finished image audit.

    Raises:
        BadInputError: There is none.
    """
    path = folder / "rows.jsonl"
    if not path.is_file():
        raise BadInputError(f"{folder}: expected the folder of a finished image audit with rows.jsonl, found none")
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
        return [ImageRow.model_validate_json(line) for line in lines if line]
    except ValueError as error:
        raise BadInputError(f"{path}: expected rows of an image audit; {str(error).splitlines()[0]}") from None


def read_findings(folder: Path) -> ImageFindings:
    """Findings of a finished image audit.

    Raises:
        BadInputError: There are none.
    """
    path = folder / "images.json"
    if not path.is_file():
        raise BadInputError(f"{folder}: expected the folder of a finished image audit with images.json, found none")
    try:
        return ImageFindings.model_validate_json(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise BadInputError(f"{path}: expected findings; {str(error).splitlines()[0]}") from None


def _ask(
    config: ImagesConfig, suite: Suite, identity: str, store: ImageStore, progress: Progress | None
) -> tuple[list[ImageRow], str, int]:
    from demur.evals.images_tasks import Asking, run_images

    asking = Asking(
        n=config.n,
        connections=1 if config.name.provider == "diffusers" else config.connections,
        out=config.out,
        identity=f"{identity}@{config.base_url or ''}",
    )
    run = run_images(suite, image_model(config, identity, store), asking, store, progress or _silent)
    return run.rows, run.log, run.n_replayed


def image_model(config: ImagesConfig, identity: str, store: ImageStore) -> Any:
    """The Inspect model that draws.

    Raises:
        UserError: No key, no address, or no pipeline there.
    """
    from demur.evals.compat import require_inspect

    require_inspect()
    from demur.evals.images_provider import prepared_model

    request = ImageRequest(prompt="", n=config.n, size=config.size, seed=config.seed, settings=config.settings)
    asked = ImagesAddress(base_url=config.base_url, tries=config.tries)
    return prepared_model(config.name, identity, request, store, asked)


def _looked_at(
    config: ImagesConfig, rows: Sequence[ImageRow], store: ImageStore, progress: Progress | None
) -> list[ImageRow]:
    from demur.evals.images_judge import VisionJudge, with_vision
    from demur.evals.journal import Journal

    journal = Journal(config.out / "vision.jsonl", identity="+".join(config.vision))
    try:
        return asyncio.run(
            with_vision(rows, VisionJudge(config.vision, journal=journal), store, progress=progress or _silent)
        )
    finally:
        journal.close()


def _under(rows: Sequence[ImageRow], policy: ImagePolicy | None, policy_model: str) -> list[ImageRow]:
    if policy is None:
        return list(rows)
    read = asyncio.run(read_by_model(rows, policy, _chat_model(policy_model))) if policy_model else rows
    return under_policy(read, policy)


def _findings(
    rows: Sequence[ImageRow],
    judged: Sequence[ImageRow],
    identity: str,
    suite: str,
    provider: str,
    manifest: dict[str, JsonValue],
    policy: ImagePolicy | None,
) -> ImageFindings:
    found = build_findings(judged, model=identity, suite=suite, rule=rule_of(provider))
    about = {"policy": policy.name if policy else "", "n_moved": n_moved(rows, judged), "manifest": manifest}
    return found.model_copy(update=about)


def _written(out: Path, findings: ImageFindings, page: str) -> ImageFindings:
    write_json(out / "images.json", findings.model_dump(mode="json"))
    write_json(out / "manifest.json", findings.manifest)
    write_document(out / "report.html", page)
    return findings


def _write_rows(path: Path, rows: Sequence[ImageRow]) -> None:
    write_text(path, "".join(json.dumps(row.model_dump(mode="json")) + "\n" for row in rows))


def _identity(name: ImageModelName) -> str:
    if name.provider != "diffusers":
        return name.identity
    from demur.evals.compat import require_inspect

    require_inspect()
    from demur.evals.images_diffusers import pipeline_hash

    return name.identity.replace("[", f"@{pipeline_hash(Path(name.rest))}[", 1)


def _claim(config: ImagesConfig, identity: str, suite: Suite) -> None:
    about = {"model": identity, "suite": suite.name, "suite_sha256": suite.sha256, "base_url": config.base_url}
    claim(config.out, {"kind": "images", **about})


def _model_notes(name: ImageModelName, suite: Suite) -> list[str]:
    notes = []
    if suite.n_skipped:
        notes.append(f"{suite.n_skipped} malformed rows of the suite were skipped.")
    if name.provider == "diffusers" and not (Path(name.rest) / "safety_checker").is_dir():
        notes.append("This pipeline carries no safety checker: it declines nothing by construction.")
    return notes


def _manifest(config: ImagesConfig, suite: Suite, identity: str, started: datetime) -> dict[str, JsonValue]:
    return {
        "kind": "images",
        "created": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: found for name in VERSIONED if (found := _version(name))},
        "model": identity,
        "provider": config.name.provider,
        "settings": {"n": config.n, "size": config.size, "seed": config.seed, **config.settings},
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "suite_source": suite.source,
        "licence": suite.licence,
        "n_skipped": suite.n_skipped,
        "vision": list(config.vision),
        "limit": config.limit,
        "pictures_kept": config.keep,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _chat_model(name: str) -> Any:
    parse_model(name)
    from demur.evals.asking import chat_model

    return chat_model(name)


def _silent(*_: int) -> None:
    """Progress nobody watches."""
