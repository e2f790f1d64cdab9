"""Attacks on any of demur's suites as Inspect tasks: `inspect eval demur/stress -T attack=tense -T form=past`."""

from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.solver import Solver, chain, generate

from demur.core.defaults import DEFAULT_JUDGE
from demur.core.errors import BadInputError, UnknownNameError
from demur.core.suite import Suite
from demur.evals.scorer import appropriate, refused
from demur.evals.stress_solvers import cipher, code, completion, deciphered, forced_prefix, history, tense_reformulation
from demur.evals.tasks import build_task
from demur.suites import load_suite
from demur.suites.formats import suite_hash

FORMS = {"tense": "past", "cipher": "base64", "code": "function", "history": "benign"}
NAMES = ("tense", "prefill", "completion", "cipher", "code", "history")


@task
def stress(
    attack: str = "tense",
    form: str = "",
    suite: str = "core",
    path: str | None = None,
    category: str = "safety",
    reformulator: str = "rules",
    judge: str = DEFAULT_JUDGE,
) -> Task:
    """One form of an attack on a suite's prompts to refuse, and on their benign twins; epochs are attempts.

    Args:
        attack: tense, prefill, completion, cipher, code or history.
        form: e.g. 'future' or 'rot13'; the attack's first if left out.
        suite: Suite name or file.
        path: Where a published suite lies.
        category: Keep this category; '' keeps all.
        reformulator: 'rules' or a model's name, for tense.
        judge: Judge of the scorers, which read the request as it was.
    """
    chosen = form or FORMS.get(attack, "")
    before = _solver(attack, chosen, reformulator)
    loaded = _kept(load_suite(suite, path=Path(path) if path else None), category, f"{attack}-{chosen}".rstrip("-"))
    after = [deciphered(chosen)] if attack == "cipher" else []
    built: Task = build_task(
        loaded, solver=chain(before, generate(), *after), scorers=[appropriate(judge), refused(judge)]
    )
    return built


def _solver(attack: str, form: str, reformulator: str) -> Solver:
    if attack == "tense":
        return tense_reformulation(form, reformulator)
    if attack == "prefill":
        return forced_prefix()
    if attack == "completion":
        return completion()
    if attack == "cipher":
        return cipher(form)
    if attack == "code":
        return code(form)
    if attack == "history":
        return history(form)
    raise UnknownNameError("attack", attack, NAMES)


def _kept(suite: Suite, category: str, attack: str) -> Suite:
    rows = tuple(row for row in suite.rows if not category or row.category == category)
    if not rows:
        raise BadInputError(f"suite {suite.name!r}: expected prompts of category {category!r}, found none")
    named = f"{Path(suite.name).stem}-{attack}"
    return suite.model_copy(update={"rows": rows, "name": named, "sha256": suite_hash(rows)})
