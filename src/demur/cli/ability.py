"""`demur ability`: what a model can do beside saying no."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from demur.jobs.ability import AbilityReport


def ability_command(
    model: Annotated[str, typer.Argument(help="smollm2, hf/ID, gguf/PATH, BASE+ADAPTER; any model for formats alone.")],
    against: Annotated[
        str | None, typer.Option("--against", "-a", help="Another model, asked the same: what changed, item by item.")
    ] = None,
    tasks: Annotated[
        str, typer.Option(help="choices, prose, formats; lm-eval:NAME and inspect:NAME when online. Comma-separated.")
    ] = "choices,prose,formats",
    items: Annotated[Path | None, typer.Option(help="A folder of your own items; else ours.")] = None,
    limit: Annotated[int | None, typer.Option(help="Items of each part, drawn evenly.")] = None,
    system: Annotated[str, typer.Option(help="System prompt put before every question.")] = "",
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for the result and its report.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Compute everything again, whatever is remembered.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON, without texts.")] = False,
) -> None:
    """Measure general ability: multiple choice by log-probability, perplexity of prose, form of short replies.

    Example: demur ability smollm2+adapters/lora --against smollm2
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.ability import AbilityConfig, check_ability

    config = AbilityConfig(
        model=model,
        against=against,
        tasks=tuple(dict.fromkeys(part.strip() for part in tasks.split(",") if part.strip())),
        items=items,
        limit=limit,
        system=system,
        out=out,
        remember=not fresh,
        command=("demur", *sys.argv[1:]),
    )
    with shown_stages() as progress:
        report = check_ability(config, progress=progress)
    if as_json:
        typer.echo(json.dumps(_plain(report)))
    else:
        print_ability(report)
    if out is not None:
        typer.echo(f"report: {out / 'report.html'}", err=as_json)


def _plain(report: "AbilityReport") -> dict[str, object]:
    """What a script wants: headline figures, everything else without the items."""
    texts = {"choices": {"items"}, "prose": {"texts"}, "formats": {"replies"}}
    without = {"result": texts, "against": texts}
    shown = report.model_dump(mode="json", exclude=without)
    shown["metrics"] = report.result.metrics
    shown["metrics_against"] = report.against.metrics if report.against else None
    return shown


def print_ability(report: "AbilityReport") -> None:
    """Print every figure, and what changed; then accuracy by subject and forms by kind."""
    from demur.ability.comparison import ability_rows
    from demur.cli.tables import percent, print_table

    result, other = report.result, report.against
    rows = ability_rows(other, result) if other else ability_rows(result)
    if other:
        cells = [[r.name, r.before, r.after, r.change, r.verdict] for r in rows]
        print_table("ability", ["figure", other.model, result.model, "change", ""], cells)
    elif rows:
        print_table("ability, 95% intervals", ["figure", result.model], [[r.name, r.before] for r in rows])
    if result.choices:
        subjects = [[s, percent(v.estimate, v.low, v.high), str(v.n)] for s, v in result.choices.by_subject.items()]
        title = f"multiple choice by subject, per byte; chance {result.choices.chance:.0%}"
        print_table(title, ["subject", "right", "items"], subjects, right=(1, 2))
    if result.formats:
        kinds = [[k, f"{v.hits:g} of {v.n}"] for k, v in result.formats.by_kind.items()]
        print_table("replies that keep the form", ["form", "kept"], kinds, right=(1,))
    published = [
        [name, s.task, s.metric, f"{s.value:.4g}", "-" if s.stderr is None else f"{s.stderr:.2g}"]
        for name, scores in report.published.items()
        for s in scores
    ]
    if published:
        print_table("published tasks", ["model", "task", "metric", "value", "± s.e."], published, right=(3, 4))
    for note in dict.fromkeys((*result.notes, *(other.notes if other else ()))):
        typer.echo(f"note: {note}")
    seconds = {part: s for part, s in result.seconds.items() if s >= 0.1}
    if seconds:
        typer.echo("time: " + ", ".join(f"{part} {s:.1f} s" for part, s in seconds.items()))
