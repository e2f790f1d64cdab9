"""`demur explain cliff`: where between thinking and answer a model's will to refuse is lost, and which heads lose it."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.core.cliff import CliffResult, MeanRow


def cliff_command(
    model: Annotated[str, typer.Argument(help="A local model, e.g. smollm2+adapters/thinking.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for cliff.json and the rows.")] = Path("runs/cliff"),
    prompts: Annotated[
        Path | None, typer.Option(help="Rows with prompt and expected; a response, if given, is not asked for again.")
    ] = None,
    heads: Annotated[str, typer.Option(help="Heads to take out together: a share or a number.")] = "3%",
    rank_by: Annotated[
        Literal["change", "final"], typer.Option(help="Rank heads by change since the thinking, or by the end alone.")
    ] = "change",
    select: Annotated[int, typer.Option(help="Rows to choose for training (Cliff-as-a-Judge).")] = 0,
    limit: Annotated[int, typer.Option(help="Most prompts of a side.")] = 150,
    max_tokens: Annotated[int, typer.Option(help="Longest reply, thinking included.")] = 160,
    temperature: Annotated[float, typer.Option(help="Of the replies; 0 is greedy.")] = 0.0,
    judge: Annotated[str, typer.Option("--judge", "-j", help="Says what an answer did.")] = DEFAULT_JUDGE,
    factor: Annotated[float, typer.Option(help="What the heads are multiplied with.")] = 0.0,
    rescale: Annotated[
        Literal["none", "token", "released"], typer.Option(help="Put the norm back: per token, or as the paper's code.")
    ] = "token",
    draws: Annotated[int, typer.Option(help="Random draws of heads to compare with.")] = 10,
    items: Annotated[int, typer.Option(help="Most items of a group that each ablation is tried on.")] = 24,
    answer_tokens: Annotated[int, typer.Option(help="Longest answer after an ablation; 0 = scores only.")] = 40,
    seed: Annotated[int, typer.Option(help="Of splits and draws.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Follow the refusal score from thinking to answer, and take out the heads that push it down.

    Example: demur explain cliff smollm2+adapters/thinking --heads 3% --select 50 --out runs/cliff
    """
    from demur.cli.progress import shown_stages
    from demur.jobs.cliff import CliffConfig, cliff

    config = CliffConfig(
        model=model, out=out, prompts=prompts, heads=heads, rank_by=rank_by, select=select, limit=limit,
        max_tokens=max_tokens, temperature=temperature, judge=judge, factor=factor, rescale=rescale, draws=draws,
        most=items, answer_tokens=answer_tokens, seed=seed, command=("demur", *sys.argv[1:]),
    )  # fmt: skip
    with shown_stages() as progress:
        result = cliff(config, progress=progress)
    if as_json:
        typer.echo(result.model_dump_json())
        return
    _print(result)
    typer.echo(f"result: {out / 'cliff.json'}; report: {out / 'report.html'}")


def _print(result: "CliffResult") -> None:
    from demur.cli.tables import print_table

    typer.echo(f"{result.model}: " + ", ".join(f"{name} {n}" for name, n in result.attrition.items()))
    print_table(
        "how well declined and answered prompts are told apart, on items the probe has not seen",
        ["score", "read at", "AUROC", "interval"],
        [[r.name, r.span, _number(r.auroc), _range(r.low, r.high)] for r in result.probes]
        + [[c.name, "", _number(c.ranking.auroc), _range(c.ranking.low, c.ranking.high)] for c in result.controls],
        right=(2,),
    )
    if result.groups:
        print_table(
            "probability of declining that the probe reads",
            ["prompts", "n", "plateau", "before the answer", "drop", "a cliff?"],
            [
                [g.group, str(g.n), _mean(g.plateau), _mean(g.final), _mean(g.drop), "yes" if g.declared else g.reason]
                for g in result.groups
            ],
            right=(1,),
        )
    _print_heads(result)
    if result.truncation:
        print_table(
            "with less thinking",
            ["share kept", "before the answer", "declined"],
            [
                [f"{t.fraction:.0%}", _mean(t.final), _number(t.refusal.estimate if t.refusal else None)]
                for t in result.truncation
            ],
        )
    if result.selection is not None:
        chosen = result.selection
        typer.echo(
            f"selected {chosen.n_selected} of {chosen.n_with_reply} candidates with a safe reply; "
            f"{_number(chosen.overlap)} of them also by the final score alone"
        )
    for note in result.notes:
        typer.echo(f"note: {note}")


def _print_heads(result: "CliffResult") -> None:
    from demur.cli.tables import print_table

    print_table(
        f"heads that push the score down most (logits, by {result.rank_by})",
        ["head", "contribution", "drop when taken out"],
        [
            [f"{h.block}.{h.head}", _mean(h.contribution), _mean(h.causal) if h.causal else "-"]
            for h in result.heads
            if h.ablated
        ],
    )
    named = [row for row in result.ablations if not row.name.startswith("random")]
    lines = [
        [
            row.name, _mean(row.final), _mean(row.drop), *(
                _number(share.estimate if share else None)
                for share in (row.refusal, row.over_refusal, row.degenerate)
            ), _number(row.perplexity),
        ]
        for row in named
    ]  # fmt: skip
    for name in dict.fromkeys(row.name for row in result.ablations if row.name.startswith("random")):
        of = [row for row in result.ablations if row.name == name]
        shares = [[s.estimate for r in of if (s := getattr(r, which)) and s.estimate is not None]
                  for which in ("refusal", "over_refusal", "degenerate")]  # fmt: skip
        losses = [row.perplexity for row in of if row.perplexity is not None]
        finals, drops = [row.final.mean for row in of], [row.drop.mean for row in of]
        lines.append([f"{name} ({len(of)} draws)", *map(_spread, (finals, drops, *shares, losses))])
    print_table(
        "the model without heads",
        ["taken out", "before the answer", "drop", "refusal", "over-refusal", "degenerate", "perplexity"],
        lines,
    )
    if result.random_p is not None:
        typer.echo(f"random draws that lift the score at least as far (add-one): {result.random_p:.2f}")


def _mean(row: "MeanRow") -> str:
    return f"{row.mean:.2f} {_range(row.low, row.high)}".strip()


def _range(low: float | None, high: float | None) -> str:
    return "" if low is None or high is None else f"[{low:.2f}, {high:.2f}]"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _spread(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2f} [{min(values):.2f}, {max(values):.2f}]" if values else "-"
