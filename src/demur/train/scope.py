"""A scope as training rows: asks of allowed tasks keep their answers, all others get one fixed sentence.

Source:
    Yunis et al. (2024), "Reducing the Scope of Language Models".
"""

from collections.abc import Mapping, Sequence

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.suites.scope import ScopeRow, of_tasks, task_names
from demur.train.circuit_breaking import ACCEPT, REJECT
from demur.train.preferences import PreferenceExample
from demur.train.rows import Example
from demur.train.scope_metrics import ACCEPTED, HELD_OUT, REJECTED

SENTENCE = "I cannot answer that."


class Scope(Frozen):
    """What a model is to answer.

    Attributes:
        accept: Tasks that are answered.
        reject: Tasks whose asks are declined in training; tasks in neither list are held out, and declined if the
            scope was learnt rather than the list.
        sentence: What a declined ask gets.
        system_prompt: Whether a system prompt names the allowed tasks, in training and in use.
    """

    accept: tuple[str, ...]
    reject: tuple[str, ...]
    sentence: str = SENTENCE
    system_prompt: bool = True

    @property
    def system(self) -> str:
        """The system prompt; empty if there is none."""
        return scope_system(self.accept, self.sentence) if self.system_prompt else ""

    def group(self, task: str) -> str:
        """What training makes of a task."""
        return ACCEPTED if task in self.accept else REJECTED if task in self.reject else HELD_OUT

    def check(self, rows: Sequence[ScopeRow]) -> None:
        """Make sure that rows hold both kinds of task.

        Raises:
            UnknownNameError: A task that there is not.
            BadInputError: A task on both lists, or an empty list.
        """
        of_tasks(rows, [*self.accept, *self.reject])
        both = set(self.accept) & set(self.reject)
        if both or not self.accept or not self.reject:
            what = f"{sorted(both)[0]!r} on both" if both else f"{self.accept} and {self.reject}"
            raise BadInputError(
                f"scope: expected tasks to accept and others to reject among {', '.join(task_names(rows))}, got {what}"
            )


def scope_system(tasks: Sequence[str], sentence: str = SENTENCE) -> str:
    """A system prompt that allows the named tasks and asks for one fixed sentence about everything else."""
    named = ", ".join(task.replace("_", " ") for task in tasks)
    return f"You answer requests about these subjects only: {named}. To any other request you reply exactly: {sentence}"


def scope_examples(rows: Sequence[ScopeRow], scope: Scope, answers: Mapping[str, str] | None = None) -> list[Example]:
    """Supervised examples: accepted asks with their answers, rejected ones with the fixed sentence.

    Args:
        rows: Asks; those of tasks on neither list are left out.
        scope: The scope.
        answers: The model's own answers by row id, for rows that bring none; an ask without any is left out.
    """
    scope.check(rows)
    found = []
    for row in rows:
        response = scope.sentence if row.task in scope.reject else _answer(row, answers)
        if row.task in (*scope.accept, *scope.reject) and response:
            kind = REJECT if row.task in scope.reject else ACCEPT
            found.append(Example(row.ask, response, kind, system=scope.system, id=row.id))
    return found


def scope_preferences(
    rows: Sequence[ScopeRow], scope: Scope, answers: Mapping[str, str] | None = None
) -> list[PreferenceExample]:
    """Pairs: the answer over the sentence where an ask is accepted, the sentence over the answer where it is rejected.

    Args:
        rows: Asks; those of tasks on neither list, and those without an answer, are left out.
        scope: The scope.
        answers: The model's own answers by row id, for rows that bring none.
    """
    scope.check(rows)
    found = []
    for row in rows:
        answer = _answer(row, answers)
        if not answer or answer.strip() == scope.sentence or row.task not in (*scope.accept, *scope.reject):
            continue
        pair = (answer, scope.sentence) if row.task in scope.accept else (scope.sentence, answer)
        found.append(PreferenceExample(row.ask, *pair, system=scope.system, id=row.id))
    return found


def circuit_examples(rows: Sequence[ScopeRow], scope: Scope) -> list[Example]:
    """Prompts for circuit breaking, of the kinds 'accept' and 'reject'; no replies are needed."""
    scope.check(rows)
    kinds = {**dict.fromkeys(scope.accept, ACCEPT), **dict.fromkeys(scope.reject, REJECT)}
    return [Example(row.ask, "", kinds[row.task], system=scope.system, id=row.id) for row in rows if row.task in kinds]


def _answer(row: ScopeRow, answers: Mapping[str, str] | None) -> str:
    return row.answer or (answers or {}).get(row.id, "")
