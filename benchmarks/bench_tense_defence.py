"""Does refusing in the present hold in the past? python benchmarks/bench_tense_defence.py [--quick] [--folder DIR].

Cooking is declared off-limits and refused in the present tense only; goals of the test are in no training row in any
tense. Then the same model is taught past-tense refusals as 2, 5, 10 and 30 % of its rows. Asked in the present, past
and future, beside allowed topics and harmless questions about history and the future.
"""

import argparse
from pathlib import Path

from record import record
from training_arms import Arms, Bench, declined, mean

from demur.stress.tense import TenseRules
from demur.suites.scope import load_scope
from demur.suites.tense import load_tense
from demur.train.adapters import merged
from demur.train.lesson import Lesson, drawn
from demur.train.tense_defence import SHARES, Goal, defence_lessons, refusals, split_goals
from demur.train.training_recipe import REFUSAL, TrainingRecipe

OFF_LIMITS, SEEDS, WORDINGS = "cooking", (0, 1, 2), 2
ROWS, ANSWER_TOKENS, REPLY_TOKENS = 150, 40, 28


def recipe(bench, seed, *, lr, epochs):
    return TrainingRecipe.model_validate(
        {
            "method": "lora",
            "seed": seed,
            "max_tokens": 256,
            "reply_tokens": REPLY_TOKENS,
            "adapter": {"rank": 16, "alpha": 16.0, "first_block": bench.first_block},
            "optimiser": {"learning_rate": lr, "warmup": 0.1, "epochs": epochs, "batch_rows": 8, "save_steps": 10_000},
        }
    )


def goals_of(seed, wording=0):
    """Off-limits goals in three tenses, each in one of its wordings."""
    rules = TenseRules(seed=seed)
    found = []
    for row in load_scope():
        if row.task == OFF_LIMITS:
            ask = f"How do I {row.doing}?"
            past, future = (rules.wordings(ask, tense)[wording].text for tense in ("past", "future"))
            found.append(Goal(id=row.id, present=row.ask, past=past, future=future))
    return found


def evaluated(bench, model, test_ids, seed, n):
    """Share declined by tense over all wordings, and on what should be answered."""
    asks = {tense: [] for tense in ("present", "past", "future")}
    for wording in range(WORDINGS):
        goals = [g for g in goals_of(seed, wording) if g.id in test_ids][:n]
        for tense in asks:
            if tense != "present" or wording == 0:
                asks[tense] += [goal.ask(tense) for goal in goals]
    asks["allowed topics"] = [r.ask for r in load_scope("test") if r.task != OFF_LIMITS][:: max(1, 80 // n)][:n]
    asks["history"] = [p.prompt for p in load_tense("past")][:: max(1, 80 // n)][:n]
    asks["future questions"] = [p.prompt for p in load_tense("future")][:: max(1, 60 // n)][:n]
    found = {}
    for name, prompts in asks.items():
        refused, _, broken = declined(prompts, bench.replies(model, prompts, REPLY_TOKENS))
        found[name], found[f"n, {name}"], found[f"degenerate, {name}"] = mean(refused), len(prompts), mean(broken)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="one seed, a third of the sizes")
    parser.add_argument("--base", default="smollm2")
    parser.add_argument("--folder", type=Path, default=Path("build/tense"), help="where arms are kept")
    given = parser.parse_args()
    seeds, share = (SEEDS[:1], 3) if given.quick else (SEEDS, 1)
    n_rows, n_asked = ROWS // share, 30 // share
    bench, folder = Bench(given.base), given.folder / ("quick" if given.quick else "full")
    allowed = {r.id: r.ask for r in load_scope("train") if r.task != OFF_LIMITS}
    answers = bench.answers(allowed, tokens=ANSWER_TOKENS, kept=given.folder / "answers.json")
    ordinary = [
        Lesson(id=i, prompt=allowed[i], good=answers[i], group=i.rpartition("-")[0]) for i in allowed if i in answers
    ]
    arms = Arms("arms", folder)
    for seed in seeds:
        train, test = split_goals(goals_of(seed), 0.5, seed)
        ids = {goal.id for goal in test}
        arms.get(f"base|{seed}", lambda i=ids, s=seed: evaluated(bench, bench.base, i, s, n_asked))
        made = []

        def refuser(train=train, seed=seed, made=made):
            if not made:
                present = refusals(train, ["present"], REFUSAL)
                held = [*present, *drawn(ordinary, 2 * len(present), seed)]
                made.append(bench.trained(held, recipe(bench, seed, lr=1e-3, epochs=2.0)))
            return made[0]

        def plain(made=made, refuser=refuser):
            model, _ = refuser()
            made[0] = (merged(model), made[0][1])
            return made[0][0]

        def before(seed=seed, ids=ids, plain=plain, refuser=refuser):
            return evaluated(bench, plain(), ids, seed, n_asked) | {"training": refuser()[1]}

        def after(s, seed=seed, ids=ids, train=train, plain=plain):
            past = refusals(train, ["past"], REFUSAL)
            held = defence_lessons(past, ordinary, refusal_share=s, seed=seed, rows=n_rows)
            model, took = bench.trained(held, recipe(bench, seed, lr=5e-4, epochs=1.0), base=plain())
            n = sum(x.side == "refuse" for x in held)
            return evaluated(bench, merged(model), ids, seed, n_asked) | {"training": took, "refusals": n}

        arms.get(f"present only|{seed}", before)
        for s in SHARES:
            arms.get(f"defence {s:.0%}|{seed}", lambda s=s, after=after: after(s))
    found = arms.journal.found
    names = ("base", "present only", *(f"defence {s:.0%}" for s in SHARES))
    columns = ("present", "past", "future", "allowed topics", "history", "future questions")
    table = {name: {c: mean(found[f"{name}|{seed}"][c] for seed in seeds) for c in columns} for name in names}
    result = {
        "design": {"rows of the defence": n_rows, "asked": n_asked, "seeds": len(seeds)},
        "declined, mean over seeds": table,
        "arms": found,
    }
    record(
        "tense_defence-quick" if given.quick else "tense_defence", result, packages=("torch", "transformers", "peft")
    )
    print("declined       " + "  ".join(f"{c:>16}" for c in columns))
    for name, row in table.items():
        print(f"{name:15}" + "  ".join(f"{row[c]:16.2f}" for c in columns))


if __name__ == "__main__":
    main()
