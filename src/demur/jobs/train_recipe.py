"""Train by a recipe: rows in, adapter out; measured before and after, resumable, and failed where a gate fails."""

import json
import os
import platform
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from demur import __version__
from demur.core.errors import BackendError, BadInputError, MissingExtraError
from demur.core.memory import keep_freed_memory
from demur.data.folder import claim, write_json
from demur.jobs.audit import AuditConfig, audit
from demur.jobs.train_curve import LiveCurve
from demur.jobs.train_plan import ANSWER_TOKENS, base_name, fitted, plan_of, reworded_goals, store_measured
from demur.models import parse_model, revision_of

if TYPE_CHECKING:
    from demur.train.row_trainer import Trained
    from demur.train.training_data import TrainingData
    from demur.train.training_recipe import TrainingRecipe

Say = Callable[[str, int, int], None]
SUMMARY, TRAINED, ADAPTER, FAILED = "training.json", "trained.json", "adapter", "-failed"
MADE = (ADAPTER, "onto", "merged")  # folders of a run that a failed gate marks
OWN_ANSWERS = "own_answers.json"


@dataclass(slots=True)
class _Run:
    """A run on its way.

    Attributes:
        recipe: What was asked for.
        out: Its folder.
        say: Told stage, done, total.
        model: The model that training starts from, as typed or made by the recipe's start.
        seconds: Time by stage.
        begun: When the present stage began.
        opens: Name under which the trained model opens, once it does.
    """

    recipe: "TrainingRecipe"
    out: Path
    say: Say
    model: str
    seconds: dict[str, float] = field(default_factory=dict)
    begun: float = field(default_factory=time.monotonic)
    opens: str = ""

    def lap(self, stage: str) -> None:
        now = time.monotonic()
        self.seconds[stage], self.begun = round(now - self.begun, 1), now

    @property
    def compared(self) -> str:
        """The model that the trained one is held against."""
        return self.recipe.onto or self.recipe.model


def train_recipe(recipe: "TrainingRecipe", out: Path, *, say: Say | None = None) -> dict[str, Any]:
    """Train a recipe into the folder `out`; the same call after an interruption resumes.

    Args:
        recipe: What to train, completely.
        out: Folder of the run: `adapter/` (or `adapter-failed/` where a gate failed), `training.json`, `report.html`,
            audits before and after, and `ability/`.
        say: Told what is being done: stage, done, total.

    Returns:
        What is written to `training.json`; `passed` says whether every gate was met. Nothing in the other processes
        of `accelerate launch`.

    Raises:
        BadInputError: A recipe, base or row that cannot be trained, too little memory, or a full disk.
        BackendError: The loss became not a number; the last checkpoint is kept.
    """
    _require()
    from demur.train.gates import check_measured
    from demur.train.plan import check_memory
    from demur.train.training_data import training_data

    check_measured(recipe.gates, audited=recipe.audit != "none", ability=recipe.ability)
    _check_models(recipe)
    data = training_data(recipe, reworded_goals(recipe))
    revision = revision_of(parse_model(base_name(recipe)))
    claim(out, {"kind": "training", "recipe": recipe.model_dump(mode="json"), "base_revision": revision})
    if (done := _read(out / SUMMARY)) is not None:
        _finish(out, done)  # an interruption may have come between the summary and its report
        return done
    _, plan = plan_of(recipe, data)
    check_memory(plan)
    keep_freed_memory()
    run = _Run(recipe, out, say or (lambda *_: None), recipe.model)
    summary = _beginning(run, data, plan.as_json())
    run.model = _started(run)
    run.lap("start")
    before = _audited(run, "before", run.compared)
    summary |= {"audits": _audits_of(before), "figures": {"before": before["figures"]}}
    trained = _trained(run, data, summary)
    if trained is None:
        return {}
    return _ended(run, summary, before, trained)


def _ended(run: _Run, summary: dict[str, Any], before: Mapping[str, Any], trained: dict[str, Any]) -> dict[str, Any]:
    """Measure what was trained, hold it against the gates, and write everything."""
    from demur.train.gates import passed_gates

    run.opens = _opened(run)
    after = _audited(run, "after", run.opens)
    rows, ability_before, ability_after = _abilities(run)
    figures = {**after["figures"], **ability_after, **_loss_figures(trained["losses"]["all"])}
    begun = {**before["figures"], **ability_before}
    gates = passed_gates(run.recipe.gates, begun, figures)
    summary |= {
        "state": "finished",
        **trained,
        "figures": {"before": begun, "after": figures},
        "audits": _audits_of(before, after),
        "ability": rows,
        "gates": [asdict(gate) for gate in gates],
        "passed": all(gate.passed for gate in gates),
        "opens": run.opens,
        "seconds": run.seconds,
    }
    if not summary["passed"]:
        for name in MADE:
            summary["opens"] = summary["opens"].replace(str(run.out / name), str(run.out / f"{name}{FAILED}"))
        _mark_failed(run.out)
    _finish(run.out, summary)
    return summary


