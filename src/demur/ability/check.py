"""The ability check of a model in memory, as training runs call it before and after, or of one loaded when needed."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from demur.ability.choices import chosen_answers
from demur.ability.formats import Answer, checked_replies
from demur.ability.memory import AbilityMemory
from demur.ability.prose import read_prose
from demur.ability.result import PARTS, AbilityResult, Part
from demur.models.answer_logprobs import Scorer, TokenReader
from demur.suites.ability import AbilityItems, load_ability

Say = Callable[[str, int, int], None]
FEW = 100  # questions; below, the interval of the accuracy is wider than what training usually changes


@dataclass(slots=True)
class Examinee:
    """A model to be checked; it is loaded when a part first needs it.

    Attributes:
        load: Makes the reader of log-probabilities.
        answer: Writes replies; None = the reader's own model does, greedily.
        notes: What a reader of the result must know.
    """

    load: Callable[[], TokenReader]
    answer: Answer | None = None
    notes: list[str] = field(default_factory=list)
    _reader: TokenReader | None = None

    def reader(self) -> TokenReader:
        """The model, loaded once."""
        if self._reader is None:
            self._reader = self.load()
        return self._reader

    def scorer(self) -> Scorer:
        """The fastest way to weigh answers that gives what the slow one gives."""
        from demur.models.answer_logprobs import best_scorer

        return best_scorer(self.reader(), told=lambda why: self.notes.append(f"Log-probabilities: {why}."))

    def replies(
        self, asked: Sequence[tuple[str, int]], progress: Callable[[int, int], None]
    ) -> Sequence[tuple[str, bool]]:
        """Replies as (text, cut off) to prompts with the most tokens of a reply."""
        if self.answer is not None:
            return self.answer(asked, progress)
        from demur.ability.replies import greedy_replies

        prompts, budgets = [prompt for prompt, _ in asked], [most for _, most in asked]
        found = greedy_replies(self.reader(), prompts, max_tokens=budgets, progress=progress)
        return [(reply.text, reply.cut_off) for reply in found]


def measure_ability(
    model: Any,
    tokenizer: Any,
    *,
    parts: Sequence[Part] = PARTS,
    items: AbilityItems | None = None,
    system: str = "",
    say: Say = lambda *_: None,
) -> AbilityResult:
    """Multiple choice, perplexity and format checks of a transformers model in memory.

    The model is left as it was: in the mode it was in, with no gradient touched.

    Args:
        model: A causal language model; one with an adapter attached counts with it.
        tokenizer: With a chat template.
        parts: What to measure: 'choices', 'prose', 'formats'.
        items: What to ask; None = our own items.
        system: System prompt put before every question and instruction.
        say: Told (part, items done, items).

    Raises:
        BadInputError: The tokenizer has no chat template, or items are malformed.
    """
    training, caching = model.training, getattr(model.config, "use_cache", None)
    model.eval()
    model.config.use_cache = True
    try:
        reader = TokenReader(model, tokenizer, system)
        return examine(Examinee(lambda: reader), items or load_ability(), parts=parts, say=say)
    finally:
        model.train(training)
        model.config.use_cache = caching


def examine(
    examinee: Examinee,
    items: AbilityItems,
    *,
    parts: Sequence[Part] = PARTS,
    memory: AbilityMemory | None = None,
    say: Say = lambda *_: None,
) -> AbilityResult:
    """Run the parts that were asked for; what the memory holds is not computed again.

    Args:
        examinee: The model.
        items: What to ask; a part without items is left out and noted.
        parts: What to measure.
        memory: Values of earlier runs.
        say: Told (part, items done, items).
    """
    kept, seconds = memory or AbilityMemory(), dict[str, float]()
    having = {"choices": items.choices, "prose": items.prose, "formats": items.instructions}
    todo = [part for part in PARTS if part in parts and having[part]]
    found: dict[str, Any] = {}
    for part in todo:
        with _timed(seconds, part):
            found[part] = _measured(part, examinee, items, kept, say)
    notes = [f"There are no items for {part}." for part in parts if part not in todo]
    return AbilityResult(
        items_sha256=items.sha256, seconds=seconds, notes=(*notes, *examinee.notes, *_cautions(items, found)), **found
    )


def _measured(part: Part, examinee: Examinee, items: AbilityItems, kept: AbilityMemory, say: Say) -> Any:
    def progress(done: int, total: int) -> None:
        say(part, done, total)

    if part == "choices":
        return chosen_answers(items.choices, examinee.scorer, kept, progress)
    if part == "prose":
        return read_prose(items.prose, examinee.reader, kept, progress)
    return checked_replies(items.instructions, examinee.replies, kept, progress)


def _cautions(items: AbilityItems, found: dict[str, Any]) -> Iterator[str]:
    choices = found.get("choices")
    if choices is None:
        return
    if choices.n_too_long:
        yield f"{choices.n_too_long} questions are longer than the model's context; they are in no share."
    if choices.accuracy.low is not None and choices.accuracy.low <= choices.chance:
        yield "The accuracy cannot be told from guessing: this model has little here to lose."
    if len(items.choices) < FEW:
        yield f"Only {len(items.choices)} questions: small changes will not show."


@contextmanager
def _timed(seconds: dict[str, float], part: str) -> Iterator[None]:
    started = time.perf_counter()
    try:
        yield
    finally:
        seconds[part] = round(time.perf_counter() - started, 2)
