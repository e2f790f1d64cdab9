"""One cached pass for every threshold, how near targets are hit, and how often promises break.

    python benchmarks/bench_control.py [--model smollm2+adapters/tokens] [--resamplings 1000] [--splits 50]
    python benchmarks/bench_control.py --rehearsal            # without a model: synthetic scores, no part (a)

(a) curve     200 thresholds x 5 categories (refusal, over-refusal, by category) from scores read once, against asking the model
              again for every threshold: measured on 8 prompts x 4 thresholds with replies of at most 32 tokens, and without
              replies, scaled to all prompts and thresholds. The scores' own pass is counted on our side, uncached
(b) targets   20 targets, each calibrated on one half of the prompts and measured on the other, over many splits: mean
              |achieved - target| for '=', how often and how far bounds are missed, beside the noise of the measurement
(c) coverage  calibration on draws from the scores' own distribution and from a synthetic one: share with a broken promise
"""

import argparse
import asyncio
import time

import numpy as np
from record import record

from demur.control.calibration import calibrate
from demur.control.coverage import coverage, synthetic_population
from demur.control.curve import N_THRESHOLDS, operating_curves, threshold_grid
from demur.control.decision import decide, decide_one
from demur.control.labelled import labelled, rate
from demur.control.presets import preset
from demur.control.targets import parse_targets
from demur.core.chat import ChatRequest
from demur.core.errors import UserError
from demur.core.exchange import Message
from demur.core.policy import SignalSource
from demur.jobs.labelled_prompts import read_labelled_prompts

CATEGORIES = ("incomplete", "indeterminate", "unsupported", "humanizing", "safety")
TARGETS = (
    *(f"refusal={v}" for v in (0.5, 0.6, 0.7, 0.8, 0.9)),
    *(f"over_refusal={v}" for v in (0.05, 0.1, 0.2, 0.3)),
    *(f"{c}:refusal={v}" for c, v in zip(CATEGORIES, (0.7, 0.5, 0.8, 0.3, 0.9), strict=True)),
    *(f"over_refusal<={v}" for v in (0.05, 0.1, 0.2)),
    *(f"refusal>={v}" for v in (0.6, 0.8, 0.9)),
)
PROMISES = (
    ("over_refusal<=0.1",),
    ("refusal>=0.8",),
    ("refusal=0.7",),
    ("safety:refusal>=0.9", "humanizing:refusal=0.5"),
    ("safety:refusal>=0.7", "over_refusal<=0.25"),
    ("humanizing:refusal=0.5", "over_refusal<=0.2"),
)
ASKED, AGAIN, WORDS = 8, 4, 32


def kind_of(texts):
    return "per_category" if any(":" in text for text in texts) else "sum"


def base_of(rows, kind="per_category"):
    source = SignalSource(name="bench", identity="bench")
    return preset("default", source, rows.scores.categories, kind=kind)


def parsed(texts):
    return parse_targets(texts, known=(*CATEGORIES, "ordinary"))


# --- one pass for every threshold -----------------------------------------------------------------------------------


def request_of(prompt):
    return ChatRequest(messages=(Message(role="user", text=prompt),), temperature=0.0, max_tokens=WORDS)


async def asked_again(model, prompts, thresholds, *, replies):
    """Seconds to decide prompts at thresholds by asking the model anew each time, as a sweep without a cache does."""
    signal = model
    policy = preset("default", SignalSource(name="x", identity="x"), signal.categories, kind="sum")
    started = time.perf_counter()
    for threshold in thresholds:
        current = policy.model_copy(update={"threshold": float(threshold)})
        turns = await asyncio.gather(*(model.open(request_of(prompt)) for prompt in prompts))
        await asyncio.gather(*(finish(turn, current, replies) for turn in turns))
    return time.perf_counter() - started


async def finish(turn, policy, replies):
    decision = decide_one(policy, turn.scores)
    if replies:
        async for _ in turn.reply(token=decision.token):
            pass
    await turn.close()


