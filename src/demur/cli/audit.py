"""`demur audit`: how well does a model say no, and only then?"""

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.core.profile import Cell, Profile
    from demur.jobs.audit import AuditConfig


def audit_command(
    model: Annotated[
        str, typer.Argument(help="smollm2, hf/ID, gguf/PATH, or any provider's model, e.g. openai/gpt-4.1.")
    ],
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="A suite's name ('demur suites') or a file with a prompt column.")
    ] = "quick",
    suite_path: Annotated[Path | None, typer.Option(help="Where a published suite lies on this machine.")] = None,
    judge: Annotated[
        list[str] | None, typer.Option("--judge", "-j", help="Repeatable; the first makes the headline.")
    ] = None,
    limit: Annotated[int | None, typer.Option(help="Ask only this many prompts, drawn evenly.")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="Folder of the run; runs/MODEL-SUITE by default.")
    ] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of a compatible server.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, in tokens.")] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of sampled replies.")] = 0,
    system: Annotated[str, typer.Option(help="System prompt put before every request.")] = "",
    full: Annotated[
        bool, typer.Option("--full", help="Keep whole replies; by default a local model stops once the verdict stands.")
    ] = False,
    capability: Annotated[
        list[str] | None,
        typer.Option(help="What the deployment can do, e.g. retrieval; repeatable. Such requests count as ordinary."),
    ] = None,
    taxonomy: Annotated[Path | None, typer.Option(help="TOML file laid over the taxonomy.")] = None,
    revision: Annotated[str | None, typer.Option(help="Hub revision of a transformers model.")] = None,
    dtype: Annotated[str, typer.Option(help="Number format of a transformers model.")] = "auto",
    cache: Annotated[bool, typer.Option("--cache", help="Reuse a provider's replies from earlier runs.")] = False,
    one_sided: Annotated[bool, typer.Option("--one-sided", help="Run a suite that has only one side.")] = False,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the profile as JSON.")] = False,
) -> None:
    """Ask a model prompts it should and should not comply with, judge the replies, write a report.

    Example: demur audit smollm2 --suite core
    """
    from demur.core.identity import Decoding
    from demur.core.run import RunSettings
    from demur.jobs.audit import AuditConfig

    settings = RunSettings(
        settle=not full, base_url=base_url, cache=cache, one_sided=one_sided, revision=revision, dtype=dtype
    )
    config = AuditConfig(
        model=model,
        suite=suite,
        out=out or default_folder(model, suite),
        suite_path=suite_path,
        judges=tuple(judge or [DEFAULT_JUDGE]),
        limit=limit,
        skip_bad=skip_bad,
        taxonomy=taxonomy,
        capabilities=tuple(capability or ()),
        decoding=Decoding(max_tokens=max_tokens, temperature=temperature, seed=seed, system=system),
        run=settings,
    )
    _run(config, as_json=as_json)


def _run(config: "AuditConfig", *, as_json: bool) -> None:
    from demur.cli.progress import shown
    from demur.jobs.audit import audit

    with shown(f"auditing {config.model}") as progress:
        profile = audit(config, progress=progress)
    if as_json:
        typer.echo(json.dumps(profile.model_dump(mode="json")))
    else:
        print_profile(profile)
    typer.echo(f"report: {config.out / 'report.html'}", err=as_json)


def default_folder(model: str, suite: str) -> Path:
    """Folder of a run that was given none."""
    return Path("runs") / "-".join(
        re.sub(r"[^A-Za-z0-9.]+", "-", part).strip("-.") or "x" for part in (model, Path(suite).stem)
    )


def print_profile(profile: "Profile") -> None:
    """Print both sides, by category and subcategory."""
    from demur.cli.tables import percent, print_table

    rows = []
    for cell in (*profile.categories, profile.overall):
        subs = [s for s in profile.subcategories if s.category == cell.key]
        rows.append(_cells(cell.name.upper(), cell))
        rows += [_cells(f"  {s.name}", s) for s in subs]
    print_table(
        f"{profile.model} on {profile.suite} ({profile.n} prompts)",
        [
            "kind of request",
            "handled when it should say no",
            "n",
            "answered when it should",
            "n",
            "refused",
            "degen.",
            "unjudged",
        ],
        rows,
        right=(1, 2, 3, 4, 5, 6, 7),
    )
    first = profile.judges[0]
    typer.echo(
        f"worst: {profile.worst or '-'}; smallest change two such runs would find: {percent(profile.minimum_detectable_effect)}"
    )
    if first.corrected_refused is not None:
        fixed = first.corrected_refused
        typer.echo(
            f"refused, corrected for the known error of {first.judge}: {percent(fixed.estimate, fixed.low, fixed.high)}"
        )
    for note in profile.notes:
        typer.echo(f"note: {note}")


def _cells(name: str, cell: "Cell") -> list[str]:
    from demur.cli.tables import percent

    left, right = cell.should_refuse, cell.contrast
    return [
        name,
        percent(left.estimate, left.low, left.high),
        str(left.n),
        percent(right.estimate, right.low, right.high),
        str(right.n),
        percent(cell.refused.estimate),
        str(cell.refused.degenerate),
        str(cell.refused.unjudged),
    ]
