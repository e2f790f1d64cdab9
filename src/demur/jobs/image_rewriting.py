"""The rewriting study of a finished image audit: reword what was refused, draw it again, report what it cost."""

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from demur.core.chat import ChatModel, ChatReply, ChatRequest, EnoughSeen
from demur.core.errors import BadInputError
from demur.core.suite import Suite, SuiteRow
from demur.data.folder import claim, write_json, write_text
from demur.evals.journal import Journal
from demur.images.declines import with_text_verdicts
from demur.images.rewriting import Rewriting, RewritingStudy, as_rows, refused_benign, rewrite, summarise, with_drawn
from demur.images.settling import with_placeholders
from demur.images.store import ImageStore
from demur.jobs.images import ImagesConfig, image_model, read_findings, read_image_rows
from demur.judges import load_judge
from demur.suites.formats import suite_hash

Progress = Callable[[int, int], None]


class Remembering:
    """A chat model whose replies are on disk at once, so that an interrupted study asks nothing twice."""

    def __init__(self, model: ChatModel, journal: Journal) -> None:
        self.model = model
        self.journal = journal

    @property
    def name(self) -> str:
        return self.model.name

    async def complete(self, request: ChatRequest, /, *, enough: EnoughSeen | None = None) -> ChatReply:
        key = self.journal.key(self.name, "\x1e".join(m.text for m in request.messages))
        if key not in self.journal.replies:
            self.journal.add(key, await self.model.complete(request, enough=enough))
        return self.journal.replies[key]


def study_rewriting(
    folder: Path,
    config: ImagesConfig,
    *,
    rewriter: ChatModel,
    judge: ChatModel,
    progress: Progress = lambda *_: None,
) -> RewritingStudy:
    """Reword the benign prompts an audit saw refused, ask for them again, and write `rewriting.json`.

    Args:
        folder: Folder of the finished audit.
        config: How to ask, as for the audit; `out` is where the study goes.
        rewriter: Language model that rewords.
        judge: Language model that compares meanings; better not the rewriter.
        progress: Told prompts done and prompts in all.

    Raises:
        BadInputError: No finished audit there, another model, or nothing was refused.
    """
    findings = read_findings(folder)
    refused = refused_benign(read_image_rows(folder))
    if not refused:
        raise BadInputError(f"{folder}: no benign prompt was refused there; a rewriting study needs some")
    if str(findings.manifest.get("provider")) != config.name.provider:
        raise BadInputError(f"{folder}: expected an audit of {config.model!r}, got one of {findings.model!r}")
    claim(config.out, {"kind": "image-rewriting", "of": findings.model, "rewriter": rewriter.name, "judge": judge.name})
    journal = Journal(config.out / "rewriting.jsonl", identity="rewriting")
    try:
        found = asyncio.run(rewrite(refused, Remembering(rewriter, journal), Remembering(judge, journal)))
    finally:
        journal.close()
    found = _drawn(found, config, findings.model, progress)
    study = summarise(found)
    write_text(config.out / "rewritings.jsonl", "".join(json.dumps(r.model_dump(mode="json")) + "\n" for r in found))
    write_json(config.out / "rewriting.json", study.model_dump(mode="json"))
    return study


def _drawn(found: list[Rewriting], config: ImagesConfig, identity: str, progress: Progress) -> list[Rewriting]:
    from demur.evals.images_tasks import Asking, run_images

    rows = as_rows(found)
    if not rows:
        return found
    prompts: tuple[Any, ...] = tuple(
        SuiteRow(id=r.id, prompt=r.prompt, expected="comply", category=r.category, metadata={"seed": r.seed})
        for r in rows
    )
    suite = Suite(name="rewritten", rows=prompts, sha256=suite_hash(prompts))
    store = ImageStore(folder=config.out, keep=config.keep)
    asking = Asking(
        n=config.n, connections=config.connections, out=config.out, identity=f"{identity}@{config.base_url or ''}"
    )
    run = run_images(suite, image_model(config, identity, store), asking, store, progress)
    text_judge = load_judge(config.judge)
    return with_drawn(found, asyncio.run(with_text_verdicts(with_placeholders(run.rows), text_judge)))
