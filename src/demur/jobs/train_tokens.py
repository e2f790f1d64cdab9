"""Train refusal tokens: base model in, adapter with a report out; resumable, measured before and after."""

import json
import platform
import shutil
import time
import tomllib
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur import __version__
from demur.core.errors import BadInputError, MissingExtraError, first_complaint
from demur.core.memory import keep_freed_memory
from demur.core.signal import ANY, RESPOND
from demur.core.taxonomy import load_taxonomy
from demur.data.folder import claim, write_json
from demur.jobs.audit import AuditConfig, audit
from demur.models import parse_model, revision_of
from demur.stats.ranking import auroc
from demur.suites.training import TrainingRow, load_labelled

if TYPE_CHECKING:
    from demur.train.recipe import TokenRecipe
    from demur.train.refusal_tokens import TokenRun

Say = Callable[[str, int, int], None]
SUMMARY = "training.json"
N_FOLLOWING = 60  # prompts of each side on which a token is forced


def train_refusal_tokens(
    recipe: "TokenRecipe", out: Path, *, audit_suite: str | None = "quick", say: Say | None = None
) -> dict[str, Any]:
    """Train refusal tokens into the folder `out`; the same call after an interruption resumes.

    Args:
        recipe: What to train, completely.
        out: Folder of the adapter; beside it come `training.json`, `report.html` and two audits.
        audit_suite: Suite of the audits before and after; None = no audits.
        say: Told what is being done: stage, done, total.

    Returns:
        What is written to `training.json`; nothing in the other processes of `accelerate launch`.

    Raises:
        BadInputError: A base that cannot be trained, or malformed rows.
        BackendError: The loss became not a number; the last checkpoint is kept.
    """
    _require()
    from demur.train.refusal_tokens import p_any
    from demur.train.token_rows import training_rows

    say = say or (lambda *_: None)
    spec = parse_model(recipe.model)
    if spec.adapter or spec.family not in ("embedded", "gguf", "hf"):
        raise BadInputError(f"--model {recipe.model!r}: expected smollm2, gguf/PATH or hf/ID without an adapter")
    rows = _limited(training_rows(recipe.data), recipe.max_rows, recipe.seed)
    held_out = load_labelled("calibration")
    revision = revision_of(spec)
    claim(out, {"kind": "refusal tokens", "recipe": recipe.model_dump(mode="json"), "base_revision": revision})
    if (done := _finished(out)) is not None:
        _finish(out, done)  # an interruption may have come between the summary and its report
        return done
    keep_freed_memory()
    clock = _Clock()
    run = _trained(recipe, out, rows, revision, clock=clock, say=say)
    if run is None:
        return {}
    p, mass = p_any(run, held_out, say=say)
    clock.lap("measuring")
    summary = _summary(run, p, mass, held_out, rows, clock.seconds)
    if recipe.mode == "lora":
        summary["following"] = _following(recipe.model, out, held_out, say)
        clock.lap("following")
    if audit_suite is not None:
        summary["audits"] = _audits(recipe.model, out, audit_suite, say)
        clock.lap("audits")
    _finish(out, summary)
    return summary


def untrained_p_any(model: str, prompts: Sequence[str]) -> list[float]:
    """Posterior that some refusal token applies before any training, with rows made from related words: a baseline."""
    from demur.models.merging import base_folder, load_model, load_tokenizer
    from demur.train.recipe import TokenRecipe
    from demur.train.refusal_tokens import p_any, prepared, start_rows

    rows = [
        TrainingRow(
            id=str(i), category="safety", subcategory="", expected="refuse", conduct="refused", prompt=p, appropriate=""
        )
        for i, p in enumerate(prompts)
    ]
    base = base_folder(parse_model(model))
    run = prepared(TokenRecipe(model=model), load_model(base, dtype="float32").eval(), load_tokenizer(base), rows)
    start_rows(run)
    return [float(p) for p in p_any(run, rows, say=lambda *_: None)[0]]


