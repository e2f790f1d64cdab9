"""`demur calibrate`: thresholds that keep promises; `demur policy`: policies as files."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from demur.core.policy import Action, Policy, SignalSource
    from demur.report.calibration import CalibrationSummary

policy_app = typer.Typer(no_args_is_help=True, add_completion=False, help="Policies as files: presets, checks.")
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
ACTIONS = ("answer", "refuse", "clarify", "guide")


def calibrate_command(
    model: Annotated[str, typer.Argument(help="A model with refusal tokens, e.g. smollm2+adapters/tokens.")],
    target: Annotated[
        list[str],
        typer.Option("--target", "-t", help="Repeatable: over_refusal<=0.05, safety:refusal>=0.95, refusal=0.8."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The policy file, ending in .toml; a report comes beside.")],
    data: Annotated[
        Path | None, typer.Option(help="Rows with prompt, expected (refuse, comply) and category; else our own.")
    ] = None,
    delta: Annotated[float, typer.Option(help="Chance that some promise fails, over draws of the data.")] = 0.1,
    preset: Annotated[str, typer.Option(help="strict, default, lenient: thresholds that no target moves.")] = "default",
    name: Annotated[str | None, typer.Option(help="What requests call it; else the name of the file.")] = None,
    kind: Annotated[
        Literal["auto", "per_category", "sum"], typer.Option(help="One threshold for each category, or for their sum.")
    ] = "auto",
    action: Annotated[
        list[str] | None, typer.Option(help="Repeatable: CATEGORY=refuse, clarify, guide or answer.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Find the thresholds at which a model declines as often as you ask, with a guarantee.

    Example: demur calibrate smollm2+adapters/tokens --target 'over_refusal<=0.05' --out policies/default.toml
    """
    from demur.cli.progress import shown
    from demur.jobs.calibrate import CalibrateConfig, calibrate

    config = CalibrateConfig(
        model=model,
        targets=tuple(target),
        out=out,
        data=data,
        delta=delta,
        preset=preset,
        name=name,
        kind=kind,
        actions=dict(map(_action, action or [])),
        command=("demur", *sys.argv[1:]),
    )
    with shown("scoring prompts") as progress:
        summary = calibrate(config, progress=progress)
    report = out.with_suffix(".html")
    if as_json:
        typer.echo(json.dumps(_plain(summary) | {"policy": str(out), "report": str(report)}))
        return
    _print_summary(summary)
    typer.echo(f"policy: {out}; report: {report}")


@policy_app.command("check")
def check_command(
    file: Annotated[Path, typer.Argument(help="A policy file, or a folder of them.")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Also check that it was made for this one.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Read policies as the server would and say what they promise.

    Example: demur policy check policies/ --model smollm2+adapters/tokens
    """
    from demur.jobs.calibrate import read_policies

    policies = read_policies(file, _source(model)[0] if model else None)
    if as_json:
        typer.echo(json.dumps([policy.model_dump(mode="json", exclude={"reference"}) for policy in policies]))
        return
    for policy in policies:
        _print_policy(policy)


@policy_app.command("presets")
def presets_command(
    model: Annotated[str, typer.Argument(help="The model they are for.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for strict.toml, default.toml and lenient.toml.")],
) -> None:
    """Write the presets for a model: thresholds to begin with, which promise nothing.

    Example: demur policy presets smollm2+adapters/tokens --out policies
    """
    from demur.jobs.calibrate import write_presets

    source, categories = _source(model)
    for path in write_presets(source, categories, out):
        typer.echo(str(path))


def _source(model: str) -> tuple["SignalSource", tuple[str, ...]]:
    from demur.jobs.signal import signal_of, source_of

    signal = signal_of(model)
    return source_of(signal), signal.categories


def _action(text: str) -> tuple[str, "Action"]:
    from demur.core.errors import BadInputError

    category, equals, typed = text.partition("=")
    found: Action | None = next((known for known in ACTIONS if known == typed), None)  # type: ignore[misc]
    if not equals or not category or found is None:
        raise BadInputError(f"--action {text!r}: expected CATEGORY= and one of {', '.join(ACTIONS)}")
    return category, found


def _plain(summary: "CalibrationSummary") -> dict[str, object]:
    """What a script wants: the policy without its reference, and its rates."""
    return {
        "name": summary.policy.name,
        "kind": summary.policy.kind,
        "threshold": summary.policy.threshold,
        "rules": {name: rule.model_dump(mode="json") for name, rule in summary.policy.rules.items()},
        "certificates": [certificate.model_dump(mode="json") for certificate in summary.policy.certificates],
        "rates": {
            name: {"refusal": refusal.model_dump(mode="json"), "over_refusal": over.model_dump(mode="json")}
            for name, (refusal, over) in summary.rates.items()
        },
        "notes": list(summary.notes),
    }


def _print_summary(summary: "CalibrationSummary") -> None:
    from demur.cli.tables import percent, print_table

    _print_policy(summary.policy)
    rows = [
        [
            name,
            percent(refusal.estimate, refusal.low, refusal.high),
            percent(over.estimate, over.low, over.high),
            str(refusal.n),
            str(over.n),
        ]
        for name, (refusal, over) in summary.rates.items()
    ]
    print_table(
        "on the calibration prompts, 95% intervals",
        ["category", "refusal", "over-refusal", "to decline", "to answer"],
        rows,
        right=(1, 2, 3, 4),
    )
    for note in summary.notes:
        typer.echo(f"note: {note}")


def _print_policy(policy: "Policy") -> None:
    from demur.cli.tables import percent, print_table

    typer.echo(f"{policy.name}: {policy.kind} on {policy.source.name} of {policy.source.identity}")
    if policy.kind == "sum":
        typer.echo(f"threshold of the sum: {policy.threshold:.4g}")
    rules = [
        [name, f"{policy.threshold_of(name):.4g}" if policy.kind != "sum" else "-", rule.action, rule.wording[:60]]
        for name, rule in policy.rules.items()
    ]
    print_table("rules", ["category", "threshold", "action", "wording"], rows=rules, right=(1,))
    if not policy.certificates:
        typer.echo("no certificates: its thresholds promise nothing; see 'demur calibrate'")
        return
    promises = [
        [c.target, f"± {c.tolerance:.3f}" if c.relation == "=" else "", percent(c.achieved), str(c.n), f"{c.delta:.3g}"]
        for c in policy.certificates
    ]
    columns = ["target", "tolerance", "on calibration prompts", "prompts", "delta"]
    print_table("promises", columns, promises, right=(1, 2, 3, 4))
