"""`demur train`: teach a model to say no exactly then."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

train_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Train adapters that decline.")
_METHODS = {
    "sft": "Every weight, on replies.",
    "lora": "A LoRA or DoRA adapter, on replies.",
    "dpo": "Better against worse replies, held to the base (DPO).",
    "orpo": "Better against worse replies by odds, without a reference (ORPO).",
    "kto": "Good and bad replies, each by itself (KTO).",
    "derta": "Refusing from any position of a reply (DeRTa).",
    "tense-defence": "Refusals in other tenses, among ordinary rows.",
    "constructive": "Guiding instead of refusing.",
    "scope": "Answering the named tasks only.",
}
Given = Annotated[str, typer.Argument(metavar="RECIPE", help="TOML file, or preset:NAME (see 'demur train presets').")]
Seed = Annotated[int | None, typer.Option(help="Instead of the recipe's.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="Base, instead of the recipe's.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


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
    as_json: AsJson = False,
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


def _method_command(method: str) -> Callable[..., None]:
    def command(
        recipe: Given,
        out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the run.")],
        model: Model = None,
        seed: Seed = None,
        as_json: AsJson = False,
    ) -> None:
        from demur.cli.progress import shown_stages
        from demur.jobs.train_recipe import train_recipe

        wanted = _read(recipe, method, model, seed)
        with shown_stages() as say:
            summary = train_recipe(wanted, out, say=say)
        if not summary:  # another process of the same run reports
            return
        if as_json:
            typer.echo(json.dumps(summary))
        else:
            _print_run(summary, out)
        if not summary["passed"]:
            raise typer.Exit(1)

    return command


for _name, _text in _METHODS.items():
    train_app.command(
        _name,
        help=f"{_text} Interrupted, it resumes; a failed gate ends it with code 1."
        f"\n\nExample: demur train {_name} recipe.toml --out runs/mine",
    )(_method_command(_name))


@train_app.command("plan")
def plan_command(
    recipe: Given,
    model: Model = None,
    measure: Annotated[bool, typer.Option(help="Measure the speed by three steps where no earlier run has.")] = True,
    as_json: AsJson = False,
) -> None:
    """Say what a recipe will take on this machine: rows, tokens, steps, minutes, memory. Nothing is kept.

    Example: demur train plan preset:small-lora
    """
    from demur.cli.progress import shown_stages
    from demur.cli.tables import print_table
    from demur.jobs.train_plan import train_plan

    wanted = _read(recipe, None, model, None)
    with shown_stages() as say:
        plan = train_plan(wanted, measure=measure, say=say)
    if as_json:
        typer.echo(json.dumps(plan))
        return
    print_table("", ["what", "how much"], _plan_rows(plan), right=[1])
    for note in plan["notes"]:
        typer.echo(note)
    if not plan["fits"]:
        typer.echo("too little memory: lower optimiser.micro_tokens or set optimiser.gradient_checkpointing = true")


@train_app.command("transfer")
def transfer_command(
    adapter: Annotated[Path, typer.Argument(exists=True, file_okay=False, help="Folder of a trained adapter.")],
    onto: Annotated[str, typer.Option(help="Base to put it onto: smollm2, hf/ID or gguf/PATH.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the merged model.")],
) -> None:
    """Merge an adapter trained on one base into another of the same shape.

    Example: demur train transfer runs/mine/adapter --onto smollm2 --out models/merged
    """
    from demur.train.adapters import transfer_adapter

    folder = transfer_adapter(adapter, onto, out)
    typer.echo(f"merged: hf/{folder}")


@train_app.command("presets")
def presets_command(
    name: Annotated[str | None, typer.Argument(help="Print this one's file.")] = None,
    as_json: AsJson = False,
) -> None:
    """List the shipped recipes with their sources, or print one to start from.

    Example: demur train presets coconot-lora > mine.toml
    """
    from demur.cli.tables import print_table
    from demur.train.training_recipe import preset_names, preset_text, read_training_recipe

    if name is not None:
        typer.echo(preset_text(name), nl=False)
        return
    recipes = {one: read_training_recipe(f"preset:{one}") for one in preset_names()}
    if as_json:
        typer.echo(json.dumps({one: recipe.model_dump(mode="json") for one, recipe in recipes.items()}))
        return
    rows = [[one, recipe.method, recipe.source] for one, recipe in recipes.items()]
    print_table("", ["preset", "method", "source"], rows)


def _read(given: str, method: Any, model: str | None, seed: int | None) -> Any:
    from demur.train.training_recipe import read_training_recipe

    over = {"model": model, "seed": seed}
    return read_training_recipe(given, method=method, over={k: v for k, v in over.items() if v is not None})


def _plan_rows(plan: dict[str, Any]) -> list[list[str]]:
    gib, minutes, free = 2**30, plan["minutes"], plan["free"]
    return [
        ["rows", f"{plan['rows']:,}"],
        *[[f"  {name}", f"{n:,}"] for name, n in plan["sources"].items()],
        ["tokens read", f"{plan['tokens']:,}"],
        ["tokens learnt", f"{plan['learnt']:,}"],
        ["longest row", f"{plan['longest']:,} tokens"],
        ["steps", f"{plan['steps']:,}"],
        ["trained parameters", f"{plan['trained']:,} of {plan['parameters']:,}"],
        ["memory, estimated", f"{plan['memory'] / gib:.1f} GiB"],
        ["memory, free", "unknown" if free is None else f"{free / gib:.1f} GiB"],
        ["training", "unknown" if minutes is None else f"{minutes:.1f} min ({plan['speed_from']})"],
    ]


def _print_run(summary: dict[str, Any], out: Path) -> None:
    from demur.cli.tables import print_table

    before, after = summary["figures"]["before"], summary["figures"]["after"]
    rows = [[name, _figure(before.get(name)), _figure(value)] for name, value in after.items()]
    print_table("", ["figure", "before", "after"], rows, right=[1, 2])
    for gate in summary["gates"]:
        value, limit = _figure(gate["value"]), _figure(gate["limit"])
        outcome = "passed" if gate["passed"] else "FAILED"
        typer.echo(f"gate {outcome}: {gate['gate']} ({gate['reason'] or f'{value}, limit {limit}'})")
    typer.echo(f"model: {summary['opens']}; report: {out / 'report.html'}")


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


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
