"""Predict: fit a refusal predictor, apply it, report on it, explain it, and find what triggers a refusal."""

import asyncio
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import __version__
from demur.classify.prompt_rows import (
    ANSWERED_WORDS,
    OTHER_PREFIX,
    REFUSED_WORDS,
    PromptRow,
    files_of,
    read_prompt_rows,
    read_prompts,
)
from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Exchange, Frozen, Message
from demur.core.judge import Judge
from demur.data.folder import write_bytes, write_json, write_text
from demur.jobs.trigger import named_judge, needs_sklearn
from demur.models.embedded import file_hash

if TYPE_CHECKING:
    from demur.classify.explain import Explanation
    from demur.classify.predictor import RefusalPredictor

Progress = Callable[[int, int], None]
JUDGED_AT_ONCE = 256
APPLIED_AT_ONCE = 1_000
REPORT = "report.json"


class FitConfig(Frozen):
    """A fit, completely.

    Attributes:
        files: Labelled files, audit folders, scan folders.
        out: Folder of the predictor.
        views: Views of a prompt; None takes the built-in choice.
        judge: Judges replies of rows without a label; None asks for labels.
        sensitivity: Of whatever made the labels, if known; else taken from the judge's card.
        specificity: Likewise.
        skip_bad: Leave malformed rows out.
        seed: Of the folds.
    """

    files: tuple[Path, ...]
    out: Path
    views: tuple[str, ...] | None = None
    judge: str | None = None
    sensitivity: float | None = None
    specificity: float | None = None
    skip_bad: bool = False
    seed: int = 0


