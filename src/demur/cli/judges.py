"""`demur judges`: who judges, and how well."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.judges.cards import JudgeCard

judges_app = typer.Typer(
    invoke_without_command=True, add_completion=False, help="List judges, or measure them against human labels."
)


@judges_app.callback()
def judges_command(
    context: typer.Context,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List judges with what is known of their error.

    Example: demur judges
    """
    if context.invoked_subcommand is not None:
        return
    from demur.judges import BUILTIN, PATTERNS, load_judge
    from demur.judges.cards import load_card

    entries = []
    for name in BUILTIN:
        judge = load_judge(name)
        card = load_card(f"{judge.name}@{judge.version}")
        entries.append(
            {"judge": f"{judge.name}@{judge.version}", "card": card.model_dump(mode="json") if card else None}
        )
    entries += [{"judge": pattern, "card": None} for pattern in PATTERNS]
    if as_json:
        typer.echo(json.dumps(entries))
        return
    from demur.cli.tables import percent, print_table

    def line(entry: Mapping[str, object]) -> list[str]:
        card = entry["card"]
        if not isinstance(card, dict):
            return [str(entry["judge"]), "-", "-", "-", "-", "error unknown: measure with 'demur judges check'"]
        overall = card["overall"]
        kappa = overall["kappa"]
        return [
            str(entry["judge"]),
            percent(overall["accuracy"]),
            percent(overall["f1"]),
            f"{kappa:.2f}",
            str(overall["n"]),
            str(card["data"]),
        ]

    print_table(
        "", ["judge", "accuracy", "F1", "kappa", "n", "measured on"], [line(e) for e in entries], right=(1, 2, 3, 4)
    )


@judges_app.command("check")
def check_command(
    file: Annotated[list[Path], typer.Argument(help="Rows with prompt, response, label and optionally source.")],
    judge: Annotated[list[str] | None, typer.Option("--judge", "-j", help="Repeatable; 'learned' by default.")] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
    keep: Annotated[bool, typer.Option(help="Keep the result as the judge's card.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Measure judges against human labels, source by source, and keep the result as a judge card.

    Example: demur judges check labels.jsonl --judge phrases --judge rubric:openai/gpt-4.1
    """
    from demur.core.errors import BadInputError
    from demur.evals.asking import chat_model
    from demur.jobs.check_judges import check_judges
    from demur.judges import load_judges

    judges = load_judges(judge or [DEFAULT_JUDGE], chat_model=chat_model)
    for path in file:
        if not path.is_file():
            raise BadInputError(f"{path}: expected a file of labelled replies, found none")
    checks = check_judges(file, judges, skip_bad=skip_bad, keep=keep)
    if as_json:
        typer.echo(json.dumps([check.card.model_dump(mode="json") for check in checks]))
        return
    for check in checks:
        _print_card(check.card)
        if check.kept:
            typer.echo(f"card: {check.kept}")


def _print_card(card: "JudgeCard") -> None:
    from demur.cli.tables import percent, print_table

    print_table(
        f"{card.judge}: 'refused or partial' against people",
        ["source", "n", "accuracy", "F1", "macro-F1", "kappa", "sensitivity", "specificity", "TP/FP/FN/TN", "unjudged"],
        [
            [
                name,
                str(a.n),
                percent(a.accuracy),
                percent(a.f1),
                percent(a.macro_f1),
                "-" if a.kappa is None else f"{a.kappa:.3f}",
                percent(a.recall),
                percent(a.specificity),
                f"{a.true_positive}/{a.false_positive}/{a.false_negative}/{a.true_negative}",
                str(a.unjudged),
            ]
            for name, a in (*card.sources.items(), ("all", card.overall))
        ],
        right=range(1, 10),
    )
    if card.n_left_out:
        typer.echo(f"{card.n_left_out} rows left out: labelled neither refusal nor answer")


@judges_app.command("fit")
def fit_command(
    file: Annotated[Path, typer.Argument(help="Rows with prompt, response and label: 20 to 200 will do.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the new judge.")],
    phrase: Annotated[
        list[str] | None, typer.Option("--phrase", help="Repeatable; how your model is known to decline.")
    ] = None,
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")] = False,
) -> None:
    """Fit the learned judge to your own labels, in seconds.

    Example: demur judges fit my_labels.jsonl --out my-judge, then demur audit smollm2 --judge my-judge
    """
    from demur.cli.tables import percent, print_table
    from demur.core.errors import BadInputError
    from demur.jobs.fit_judge import fit_judge

    if not file.is_file():
        raise BadInputError(f"{file}: expected a file of labelled replies, found none")
    fitted = fit_judge(file, out, phrases=phrase or (), skip_bad=skip_bad)
    print_table(
        f"on {fitted.after.n} own labels, held out",
        ["judge", "accuracy", "macro-F1", "kappa"],
        [
            [name, percent(a.accuracy), percent(a.macro_f1), f"{a.kappa:.3f}"]
            for name, a in (("shipped", fitted.before), (out.name, fitted.after))
        ],
        right=(1, 2, 3),
    )
    if fitted.n_left_out:
        typer.echo(f"{fitted.n_left_out} rows left out: labelled neither refusal nor answer")
    typer.echo(f"fitted slope and offset{' and own words' if fitted.uses_words else ''}; use it with --judge {out}")
