"""Multiple choice by log-probability: which of four answers the model would rather give.

The answers are not listed in the prompt: each is weighed as a reply, or as the end of a sentence that the reply has
begun, so that neither its place nor a habit of saying "A" can matter. The headline divides an answer's summed
log-probability by its UTF-8 bytes, which no tokenizer can change. The plain sum favours short answers, the mean by
token those that are cut into many predictable pieces; both are reported beside it.
"""

from collections.abc import Callable, Sequence

from demur.ability.memory import AbilityMemory
from demur.ability.result import READINGS, ChoiceResult, ChosenItem, Reading
from demur.core.profile import Interval
from demur.models.answer_logprobs import Question, Scorer
from demur.stats.rates import share
from demur.suites.ability import N_CHOICES, ChoiceItem

Progress = Callable[[int, int], None]
# All items share the prompt, so that a model reads it once; what differs is what the reply has begun with.
SENTENCE, QUESTION = "Complete the sentence.", "Answer the question."
BEGUN = "{question} The answer is"
Weights = list[list[float]]  # for each answer: summed log-probability in nats, number of tokens


def asked(item: ChoiceItem) -> Question:
    """An item as the model gets it: a reply that has begun with the sentence, or with the question and 'The answer is'.

    Small chat models take up a begun sentence far more readily than they answer with one or two bare words.
    """
    stem, answers = item.question.rstrip(), tuple(f" {choice}" for choice in item.choices)
    if stem.endswith((".", "?", "!")):
        return Question(QUESTION, answers, opening=BEGUN.format(question=stem))
    return Question(SENTENCE, answers, opening=stem)


def favoured(item: ChoiceItem, weights: Weights) -> dict[Reading, int]:
    """Number of the favoured answer by each reading; the first of equals.

    Args:
        item: The question.
        weights: Summed log-probability and number of tokens of each answer.
    """
    n_bytes = [len(choice.encode("utf-8", "replace")) for choice in item.choices]
    by: dict[Reading, list[float]] = {
        "byte": [total / n for (total, _), n in zip(weights, n_bytes, strict=True)],
        "token": [total / n for total, n in weights],
        "sum": [total for total, _ in weights],
    }
    return {reading: max(range(len(values)), key=values.__getitem__) for reading, values in by.items()}


def chosen_answers(
    items: Sequence[ChoiceItem], scorer: Callable[[], Scorer], memory: AbilityMemory, progress: Progress
) -> ChoiceResult:
    """Weigh the answers of all questions.

    Args:
        items: The questions.
        scorer: Makes the scorer; called only if something is left to compute.
        memory: What was computed before.
        progress: Called with (questions done, questions).
    """
    questions = [asked(item) for item in items]
    keys = [memory.key("choices", q.prompt, q.opening, q.answers) for q in questions]
    left = [i for i, key in enumerate(keys) if memory.get(key) is None]
    made, done = scorer() if left else None, len(items) - len(left)
    for prompt in dict.fromkeys(questions[i].prompt for i in left):
        group = [i for i in left if questions[i].prompt == prompt]
        for number, found in made.score([[questions[i]] for i in group]) if made else ():
            weights = [[sum(a.logprobs), float(len(a.tokens))] for a in found[0]] if found else []
            memory.add(keys[group[number]], weights)
            done += 1
            progress(done, len(items))
    read = [(item, weights) for item, key in zip(items, keys, strict=True) if (weights := memory.get(key))]
    chosen = [
        ChosenItem(id=item.id, subject=item.subject, answer=item.answer, chosen=favoured(item, weights))
        for item, weights in read
    ]
    return choice_result(chosen, n_too_long=len(items) - len(read))


def choice_result(chosen: Sequence[ChosenItem], *, n_too_long: int = 0) -> ChoiceResult:
    """Accuracies from what was chosen."""
    by_reading: dict[Reading, Interval] = {reading: share(c.right(reading) for c in chosen) for reading in READINGS}
    subjects = dict.fromkeys(c.subject for c in chosen)
    return ChoiceResult(
        accuracy=by_reading["byte"],
        by_reading=by_reading,
        by_subject={s: share(c.right("byte") for c in chosen if c.subject == s) for s in subjects},
        chance=1 / N_CHOICES,
        n_too_long=n_too_long,
        items=tuple(chosen),
    )
