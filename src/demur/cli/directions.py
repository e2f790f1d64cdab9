"""`demur explain directions`: where a model holds 'harmful' and 'I will refuse', layer by position."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.core.direction_study import ControlRow, DirectionStudy, Selection

_SHOWN = 8  # candidates in the table; all of them are in the file


def directions_command(
    model: Annotated[str, typer.Argument(help="A local model that refuses, e.g. smollm2+adapters/tokens.")],
    out: Annotated[
        Path, typer.Option("--out", "-o", help="Folder for directions.json, the directions and their maps.")
    ] = Path("runs/directions"),
    data: Annotated[
        Path | None,
        typer.Option(help="Rows with prompt, expected (refuse, comply) and perhaps category; else our own."),
    ] = None,
    refused_by: Annotated[
        Literal["auto", "reply", "token"],
        typer.Option(help="What 'refused' means: a judge's verdict on the reply, or the control token the model says."),
    ] = "auto",
    method: Annotated[
        Literal["difference_in_means", "pairwise_pca", "logistic"], typer.Option(help="Estimator of directions.")
    ] = "difference_in_means",
    design: Annotated[
        Literal["crossed", "plain"],
        typer.Option(help="Compare within harmful and within harmless prompts, or as published."),
    ] = "crossed",
    n_fit: Annotated[int, typer.Option("--fit", min=8, help="Most harmful prompts to fit on.")] = 128,
    n_test: Annotated[int, typer.Option("--test", min=8, help="Most harmful prompts to test on.")] = 96,
    seeds: Annotated[int, typer.Option(min=1, help="Draws of the prompts to fit on.")] = 3,
    search: Annotated[bool, typer.Option(help="Search for one direction that carries refusal.")] = True,
    span: Annotated[list[str] | None, typer.Option(help="Repeatable: spans to search; t_post[-1] by default.")] = None,
    layer_step: Annotated[int, typer.Option(min=1, help="Search every so many layers.")] = 1,
    base: Annotated[bool, typer.Option(help="Study the base of an adapter beside it.")] = True,
    judge: Annotated[str, typer.Option("--judge", "-j", help="Says what a reply did.")] = DEFAULT_JUDGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Find harmfulness and refusal directions, with every control they have to beat beside them.

    Example: demur explain directions smollm2+adapters/tokens --out runs/dir
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.direction_selection import SelectionSettings
    from demur.jobs.directions import DirectionsConfig, study_directions

    settings = SelectionSettings(spans=tuple(span or ("t_post[-1]",)), layer_step=layer_step, judge=judge)
    config = DirectionsConfig(
        model=model, out=out, data=data, refused_by=refused_by, method=method, design=design, n_fit=n_fit,
        n_test=n_test, seeds=tuple(range(seeds)), selection=settings if search else None, base=base, judge=judge,
        command=("demur", *sys.argv[1:]),
    )  # fmt: skip
    with shown_stages() as progress:
        study = study_directions(config, progress=progress)
    if as_json:
        typer.echo(study.model_dump_json())
        return
    _print(study)
    typer.echo(f"result: {out / 'directions.json'}; report: {out / 'report.html'}")


def _print(study: "DirectionStudy") -> None:
    meaning = {"reply": f"judge {study.judge!r} on the reply", "token": "the control token the model says"}
    typer.echo(f"{study.model}\nrefused: {meaning[study.refused_by]}; design: {study.design}")
    for part, sizes in study.buckets.items():
        typer.echo(f"{part:10} " + ", ".join(f"{name.replace('_', ' ')} {n}" for name, n in sizes.items()))
    for table in study.honesty:
        typer.echo(f"\n{table.axis} direction, {table.task}, at {table.span}, layer {table.layer} (AUROC)")
        for row in table.rows:
            typer.echo(f"  {row.name:32} {_ranking(row)}")
    if study.selection is not None:
        _print_selection(study.selection)
    for saved in study.saved:
        typer.echo(f"\n{saved.file}: {saved.span}, layer {saved.layer}, chosen by {saved.chosen_by}")
    for note in study.notes:
        typer.echo(f"note: {note}")


def _print_selection(selection: "Selection") -> None:
    tokens = ", ".join(map(repr, selection.metric_tokens))
    typer.echo(f"\nsearch: refusal metric over {tokens}; filters:")
    for step in selection.attrition:
        typer.echo(f"  {step.name}: {step.kept} of {step.n} kept{'; ' + step.reason if step.reason else ''}")
    listed = sorted(selection.candidates, key=lambda c: (len(c.rejected), c.bypass if c.bypass is not None else 99.0))
    typer.echo("  span        layer variant  bypass  induce      kl  rejected for")
    for c in listed[:_SHOWN]:
        numbers = " ".join("      -" if v is None else f"{v:7.3f}" for v in (c.bypass, c.induce, c.kl))
        typer.echo(f"  {c.span:12} {c.layer:4} {c.variant:7} {numbers}  {'; '.join(c.rejected) or 'survives'}")
    for note in selection.notes:
        typer.echo(f"note: {note}")


def _ranking(row: "ControlRow") -> str:
    r = row.ranking
    if r.auroc is None or r.low is None or r.high is None:
        return row.note or "not defined"
    return f"{r.auroc:.3f} [{r.low:.3f}, {r.high:.3f}]"
