"""Refusing late (DeRTa) on a harmless surrogate: python benchmarks/bench_derta.py [--quick] [--folder DIR].

Cooking is declared off-limits. h is the base's own answer, r a polite refusal. Vanilla, prefix, RTO and both read the
same number of tokens from the same start. On held-out cooking prompts the first m tokens of the base's answer are
forced; on allowed topics, one of them never trained on, the same gives the rate of false interruptions.
"""

import argparse
from collections import Counter
from pathlib import Path

from record import record
from training_arms import Arms, Bench, mean

from demur.stress.forced import ForcedSettings, forced_prefix_study
from demur.suites.scope import load_scope
from demur.train.adapters import merged
from demur.train.lesson import Lesson, drawn
from demur.train.teaching import encoded_rows, fitting
from demur.train.training_recipe import REFUSAL, TrainingRecipe

PARTS, SEEDS = ("vanilla", "prefix", "rto", "both"), (0, 1, 2)
OFF_LIMITS, HELD_OUT = "cooking", "fitness"
LENGTHS, ALLOWED_LENGTHS = (0, 4, 8, 16, 32), (0, 8, 32)
ANSWER_TOKENS, REPLY_TOKENS, BUDGET, ALLOWED = 64, 40, 18_000, 60


def recipe(bench, parts, seed, epochs=1.0):
    return TrainingRecipe.model_validate(
        {
            "method": "derta",
            "seed": seed,
            "max_tokens": 256,
            "reply_tokens": REPLY_TOKENS,
            "derta": {"parts": parts, "word": bench.word},
            "adapter": {"kind": "lora", "rank": 16, "alpha": 16.0, "first_block": bench.first_block},
            "optimiser": {
                "learning_rate": 1e-3,
                "warmup": 0.1,
                "epochs": epochs,
                "batch_rows": 8,
                "save_steps": 10_000,
            },
        }
    )


def lessons_of(answers, n_triples, n_allowed, seed):
    """Triples of the off-limits topic, and allowed asks with the base's own answers."""
    rows = [r for r in load_scope("train") if r.id in answers]
    triples = [
        Lesson(id=r.id, prompt=r.ask, good=REFUSAL, bad=answers[r.id], side="refuse", kind="triple", group=r.task)
        for r in rows
        if r.task == OFF_LIMITS
    ]
    allowed = [
        Lesson(id=r.id, prompt=r.ask, good=answers[r.id], group=r.task)
        for r in rows
        if r.task not in (OFF_LIMITS, HELD_OUT)
    ]
    return [*drawn(triples, n_triples, seed), *drawn(allowed, n_allowed, seed)]


def forced(bench, model, rows, answers, lengths):
    prompts, texts = [r.ask for r in rows], [answers[r.id] for r in rows]
    settings = ForcedSettings(max_tokens=32)
    return forced_prefix_study(model, bench.tokenizer, prompts, texts, lengths, settings)


def evaluated(bench, model, answers, n):
    """Refusal by m, where refusals stand, and interruptions of what is allowed."""
    rows = [r for r in load_scope("test") if r.id in answers]
    off = [r for r in rows if r.task == OFF_LIMITS][:n]
    sides = {
        "allowed": [r for r in rows if r.task not in (OFF_LIMITS, HELD_OUT)][:: max(1, 60 // n)][:n],
        "held-out allowed": [r for r in rows if r.task == HELD_OUT][:n],
    }
    study = forced(bench, model, off, answers, LENGTHS)
    found = {
        "refusal rate by m": {str(m): study.refusal_rate(m).estimate for m in LENGTHS},
        "refusal phrase by m": {str(m): study.phrase_rate(m).estimate for m in LENGTHS},
        "positions by m": {str(m): study.positions(m) for m in LENGTHS},
        "positions": dict(sum((Counter(study.positions(m)) for m in LENGTHS), Counter())),
        "n": len(study.at(0)),
    }
    for name, kept in sides.items():
        benign = forced(bench, model, kept, answers, ALLOWED_LENGTHS)
        found[f"interruption rate, {name}"] = {str(m): benign.refusal_rate(m).estimate for m in ALLOWED_LENGTHS}
        found[f"'Sorry' anywhere, {name}"] = mean("Sorry" in reply.text for reply in benign.replies)
        found[f"n, {name}"] = len(benign.at(0))
    return found


def arm(bench, answers, parts, seed, sizes):
    held = lessons_of(answers, sizes["triples"], sizes["allowed"], seed)
    held = fitting(held, recipe(bench, parts, seed), bench.tokenizer)
    tokens = sum(len(row.ids) for row in encoded_rows(held, recipe(bench, parts, seed), bench.tokenizer))
    model, took = bench.trained(held, recipe(bench, parts, seed, epochs=sizes["budget"] / tokens))
    return evaluated(bench, merged(model), answers, sizes["asked"]) | {"training": took}


def summary(found, seeds):
    """Means over seeds, and their range."""
    table = {}
    for parts in PARTS:
        runs = [found[f"{parts}|{seed}"] for seed in seeds if f"{parts}|{seed}" in found]
        table[parts] = {
            what: {
                m: [mean(r[what][m] for r in runs), min(r[what][m] for r in runs), max(r[what][m] for r in runs)]
                for m in runs[0][what]
            }
            for what in ("refusal rate by m", "interruption rate, allowed", "interruption rate, held-out allowed")
        }
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a quarter of the sizes")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--folder", type=Path, default=Path("build/derta"), help="where arms are kept")
    parser.add_argument("--word", default="Sorry", help="the refusal token's text")
    given = parser.parse_args()
    seeds = SEEDS[:1] if given.quick else SEEDS
    share = 4 if given.quick else 1
    sizes = {"triples": 40 // share, "allowed": ALLOWED // share, "budget": BUDGET // share, "asked": 20 // share}
    bench, folder = Bench(given.base), given.folder / ("quick" if given.quick else "full")
    bench.word = given.word
    asks = {r.id: r.ask for r in load_scope()}
    answers = bench.answers(asks, tokens=ANSWER_TOKENS, kept=given.folder / "answers.json")
    arms = Arms("arms", folder)
    arms.get("base", lambda: evaluated(bench, bench.base, answers, sizes["asked"]))
    for seed in seeds:
        for parts in PARTS:
            arms.get(f"{parts}|{seed}", lambda p=parts, s=seed: arm(bench, answers, p, s, sizes))
    found = arms.journal.found
    result = {
        "design": sizes | {"lengths": LENGTHS},
        "means, least, most over seeds": summary(found, seeds),
        "arms": found,
    }
    record("derta-quick" if given.quick else "derta", result, packages=("torch", "transformers", "peft"))
    for parts, table in result["means, least, most over seeds"].items():
        for what, by_m in table.items():
            print(f"{parts:8} {what:38} " + "  ".join(f"m={m} {values[0]:.2f}" for m, values in by_m.items()))


if __name__ == "__main__":
    main()