def read_recipe(path: Path | None, chosen: Mapping[str, Any], flags: Mapping[str, Any]) -> "TokenRecipe":
    """A recipe from a TOML file and the flags laid over it.

    Args:
        path: TOML file with any field of `TokenRecipe`; None = defaults.
        chosen: Flags that always have a value; a file's field wins over them.
        flags: Flags that were given; they win over the file.

    Raises:
        BadInputError: The file is not TOML, or has an unknown field or a bad value.
    """
    from pydantic import ValidationError

    from demur.train.recipe import TokenRecipe

    try:
        own = tomllib.loads(path.read_text(encoding="utf-8")) if path else {}
        return TokenRecipe.model_validate({**chosen, **own, **flags})
    except OSError as error:
        raise BadInputError(f"{path}: expected a recipe file; {error.strerror or error}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise BadInputError(f"{path}: expected TOML; {error}") from None
    except ValidationError as error:
        known = ", ".join(TokenRecipe.model_fields)
        what = first_complaint(error, whole="recipe")
        raise BadInputError(f"{path or 'recipe'}: {what}; fields: {known}") from None


def _finish(out: Path, summary: dict[str, Any]) -> None:
    from demur.report.document import write_document
    from demur.report.training import render_training

    write_json(out / SUMMARY, summary)
    write_document(out / "report.html", render_training(summary))
    shutil.rmtree(out / "checkpoints", ignore_errors=True)


def _summary(
    run: "TokenRun", p: Any, mass: float, held_out: Sequence[TrainingRow], rows: Sequence[TrainingRow], seconds: Any
) -> dict[str, Any]:
    return {
        "kind": "refusal tokens",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "recipe": run.recipe.model_dump(mode="json"),
        "n_rows": len(rows),
        "n_refuse": sum(row.expected == "refuse" for row in rows),
        "first_block": run.first_block,
        "n_trained": sum(x.numel() for x in run.model.parameters() if x.requires_grad),
        "losses": run.losses,
        "mass": {"after control rows": run.mass, "held out": mass},
        "signal": {
            "data": "built-in calibration split",
            "n": len(held_out),
            "auroc": {"all": _auroc(p, held_out)} | {c.id: _auroc(p, held_out, c.id) for c in load_taxonomy().category},
        },
        "seconds": seconds,
    }


def _trained(
    recipe: "TokenRecipe", out: Path, rows: Sequence[TrainingRow], revision: str, *, clock: "_Clock", say: Say
) -> "TokenRun | None":
    """Train and save; None in processes that write nothing."""
    from demur.models.adapter import read_adapter
    from demur.models.merging import base_folder, load_model, load_tokenizer, merge
    from demur.train.refusal_tokens import (
        check_finite,
        is_main_process,
        learn_rows,
        n_processes,
        prepared,
        save_run,
        train_lora,
    )
    from demur.train.token_adapter import attach_adapter

    base = base_folder(parse_model(recipe.model))
    replies = _replies(recipe, out, rows, say) if recipe.mode == "lora" else None
    clock.lap("own answers")
    run = prepared(recipe, load_model(base, dtype="float32").eval(), load_tokenizer(base), rows, replies)
    learnt = learn_rows(run, say=say)
    clock.lap("control rows")
    if recipe.mode == "lora":
        train_lora(run, learnt, out, say=say)
    else:
        run.model = attach_adapter(run.model, recipe, run.token_ids, learnt)
    check_finite(run.losses)
    clock.lap("adapter")
    if not is_main_process():
        return None
    save_run(run, out, base_revision=revision)
    if n_processes() > 1:  # parts of the trained model may lie on other devices
        run.model = merge(read_adapter(out), base).model
    return run


def _replies(recipe: "TokenRecipe", out: Path, rows: Sequence[TrainingRow], say: Say) -> list[str]:
    """The reply that each row learns; the base's own answers are asked for once."""
    from demur.jobs.own_answers import FILE, own_answers
    from demur.train.replies import drawn_for_replies, learnt_replies

    drawn = drawn_for_replies(rows, recipe.reply_share, recipe.seed)
    answers = None
    if recipe.answers == "own":
        asked = [rows[i] for i in drawn if rows[i].expected == "comply"]
        progress = partial(say, "the base's own answers")
        answers = own_answers(recipe.model, asked, tokens=recipe.reply_tokens, kept=out / FILE, say=progress)
    return learnt_replies(rows, drawn, openings=recipe.openings, answers=answers)


def _following(base: str, out: Path, held_out: Sequence[TrainingRow], say: Say) -> dict[str, Any]:
    """Force tokens on held-out prompts and judge what is written; the adapter's record keeps the result."""
    from demur.jobs.following import followed, forced_replies, outcomes
    from demur.models.adapter import TOKENS_FILE, read_adapter
    from demur.models.controlled import controlled_model

    control = read_adapter(out).control
    columns = {name: i for i, name in enumerate((*control.categories, RESPOND))}
    found: dict[str, Any] = {}
    for side, name in (("refuse", "refusal tokens followed"), ("comply", "respond token answered")):
        rows = [row for row in held_out if row.expected == side][:: max(1, len(held_out) // 2 // N_FOLLOWING)]
        tokens = [
            columns.get(row.category, columns.get(ANY, 0)) if side == "refuse" else columns[RESPOND] for row in rows
        ]
        prompts = [row.prompt for row in rows]
        engine = controlled_model(f"{base}+{out}", engine="transformers")
        replies = forced_replies(engine, prompts, tokens, progress=partial(say, "does the text follow"))
        found[name] = round(followed(outcomes(prompts, replies), declining=side == "refuse"), 4)
        found[f"n {side}"] = len(rows)
    record = json.loads((out / TOKENS_FILE).read_text(encoding="utf-8"))
    write_json(out / TOKENS_FILE, {**record, "follows": found["refusal tokens followed"]})
    return found


def _auroc(p: Any, rows: Sequence[TrainingRow], category: str | None = None) -> float | None:
    kept = [i for i, row in enumerate(rows) if category in (None, row.category)]
    return auroc([float(p[i]) for i in kept], [rows[i].expected == "refuse" for i in kept])


def _audits(base: str, out: Path, suite: str, say: Say) -> dict[str, Any]:
    found = {}
    for when, model in (("before", base), ("after", f"{base}+{out}")):
        config = AuditConfig(model=model, suite=suite, out=out / f"audit-{when}")
        profile = audit(config, progress=partial(say, f"audit {when}"))
        found[when] = {
            "folder": f"audit-{when}",
            "suite": suite,
            "should_refuse": profile.overall.should_refuse.model_dump(),
            "contrast": profile.overall.contrast.model_dump(),
        }
    return found


def _limited(rows: list[TrainingRow], limit: int | None, seed: int) -> list[TrainingRow]:
    from demur.train.replies import even_draw

    if limit is None or limit >= len(rows):
        return rows
    names = sorted({(row.category, row.expected) for row in rows})
    return [rows[i] for i in even_draw([names.index((r.category, r.expected)) for r in rows], limit, seed)]


def _finished(out: Path) -> dict[str, Any] | None:
    path = out / SUMMARY
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _require() -> None:
    try:
        import peft  # noqa: F401
        import trl  # noqa: F401
    except ImportError:
        raise MissingExtraError("training", extra="train") from None


class _Clock:
    """Seconds of each stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.monotonic()

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self._last = round(now - self._last, 1), now
