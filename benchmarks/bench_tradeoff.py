"""What a recipe gains in saying no, and what it costs: python benchmarks/bench_tradeoff.py [--quick] [--folder DIR].

The 135M model; five recipes after Brahman et al. (2024) at 10, 50 and 100 % of the rows, three seeds each. The refusals
learnt are templates (a plain opening by category, then the start of our own response): absolute rates mean nothing
beside the paper's. Asked are held-out prompts of the calibration split. Interrupted, it goes on with the next arm.
"""

import argparse
from pathlib import Path

import numpy as np
from record import RESULTS, record
from training_arms import Arms, Bench, declined, log_probability, mean

from demur.report.tradeoff import Arm, tradeoff_svg, tradeoff_table
from demur.stats.ranking import auroc
from demur.suites.training import load_training
from demur.train.adapters import merged
from demur.train.lesson import Lesson, drawn
from demur.train.replies import load_openings, reply_text
from demur.train.training_recipe import TrainingRecipe

RECIPES = ("full SFT", "LoRA", "LoRA, mixed", "LoRA, then DPO", "LoRA, transferred")
FRACTIONS, SEEDS = (0.1, 0.5, 1.0), (0, 1, 2)
ROWS, EVALUATED, REPLY_TOKENS, ITEMS = 128, 40, 24, 40


def recipe(bench, method, seed, *, lr, rows, **changes):
    """Short rows, small steps; alpha / rank is the paper's 0.25 unless told otherwise."""
    kind = changes.get("kind", "lora")
    first = 0 if kind == "full" else bench.first_block
    return TrainingRecipe.model_validate(
        {
            "method": method,
            "seed": seed,
            "max_tokens": 256,
            "reply_tokens": REPLY_TOKENS,
            "adapter": {"kind": kind, "rank": 16, "alpha": changes.get("alpha", 4.0), "first_block": first},
            "optimiser": {
                "learning_rate": lr,
                "schedule": "cosine",
                "warmup": 0.1,
                "epochs": changes.get("epochs", 2.0),
                "batch_rows": min(8, rows),
                "save_steps": 10_000,
            },
        }
    )


def lessons_of(answers, n_rows, seed):
    """Refusals, ordinary and contrast rows with own answers, pairs, and rows that answer everything."""
    rows = load_training("train")

    def lesson(row, good, **more):
        return Lesson(id=row.id, prompt=row.prompt, good=good, side=row.expected, group=row.category, **more)

    def taken(found):
        return drawn(found, n_rows, seed)

    refusing = [r for r in rows if r.expected == "refuse" and r.appropriate]
    contrast = [r for r in rows if r.expected == "comply" and r.category != "ordinary" and r.inappropriate]
    return {
        "refusals": taken([lesson(r, reply_text(r, openings=True)) for r in refusing]),
        "mixed": taken([lesson(r, answers[r.id]) for r in rows if r.id in answers]),
        "pairs": drawn(
            [lesson(r, r.appropriate, bad=r.inappropriate, kind="pair") for r in contrast], n_rows // 2, seed
        ),
        "compliant": taken([lesson(r, r.inappropriate) for r in refusing if r.inappropriate]),
    }


def evaluation_rows(n):
    """So many held-out prompts to decline and to answer that look alike, even over categories."""
    rows = load_training("calibration")
    sides = {}
    for side in ("refuse", "comply"):
        kept = [r for r in rows if r.expected == side and r.category != "ordinary" and r.inappropriate]
        chosen = {
            x.id for x in drawn([Lesson(id=r.id, prompt=r.prompt, good="-", group=r.category) for r in kept], n, 0)
        }
        sides[side] = [r for r in kept if r.id in chosen]
    return sides


def evaluated(bench, model, sides, items):
    """Replies judged, margins, and general ability of a plain model."""
    found = {}
    margins, labels = [], []
    for side, rows in sides.items():
        prompts = [r.prompt for r in rows]
        refused, answered, broken = declined(prompts, bench.replies(model, prompts, REPLY_TOKENS + 8))
        found[f"{side} declined"], found[f"{side} answered"] = mean(refused), mean(answered)
        found[f"{side} degenerate"] = mean(broken)
        openings = [load_openings()[r.category][0] for r in rows]
        answers = [r.inappropriate if side == "refuse" else r.appropriate for r in rows]
        no = log_probability(model, bench.tokenizer, prompts, openings)
        yes = log_probability(model, bench.tokenizer, prompts, answers)
        margin = [a - b for a, b in zip(no, yes, strict=True)]
        found[f"{side} margin"] = mean(margin)
        margins += margin
        labels += [side == "refuse"] * len(rows)
    found["margin auroc"] = auroc(margins, labels)
    return found | bench.ability(model, items)


def topic_words(lessons, sides):
    """AUROC of TF-IDF on the same rows: is it just topic words?"""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    train = [*lessons["refusals"], *lessons["mixed"]]
    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    model.fit([x.prompt for x in train], [x.side == "refuse" for x in train])
    rows = [r for side in sides.values() for r in side]
    scores = model.predict_proba([r.prompt for r in rows])[:, 1]
    return auroc([float(s) for s in scores], [r.expected == "refuse" for r in rows])


