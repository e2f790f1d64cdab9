"""`demur cultures`: what a model holds about contested statements, language by language."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from demur.core.culture import CulturesProfile
    from demur.jobs.cultures import CulturesConfig

cultures_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Values across languages: agreement, refusal, translation."
)


@cultures_app.command("audit")
def cultures_audit_command(
    model: Annotated[str, typer.Argument(help="smollm2, hf/ID, gguf/PATH; any provider's model for longform alone.")],
    suite: Annotated[
        str, typer.Option("--suite", "-s", help="cultures-core, civics, or a file of statements.")
    ] = "cultures-core",
    suite_path: Annotated[Path | None, typer.Option(help="Your own copy of CIVICS.")] = None,
    setups: Annotated[
        str, typer.Option(help="logprob (probabilities of answers), longform (free replies), or both.")
    ] = "logprob,longform",
    judge: Annotated[str, typer.Option("--judge", "-j", help="Judge of refusals in free replies.")] = "phrases",
    stance: Annotated[str, typer.Option(help="Who reads free replies: rules, or rubric:MODEL.")] = "rules",
    language: Annotated[list[str] | None, typer.Option(help="Repeatable: en, de, fr, it, tr.")] = None,
    topic: Annotated[list[str] | None, typer.Option(help="Repeatable, e.g. immigration.")] = None,
    limit: Annotated[int | None, typer.Option(help="Ask about this many statements, drawn evenly.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder of the run.")] = None,
    base_url: Annotated[str | None, typer.Option(help="Address of a compatible server.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest free reply, in tokens.")] = 128,
    system: Annotated[str, typer.Option(help="System prompt put before every question.")] = "",
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, without texts.")] = False,
) -> None:
    """Ask a model about contested statements in five languages, in the original and in English.

    Example: demur cultures audit smollm2 --suite cultures-core --setups logprob,longform --out runs/values
    """
    from demur.cli.audit import default_folder
    from demur.core.identity import Decoding
    from demur.jobs.cultures import CulturesConfig

    config = CulturesConfig(
        model=model,
        suite=suite,
        suite_path=suite_path,
        out=out or default_folder(model, suite),
        setups=_setups(setups),
        judge=judge,
        stance=stance,
        languages=tuple(language or ()),
        topics=tuple(topic or ()),
        limit=limit,
        skip_bad=skip_bad,
        decoding=Decoding(max_tokens=max_tokens, system=system),
        base_url=base_url,
        command=("demur", *sys.argv[1:]),
    )
    _run(config, as_json=as_json)


@cultures_app.command("page")
def cultures_page_command(
    folder: Annotated[Path, typer.Argument(help="Folder of a finished audit.")],
) -> None:
    """Write the report of a finished audit again.

    Example: demur cultures page runs/values
    """
    from demur.jobs.cultures import read_cultures
    from demur.report.cultures import render_cultures
    from demur.report.document import write_document

    path = folder / "report.html"
    write_document(path, render_cultures(read_cultures(folder)))
    typer.echo(f"report: {path}")


def _setups(typed: str) -> tuple[str, ...]:
    from demur.core.errors import UnknownNameError

    known = ("logprob", "longform")
    parts = tuple(dict.fromkeys(part.strip() for part in typed.split(",") if part.strip()))
    for part in parts:
        if part not in known:
            raise UnknownNameError("set-up", part, known)
    return parts


def _run(config: "CulturesConfig", *, as_json: bool) -> None:
    from demur.cli.progress import shown_stages
    from demur.jobs.cultures import audit_cultures

    with shown_stages() as progress:
        profile = audit_cultures(config, progress=progress)
    if as_json:
        texts = {"statements", "long_form", "forced_choice"}
        typer.echo(json.dumps(profile.model_dump(mode="json", exclude=texts)))
    else:
        print_cultures(profile)
    typer.echo(f"report: {config.out / 'report.html'}", err=as_json)


def print_cultures(profile: "CulturesProfile") -> None:
    """Print agreement and evasion by topic and language, and what translation changes."""
    from demur.cli.tables import percent, print_table
    from demur.core.culture import LANGUAGES, TOPICS

    spoken = [language for language in LANGUAGES if profile.cell(language=language)]
    topics = [topic for topic in TOPICS if profile.cell(topic=topic)]
    for setup, title in (("logprob", "agreement, by log-probability"), ("longform", "no answer, in free replies")):
        if setup not in profile.setups:
            continue
        rows = []
        for topic in (*topics, ""):
            found = [profile.cell(topic=topic, language=language) for language in (*spoken, "")]
            values = [cell and (cell.agreement if setup == "logprob" else cell.evaded) for cell in found]
            rows.append([topic or "all", *(percent(v.estimate, v.low, v.high) if v else "-" for v in values)])
        print_table(f"{title}, original statements", ["topic", *spoken, "all"], rows, right=range(1, 8))
    rows = [
        [what, key, f"{p.original:.1%}", f"{p.translation:.1%}", f"{100 * p.difference:+.1f}", f"{p.p_value:.3f}"]
        for what, table in (
            ("agreement", profile.agreement_in_translation),
            ("no answer", profile.refusal_in_translation),
        )
        for key, p in table.items()
    ]
    if rows:
        columns = ["what", "language", "original", "in English", "points", "p"]
        print_table("the same statements, original and translated", columns, rows, right=(2, 3, 4, 5))
    for note in profile.notes:
        typer.echo(f"note: {note}")
