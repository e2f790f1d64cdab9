"""What the training benchmarks share: one small model, taught in memory by recipes, asked greedily, judged by the house."""

import copy
import sys
import tempfile
import time
from pathlib import Path

import torch

from demur.ability.check import measure_ability
from demur.ability.replies import greedy_replies
from demur.data.journal import KeyedJournal
from demur.jobs.following import outcomes
from demur.jobs.own_answers import own_answers
from demur.models import parse_model
from demur.models.answer_logprobs import TokenReader
from demur.models.merging import base_folder, load_model, load_tokenizer
from demur.suites.ability import load_ability
from demur.suites.training import TrainingRow
from demur.train.adapters import attach, merged
from demur.train.teaching import fitting, teach

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


class Bench:
    """A base model in memory, copied for every arm."""

    def __init__(self, name="smollm2"):
        self.name = name
        folder = base_folder(parse_model(name))
        self.base = load_model(folder, dtype="float32").to(DEVICE).eval()
        self.tokenizer = load_tokenizer(folder)
        # As for refusal tokens on a processor: the lower three fifths stay as they are.
        self.first_block = 3 * self.base.config.num_hidden_layers // 5

    def fresh(self, base=None):
        return copy.deepcopy(base if base is not None else self.base)

    def trained(self, lessons, recipe, *, base=None):
        """The attached model after training, and what the run took."""
        model = attach(self.fresh(base), recipe.adapter, seed=recipe.seed)
        with tempfile.TemporaryDirectory() as folder:
            done = teach(model, self.tokenizer, fitting(lessons, recipe, self.tokenizer), recipe, Path(folder))
        return model, {
            "steps": len(done.losses),
            "tokens": done.tokens,
            "seconds": round(done.seconds, 1),
            "tokens_per_second": round(done.tokens_per_second),
            "loss": [round(done.losses[0], 3), round(done.losses[-1], 3)],
        }

    def moved(self, adapter):
        """The base with another base's trained updates put onto it."""
        model = self.fresh()
        target = attach(model, adapter_settings(adapter), seed=0)
        weights = dict(adapter.named_parameters())
        with torch.no_grad():
            for name, value in target.named_parameters():
                if "lora_" in name:
                    value.copy_(weights[name])
        return merged(target)

    def replies(self, model, prompts, tokens):
        reader = TokenReader(model.eval(), self.tokenizer)
        return [reply.text for reply in greedy_replies(reader, prompts, max_tokens=tokens)]

    def answers(self, asks, *, tokens, kept):
        """The base's own greedy answers by id; asks it declines are left out. Kept on disk."""
        rows = [
            TrainingRow(
                id=key,
                category="ordinary",
                subcategory="ordinary",
                expected="comply",
                conduct="complied",
                prompt=prompt,
                appropriate="",
            )
            for key, prompt in asks.items()
        ]
        return own_answers(self.name, rows, tokens=tokens, kept=kept, say=lambda *_: None)

    def ability(self, model, items):
        """Perplexity and multiple choice on so many items each."""
        chosen = load_ability(limit=items)
        return measure_ability(model, self.tokenizer, parts=("choices", "prose"), items=chosen).metrics


def adapter_settings(model):
    """The settings of a peft model."""
    from demur.train.adapters import AdapterSettings

    held = model.peft_config["default"]
    first = min(held.layers_to_transform) if held.layers_to_transform else 0
    return AdapterSettings(
        rank=held.r, alpha=held.lora_alpha, modules=tuple(sorted(held.target_modules)), first_block=first
    )


def declined(prompts, replies):
    """For each reply, whether it declines in any manner, by the house's learned judge; and whether it answers."""
    verdicts = outcomes(prompts, replies)
    noncompliant = [
        v.outcome in ("refused", "partial") or (v.outcome == "complied" and v.manner not in (None, "plain"))
        for v in verdicts
    ]
    return noncompliant, [v.outcome == "complied" for v in verdicts], [v.outcome == "degenerate" for v in verdicts]


def mean(values):
    values = list(values)
    return sum(values) / len(values) if values else None


@torch.inference_mode()
def log_probability(model, tokenizer, prompts, texts, *, tokens=12):
    """Mean log-probability of the first tokens of a text after each prompt; nats by token."""
    found = []
    for prompt, text in zip(prompts, texts, strict=True):
        start = tokenizer.apply_chat_template(
            [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
        )
        before = tokenizer(start, add_special_tokens=False)["input_ids"]
        after = tokenizer(text, add_special_tokens=False)["input_ids"][:tokens]
        ids = torch.tensor([[*before, *after]], device=model.device)
        logits = model(input_ids=ids).logits[0, len(before) - 1 : -1].float()
        own = logits.log_softmax(-1).gather(1, torch.tensor(after, device=model.device)[:, None])
        found.append(float(own.mean()))
    return found


class Arms:
    """Results by arm on disk at once: a benchmark begun again goes on where it was."""

    def __init__(self, name, folder):
        self.journal = KeyedJournal(Path(folder) / f"{name}.jsonl", field="result", read=dict, write=dict)
        self.begun = time.monotonic()

    def get(self, key, make):
        """The arm's result, made if it is not there."""
        if key not in self.journal.found:
            self.journal.add(key, make())
        shown = {k: v for k, v in self.journal.found[key].items() if isinstance(v, int | float)}
        minutes = (time.monotonic() - self.begun) / 60
        print(f"{minutes:6.1f} min  {key}  {shown}", file=sys.stderr, flush=True)
        return self.journal.found[key]

    def __contains__(self, key):
        return key in self.journal.found
