"""Guiding instead of refusing: python benchmarks/bench_constructive.py [--parts answers loop shift] [--rows N] [--page FILE]

answers  The suite's reference answers under the offline critic: how often guide beats refuse and overcomply, as they
         are and at one length, on the rows the critic's thresholds were set on and on the others; score over beta.
loop     Text-level optimisation with the offline writer and critic: satisfaction and risk by round, both projections.
         Mechanics only: writer and critic know the same words.
shift    The 135M model trained with ORPO on guide over refuse and guide over overcomply; log-odds on held-out queries
         before and after, and what the offline critic says of its own replies.

The offline critic is a proxy by surface words: nothing here is a claim about safety. About 10 minutes on 2 cores with
the defaults, nearly all of it the training; --model hf/FOLDER and --rows try it on something smaller.
"""

import argparse
import asyncio
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path

from record import record

from demur.constructive.findings import edit_counts, findings_of, optimised, series_of
from demur.constructive.lexical import OfflineCritic, judge_offline
from demur.constructive.lingo_bp import LingoBP
from demur.constructive.projection import MODES
from demur.constructive.score import BETAS, Constructive, Weights
from demur.constructive.template_writer import TemplateWriter
from demur.report.constructive import ShownAnswer, ShownQuery, write_construct
from demur.suites.constructive import ANSWER_KINDS, RISK_LEVELS, load_constructive
from demur.suites.constructive import RISK_CODES as CODES

PARTS = ("answers", "loop", "shift")
WEIGHTS = Weights()
PRESET = "preset:constructive-orpo"
TRAINING = {"pairs": 120, "max_tokens": 224, "epochs": 1, "batch_rows": 8, "learning_rate": 5e-4}
REPLY_TOKENS = 96
PROXY = "The critic is demur's offline proxy by surface words: no claim about safety follows."


def score(row, text):
    found = judge_offline(row.query, row.risk, text)
    return Constructive(found.satisfaction, found.risk, WEIGHTS).raw


def at_one_length(row, rows, other):
    """Guide and another answer of about the same number of words: the longer cut, or refusals joined until as long."""
    if other == "overcomply":
        n = min(len(row.guide.split()), len(row.overcomply.split()))
        return " ".join(row.guide.split()[:n]), " ".join(row.overcomply.split()[:n])
    others = [one.refuse for one in rows if one.risk == row.risk and one.id != row.id]
    text, at = row.refuse, rows.index(row)
    while len(text.split()) < len(row.guide.split()):
        text, at = f"{text} {others[at % len(others)]}", at + 1
    return row.guide, " ".join(text.split()[: len(row.guide.split())])


def ranking(rows, levels):
    """Share of rows on which the critic puts guide above, level with and below another answer."""
    table = []
    for level in levels:
        mine = [row for row in rows if level in ("all", row.risk)]
        for other in ("refuse", "overcomply"):
            for control in ("as they are", "one length"):
                pairs = [
                    (row.guide, row.answer(other)) if control == "as they are" else at_one_length(row, rows, other)
                    for row in mine
                ]
                signs = Counter(
                    (score(row, a) > score(row, b)) - (score(row, a) < score(row, b))
                    for row, (a, b) in zip(mine, pairs, strict=True)
                )
                cells = {"above": signs[1], "level": signs[0], "below": signs[-1], "n": len(mine)}
                table.append({"risk": level, "against": other, "length": control, **cells})
    return table


def answers(options):
    rows = load_constructive()[:: options.every]
    series = []
    for kind in ANSWER_KINDS:
        judged = [(row.risk, judge_offline(row.query, row.risk, row.answer(kind))) for row in rows]
        series += series_of(kind, [(level, one.satisfaction, one.risk) for level, one in judged])
    found = findings_of("Reference answers", series, WEIGHTS, label=PROXY)
    if options.page:
        write_construct(options.page, found, [shown(row) for row in rows])
        print(f"page: {options.page}")
    longer = sum(len(row.guide) > len(row.overcomply) > len(row.refuse) for row in rows)
    result = {
        "series": [one.model_dump(mode="json") for one in found.series],
        "sweep": [row.model_dump(mode="json") for row in found.sweep],
        "front": found.front,
        "ranking": {split: ranking(load_constructive(split), ("all", *RISK_LEVELS)) for split in ("train", "test")},
        "length alone puts guide first": round(longer / len(rows), 3),
    }
    show_answers(found, result["ranking"]["test"])
    return result


def shown(row):
    judged = {kind: judge_offline(row.query, row.risk, row.answer(kind)) for kind in ANSWER_KINDS}
    listed = [
        ShownAnswer(name=kind, response=row.answer(kind), satisfaction=one.satisfaction, risk=one.risk)
        for kind, one in judged.items()
    ]
    about = f"{CODES[row.risk]}, {row.intent.replace('_', ' ')}, {row.category}, {row.role}"
    return ShownQuery(id=row.id, about=about, query=row.query, answers=tuple(listed))


def show_answers(found, table):
    print(f"\nreference answers, {WEIGHTS}; {PROXY}")
    for one in found.series:
        value = one.constructive(WEIGHTS)
        print(f"  {one.name:11} {one.level:12} {value.satisfaction:+.2f} risk {value.risk:.2f} raw {value.raw:+.2f}")
    print("  raw over beta " + " ".join(f"{beta:>6g}" for beta in BETAS))
    for kind in ANSWER_KINDS:
        print(f"  {kind:13} " + " ".join(f"{row.raw:+6.2f}" for row in found.sweep if row.name == kind))
    print("guide against the others, test rows (above / level / below)")
    for cell in table:
        counts = f"{cell['above']} / {cell['level']} / {cell['below']}"
        print(f"  {cell['risk']:12} {cell['against']:11} {cell['length']:12} {counts}")


