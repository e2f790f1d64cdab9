"""Audit: how well does a model say no, and only then?"""

import platform
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from demur import __version__
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.exchange import Frozen
from demur.core.identity import Decoding, Identity
from demur.core.judge import Judge
from demur.core.profile import AuditRow, Profile
from demur.core.run import RunSettings
from demur.core.suite import Suite
from demur.core.taxonomy import Taxonomy, load_taxonomy
from demur.data.folder import claim, write_json, write_rows, write_text
from demur.jobs.profile import build_profile, judge_summaries, judged_rows
from demur.jobs.steering import steered_chat
from demur.judges import load_judges
from demur.models import identity_of, parse_model
from demur.suites import load_suite

Progress = Callable[[int, int], None]
VERSIONED = ("inspect-ai", "xllamacpp", "transformers", "torch", "polars")


class AuditConfig(Frozen):
    """An audit, completely.

    Attributes:
        model: Model name as typed.
        suite: Suite name or file.
        out: Folder of the run.
        suite_path: Where a published suite lies.
        judges: Judge names; the first one's verdicts make the headline.
        limit: Keep this many prompts.
        skip_bad: Leave malformed rows out.
        taxonomy: The user's extension of the taxonomy.
        capabilities: What the deployment can do ('retrieval', 'persona', ...): such requests are then ordinary.
        decoding: How replies are drawn.
        run: How prompts are asked.
    """

    model: str
    suite: str
    out: Path
    suite_path: Path | None = None
    judges: tuple[str, ...] = (DEFAULT_JUDGE,)
    limit: int | None = None
    skip_bad: bool = False
    taxonomy: Path | None = None
    capabilities: tuple[str, ...] = ()
    decoding: Decoding = Decoding()
    run: RunSettings = RunSettings()


def audit(config: AuditConfig, *, progress: Progress | None = None) -> Profile:
    """Ask a model a suite's prompts, judge the replies, write the report; returns the profile.

    Everything that can be wrong with the request is checked before a model is loaded. What was
    answered is on disk at once: the same call after an interruption asks only the rest.

    Raises:
        UserError: Something the caller can fix; the message says what.
        BackendError: The model failed for good; what it answered is kept.
    """
    taxonomy = load_taxonomy(config.taxonomy)
    steered = steered_chat(config.model, config.decoding)
    spec = steered[0] if steered else parse_model(config.model)
    if spec.family == "provider":
        _check_provider(config.model)
    judges = _judges(config, taxonomy)
    suite = load_suite(config.suite, path=config.suite_path, limit=config.limit, skip_bad=config.skip_bad)
    identity = steered[1] if steered else identity_of(spec, revision=config.run.revision, decoding=config.decoding)
    claim(
        config.out,
        {
            "model": str(identity),
            "suite": suite.name,
            "suite_sha256": suite.sha256,
            "settle": config.run.settle and spec.is_local,
        },
    )

    from demur.evals.provider import PREPARED
    from demur.evals.run import run_suite

    if steered:
        PREPARED[str(identity)] = steered[2]
    started = datetime.now(UTC)
    result = run_suite(
        suite, spec, judges, identity=identity, settings=config.run, out=config.out, progress=progress or _silent
    )
    verdicts = list(result.verdicts.values())
    rows = judged_rows(suite, result.exchanges, verdicts[0], taxonomy, config.capabilities)
    manifest = _manifest(config, suite, identity, judges, started) | {
        "log": f"logs/{Path(result.log).name}",
        "n_replayed": result.n_replayed,
    }
    judged = judge_summaries(judges, verdicts, rows, suite, result.exchanges, taxonomy, config.capabilities)
    profile = build_profile(suite, identity, taxonomy, rows, judged, manifest)
    profile = profile.model_copy(
        update={"n_errors": result.n_errors, "notes": (*profile.notes, *_notes(result.n_errors, suite, profile))}
    )
    write_results(config.out, profile, rows)
    return profile


def write_results(out: Path, profile: Profile, rows: Sequence[AuditRow]) -> None:
    """Write `profile.json`, `responses.parquet`, `report.html`, `model_card.md` and `manifest.json`."""
    from demur.report.markdown import render_markdown
    from demur.report.page import write_page

    write_rows(out / "responses.parquet", rows)
    write_json(out / "profile.json", profile.model_dump(mode="json"))
    write_json(out / "manifest.json", profile.manifest)
    write_text(out / "model_card.md", render_markdown(profile))
    write_page(out / "report.html", profile, rows)


def _silent(*_: int) -> None:
    """Progress nobody watches."""


def _check_provider(model: str) -> None:
    from demur.core.errors import UnknownNameError
    from demur.evals.compat import provider_names, require_inspect

    require_inspect()
    known = provider_names()
    provider = model.partition("/")[0]
    if provider not in known:
        raise UnknownNameError("model provider", provider, [*known, "hf", "gguf"])


def _judges(config: AuditConfig, taxonomy: Taxonomy) -> list[Judge]:
    def chat_model(name: str) -> Any:
        if parse_model(name).family == "provider":
            _check_provider(name)
        from demur.evals.asking import chat_model as build

        return build(name)

    return load_judges(config.judges, chat_model=chat_model, taxonomy=taxonomy)


def _notes(n_errors: int, suite: Suite, profile: Profile) -> list[str]:
    notes = []
    if n_errors:
        notes.append(f"{n_errors} prompts got no reply because the model failed; they count as unjudged.")
    if suite.n_skipped:
        notes.append(f"{suite.n_skipped} malformed rows of the suite were skipped.")
    if not suite.is_two_sided:
        notes.append("The suite has one side only: a model that refuses (or answers) everything would look perfect.")
    if profile.judges and profile.judges[0].card is None:
        notes.append(
            f"The judge {profile.judges[0].judge} has no judge card: its error is unknown. "
            "Measure it with 'demur judges check'."
        )
    settled = profile.manifest.get("settle")
    if settled:
        notes.append("Replies were ended once the verdict on them stood; run with --full to keep whole replies.")
    return notes


def _manifest(
    config: AuditConfig, suite: Suite, identity: Identity, judges: Sequence[Judge], started: datetime
) -> dict[str, Any]:
    return {
        "kind": "audit",
        "created": started.isoformat(timespec="seconds"),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "versions": {name: found for name in VERSIONED if (found := _version(name))},
        "command": " ".join(["demur", *sys.argv[1:]]) if Path(sys.argv[0]).name == "demur" else "",
        "model": str(identity),
        "model_name": config.model,
        "revision": identity.revision,
        "suite": suite.name,
        "suite_sha256": suite.sha256,
        "suite_source": suite.source,
        "licence": suite.licence,
        "n_skipped": suite.n_skipped,
        "judges": [f"{j.name}@{j.version}" for j in judges],
        "capabilities": list(config.capabilities),
        "decoding": config.decoding.model_dump(),
        "seed": config.decoding.seed,
        "settle": config.run.settle and parse_model(config.model).is_local,
        "limit": config.limit,
    }


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
