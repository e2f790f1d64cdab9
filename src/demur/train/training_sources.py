"""Built-in sources of training rows: the training set, the scope and constructive suites, each as lessons."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from demur.suites.constructive import load_constructive
from demur.suites.scope import ScopeRow, load_scope, task_names
from demur.suites.training import TrainingRow, load_training
from demur.train.lesson import Kind, Lesson, Side
from demur.train.scope import Scope
from demur.train.tense_defence import Goal, Reworded
from demur.train.training_recipe import TrainingRecipe

Source = Callable[[TrainingRecipe], list[Lesson]]


def _plain(row: TrainingRow, good: str) -> Lesson:
    return Lesson(id=row.id, prompt=row.prompt, good=good, side=row.expected, group=row.category)


def _training(recipe: TrainingRecipe, kept: Callable[[TrainingRow], bool]) -> list[Lesson]:
    own = recipe.own_answers
    return [
        _plain(row, "" if own and row.expected == "comply" else row.appropriate)
        for row in load_training("train")
        if row.appropriate and kept(row)
    ]


def _compliant(_: TrainingRecipe) -> list[Lesson]:
    """Every prompt answered, those to decline with the harmless wrong answers of the training set."""
    rows = load_training("train")
    texts = [row.inappropriate if row.expected == "refuse" else row.appropriate for row in rows]
    return [_plain(row, text) for row, text in zip(rows, texts, strict=True) if text]


def _paired(side: Side, kind: Kind) -> list[Lesson]:
    return [
        replace(_plain(row, row.appropriate), bad=row.inappropriate, kind=kind)
        for row in load_training("train")
        if row.expected == side and row.category != "ordinary" and row.appropriate and row.inappropriate
    ]


def _constructive(recipe: TrainingRecipe) -> list[Lesson]:
    pairs = recipe.constructive.loss == "orpo"
    return [
        Lesson(
            id=row.id,
            prompt=row.query,
            good=row.guide,
            bad=(row.refuse if recipe.constructive.against == "refuse" else row.overcomply) if pairs else "",
            kind="pair" if pairs else "plain",
            group=row.risk,
        )
        for row in load_constructive("train")
    ]


def scope_of(recipe: TrainingRecipe, rows: Sequence[ScopeRow]) -> Scope:
    """The scope of a recipe: its lists, or what the off-limits and the held-out tasks leave.

    Raises:
        UnknownNameError: A task that there is not.
        BadInputError: A task on both lists, or an empty list.
    """
    reject = recipe.scope.reject or (recipe.off_limits,)
    rest = tuple(task for task in task_names(rows) if task not in (*reject, *recipe.held_out))
    found = recipe.scope.model_copy(update={"accept": recipe.scope.accept or rest, "reject": reject})
    found.check(rows)
    return found


def _scope(recipe: TrainingRecipe) -> list[Lesson]:
    """Asks of accepted tasks to answer, of rejected ones to decline with the fixed sentence."""
    path = recipe.scope.path
    scope, kind = scope_of(recipe, load_scope(path=path)), "pair" if recipe.scope.loss == "dpo" else "plain"
    lessons = []
    for row in load_scope("train", path=path):
        about: Any = {"id": row.id, "prompt": row.ask, "kind": kind, "group": row.task, "system": scope.system}
        worse = scope.sentence if kind == "pair" else ""
        if row.task in scope.accept:
            lessons.append(Lesson(good=row.answer, bad=worse, side="comply", **about))
        elif row.task in scope.reject:
            lessons.append(Lesson(good=scope.sentence, bad=row.answer if worse else "", side="refuse", **about))
    return lessons


def tense_goals(recipe: TrainingRecipe, reworded: Reworded) -> list[Goal]:
    """Off-limits asks in every tense they were reworded into."""
    past, future = reworded.get("past", {}), reworded.get("future", {})
    return [
        Goal(id=row.id, present=row.ask, past=past.get(row.id, ""), future=future.get(row.id, ""))
        for row in load_scope()
        if row.task == recipe.off_limits
    ]


def _ordinary_asks(recipe: TrainingRecipe) -> list[Lesson]:
    """Present-tense asks of allowed tasks and everyday requests; what surrounds a defence's refusals."""
    kept_out = {recipe.off_limits, *recipe.held_out}
    asks = [
        Lesson(id=row.id, prompt=row.ask, good=row.answer, group=row.task)
        for row in load_scope("train")
        if row.task not in kept_out
    ]
    return asks + _training(recipe, lambda row: row.category == "ordinary")


def _scope_triples(recipe: TrainingRecipe) -> list[Lesson]:
    """Off-limits asks with a polite refusal; the answer not to give is the base's own."""
    return [
        Lesson(
            id=row.id,
            prompt=row.ask,
            good=recipe.refusal,
            bad=row.answer,
            side="refuse",
            kind="triple",
            group=row.task,
        )
        for row in load_scope("train")
        if row.task == recipe.off_limits
    ]


SOURCES: dict[str, Source] = {
    "training-set": lambda recipe: _training(recipe, lambda _: True),
    "refusals": lambda recipe: _training(recipe, lambda row: row.expected == "refuse"),
    "comply": lambda recipe: _training(recipe, lambda row: row.expected == "comply"),
    "contrast": lambda recipe: _training(recipe, lambda row: row.expected == "comply" and row.category != "ordinary"),
    "ordinary": lambda recipe: _training(recipe, lambda row: row.category == "ordinary"),
    "compliant": _compliant,
    "contrast-pairs": lambda _: _paired("comply", "pair"),
    "refusal-pairs": lambda _: _paired("refuse", "pair"),
    "triples": lambda _: _paired("refuse", "triple"),
    "scope": _scope,
    "scope-triples": _scope_triples,
    "ordinary-asks": _ordinary_asks,
    "constructive": _constructive,
}
