"""`demur guard`: a guard made of a model's own states, fitted and applied."""

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from demur.core.profile import Interval
    from demur.inside.guard_report import GuardReport

guard_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Guards made of a model's own states (Latent Guard)."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a guard.")]


@guard_app.command("fit")
def fit_command(
    model: Annotated[str, typer.Argument(help="A local model, e.g. smollm2 or smollm2+adapters/tokens.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the guard.")],
    data: Annotated[
        Path | None, typer.Option(help="Rows with prompt, expected (refuse, comply), category, pair_id; else our own.")
    ] = None,
    fpr: Annotated[
        float, typer.Option(help="False alarms allowed among harmless prompts, look-alikes included.")
    ] = 0.05,
    augment: Annotated[
        bool, typer.Option("--augment", help="Also average harmful prompts that it answers and harmless look-alikes.")
    ] = False,
    by_category: Annotated[
        bool, typer.Option("--by-category", help="Find all that should be declined, by category, not harm alone.")
    ] = False,
    metric: Annotated[
        Literal["auto", "cosine", "centred", "standard", "learned"],
        typer.Option(help="How states are compared; 'cosine' is as published, 'auto' takes the best of all."),
    ] = "auto",
    span: Annotated[
        str, typer.Option(help="Where they are read: t_inst (as published), t_post[-1], or auto for the better.")
    ] = "auto",
    layers: Annotated[str | None, typer.Option(help="Residual indices, e.g. 8-24 or 12,16,20; all by default.")] = None,
    refused_by: Annotated[
        Literal["auto", "none", "token", "reply"], typer.Option(help="How to know which prompts the model refuses.")
    ] = "auto",
    n_fit: Annotated[int, typer.Option(help="Most prompts of a side to fit on.")] = 300,
    n_check: Annotated[int, typer.Option(help="Most harmful prompts to set thresholds on, and to measure on.")] = 150,
    base: Annotated[bool, typer.Option(help="Fit one on the base of an adapter too, to compare with.")] = True,
    examples: Annotated[
        bool, typer.Option("--examples/--no-examples", help="Keep the prompts fitted on in the folder.")
    ] = True,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Fit a guard on what a model holds in its states, set its threshold, and measure it on prompts it has not seen.

    Example: demur guard fit smollm2 --out guard/ --fpr 0.05
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.guard import GuardConfig, fit_guard

    config = GuardConfig(
        model=model, out=out, data=data, rate=_share(fpr), augment=augment, by_category=by_category, metric=metric, span=span,
        layers=parse_layers(layers), refused_by=refused_by, n_fit=max(n_fit, 10), n_check=max(n_check, 10),
        base=base, keep_examples=examples, seed=seed, command=("demur", *sys.argv[1:]),
    )  # fmt: skip
    with shown_stages() as progress:
        report = fit_guard(config, progress=progress)
    _show(report, as_json=as_json)
    typer.echo(f"guard: {out}; as a signal: guard:{out}", err=as_json)


@guard_app.command("apply")
def apply_command(
    guard: Folder,
    file: Annotated[Path, typer.Argument(help="Rows with a prompt column.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .jsonl or .parquet file; else to stdout.")] = None,
    model: Annotated[str | None, typer.Option("--model", "-m", help="The guard's model, if it moved.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
) -> None:
    """Score the prompts of a file: score, p_harmful, flagged and the nearest category, one row for each.

    Example: demur guard apply guard/ prompts.jsonl --out scores.parquet
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.guard import apply_guard

    with shown_stages() as progress:
        rows = apply_guard(guard, file, out, model=model, skip_bad=skip_bad, progress=progress)
    if out is None:
        for row in rows:
            typer.echo(json.dumps(row))
        return
    typer.echo(f"{len(rows)} prompts, {sum(row['flagged'] for row in rows)} flagged: {out}")


@guard_app.command("show")
def show_command(guard: Folder, as_json: AsJson = False) -> None:
    """Show again what a fit measured.

    Example: demur guard show guard/
    """
    from demur.jobs.guard import read_report

    _show(read_report(guard), as_json=as_json)


def parse_layers(text: str | None) -> tuple[int, ...] | None:
    """Residual indices from '8-24' or '12,16,20'; None for all.

    Raises:
        BadInputError: Neither form.
    """
    from demur.core.errors import BadInputError

    if text is None:
        return None
    found: list[int] = []
    for part in text.split(","):
        span = re.fullmatch(r"\s*(\d{1,4})\s*(?:-\s*(\d{1,4})\s*)?", part)
        if span is None or (span[2] and int(span[2]) < int(span[1])):
            raise BadInputError(f"--layers: expected residual indices such as 8-24 or 12,16,20, got {text!r}")
        found += range(int(span[1]), int(span[2] or span[1]) + 1)
    return tuple(sorted(set(found)))


def _share(value: float) -> float:
    from demur.core.errors import BadInputError

    if not 0 < value < 1:
        raise BadInputError(f"--fpr: expected a share between 0 and 1, got {value}; 0.05 means 5%")
    return value


def _show(report: "GuardReport", *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
        return
    from demur.cli.tables import print_table

    layers = f"{report.layers[0]} to {report.layers[-1]}" if len(report.layers) > 1 else str(report.layers[0])
    typer.echo(
        f"{report.model}: {report.metric}, {'augmented' if report.augmented else 'plain'}, layers {layers} at "
        f"{report.span} ({report.span_text!r} in the first prompt)"
    )
    typer.echo(
        f"threshold {report.threshold:+.4f} for false alarms of at most {report.rate:.1%}; as a probability "
        f"{report.threshold_probability:.3f}"
    )
    print_table(
        "flagged, of prompts that took part in nothing",
        ["prompts", "n", "at 0, as published", "at the threshold"],
        [[r.name or r.kind, str(r.calibrated.n), _rate(r.published), _rate(r.calibrated)] for r in report.flagged],
        right=(1, 2, 3),
    )
    print_table(
        "how well harmful and harmless prompts are told apart",
        ["score", "AUROC", "interval"],
        [[r.name, _number(r.ranking.auroc), _range(r.ranking.low, r.ranking.high)] for r in report.rows],
        right=(1,),
    )
    print_table(
        "the same prompts, other guards",
        ["guard", "AUROC when checked", "AUROC", "harmful flagged", "false alarms"],
        [
            [
                v.ranking.name,
                _number(v.checked),
                _number(v.ranking.ranking.auroc),
                _rate(v.recall),
                _rate(v.false_alarms),
            ]
            for v in report.variants
        ],
        right=(1, 2, 3, 4),
    )
    for note in report.notes:
        typer.echo(f"note: {note}")


def _rate(found: "Interval") -> str:
    from demur.cli.tables import percent

    return percent(found.estimate, found.low, found.high)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"
