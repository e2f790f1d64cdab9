"""How a model answers the reply-inversion task, untouched or with a direction added before the question or throughout.

Imported only where torch is there.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from demur.activations.direction import Direction
from demur.activations.subject import Subject
from demur.inside.inversion import (
    NO,
    QUESTIONS,
    YES,
    Answering,
    InversionPrompt,
    InversionResult,
    InversionTask,
    Reach,
    answer_words,
    inversion_prompts,
    steered_rows,
    verdict_of,
)
from demur.inside.trial import BATCH_ROWS, next_logits
from demur.steer.hooks import AddDirection, Positions, TokenRanges, at


def answering(subject: Subject) -> Answering:
    """What runs a model on the task: next-token logits after prompts, with a direction added or none."""

    def answer(
        prompts: Sequence[InversionPrompt], direction: Direction | None, strength: float, reach: Reach
    ) -> NDArray[np.float32]:
        found: NDArray[np.float32] | None = None
        # `next_logits` runs a batch longest first; ranges of tokens must come in the same order.
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i].tokens.ids), reverse=True)
        for start in range(0, len(order), BATCH_ROWS):
            rows = order[start : start + BATCH_ROWS]
            where: Positions = "prompt"
            if reach == "before":
                where = TokenRanges(tuple((0, prompts[i].before) for i in rows))
            added = [] if direction is None else [AddDirection(direction, strength, at(None, where))]
            logits = next_logits(subject, [prompts[i].tokens for i in rows], added)
            if found is None:
                found = np.empty((len(prompts), logits.shape[1]), dtype=np.float32)
            found[rows] = logits
        return found if found is not None else np.empty((0, 1), dtype=np.float32)

    return answer


def reply_inversion(
    subject: Subject,
    requests: Sequence[str],
    harmful: Sequence[bool],
    directions: Sequence[tuple[Literal["harm", "refusal"], Direction]],
    *,
    strengths: Sequence[float] = (0.5, 1.0),
    n_random: int = 10,
    always: bool = False,
) -> InversionResult:
    """Put a model to the task, and steer it if it can do it.

    Args:
        subject: The model.
        requests: What users ask; control tokens in them are split by the caller.
        harmful: Their sides.
        directions: By axis; several layers are several entries.
        strengths: Above 0, in local residual norms.
        n_random: Random directions at each layer and strength.
        always: Steer also a model that cannot do the task; the verdict stays.

    Raises:
        BadInputError: The tokenizer cannot tell the answers apart, or a direction is of another model.
    """
    words = answer_words(subject.tokenizer)
    prompts = [inversion_prompts(subject.tokenizer, requests, question) for question in QUESTIONS]
    task = InversionTask(prompts, np.asarray(harmful, dtype=bool), words, answering(subject))
    questions = task.untouched()
    solvable, verdict = verdict_of(questions)
    steered_ = steered_rows(task, directions, strengths=strengths, n_random=n_random) if solvable or always else []
    return InversionResult(
        model=subject.name,
        solvable=solvable,
        verdict=verdict,
        questions=tuple(questions),
        steered=tuple(steered_),
        words={
            word: tuple(subject.tokenizer.decode([i]) for i in ids)
            for word, ids in ((YES[0], words.yes), (NO[0], words.no))
        },
    )
