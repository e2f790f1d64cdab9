"""`demur signal`: how strongly prompts call for noncompliance."""

from pathlib import Path
from typing import Annotated

import typer


def signal_command(
    model: Annotated[
        str, typer.Argument(help="BASE+ADAPTER, a GGUF with refusal tokens, predictor:FOLDER or guard:FOLDER.")
    ],
    file: Annotated[Path, typer.Argument(help="Rows with a prompt column.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="A .parquet or .jsonl file.")],
    skip_bad: Annotated[bool, typer.Option("--skip-bad", help="Leave malformed rows out.")] = False,
) -> None:
    """Score prompts before a word of reply exists: one column for each category, any of them, and the tokens' mass.

    Example: demur signal smollm2+adapters/tokens prompts.jsonl --out scores.parquet
    """
    from demur.cli.progress import shown
    from demur.jobs.signal import write_signal

    with shown("reading prompts") as progress:
        n = write_signal(model, file, out, skip_bad=skip_bad, progress=progress)
    typer.echo(f"{n} prompts: {out}")
