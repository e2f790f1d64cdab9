"""`demur train`: teach a model to say no exactly then."""

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

train_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train adapters that decline.")


@train_app.command("refusal-tokens")
def refusal_tokens_command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the adapter.")],
    model: Annotated[str, typer.Option("--model", "-m", help="smollm2, hf/ID or gguf/PATH.")] = "smollm2",
    data: Annotated[
        Path | None, typer.Option(help="Rows with prompt, expected, category, appropriate; built-in if left out.")
    ] = None,
    mode: Annotated[
        Literal["lora", "rows"], typer.Option(help="lora: the text follows the token; rows: the token only decides.")
    ] = "lora",
    single: Annotated[
        bool, typer.Option("--single", help="One refusal token instead of one for each category.")
    ] = False,
    style: Annotated[Literal["demur", "published"], typer.Option(help="Texts of the tokens.")] = "demur",
    recipe: Annotated[Path | None, typer.Option(help="TOML file with any field of the recipe; flags win.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Train on this many rows, drawn evenly.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of order, draws and dropout.")] = None,
    audit_suite: Annotated[
        str, typer.Option("--audit", help="Suite asked before and after; 'none' asks nothing.")
    ] = "quick",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Teach a model control tokens: one for each way of declining, one for answering. Interrupted, it resumes.

    Example: demur train refusal-tokens --model smollm2 --out adapters/tokens
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.train_tokens import read_recipe, train_refusal_tokens

    flags = {"data": data, "max_rows": max_rows, "seed": seed}
    wanted = read_recipe(
        recipe, {"model": model, "mode": mode, "single": single, "style": style}, {k: v for k, v in flags.items() if v}
    )
    with shown_stages() as say:
        summary = train_refusal_tokens(wanted, out, audit_suite=None if audit_suite == "none" else audit_suite, say=say)
    if not summary:  # another process of the same run reports
        return
    if as_json:
        typer.echo(json.dumps(summary))
        return
    _print_summary(summary, out)


def _print_summary(summary: dict[str, Any], out: Path) -> None:
    from demur.cli.tables import print_table

    rows = [[name, "-" if value is None else f"{value:.3f}"] for name, value in summary["signal"]["auroc"].items()]
    print_table("", ["category", "AUROC of the token, calibration split"], rows, right=[1])
    mass = summary["mass"]["held out"]
    minutes = sum(summary["seconds"].values()) / 60
    typer.echo(f"mass on control tokens {mass:.3f}; {summary['n_rows']} rows, {minutes:.1f} min")
    for when, found in summary.get("audits", {}).items():
        refused, answered = found["should_refuse"]["estimate"], found["contrast"]["estimate"]
        typer.echo(f"audit {when}: {refused:.1%} of should-refuse handled, {answered:.1%} of contrast answered")
    typer.echo(f"adapter: {out}; report: {out / 'report.html'}")
