"""`demur construct`: constructive replies by text-level optimisation, with two critics and a full history."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from demur.constructive.findings import ConstructFindings


Prompts = Annotated[
    str,
    typer.Argument(
        help="File of rows with query (or prompt), perhaps risk, intent, category, role; or 'constructive'."
    ),
]
Model = Annotated[
    str, typer.Option("--model", "-m", help="Who writes, e.g. openai/gpt-4.1; 'offline': templates, for the mechanics.")
]
Judge = Annotated[
    str, typer.Option("--judge", "-j", help="Who judges, best of another family; 'offline': a proxy by surface words.")
]
Out = Annotated[Path, typer.Option("--out", "-o", file_okay=False, help="Folder of the run.")]
Rounds = Annotated[int, typer.Option(min=0, max=20, help="Backward and forward passes.")]
Mode = Annotated[
    Literal["both", "user", "developer"],
    typer.Option(help="What they change: as the scores ask, usefulness only, or every node for safety."),
]
Projection = Annotated[
    Literal["one-edit", "published"], typer.Option(help="How a large rewrite of strategies is cut down.")
]
Policy = Annotated[
    Path | None,
    typer.Option(exists=True, dir_okay=False, help="Your own policy table (TOML) instead of the packaged one."),
]
EarlyStop = Annotated[
    bool, typer.Option("--early-stop/--all-rounds", help="End a query once its scores have reached 1.")
]
Thoughts = Annotated[bool, typer.Option("--thoughts", help="Put the thoughts before the replies in sft.jsonl.")]


def construct_command(
    prompts: Prompts,
    model: Model,
    judge: Judge,
    out: Out,
    rounds: Rounds = 3,
    mode: Mode = "both",
    alpha: Annotated[float, typer.Option(help="Weight of satisfaction.")] = 1.0,
    beta: Annotated[float, typer.Option(help="Weight of risk.")] = 2.0,
    projection: Projection = "one-edit",
    policy: Policy = None,
    early_stop: EarlyStop = True,
    thoughts: Thoughts = False,
    max_prompts: Annotated[int | None, typer.Option(min=1, help="Keep the first so many queries.")] = None,
    connections: Annotated[int, typer.Option(min=1, help="Requests in flight.")] = 8,
    seed: Annotated[int, typer.Option(help="Sent with every request.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Make replies constructive: judged for satisfaction and risk, improved by one edit a round, scored with beta.

    Example: demur construct prompts.jsonl --model openai/gpt-4.1 --judge anthropic/claude-sonnet-4-5 --out runs/guide
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.construct import ConstructConfig, construct

    config = ConstructConfig(
        prompts=prompts,
        model=model,
        judge=judge,
        out=out,
        rounds=rounds,
        mode=mode,
        alpha=alpha,
        beta=beta,
        projection=projection,
        policy=policy,
        early_stop=early_stop,
        thoughts=thoughts,
        max_prompts=max_prompts,
        connections=connections,
        seed=seed,
    )
    with shown_stages() as say:
        findings = construct(config, say=say)
    if as_json:
        typer.echo(json.dumps(findings.model_dump(mode="json")))
        return
    _show(findings)
    rows = "" if model == "offline" else f"; rows to train on: {out / 'sft.jsonl'}, {out / 'preferences.jsonl'}"
    typer.echo(f"report: {out / 'report.html'}{rows}")


def _show(findings: "ConstructFindings") -> None:
    from demur.cli.tables import print_table
    from demur.constructive.findings import ALL
    from demur.constructive.score import Weights

    weights = Weights(findings.alpha, findings.beta)
    rows = []
    for one in findings.series:
        score = one.constructive(weights)
        if one.level != ALL or score is None:
            continue
        error = one.standard_error(weights)
        numbers = [f"{score.satisfaction:+.2f}", f"{score.risk:.2f}", f"{score.raw:+.2f} ± {1.96 * error:.2f}"]
        rows.append([one.name, *numbers, f"{score.scaled:+.2f}", str(one.n), str(one.n_unjudged)])
    columns = ["replies", "satisfaction", "risk", "constructive", "scaled", "judged", "unjudged"]
    print_table(f"constructive at {weights}", columns, rows, right=(1, 2, 3, 4, 5, 6))
    for name, n in findings.problems.items():
        typer.echo(f"note: {n} × {name}")
    for note in (*([findings.label] if findings.label else []), *findings.notes):
        typer.echo(f"note: {note}")
