"""General ability, offline and in a minute: what training for refusals must not take away.

Multiple choice by log-probability, perplexity of ordinary prose, and format checks on short greedy replies. The same
items before and after a training run, compared item by item:

    before = measure_ability(model, tokenizer)          # a transformers model in memory, in evaluation mode
    after = measure_ability(trained, tokenizer)
    rows = ability_rows(before, after)                  # cells for a report; before.metrics for gates
"""

from demur.core.lazy import lazy_names

_HOMES = {
    "measure_ability": "demur.ability.check",
    "AbilityResult": "demur.ability.result",
    "ability_changes": "demur.ability.comparison",
    "ability_rows": "demur.ability.comparison",
}
__all__ = sorted(_HOMES)

__getattr__ = lazy_names(__name__, _HOMES, extra="hf", modules=frozenset({"torch", "transformers"}))