def _beginning(run: _Run, data: "TrainingData", plan: dict[str, Any]) -> dict[str, Any]:
    return {
        "kind": "training",
        "state": "running",
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        "demur": __version__,
        "python": platform.python_version(),
        "machine": f"{platform.system()} {platform.machine()}",
        "recipe": run.recipe.model_dump(mode="json"),
        "plan": plan,
        "sources": data.counts,
        "notes": list(data.notes),
    }


def _started(run: _Run) -> str:
    """The model that training starts from: the base, or what the recipe's start made of it."""
    from demur.train.adapters import transfer_adapter
    from demur.train.training_recipe import read_training_recipe

    recipe, made = run.recipe, run.out / "start"
    if recipe.start:
        first = read_training_recipe(recipe.start, over={"model": recipe.model, "seed": recipe.seed})
        done = train_recipe(first, made, say=lambda stage, n, of: run.say(f"start: {stage}", n, of))
        if not done.get("passed", True):
            raise BadInputError(f"start: {recipe.start}: a gate failed, see {made / SUMMARY}; mend that recipe first")
        if first.adapter.kind == "full":
            return f"hf/{made / ADAPTER}"
        folder, onto = made / ADAPTER, recipe.model
    elif "+" in recipe.model:
        onto, _, held = recipe.model.partition("+")
        folder = Path(held)
    else:
        return recipe.model
    merged = made / "merged"
    if not merged.is_dir():
        transfer_adapter(folder, onto, merged)
    return f"hf/{merged}"


def _trained(run: _Run, data: "TrainingData", summary: Mapping[str, Any]) -> dict[str, Any] | None:
    """Train and save, or what was trained before an interruption; None in processes that write nothing."""
    from demur.models.merging import base_folder, load_model, load_tokenizer
    from demur.train.adapters import attach, save_adapter
    from demur.train.row_trainer import clear_checkpoints
    from demur.train.teaching import teach

    kept = _read(run.out / TRAINED)
    if kept is not None:
        return kept
    recipe, base = run.recipe, base_folder(parse_model(run.model))
    tokenizer = load_tokenizer(base)
    lessons, recipe, notes = _complete(run, fitted(recipe, data, tokenizer))
    model = load_model(base, dtype="float32")
    model = attach(model, recipe.adapter, seed=recipe.seed)
    n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    with LiveCurve(run.out, {**summary, "notes": notes}) as live:
        trained = teach(model, tokenizer, lessons, recipe, run.out, say=run.say, watch=live.watch)
    if int(os.environ.get("RANK", "0")) != 0:
        return None
    run.lap("training")
    revision = revision_of(parse_model(run.model))
    save_adapter(model, tokenizer, run.out / ADAPTER, base=run.model, base_revision=revision)
    found = {**_record(trained), "n_trained": n_trained, "n_lessons": len(lessons), "notes": notes}
    write_json(run.out / TRAINED, found)
    clear_checkpoints(run.out)
    store_measured(recipe, trained.tokens_per_second)
    return found


def _complete(run: _Run, data: "TrainingData") -> tuple[Any, "TrainingRecipe", list[str]]:
    """Lessons with the base's own answers, the recipe they are learnt by, and what a reader must know."""
    from demur.jobs.own_answers import own_answers
    from demur.suites.training import TrainingRow
    from demur.train.training_data import check_lessons, with_answers

    recipe = run.recipe
    wanting = [x for x in data.lessons if x.wants_answer]
    if not wanting:
        return data.lessons, recipe, list(data.notes)
    tokens = recipe.reply_tokens or ANSWER_TOKENS
    rows = [
        TrainingRow(id=x.id, category="ordinary", subcategory="ordinary", expected="comply", conduct="complied",
                    prompt=x.prompt, appropriate="")
        for x in wanting
    ]  # fmt: skip
    progress = partial(run.say, "the base's own answers")
    answers = own_answers(base_name(recipe), rows, tokens=tokens, kept=run.out / OWN_ANSWERS, say=progress)
    run.lap("own answers")
    done = with_answers(data, answers)
    check_lessons(done.lessons, recipe)
    notes = list(done.notes)
    if recipe.reply_tokens is None:  # an own answer is cut there, and must not be shown to end
        recipe = recipe.model_copy(update={"reply_tokens": tokens})
        notes.append(f"Own answers are learnt up to {tokens} tokens, and so is every other reply.")
    return done.lessons, recipe, notes