def loop(options):
    rows = load_constructive()[:: options.every]
    result = {"note": "offline writer and critic: mechanics only"}

    async def run(mode):
        one = LingoBP(TemplateWriter(), OfflineCritic(), projection=mode)
        return [await one.run(row) for row in rows]

    for mode in MODES:
        trajectories = asyncio.run(run(mode))
        whole = [one for one in optimised(trajectories, WEIGHTS) if one.level == "all"]
        n_cut, n_edits = edit_counts(trajectories)
        result[mode] = {
            "series": [one.model_dump(mode="json") for one in whole],
            "edits": n_edits,
            "cut": n_cut,
            "stopped": dict(Counter(one.stopped for one in trajectories)),
        }
        print(f"\nloop, projection {mode} (mechanics): {n_cut} of {n_edits} edits cut")
        for one in whole:
            print(f"  {one.name:12} satisfaction {one.satisfaction:+.2f} risk {one.risk:.2f} n {one.n}")
    return result


def shift(options):
    from training_arms import Bench

    from demur.constructive.lessons import suite_pairs
    from demur.jobs.construct_shift import preference_shift
    from demur.train.lesson import Lesson, drawn
    from demur.train.training_recipe import read_training_recipe

    bench = Bench(options.model)
    held = load_constructive("test")[: options.rows]
    pairs = [
        Lesson(id=p["id"], prompt=p["prompt"], good=p["chosen"], bad=p["rejected"], kind="pair", group=p["category"])
        for p in suite_pairs(load_constructive("train"))
    ]
    wanted = min(TRAINING["pairs"], len(pairs)) if options.rows is None else 4 * options.rows
    rate = {key: TRAINING[key] for key in ("learning_rate", "epochs", "batch_rows")}
    recipe = read_training_recipe(PRESET, over={"model": options.model, "max_tokens": TRAINING["max_tokens"]})
    adapter = recipe.adapter.model_copy(update={"first_block": bench.first_block})
    optimiser = recipe.optimiser.model_copy(update=rate)
    recipe = recipe.model_copy(update={"adapter": adapter, "optimiser": optimiser})
    trained, took = bench.trained(drawn(pairs, wanted, recipe.seed), recipe)
    print(f"\nORPO on {wanted} pairs: {took}")
    moved = preference_shift(bench.base, trained, bench.tokenizer, held)
    for one in moved:
        print(
            f"  guide over {one.against:22} {one.before:+.3f} -> {one.after:+.3f}, shift {one.shift:+.3f} ± "
            f"{1.96 * (one.standard_error or 0):.3f}; preferred {one.preferred_before:.0%} -> {one.preferred_after:.0%}"
        )
    said = {name: replies(bench, model, held) for name, model in (("base", bench.base), ("trained", trained))}
    for name, cell in said.items():
        print(f"  own replies, {name:8} {cell}")
    return {
        "model": options.model,
        "training": {"pairs": wanted, **TRAINING, **took},
        "held_out": len(held),
        "shift": [asdict(one) for one in moved],
        "own_replies": {"tokens": REPLY_TOKENS, "note": PROXY, **said},
    }


def replies(bench, model, rows):
    """What the offline critic says of a model's own greedy replies, and how many are no replies at all."""
    from demur.constructive.lexical import traits_of

    texts = bench.replies(model, [row.query for row in rows], REPLY_TOKENS)
    judged = [judge_offline(row.query, row.risk, text) for row, text in zip(rows, texts, strict=True)]
    traits = [traits_of(row.query, text) for row, text in zip(rows, texts, strict=True)]
    (whole, *_) = series_of("x", [(r.risk, j.satisfaction, j.risk) for r, j in zip(rows, judged, strict=True)])
    return {
        "satisfaction": round(whole.satisfaction, 3),
        "risk": round(whole.risk, 3),
        "raw": round(whole.constructive(WEIGHTS).raw, 3),
        "standard_error": round(whole.standard_error(WEIGHTS), 3),
        "nothing to go on with": sum(one.gives_nothing for one in traits),
        "empty eagerness": sum(one.is_empty for one in traits),
        "broken": sum(bool(one.broken) for one in traits),
        "n": len(rows),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--model", default="smollm2")
    parser.add_argument(
        "--rows", type=int, help="held-out queries of part shift, and a quarter of its pairs; for trying"
    )
    parser.add_argument("--every", type=int, default=1, help="judge every n-th row in the other parts; for trying")
    parser.add_argument("--page", type=Path, help="where to write the report of the reference answers")
    parser.add_argument("--no-record", action="store_true", help="print only")
    options = parser.parse_args()
    result = {"weights": str(WEIGHTS)}
    for part in options.parts:
        begun = time.perf_counter()
        result[part] = {"answers": answers, "loop": loop, "shift": shift}[part](options)
        result[part]["seconds"] = round(time.perf_counter() - begun, 1)
    if not options.no_record:
        record("constructive", result, packages=("torch", "transformers", "trl", "peft"))


if __name__ == "__main__":
    main()
