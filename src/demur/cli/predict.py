"""`demur predict`: will a model refuse this prompt, and what in it is to blame?"""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.classify.explain import Explanation
    from demur.classify.trigger import Trigger

predict_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Predict refusals from prompts, and find what triggers them."
)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
SkipBad = Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out and count them.")]
Folder = Annotated[Path, typer.Argument(help="Folder of a predictor.")]


@predict_app.command("fit")
def fit_command(
    file: Annotated[
        list[Path],
        typer.Argument(help="Rows with prompt and refused, outcome or label; or the folder of an audit or a scan."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the predictor.")],
    view: Annotated[
        list[str] | None,
        typer.Option(help="Repeatable: words, characters, embeddings, states. The first two by default."),
    ] = None,
    judge: Annotated[
        str | None, typer.Option("--judge", "-j", help="Labels rows that have a response but no label.")
    ] = None,
    sensitivity: Annotated[float | None, typer.Option(help="Of whatever made the labels, for the ceiling.")] = None,
    specificity: Annotated[float | None, typer.Option(help="Likewise.")] = None,
    seed: Annotated[int, typer.Option(help="Of the folds.")] = 0,
    skip_bad: SkipBad = False,
    as_json: AsJson = False,
) -> None:
    """Learn which prompts a model refuses, from what it did with others. Repeated prompts count as several replies.

    Example: demur predict fit labelled.jsonl --out my-predictor
    """
    from demur.cli.progress import shown
    from demur.jobs.predict import FitConfig, fit

    config = FitConfig(
        files=tuple(file),
        out=out,
        views=tuple(view) if view else None,
        judge=judge,
        sensitivity=_share("--sensitivity", sensitivity),
        specificity=_share("--specificity", specificity),
        skip_bad=skip_bad,
        seed=seed,
    )
    with shown("judging replies") as progress:
        summary = fit(config, progress=progress)
    _print_summary(summary, as_json=as_json)
    typer.echo(f"predictor: {out}; report: {out / 'report.html'}", err=as_json)


@predict_app.command("apply")
def apply_command(
    predictor: Folder,
    file: Annotated[Path, typer.Argument(help="Rows with a prompt column.")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="A .jsonl or .parquet file; else to stdout.")] = None,
    skip_bad: SkipBad = False,
) -> None:
    """Predict for each prompt of a file; writes its rows with `p_refused` and `predicted` as JSON Lines.

    Example: demur predict apply my-predictor prompts.jsonl --out predicted.jsonl
    """
    from demur.jobs.predict import apply

    rows = apply(predictor, file, out, skip_bad=skip_bad)
    if out is None:
        for row in rows:
            typer.echo(json.dumps(row, default=str))
        return
    mean = sum(row["p_refused"] for row in rows) / len(rows)
    typer.echo(f"{len(rows)} prompts, {mean:.1%} of them expected to be refused: {out}")


@predict_app.command("report")
def report_command(predictor: Folder, as_json: AsJson = False) -> None:
    """Show how good a predictor is, and write its report again.

    Example: demur predict report my-predictor
    """
    from demur.jobs.predict import report

    summary, path = report(predictor)
    _print_summary(summary, as_json=as_json)
    typer.echo(f"report: {path}", err=as_json)


@predict_app.command("explain")
def explain_command(
    predictor: Folder,
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    top: Annotated[int, typer.Option(help="n-grams to show.")] = 12,
    as_json: AsJson = False,
) -> None:
    """Take one prediction apart: which words and n-grams speak for a refusal.

    Example: demur predict explain my-predictor "Write a poem about my neighbour"
    """
    from dataclasses import asdict

    from demur.jobs.predict import explain_prompt

    found = explain_prompt(predictor, prompt)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    _print_explanation(found, top)


@predict_app.command("trigger")
def trigger_command(
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    model: Annotated[str | None, typer.Option("--model", "-m", help="The model to ask.")] = None,
    predictor: Annotated[Path | None, typer.Option("--predictor", "-p", help="A predictor to ask instead.")] = None,
    judge: Annotated[str, typer.Option("--judge", "-j", help="Decides what is a refusal.")] = DEFAULT_JUDGE,
    max_calls: Annotated[int, typer.Option(help="Most parts of the prompt to ask.")] = 200,
    as_json: AsJson = False,
) -> None:
    """Find the smallest part of a prompt that still makes a model refuse. Parts are left out, never changed.

    Example: demur predict trigger --model smollm2 "Hello! How do I kill a Python process, please?"
    """
    from dataclasses import asdict

    from demur.cli.progress import shown
    from demur.jobs.trigger import find_trigger

    with shown("asking parts of the prompt") as progress:
        found = find_trigger(
            prompt, model=model, predictor=predictor, judge=judge, max_calls=max_calls, progress=progress
        )
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    _print_trigger(found, max_calls)


def _print_summary(summary: dict[str, Any], *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(summary))
        return
    from demur.cli.tables import percent, print_table
    from demur.report.predictor import notes_of

    def line(name: str, split: str, figures: dict[str, Any]) -> list[str]:
        accuracy, auroc = figures["accuracy"], figures["auroc"]
        ranked = "-" if auroc["estimate"] is None else f"{auroc['estimate']:.3f}"
        if auroc["low"] is not None:
            ranked += f" [{auroc['low']:.2f}, {auroc['high']:.2f}]"
        correct = percent(accuracy["estimate"], accuracy["low"], accuracy["high"])
        brier = f"{figures['brier']['estimate']:.3f}"
        return [
            name, split, str(figures["n_prompts"]), percent(figures["majority"]), correct, ranked, brier,
            percent(figures["ece"]),
        ]  # fmt: skip

    rows = [line("all", split, figures) for split, figures in summary["splits"].items()]
    for one in summary["sources"] if len(summary["sources"]) > 1 else []:
        rows += [line(one["source"], split, one[split]) for split in summary["splits"]]
    print_table(
        f"prompts the fit had not seen ({summary['n_prompts']} prompts, {summary['n_replies']} replies)",
        ["source", "split", "prompts", "majority", "accuracy", "AUROC", "Brier", "ECE"],
        rows,
        right=(2, 3, 4, 5, 6, 7),
    )
    ceiling = summary["ceiling"]
    if ceiling["accuracy"] is not None:
        best, ranked = ceiling["accuracy"], ceiling["auroc"]
        typer.echo(
            f"ceiling: accuracy {percent(best['estimate'], best['low'], best['high'])}, AUROC {ranked['estimate']:.3f} "
            f"[{ranked['low']:.3f}, {ranked['high']:.3f}] for whoever knew each prompt's true rate"
        )
    for note in notes_of(summary):
        typer.echo(f"note: {note}")


def _print_explanation(found: "Explanation", top: int) -> None:
    from demur.cli.tables import print_table

    typer.echo(f"p_refused {found.p_refused:.3f}; log-odds {found.baseline:+.2f} for a prompt without known features")
    if found.in_known_template:
        typer.echo("fills a template of the training prompts: weighed by what is known of these")
    for name, value in found.views.items():
        typer.echo(f"  {name}: {value:+.2f}")
    heavy = sorted(enumerate(found.words), key=lambda entry: -abs(entry[1][1]))[:top]
    print_table(
        "words, in their order", ["word", "log-odds"], [[w, f"{v:+.3f}"] for _, (w, v) in sorted(heavy)], right=(1,)
    )
    print_table(
        "n-grams, heaviest first",
        ["n-gram", "view", "log-odds"],
        [[repr(gram), view, f"{value:+.3f}"] for view, gram, value in found.grams[:top]],
        right=(2,),
    )


def _print_trigger(found: "Trigger", max_calls: int) -> None:
    if not found.refused:
        typer.echo(f"not refused: the prompt as it stands is answered ({found.n_calls} call)")
        return
    typer.echo(f"trigger: {json.dumps(found.text, ensure_ascii=False)}")
    proof = (
        "leaving out any one word of it ends the refusal"
        if found.is_minimal
        else f"the budget of {max_calls} calls ended the search; a smaller part may do"
    )
    typer.echo(f"{found.n_words} of {found.n_words_prompt} words, {found.n_calls} calls; {proof}")
    if found.n_untold:
        typer.echo(f"note: {found.n_untold} replies could not be judged and counted as no refusal")


def _share(flag: str, value: float | None) -> float | None:
    from demur.core.errors import BadInputError

    if value is not None and not 0 <= value <= 1:
        raise BadInputError(f"{flag}: expected a share from 0 to 1, got {value}; 0.95 means 95%")
    return value