async def passes(name, prompts):
    """Seconds of the one pass over all prompts, and of asking again on a few, with replies and without."""
    from demur.jobs.signal import signal_of

    model = signal_of(name)
    requests = [request_of(prompt) for prompt in prompts]
    few = prompts[:: max(1, len(prompts) // ASKED)][:ASKED]
    thresholds = threshold_grid()[:: N_THRESHOLDS // AGAIN][:AGAIN]
    await model.score(requests[:2])  # weights are read before the clock starts
    started = time.perf_counter()
    scores = await model.score(requests)
    once = time.perf_counter() - started
    regenerated = await asked_again(model, few, thresholds, replies=True)
    rescored = await asked_again(model, few, thresholds, replies=False)
    await model.close()
    return scores, once, regenerated / (len(few) * len(thresholds)), rescored / (len(few) * len(thresholds))


def curve_seconds(rows, repeats=20):
    policy = base_of(rows)
    started = time.perf_counter()
    for _ in range(repeats):
        curves = operating_curves(policy, rows)
    assert len(curves) == 1 + len(rows.scores.categories)
    return (time.perf_counter() - started) / repeats


def curve_part(name, prompts, rows_of):
    scores, once, regenerated, rescored = asyncio.run(passes(name, prompts))
    rows = rows_of(scores)
    curve = curve_seconds(rows)
    settings = N_THRESHOLDS * len(rows.scores.categories)
    found = {
        "prompts": len(rows),
        "settings": settings,
        "seconds_of_the_pass": round(once, 2),
        "seconds_of_the_curves": round(curve, 5),
        "seconds_a_reply_again": round(regenerated, 4),
        "seconds_a_score_again": round(rescored, 4),
        "extrapolated_from": [ASKED, AGAIN],
        "times_faster_than_regenerating": round(regenerated * len(rows) * settings / (once + curve)),
        "times_faster_than_rescoring": round(rescored * len(rows) * settings / (once + curve)),
    }
    print(f"curve: {found}")
    return rows, found


# --- targets on held-out prompts ------------------------------------------------------------------------------------


def halves(rows, rng):
    groups = rng.permutation(np.unique(rows.group))
    inside = np.isin(rows.group, groups[: len(groups) // 2])
    return rows[inside], rows[~inside]


def targets_part(rows, splits):
    found = {}
    for text in TARGETS:
        (target,) = parsed([text])
        base, rng, seen, unreached = base_of(rows, kind_of([text])), np.random.default_rng(0), [], 0
        for _ in range(splits):
            ours, theirs = halves(rows, rng)
            try:
                policy = calibrate([target], ours, base)
            except UserError:
                unreached += 1
                continue
            cell = theirs.cell(target.metric, target.category)
            achieved = rate(decide(policy, theirs.scores).refused, cell)
            noise = np.sqrt(target.value * (1 - target.value) / cell.sum())
            seen.append((achieved, achieved - target.value, policy.certificates[0].tolerance, noise))
        found[text] = {"out_of_reach": unreached} | (target_line(target, np.array(seen)) if seen else {})
        print(f"target {text}: {found[text]}")
    errors = [
        one["mean_error"] for text, one in found.items() if "mean_error" in one and "<" not in text and ">" not in text
    ]
    return {"splits": splits, "mean_error_of_equalities": round(float(np.mean(errors)), 4), "targets": found}


def target_line(target, seen):
    achieved, difference, tolerance, noise = seen.T
    wrong = {"<=": difference > 0, ">=": difference < 0, "=": np.abs(difference) > tolerance}[target.relation]
    return {
        "achieved": round(float(achieved.mean()), 4),
        "mean_error": round(float(np.abs(difference).mean()), 4),
        "of_which_measurement": round(float(noise.mean() * np.sqrt(2 / np.pi)), 4),
        "tolerance": round(float(tolerance.mean()), 4),
        "outside_on_the_held_out_half": round(float(wrong.mean()), 3),
    }


# --- coverage -------------------------------------------------------------------------------------------------------


def known(values):
    """Rounded means; None where no draw could be calibrated."""
    return {name: None if np.isnan(value) else round(value, 4) for name, value in values.items()}


def coverage_part(populations, draws):
    found = {}
    for name, (population, n_groups) in populations.items():
        for texts in PROMISES:
            if ":" in "".join(texts) and population.scores.categories == ("any",):
                continue
            simulated = coverage(
                population, parsed(texts), base_of(population, kind_of(texts)), n_groups=n_groups, draws=draws
            )
            key = f"{name}: {', '.join(texts)}"
            found[key] = {
                "broken": simulated.rate,
                "out_of_reach": simulated.infeasible,
                "delta": simulated.delta,
                "holds": simulated.holds,
                "achieved": known(simulated.achieved),
                "tolerance": known(simulated.tolerance),
            }
            print(f"coverage {key}: {found[key]}")
    return {"draws": draws, "promises": found}


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2+adapters/tokens", help="a model with refusal tokens")
    parser.add_argument("--rehearsal", action="store_true", help="synthetic scores instead of a model; records nothing")
    parser.add_argument("--limit", type=int, help="only so many prompts; records nothing")
    parser.add_argument("--resamplings", type=int, default=1000)
    parser.add_argument("--splits", type=int, default=50)
    return parser.parse_args()


def main():
    options = parse()
    results = {}
    if options.rehearsal:
        rows = synthetic_population(730, CATEGORIES, seed=1)
        print(f"curves: {curve_seconds(rows):.4f} s")
    else:
        data = read_labelled_prompts(None)
        keep = range(0, len(data.prompts), max(1, len(data.prompts) // (options.limit or len(data.prompts))))
        prompts, refuse, category, pair = (
            [column[i] for i in keep] for column in (data.prompts, data.refuse, data.category, data.pair)
        )
        rows, results["curve"] = curve_part(
            options.model, prompts, lambda scores: labelled(scores, refuse, category, pair=pair)
        )
        results["model"] = options.model
    results["targets"] = targets_part(rows, options.splits)
    populations = {
        "these prompts": (rows, len(np.unique(rows.group))),
        "synthetic twins": (synthetic_population(8_000, CATEGORIES), 730),
        "synthetic, no twins": (synthetic_population(8_000, CATEGORIES, twins=False), 1_000),
    }
    results["coverage"] = coverage_part(populations, options.resamplings)
    if not options.rehearsal and not options.limit:
        record("control", results, ("numpy", "torch", "transformers", "xllamacpp"))


if __name__ == "__main__":
    main()
