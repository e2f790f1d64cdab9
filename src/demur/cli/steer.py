"""`demur steer`: push a model along directions, under a gate; look at it, save it, or export it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from demur.core.defaults import DEFAULT_JUDGE

if TYPE_CHECKING:
    from demur.jobs.steer import Made, Shown, SteerConfig

Directions = Annotated[
    list[Path], typer.Option("--direction", "-d", help="Direction file of 'demur explain directions'; repeatable.")
]
Strength = Annotated[float, typer.Option("--strength", "-s", help="In local residual norms; negative pushes away.")]
Ablate = Annotated[bool, typer.Option("--ablate", help="Project the directions out instead of adding them.")]
Gates = Annotated[
    list[str] | None,
    typer.Option("--gate", "-g", help="Direction file, or NAME=FILE, whose score decides what is steered; repeatable."),
]
When = Annotated[str, typer.Option(help="How several gates combine: 'harm > 0.12 and not (health > 0.2)'.")]
Threshold = Annotated[
    float | None,
    typer.Option(help="Border of a single gate; by default set on labelled prompts, with its rates shown."),
]
Compared = Annotated[
    Literal["cosine", "projection", "cast"],
    typer.Option(help="What gates compare; 'cast' is the published similarity, which does not see signs."),
]
Span = Annotated[str, typer.Option(help="Where gates read: t_inst, t_post[-1], mean; the direction's own by default.")]
Blocks = Annotated[str, typer.Option(help="Residual indices: 14, 12-18 or 10,12; the direction's own by default.")]
Positions = Annotated[Literal["all", "prompt", "reply", "last"], typer.Option(help="Tokens that are steered.")]
Prompts = Annotated[list[str] | None, typer.Option("--prompt", "-p", help="Text to ask; repeatable.")]
File = Annotated[Path | None, typer.Option("--file", "-f", help="Rows with a prompt column.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="Folder for calibrate and serve: MODEL+FOLDER.")]
Bake = Annotated[Path | None, typer.Option(help="Folder for a model whose weights lack the directions (--ablate).")]
Gguf = Annotated[Path | None, typer.Option(help="Control vector for llama.cpp: additions only, without a gate.")]
Measure = Annotated[int, typer.Option(min=0, help="With --out: prompts on which to measure what steered replies do.")]


def steer_command(
    model: Annotated[str, typer.Argument(help="smollm2, hf/ID or gguf/PATH, with or without +ADAPTER.")],
    direction: Directions,
    strength: Strength = 0.2,
    ablate: Ablate = False,
    gate: Gates = None,
    when: When = "",
    threshold: Threshold = None,
    compare: Compared = "cosine",
    span: Span = "",
    blocks: Blocks = "",
    positions: Positions = "all",
    data: Annotated[Path | None, typer.Option(help="Labelled prompts for border and measurement.")] = None,
    prompt: Prompts = None,
    file: File = None,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest reply shown.")] = 64,
    judge: Annotated[str, typer.Option(help="Judges the replies shown; '' for none.")] = DEFAULT_JUDGE,
    out: Out = None,
    measure: Measure = 24,
    bake: Bake = None,
    gguf: Gguf = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Steer a model along directions: show replies with and without, save a folder for calibrate and serve, or export.

    Example: demur steer smollm2 -d runs/dir/refusal.safetensors -s 0.2 -g runs/dir/harm.safetensors -p "How are you?"
    """
    from demur.jobs.steer import SteerConfig, make, parse_blocks

    prompts = _prompts(prompt, file)
    _check(prompts, out, bake, gguf, gated=bool(gate), ablate=ablate)
    config = SteerConfig(
        model=model,
        directions=tuple(direction),
        strength=strength,
        ablate=ablate,
        blocks=parse_blocks(blocks) if blocks else None,
        positions=positions,
        gates=tuple(_named(text) for text in gate or ()),
        when=when,
        threshold=threshold,
        measure=compare,
        span=span,
        data=data,
        command=("demur", *sys.argv[1:]),
    )
    made = make(config, progress=_say)
    done: dict[str, object] = {"steering": made.plan.hash, "model": made.plan.model}
    if made.border is not None:
        typer.echo(f"gate opens from {made.border} ({made.border_data}); --threshold sets another", err=True)
        done["border"] = str(made.border)
    done |= _exports(model, made, bake, gguf)
    if out is not None:
        done |= _saved(config, made, out, measure)
    if prompts:
        done["replies"] = _shown(config, made, prompts, max_tokens, judge, quiet=as_json)
    if as_json:
        typer.echo(json.dumps(done))


