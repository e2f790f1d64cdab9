"""`demur export`: base and adapter as one model for other programs."""

import json
from pathlib import Path
from typing import Annotated, Literal

import typer


def export_command(
    model: Annotated[str, typer.Argument(help="BASE+ADAPTER, e.g. smollm2+adapters/tokens.")],
    gguf: Annotated[
        Path | None, typer.Option("--gguf", help="File for llama.cpp; the base must be a GGUF file itself.")
    ] = None,
    merged: Annotated[Path | None, typer.Option("--merged", help="Folder for transformers and vLLM.")] = None,
    quant: Annotated[Literal["q8_0", "f16", "f32"], typer.Option(help="How a GGUF file stores matrices.")] = "q8_0",
    force: Annotated[bool, typer.Option("--force", help="Replace an earlier export.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Merge an adapter into its base and write one model. The file or folder knows its control tokens.

    Example: demur export smollm2+adapters/tokens --gguf tokens.gguf
    """
    from demur.jobs.export import ExportConfig, export

    config = ExportConfig(model=model, gguf=gguf, merged=merged, quant=quant, force=force)
    try:
        done = export(config, progress=lambda what: typer.echo(what, err=True))
    except KeyboardInterrupt:
        typer.echo("demur: interrupted; nothing was written", err=True)
        raise typer.Exit(130) from None
    if as_json:
        typer.echo(json.dumps(done))
        return
    kind = f"GGUF {done['quant']}" if done["kind"] == "gguf" else f"transformers folder, {done['dtype']}"
    typer.echo(f"{done['path']}: {kind}, {done['bytes'] / 1e6:.1f} MB")
    typer.echo(
        f"signal {done['identity']}, mode {done['mode']}; merging moved no logit by more than {done['logit_difference']:.1g}"
    )
    name = f"gguf/{done['path']}" if done["kind"] == "gguf" else f"hf/{done['path']}"
    typer.echo(f"serve it with: demur serve {name}")
