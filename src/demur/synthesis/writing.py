"""Prompts from seeds, one question for each; what a draft is asked for depends on its number alone, never on others."""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass

from demur.core.chat import ChatModel, ChatReply
from demur.synthesis.asking import Asker, Question
from demur.synthesis.copies import Sources, folded_words
from demur.synthesis.draft import Draft, State
from demur.synthesis.policy import Kind, SynthesisPolicy
from demur.synthesis.wording import writing_text

MAX_PROMPT = 4_000
MAX_WHY = 240
_PROMPT = re.compile(r"<prompt>\s*(.*?)\s*</prompt>", re.IGNORECASE | re.DOTALL)
_WHY = re.compile(r"<why>\s*(.*?)\s*</why>", re.IGNORECASE | re.DOTALL)
_TAG = re.compile(r"</?(?:prompt|why|none)\b", re.IGNORECASE)


@dataclass(frozen=True, slots=True, kw_only=True)
class Writer:
    """Asks for drafts.

    Attributes:
        policy: What to write for.
        kind: Requests for text or for pictures.
        model: Who writes.
        asker: The way to it.
        seeds: Ideas by category.
        sources: What must not be repeated.
        seed: Of the drawn lengths, voices and reasons.
    """

    policy: SynthesisPolicy
    kind: Kind
    model: ChatModel
    asker: Asker
    seeds: dict[str, Sequence[str]]
    sources: Sources
    seed: int = 0

    async def write(self, category: str, number: int) -> Draft:
        """Draft of that number in a category.

        Raises:
            BackendError: The model answers nothing.
        """
        seeds = self.seeds[category]
        seed = seeds[number % len(seeds)]
        languages = self.policy.languages
        language = languages[(number + number // len(seeds)) % len(languages)]
        rng = random.Random(f"{self.seed}/{category}/{number}")
        text = writing_text(self.policy, self.policy.norm(category), self.kind, seed=seed, language=language, rng=rng)
        item = f"{category}-{number + 1:04d}"
        asked = Question(step="writing", item=item, text=text, temperature=1.0, seed=self.seed * 100_003 + number)
        reply = await self.asker.ask(self.model, asked, essential=True)
        state, prompt, why = _read(reply)
        if state == "reserve" and self.sources.copied(prompt):
            state = "copied"
        return Draft(
            id=item, category=category, seed=seed, language=language, state=state, prompt=prompt, why=why[:MAX_WHY]
        )


def _read(reply: ChatReply | None) -> tuple[State, str, str]:
    """State, prompt and reason that a reply holds; 'reserve' stands for written and nothing known against it."""
    if reply is None:
        return "failed", "", ""
    if reply.api_signals or reply.stop_reason == "content_filter":
        return "declined", "", ""
    prompts = _PROMPT.findall(reply.text)
    if len(prompts) != 1 or not 0 < len(prompts[0]) <= MAX_PROMPT or _TAG.search(prompts[0]):
        return "untagged", "", ""
    prompt = prompts[0].encode("utf-8", "replace").decode("utf-8")
    if not folded_words(prompt):
        return "untagged", "", ""
    why = next(iter(_WHY.findall(reply.text)), "")
    return "reserve", prompt, " ".join(why.encode("utf-8", "replace").decode("utf-8").split())
