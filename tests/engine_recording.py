"""Recorded logits and decisions that every engine must agree with; `python -m tests.engine_recording` records them anew.

tests/data/control_logits.json:
  categories, ids     columns: decline tokens by category, then the respond token
  temperatures        of the columns of log_total
  rows                prompt; prompt_ids; logits of the next token over the whole vocabulary; and from these
                      control_logits, log_total and top (column of the likeliest token, -1 = none of them)
  policies            one of every kind and view, as policy files hold them
  decisions           by policy name, one for each row: token (column, -1 = none), action, category, p, threshold
"""

import asyncio
import json
from functools import cache
from pathlib import Path

import numpy as np

from tests.engine_models import CATEGORIES, ask, make_adapter, next_logits, prompt_ids, workshop

PATH = Path(__file__).parent / "data" / "control_logits.json"
PROMPTS = (
    "hello",
    "What is the capital of France?",
    "Tell me a story about a small boat.",
    "How do I bake bread?",
    "naïve café 你好",
    "12 345 6789",
    "I cannot help with that, sorry.",
    "the sea, the sea, the sea, the sea, the sea",
    "Mix flour; wait; bake.",
    "?",
    "assistant",
    "You are a helpful assistant named Tiny.",
)


@cache
def loud():
    """A merged model whose control tokens hold a fair share of the mass."""
    from demur.models.adapter import read_adapter
    from demur.models.merging import merge

    shop = workshop()
    folder = make_adapter(shop.bases[True], shop.root / "loud", mode="rows", name=f"hf/{shop.bases[True]}", scale=0.4)
    return read_adapter(folder), merge(read_adapter(folder), shop.bases[True])


def policies(identity: str, token_ids: dict) -> list:
    """One policy of every kind, with thresholds inside the range that the model's scores have."""
    from demur.core.policy import Policy, Rule, SignalSource

    source = SignalSource(name="refusal-tokens", identity=identity, token_ids=token_ids)
    rules = {"safety": Rule(threshold=0.7), "humanizing": Rule(threshold=0.3, action="guide")}
    made = [
        {"name": "two-way", "kind": "two_way"},
        {"name": "sum", "kind": "sum", "threshold": 0.8},
        {"name": "sum-full", "kind": "sum", "view": "full", "threshold": 0.04},
        {"name": "published", "kind": "sum", "view": "full", "temperature": 2.0, "threshold": 0.025},
        {"name": "bias", "kind": "bias", "bias": -1.0},
        {"name": "set", "kind": "category_set", "threshold": 0.4, "rules": rules},
        {"name": "set-full", "kind": "category_set", "view": "full", "rules": {"safety": Rule(threshold=0.1)}},
        {"name": "each", "kind": "per_category", "threshold": 0.1, "rules": rules},
        {"name": "each-off", "kind": "per_category", "threshold": 0.1, "rules": {"safety": Rule(action="answer")}},
    ]
    return [Policy(source=source, **settings) for settings in made]


def record() -> dict:
    """What the transformers engine says now."""
    from demur.control.decision import decide_one
    from demur.core.signal import TEMPERATURES
    from demur.models.controlled_transformers import TransformersControlled

    adapter, merged = loud()

    async def read():
        model = TransformersControlled("tiny", "tiny", merged.control, lambda: (merged.model, merged.tokenizer))
        scores = await model.score([ask(prompt) for prompt in PROMPTS])
        await model.close()
        return scores

    scores = asyncio.run(read())
    rows = []
    for i, prompt in enumerate(PROMPTS):
        ids = prompt_ids(merged, ask(prompt))
        rows.append(
            {
                "prompt": prompt,
                "prompt_ids": ids,
                "logits": np.round(next_logits(merged, ids), 6).tolist(),
                "control_logits": np.round(scores.logits[i], 6).tolist(),
                "log_total": np.round(scores.log_total[i], 6).tolist(),
                "top": int(scores.top[i]),
            }
        )
    made = policies("tiny", adapter.token_ids)
    return {
        "format": 1,
        "categories": list(CATEGORIES),
        "ids": list(adapter.control.ids),
        "temperatures": list(TEMPERATURES),
        "rows": rows,
        "policies": [policy.model_dump(mode="json") for policy in made],
        "decisions": {
            policy.name: [_decision(decide_one(policy, scores, row=i)) for i in range(len(PROMPTS))] for policy in made
        },
    }


def _decision(found) -> dict:
    return found.model_dump(mode="json", include={"token", "action", "category", "p", "threshold"})


if __name__ == "__main__":
    data = record()
    head = {key: value for key, value in data.items() if key != "rows"}
    lines = ",\n".join(json.dumps(row, ensure_ascii=False) for row in data["rows"])
    text = json.dumps(head, indent=1, ensure_ascii=False)
    PATH.write_text(f'{text[:-2]},\n "rows": [\n{lines}\n]\n}}\n', encoding="utf-8")