def _audited(run: _Run, when: str, model: str) -> dict[str, Any]:
    """Audit of a model, if the recipe wants one; its journal keeps what was asked, for a resumed run."""
    figures: dict[str, float | None] = {}
    found: dict[str, Any] = {"figures": figures}
    if run.recipe.audit != "none":
        config = AuditConfig(model=model, suite=run.recipe.audit, out=run.out / f"audit-{when}")
        profile = audit(config, progress=partial(run.say, f"audit {when}"))
        sides = profile.overall
        figures |= {"should_refuse.handled": sides.should_refuse.estimate, "contrast.answered": sides.contrast.estimate}
        found["audit"] = {
            "folder": f"audit-{when}",
            "suite": run.recipe.audit,
            "should_refuse": sides.should_refuse.model_dump(),
            "contrast": sides.contrast.model_dump(),
        }
        run.lap(f"audit {when}")
    return found


def _abilities(run: _Run) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, float]]:
    """General ability before and after: rows of the report, and the figures of each."""
    from demur.ability.comparison import ability_rows
    from demur.jobs.ability import AbilityConfig, check_ability

    if not run.recipe.ability:
        return [], {}, {}
    config = AbilityConfig(model=run.opens, against=run.compared, out=run.out / "ability")
    found = check_ability(config, progress=lambda stage, n, of: run.say(f"ability, {stage}", n, of))
    run.lap("ability")
    if found.against is None:
        raise BackendError("the ability check gave no result for the base; run the same command again", retriable=True)
    rows = [row.model_dump() for row in ability_rows(found.against, found.result)]
    return rows, found.against.metrics, found.result.metrics


def _opened(run: _Run) -> str:
    """Name of the trained model: on another base, whole, or BASE+ADAPTER."""
    from demur.train.adapters import transfer_adapter

    if run.recipe.onto:
        if not (run.out / "onto").is_dir():
            transfer_adapter(run.out / ADAPTER, run.recipe.onto, run.out / "onto")
            run.lap("onto another base")
        return f"hf/{run.out / 'onto'}"
    if run.recipe.adapter.kind == "full":
        return f"hf/{run.out / ADAPTER}"
    return f"{run.model}+{run.out / ADAPTER}"


def _audits_of(*found: Mapping[str, Any]) -> dict[str, Any]:
    return {when: one["audit"] for when, one in zip(("before", "after"), found, strict=False) if "audit" in one}


def _record(trained: "Trained") -> dict[str, Any]:
    kinds = dict.fromkeys(kind for step in trained.curve for kind in step.by_kind)
    losses = {"all": list(trained.losses)}
    if len(kinds) > 1:
        losses |= {kind: [step.by_kind[kind] for step in trained.curve if kind in step.by_kind] for kind in kinds}
    return {
        "losses": losses,
        "tokens": trained.tokens,
        "learnt": trained.learnt,
        "tokens_per_second": round(trained.tokens_per_second, 1),
        "peak_memory": trained.peak_memory,
        "resumed_at": trained.resumed_at,
        "layout": trained.layout,
    }


def _loss_figures(losses: list[float]) -> dict[str, float]:
    tenth = max(1, len(losses) // 10)
    return {"loss.first": fmean(losses[:tenth]), "loss.last": fmean(losses[-tenth:])} if losses else {}


def _mark_failed(out: Path) -> None:
    for name in MADE:
        if (out / name).is_dir():
            marked = out / f"{name}{FAILED}"
            shutil.rmtree(marked, ignore_errors=True)
            (out / name).rename(marked)


def _finish(out: Path, summary: Mapping[str, Any]) -> None:
    from demur.report.document import write_document
    from demur.report.training_run import render_training_run

    write_json(out / SUMMARY, summary)
    write_document(out / "report.html", render_training_run(summary))


def _check_models(recipe: "TrainingRecipe") -> None:
    for name, what in ((base_name(recipe), "model"), (recipe.onto, "onto")):
        if name and parse_model(name).family not in ("embedded", "gguf", "hf"):
            raise BadInputError(f"{what} {name!r}: expected smollm2, gguf/PATH or hf/ID; only such a model is trained")


def _read(path: Path) -> dict[str, Any] | None:
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def _require() -> None:
    try:
        import peft  # noqa: F401
        import transformers  # noqa: F401
    except ImportError:
        raise MissingExtraError("training", extra="train") from None