def _check(
    prompts: list[str], out: Path | None, bake: Path | None, gguf: Path | None, *, gated: bool, ablate: bool
) -> None:
    from demur.core.errors import BadInputError
    from demur.jobs.steer_export import check_exports
    from demur.steer.folder import check_place

    if not (prompts or out or bake or gguf):
        raise BadInputError("nothing to do: expected --prompt, --file, --out, --bake or --gguf; name one")
    check_exports(gated=gated, ablate=ablate, baked=bake, vector=gguf)
    if out is not None:
        check_place(out)


def _named(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    return (name, Path(path)) if equals and name.isidentifier() else ("", Path(text))


def _prompts(texts: list[str] | None, file: Path | None) -> list[str]:
    found = list(texts or ())
    if file is not None:
        from demur.data.tables import read_table

        for record in read_table(file).records:
            prompt = record.cell("prompt")
            if not isinstance(prompt, str) or not prompt.strip():
                raise record.bad("prompt", "the text a user asks", prompt)
            found.append(prompt)
    return found


def _exports(model: str, made: "Made", bake: Path | None, gguf: Path | None) -> dict[str, object]:
    from demur.jobs.steer_export import bake as bake_weights
    from demur.jobs.steer_export import export_vector

    done: dict[str, object] = {}
    if bake is not None:
        baked = bake_weights(model, made.plan, bake, say=lambda what: typer.echo(what, err=True))
        split = "; the embedding table was split in two" if baked.untied else ""
        typer.echo(
            f"{bake}: {baked.matrices} matrices edited, hooks and weights differ by a KL of {baked.kl:.1g}{split}",
            err=True,
        )
        typer.echo(f"run it with: hf/{bake}", err=True)
        done["baked"] = {"path": str(bake), "kl": baked.kl, "untied": baked.untied, "identity": baked.identity}
    if gguf is not None:
        changed = export_vector(model, made.plan, gguf)
        typer.echo(f"{gguf}: adds to the output of block {', '.join(map(str, changed))}, strength included", err=True)
        typer.echo(f"run it with: llama-server -m MODEL.gguf --control-vector {gguf}", err=True)
        done["gguf"] = {"path": str(gguf), "blocks": changed}
    return done


def _saved(config: "SteerConfig", made: "Made", out: Path, measure: int) -> dict[str, object]:
    from demur.jobs.steer import save

    plan = save(config, made, out, measured=measure, progress=_say)
    if plan.follows is not None:
        typer.echo(f"{plan.follows:.0%} of {measure} steered replies decline", err=True)
    name = f"{config.model}+{out}"
    words = (
        "the model's own words" if plan.follows is None or plan.follows >= 0.9 else "the policy's wording (below 90%)"
    )
    typer.echo(f"{out}: what is declined is answered in {words}", err=True)
    if plan.gates:
        typer.echo(f"calibrate with: demur calibrate {name} --target 'over_refusal<=0.05' --out policy.toml", err=True)
    else:
        typer.echo(f"no gate: serve with a signal: demur serve {name} --signal predictor:FOLDER", err=True)
    return {"out": str(out), "follows": plan.follows}


def _shown(
    config: "SteerConfig", made: "Made", prompts: list[str], max_tokens: int, judge: str, *, quiet: bool
) -> list[dict[str, object]]:
    from demur.jobs.steer import show

    found = show(config, made, prompts, max_tokens=max_tokens, judge=judge or None, progress=_say)
    if not quiet:
        for one in found:
            _print(one, gated=bool(made.plan.gates))
    return [
        {
            "prompt": one.prompt,
            "plain": one.plain,
            "steered": one.steered,
            "opened": one.opened,
            "p": one.p,
            "verdicts": [v.outcome for v in one.verdicts] if one.verdicts else None,
        }
        for one in found
    ]


def _print(one: "Shown", *, gated: bool) -> None:
    state = f" (gate {'open' if one.opened else 'shut'}, p {one.p:.2f})" if gated else ""
    typer.echo(f"\n> {one.prompt}{state}")
    for label, text, place in (("without", one.plain, 0), ("with", one.steered, 1)):
        verdict = f" [{one.verdicts[place].outcome}]" if one.verdicts else ""
        typer.echo(f"{label:>8}{verdict}: {' '.join(text.split())}")


def _say(what: str, done: int, total: int) -> None:
    if sys.stderr.isatty():
        typer.echo(f"\r{what} {done}/{total}", err=True, nl=done >= total)
