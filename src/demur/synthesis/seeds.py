"""The ideas prompts grow from: the policy's own, its templates expanded, and as many more as a model has."""

import itertools
import math
import re
from collections.abc import Iterable

from demur.core.chat import ChatModel
from demur.core.errors import BadInputError
from demur.synthesis.asking import Asker, Question
from demur.synthesis.copies import folded
from demur.synthesis.policy import CategoryNorm, Kind, SynthesisPolicy
from demur.synthesis.wording import seeds_text

PER_SEED = 4  # prompts written from one idea
BATCH = 10
MAX_SEED = 200
MAX_EXPANDED = 500
_SEED = re.compile(r"<seed>\s*(.*?)\s*</seed>", re.IGNORECASE | re.DOTALL)
_SLOT = re.compile(r"\{(\w+)\}")


def expanded(policy: SynthesisPolicy) -> list[str]:
    """Every template with every combination of its slots, at most 500, spread evenly over all there are.

    Raises:
        BadInputError: A template names a slot that the policy does not fill.
    """
    found: list[str] = []
    for template in policy.templates:
        names = list(dict.fromkeys(_SLOT.findall(template)))
        missing = [name for name in names if not policy.slots.get(name)]
        if missing:
            raise BadInputError(f"templates: expected slots.{missing[0]} with its values for {template!r}, found none")
        choices = [policy.slots[name] for name in names]
        total = math.prod(len(c) for c in choices)
        step = max(1, total // MAX_EXPANDED)
        for values in itertools.islice(itertools.product(*choices), 0, None, step):
            filled = dict(zip(names, values, strict=True))
            found.append(_SLOT.sub(lambda m, filled=filled: filled[m.group(1)], template))  # type: ignore[misc]
    return found[:: max(1, math.ceil(len(found) / MAX_EXPANDED))]


async def gather_seeds(
    policy: SynthesisPolicy, norm: CategoryNorm, kind: Kind, model: ChatModel, asker: Asker, *, n_prompts: int
) -> list[str]:
    """Ideas for a category: at least one for every four prompts where a model may be asked for more.

    Raises:
        BadInputError: There are none, and no model may be asked or none came.
        BackendError: The model answers nothing.
    """
    seeds = _unique([*norm.seeds, *expanded(policy)])
    wanted = max(3, math.ceil(n_prompts / PER_SEED))
    batch = 0
    while policy.fill_seeds and len(seeds) < wanted:
        text = seeds_text(policy, norm, kind, n=BATCH, taken=seeds[-50:])
        question = Question(
            step="seeds", item=f"{norm.id}/{batch}", text=text, temperature=1.0, seed=batch, max_tokens=600
        )
        reply = await asker.ask(model, question, essential=True)
        more = _unique([*seeds, *_read(reply.text if reply and not reply.api_signals else "")])
        batch += 1
        if len(more) == len(seeds):
            break  # a model that has no more ideas, or does not answer in the form
        seeds = more
    if not seeds:
        raise BadInputError(
            f"category {norm.id!r}: expected seeds, templates or a model with ideas, got none; add seeds to the policy"
        )
    return seeds


def _read(text: str) -> list[str]:
    found = [" ".join(seed.split()) for seed in _SEED.findall(text)]
    return [seed for seed in found if 0 < len(seed) <= MAX_SEED]


def _unique(seeds: Iterable[str]) -> list[str]:
    return list({folded(seed): seed for seed in reversed([s for s in seeds if folded(s)])}.values())[::-1]