def fit(config: FitConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Fit a predictor on what a model did with prompts, measure it, write its folder; returns what the report shows.

    Raises:
        UserError: Something the caller can fix; the message says what.
    """
    needs_sklearn()
    _check_out(config.out)
    from demur.classify.predictor import DEFAULT_VIEWS, VIEWS

    views = config.views or DEFAULT_VIEWS
    unknown = [name for name in views if name not in VIEWS]
    if unknown:
        raise BadInputError(f"--view: expected some of {', '.join(VIEWS)}, got {unknown[0]!r}; choose among these")
    judge = named_judge(config.judge) if config.judge else None
    found = read_prompt_rows(config.files, needs_label=judge is None, skip_bad=config.skip_bad)
    rows = [row for row in found.rows if row.n_replies]
    n_judged = n_unjudged = 0
    if judge is not None:
        judged = label_by(judge, [row for row in found.rows if not row.n_replies], progress or _silent)
        n_judged, n_unjudged = len(judged), sum(row is None for row in judged)
        rows += [row for row in judged if row is not None]
    _check_labels(rows, config.files)
    predictor, others = _fitted(rows, views, config.seed)
    noise = _label_noise(config, judge)
    from demur.classify.evaluation import evaluate

    summary = evaluate(predictor, [row.source for row in rows], sensitivity=noise[0], specificity=noise[1])
    summary["manifest"] = _manifest(config, views, judge) | {
        "n_rows": len(rows),
        "n_left_out_unjudged": found.n_unjudged + n_unjudged,
        "n_left_out_malformed": found.n_skipped,
        "n_labelled_by_judge": n_judged - n_unjudged,
        "other_models": others,
        "label_sensitivity": noise[0],
        "label_specificity": noise[1],
    }
    _write(predictor, summary, config.out)
    return summary


def fit_from_log(
    files: Sequence[Path], out: Path, *, judge: str = DEFAULT_JUDGE, progress: Progress | None = None, **options: Any
) -> dict[str, Any]:
    """Bootstrapping: let a judge label a log of prompts and replies, then fit on its labels.

    Rows that carry a label keep it. The judge's errors become label noise: the ceiling states how much, where the
    judge has a card.

    Args:
        files: Logs with prompt and response.
        out: Folder of the predictor.
        judge: Judge name, as for an audit.
        progress: Called with replies judged and replies in all.
        options: Further fields of `FitConfig`.
    """
    return fit(FitConfig(files=tuple(files), out=out, judge=judge, **options), progress=progress)


def label_by(judge: Judge, rows: Sequence[PromptRow], progress: Progress) -> list[PromptRow | None]:
    """Rows with a judge's label, in order; None where it left the reply unjudged."""
    from demur.judges.safely import judge_safely

    async def run() -> list[PromptRow | None]:
        labelled: list[PromptRow | None] = []
        for start in range(0, len(rows), JUDGED_AT_ONCE):
            batch = rows[start : start + JUDGED_AT_ONCE]
            verdicts = await judge_safely(judge, [_exchange(row, i) for i, row in enumerate(batch)])
            for row, verdict in zip(batch, verdicts, strict=True):
                refused = int(verdict.outcome in ("refused", "partial"))
                judged = verdict.outcome != "unjudged"
                labelled.append(replace(row, n_refused=refused, n_replies=1) if judged else None)
            progress(len(labelled), len(rows))
        return labelled

    return asyncio.run(run())


def apply(folder: Path, file: Path, out: Path | None = None, *, skip_bad: bool = False) -> list[dict[str, Any]]:
    """Predict for each prompt of a file: its columns with `p_refused` and `predicted`; also written to `out`.

    Raises:
        BadInputError: No predictor, an unreadable file, or an unknown suffix of `out`.
    """
    needs_sklearn()
    from demur.classify.predictor_store import load_predictor

    if out is not None and out.suffix not in (".jsonl", ".parquet"):
        raise BadInputError(f"{out}: expected a file ending in .jsonl or .parquet, got {out.suffix!r}; rename --out")
    predictor, about = load_predictor(folder)
    prompts, records, _ = read_prompts(file, skip_bad=skip_bad)
    names = about.get("other_models", [])
    done: list[dict[str, Any]] = []
    for start in range(0, len(prompts), APPLIED_AT_ONCE):
        batch = slice(start, start + APPLIED_AT_ONCE)
        values = [[_other(record.cell(OTHER_PREFIX + name)) for name in names] for record in records[batch]]
        p = predictor.predict_proba(prompts[batch], values if names else None)[:, 1]
        done += [
            {**record.values, "p_refused": float(q), "predicted": "refused" if q >= 0.5 else "complied"}
            for record, q in zip(records[batch], p, strict=True)
        ]
    if out is not None:
        _write_rows(out, done)
    return done


def report(folder: Path) -> tuple[dict[str, Any], Path]:
    """Render a predictor's report again: what it shows, and the file.

    Raises:
        BadInputError: No predictor there.
    """
    needs_sklearn()
    import json

    from demur.classify.predictor_store import load_predictor
    from demur.report.predictor import render_predictor

    load_predictor(folder)
    path = folder / REPORT
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(
            f"{path}: expected what the fit measured; {reason}; fit it again with 'demur predict fit'"
        ) from None
    write_text(folder / "report.html", render_predictor(summary))
    return summary, folder / "report.html"


def explain_prompt(folder: Path, prompt: str) -> "Explanation":
    """One decision of a saved predictor taken apart.

    Raises:
        BadInputError: No predictor, or an empty prompt.
    """
    needs_sklearn()
    if not prompt.strip():
        raise BadInputError("prompt: expected some text, got none; give the prompt in quotes")
    from demur.classify.explain import explain
    from demur.classify.predictor_store import load_predictor

    predictor, _ = load_predictor(folder)
    return explain(predictor, prompt)


def _exchange(row: PromptRow, number: int) -> Exchange:
    return Exchange(id=str(number), messages=(Message(role="user", text=row.prompt),), response=row.response or "")


def _fitted(rows: Sequence[PromptRow], views: Sequence[str], seed: int) -> tuple["RefusalPredictor", list[str]]:
    import numpy as np

    from demur.classify.predictor import RefusalPredictor

    others = sorted({name for row in rows for name in row.others})
    grouped = any(row.group for row in rows)
    predictor = RefusalPredictor(views=tuple(views), random_state=seed).fit(
        [row.prompt for row in rows],
        np.array([[row.n_refused, row.n_replies] for row in rows]),
        groups=[row.group or f"row {i}" for i, row in enumerate(rows)] if grouped else None,
        sample_weight=np.array([row.weight for row in rows]),
        other_models=[[row.others.get(name, np.nan) for name in others] for row in rows] if others else None,
    )
    return predictor, others


def _label_noise(config: FitConfig, judge: Judge | None) -> tuple[float | None, float | None]:
    if config.sensitivity is not None and config.specificity is not None:
        return config.sensitivity, config.specificity
    if judge is None:
        return None, None
    from demur.judges.cards import load_card

    card = load_card(f"{judge.name}@{judge.version}")
    return (card.overall.recall, card.overall.specificity) if card else (None, None)


def _check_labels(rows: Sequence[PromptRow], files: Sequence[Path]) -> None:
    refused, replies = sum(row.n_refused for row in rows), sum(row.n_replies for row in rows)
    if not 0 < refused < replies or len({row.prompt for row in rows}) < 2:
        raise BadInputError(
            f"{', '.join(map(str, files))}: expected refused and answered prompts, got {refused} refusals in "
            f"{replies} labelled replies; add prompts of the other kind"
        )
    if not any(row.weight for row in rows):
        raise BadInputError(f"{files[0]}: weight: expected some weight above 0, got none; leave the column out")


def _check_out(out: Path) -> None:
    from demur.classify.predictor_store import HEADER

    if out.is_file() or (out.is_dir() and any(out.iterdir()) and not (out / HEADER).is_file()):
        raise BadInputError(f"{out}: expected a new folder or one of a predictor, got another; choose another --out")


def _write(predictor: "RefusalPredictor", summary: dict[str, Any], out: Path) -> None:
    """Everything is written beside `out` and put in its place at once."""
    from demur.classify.predictor_store import save_predictor
    from demur.report.predictor import render_predictor

    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    old = out.with_name(f".{out.name}.{os.getpid()}.old")
    try:
        save_predictor(predictor, partial, about=summary["manifest"])
        write_json(partial / REPORT, summary)
        write_text(partial / "report.html", render_predictor(summary))
        if out.exists():
            out.replace(old)
        partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _other(value: object) -> float:
    name = str(value).strip().casefold()
    return 1.0 if name in REFUSED_WORDS else 0.0 if name in ANSWERED_WORDS else float("nan")


def _write_rows(out: Path, rows: Sequence[dict[str, Any]]) -> None:
    import io
    import json

    if out.suffix == ".jsonl":
        lines = "".join(json.dumps(row, ensure_ascii=True, default=str) + "\n" for row in rows)
        write_bytes(out, lines.encode("ascii"))
        return
    try:
        import polars
    except ImportError:
        raise MissingExtraError("writing Parquet files", extra="classify") from None
    buffer = io.BytesIO()
    polars.DataFrame(rows, infer_schema_length=None, strict=False).write_parquet(buffer)
    write_bytes(out, buffer.getvalue())


def _manifest(config: FitConfig, views: Sequence[str], judge: Judge | None) -> dict[str, Any]:
    return {
        "kind": "predictor",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "views": list(views),
        "judge": f"{judge.name}@{judge.version}" if judge else None,
        "seed": config.seed,
        "inputs": {path.name: file_hash(path) for path in files_of(config.files)},
    }


def _silent(*_: int) -> None:
    """Progress nobody watches."""