class Sweep:
    """All arms of one seed and share of the rows; a model that the next arm needs is kept."""

    def __init__(self, bench, arms, lessons, sides, seed, fraction, items):
        self.bench, self.arms, self.sides, self.items = bench, arms, sides, items
        n = max(4, round(fraction * len(lessons["refusals"])))
        self.all = lessons
        self.some = {
            name: drawn(held, n if name != "pairs" else max(2, n // 2), seed) for name, held in lessons.items()
        }
        self.seed, self.fraction, self.lora = seed, fraction, None

    def key(self, name):
        return f"{name}|{self.fraction:g}|{self.seed}"

    def run(self, name, no_refusal):
        self.arms.get(self.key(name), lambda: self._made(name, no_refusal))

    def _made(self, name, no_refusal):
        model, took = {
            "full SFT": lambda: self._taught("refusals", kind="full", lr=1e-4),
            "LoRA": self._lora,
            "LoRA, mixed": lambda: self._taught("refusals", "mixed", lr=1e-3),
            "LoRA, then DPO": self._dpo,
            "LoRA, transferred": lambda: self._transferred(no_refusal),
        }[name]()
        return evaluated(self.bench, model, self.sides, self.items) | {"training": took}

    def _taught(self, *sources, lr, kind="lora", base=None, whole=True):
        held = [x for source in sources for x in self.some[source]]
        wanted = recipe(self.bench, "sft", self.seed, kind=kind, lr=lr, rows=len(held))
        model, took = self.bench.trained(held, wanted, base=base)
        return (merged(model) if whole else model), took

    def _lora(self):
        if self.lora is None:
            self.lora = self._taught("refusals", lr=1e-3)
        return self.lora

    def _dpo(self):
        start, _ = self._lora()
        pairs = self.some["pairs"]
        wanted = recipe(self.bench, "dpo", self.seed, lr=5e-5, rows=len(pairs), alpha=16.0, epochs=1.0)
        model, took = self.bench.trained(pairs, wanted, base=start)
        return merged(model), took

    def _transferred(self, no_refusal):
        adapter, took = self._taught("refusals", lr=1e-3, base=no_refusal(), whole=False)
        return self.bench.moved(adapter), took


def no_refusal_base(bench, lessons, seed):
    """The base taught to answer what it should decline, once a seed, and only if an arm needs it."""
    made = []

    def get():
        if not made:
            held = lessons["compliant"]
            model, _ = bench.trained(held, recipe(bench, "sft", seed, lr=1e-3, rows=len(held), alpha=16.0))
            made.append(merged(model))
        return made[0]

    return get


def plot_arms(arms, base):
    found = [
        Arm(
            recipe="base",
            fraction=0.0,
            seed=0,
            declined=base["refuse declined"],
            answered=base["comply answered"],
            ability=1.0,
        )
    ]
    for key, result in arms.journal.found.items():
        name, _, rest = key.partition("|")
        if not rest:
            continue
        fraction, seed = rest.split("|")
        found.append(
            Arm(
                recipe=name,
                fraction=float(fraction),
                seed=int(seed),
                declined=result["refuse declined"],
                answered=result["comply answered"],
                ability=base["perplexity"] / result["perplexity"],
            )
        )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, all rows, a quarter of the sizes")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--folder", type=Path, default=Path("build/tradeoff"), help="where arms are kept")
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--prompts", type=int, default=EVALUATED)
    given = parser.parse_args()
    seeds, fractions = (SEEDS[:1], FRACTIONS[-1:]) if given.quick else (SEEDS, FRACTIONS)
    n_rows, n_asked, items = given.rows, given.prompts, ITEMS
    if given.quick:
        n_rows, n_asked, items = n_rows // 4, n_asked // 4, items // 4
    bench, folder = Bench(given.base), given.folder / ("quick" if given.quick else "full")
    arms, sides = Arms("arms", folder), evaluation_rows(n_asked)
    base = arms.get("base", lambda: evaluated(bench, bench.base, sides, items))
    comply = drawn(
        [
            Lesson(id=r.id, prompt=r.prompt, good="-", group=r.category)
            for r in load_training("train")
            if r.expected == "comply"
        ],
        3 * n_rows,
        0,
    )
    answers = bench.answers({x.id: x.prompt for x in comply}, tokens=REPLY_TOKENS, kept=folder / "answers.json")
    words = []
    for seed in seeds:
        lessons = lessons_of(answers, n_rows, seed)
        words.append(topic_words(lessons, sides))
        start = no_refusal_base(bench, lessons, seed)
        for fraction in fractions:
            sweep = Sweep(bench, arms, lessons, sides, seed, fraction, items)
            for name in RECIPES:
                sweep.run(name, start)
    plotted = plot_arms(arms, base)
    name = "tradeoff-quick" if given.quick else "tradeoff"
    result = {
        "design": {"rows": n_rows, "prompts of each side": {k: len(v) for k, v in sides.items()}, "items": items},
        "arms": arms.journal.found,
        "auroc of topic words (TF-IDF on the same rows)": float(np.mean(words)),
        "table": tradeoff_table(plotted),
    }
    record(name, result, packages=("torch", "transformers", "peft", "trl", "xllamacpp"))
    ability = "perplexity of the base / its own"
    (RESULTS / f"{name}.svg").write_text(tradeoff_svg(plotted, ability=ability), encoding="utf-8")
    print(result["table"])


if __name__ == "__main__":
    main()
