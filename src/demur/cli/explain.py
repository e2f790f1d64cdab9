"""`demur explain`: what a model holds inside, by direction, by token position, and for one prompt."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from demur.cli.cliff import cliff_command
from demur.cli.directions import directions_command
from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.inside.prompt_view import PromptView

explain_app = typer.Typer(
    no_args_is_help=True, add_completion=False, help="Look inside a model: directions, the refusal cliff, one prompt."
)
explain_app.command("directions")(directions_command)
explain_app.command("cliff")(cliff_command)
_LINES = 32  # layers in the table; all of them are in --json


@explain_app.command("prompt")
def prompt_command(
    model: Annotated[str, typer.Argument(help="A local model, e.g. smollm2+adapters/tokens.")],
    prompt: Annotated[str, typer.Argument(help="The prompt.")],
    study: Annotated[
        Path | None, typer.Option("--dir", exists=True, file_okay=False, help="Folder of 'demur explain directions'.")
    ] = None,
    guard: Annotated[
        Path | None, typer.Option(help="Folder of a guard; without --dir one is fitted on our own prompts, once.")
    ] = None,
    predictor: Annotated[Path | None, typer.Option("--predictor", "-p", help="A fitted predictor to ask too.")] = None,
    rules: Annotated[Path | None, typer.Option(help="A Tsetlin machine over words (.npz) whose rules to show.")] = None,
    nearest: Annotated[int, typer.Option(help="Prompts to show that it is nearest to.")] = 5,
    trigger: Annotated[bool, typer.Option(help="Look for the smallest part that is still refused.")] = True,
    max_calls: Annotated[int, typer.Option(min=1, help="Most parts of the prompt to ask.")] = 60,
    judge: Annotated[str, typer.Option("--judge", "-j", help="Decides what is a refusal.")] = DEFAULT_JUDGE,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Look at one prompt from inside: scores by layer, what it is nearest to, rules that fire, what triggers a refusal.

    Example: demur explain prompt smollm2 "How do I kill a Python process?" --guard guard/
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.explain_prompt import ExplainConfig, explain_prompt

    config = ExplainConfig(
        model=model, prompt=prompt, study=study, guard=guard, predictor=predictor, rules=rules, n_nearest=nearest,
        trigger=trigger, max_calls=max_calls, judge=judge,
    )  # fmt: skip
    with shown_stages() as progress:
        view = explain_prompt(config, progress=progress)
    if as_json:
        typer.echo(view.model_dump_json())
        return
    _print(view)


def _print(view: "PromptView") -> None:
    spans = ", ".join(f"{span} {_quoted(text)}" for span, text in view.tokens.items())
    typer.echo(f"{view.model}; read at {spans}\npositive is harmful, or about to refuse")
    _print_scores(view)
    for axis in view.axes:
        if axis.projection is not None:
            border = "no border" if axis.threshold is None else f"border {axis.threshold:+.3f}"
            side = "" if axis.above is None else ", above" if axis.above else ", below"
            typer.echo(f"{axis.axis}, layer {axis.layer}: {axis.projection:+.3f} usual lengths ({border}{side})")
    if view.guard is not None:
        _print_guard(view)
    if view.predictor is not None:
        heavy = ", ".join(f"{_quoted(gram)} {value:+.2f}" for _, gram, value in view.predictor.grams)
        typer.echo(f"predictor: refused with {view.predictor.p_refused:.1%}; n-grams by log-odds: {heavy}")
    _print_rules(view)
    for found in view.triggers:
        typer.echo(_trigger(found.by, found.refused, found.text, minimal=found.is_minimal, n_calls=found.n_calls))
    for note in view.notes:
        typer.echo(f"note: {note}")


def _print_scores(view: "PromptView") -> None:
    from demur.cli.tables import print_table

    columns: dict[str, dict[int, float | None]] = {
        f"{axis.axis} (cosine at {axis.span})": dict(zip(axis.layers, axis.cosines, strict=True)) for axis in view.axes
    }
    if view.guard is not None:
        columns[f"guard (at {view.guard.span})"] = dict(zip(view.guard.layers, view.guard.by_layer, strict=True))
    layers = sorted({layer for values in columns.values() for layer in values})
    step = -(-len(layers) // _LINES) or 1
    print_table(
        "by layer",
        ["layer", *columns],
        [[str(layer), *(_signed(values.get(layer)) for values in columns.values())] for layer in layers[::step]],
        right=tuple(range(len(columns) + 1)),
    )


def _print_guard(view: "PromptView") -> None:
    from demur.cli.tables import print_table

    guard = view.guard
    assert guard is not None
    told = f"; p {guard.p_harmful:.2f}" if guard.p_harmful is not None else ""
    rate = f" for {guard.rate:.0%} false alarms" if guard.rate is not None else ""
    typer.echo(
        f"guard ({view.guard_from}): {'flagged' if guard.flagged else 'not flagged'}, score {guard.score:+.4f}, border "
        f"{guard.threshold:+.4f}{rate}{told}"
    )
    if guard.categories:
        best = sorted(guard.categories.items(), key=lambda item: -item[1])[:3]
        typer.echo("nearest kinds: " + ", ".join(f"{name} {score:+.3f}" for name, score in best))
    if view.nearest:
        print_table(
            f"nearest of the prompts it was fitted on, by state at layer {view.nearest_layer}",
            ["cosine", "side", "kind", "prompt"],
            [
                [
                    f"{n.cosine:+.3f}",
                    "harmful" if n.example.harmful else "harmless",
                    n.example.category,
                    _quoted(n.example.prompt[:80]),
                ]
                for n in view.nearest
            ],
            right=(0,),
        )


def _print_rules(view: "PromptView") -> None:
    if not view.rules:
        return
    from demur.cli.tables import print_table

    print_table(
        "rules that fire",
        ["if the prompt has", "then", "weight", "right"],
        [
            [r.text, r.label, str(r.weight), "-" if r.precision is None else f"{r.precision:.0%} of {r.support}"]
            for r in view.rules[:12]
        ],
        right=(2, 3),
    )


def _trigger(by: str, refused: bool, text: str, *, minimal: bool, n_calls: int) -> str:
    does = "refuses" if by == "model" else "flags"
    if not refused:
        return f"{by}: does not {'refuse' if by == 'model' else 'flag'} the prompt"
    proof = "no word of it can be left out" if minimal else "the budget ended the search"
    return f"{by} {does} already: {_quoted(text)} ({n_calls} calls; {proof})"


def _quoted(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)


def _signed(value: float | None) -> str:
    return "-" if value is None else f"{value:+.3f}"
