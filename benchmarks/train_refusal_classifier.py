"""Train the shipped refusal model and write it with its detector card.

    python benchmarks/train_refusal_classifier.py [../shared/data] [--ship]

Sources: labelled rows of ../shared/data (read, never copied), our own labelled replies (suites/replies) and our own
training set (suites/training). Cross-validated by prompt: accuracy, macro-F1, kappa, ECE and reliability by source.
With --ship: src/demur/classify/refusals.npz, and the figures behind docs/explanation/learned-judge.md.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from record import record
from refusal_data import ROOT, SHARED, all_rows
from refusal_figures import figures, reliability

from demur.classify.fitting import fit_model, labelled
from demur.classify.model import save_model
from demur.judges.cards import make_card, save_card
from demur.stats.agreement import binary_agreement

VERSION = "1"
MAX_ABSTAINING = 0.03


def write_card(name, source, truth, p, band):
    """The judge card: people's labels only, out-of-fold predictions, abstentions counted as such."""
    judged = [None if abs(v - 0.5) < band else bool(v >= 0.5) for v in p]
    people = {s: np.flatnonzero(source == s) for s in ("xstest_v2", "chatgpt_refusals")}
    measured = {s: binary_agreement([bool(truth[i]) for i in k], [judged[i] for i in k]) for s, k in people.items()}
    every = [i for k in people.values() for i in k]
    overall = binary_agreement([bool(truth[i]) for i in every], [judged[i] for i in every])
    card = make_card(
        f"{name}@{VERSION}", "xstest_v2, chatgpt_refusals; cross-validated by prompt", overall, measured, n_left_out=0
    )
    print(save_card(card, ROOT / "src" / "demur" / "judges" / "measured").name)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--ship", action="store_true")
    options = parser.parse_args()
    started = time.perf_counter()
    rows = all_rows(options.data)
    source, prompts, responses, outcome, manner, weight, slices = (list(column) for column in zip(*rows, strict=True))
    replies, source = labelled(prompts, responses, outcome, manner=manner, weight=weight), np.array(source)
    print(f"{len(rows)} rows, features in {time.perf_counter() - started:.0f} s", flush=True)
    about = f"{(replies.outcome >= 0).sum()} replies: " + ", ".join(
        f"{s} {int(((source == s) & (replies.outcome >= 0)).sum())}" for s in dict.fromkeys(source)
    )
    fitted = fit_model(replies, version=VERSION, about=about)
    known, p, truth = fitted.known, fitted.p_refused, replies.outcome[fitted.known] > 0
    names = [s for s in dict.fromkeys(source) if (source[known] == s).any()]
    result = {
        "cross_validated": {s: figures(truth[source[known] == s], p[source[known] == s]) for s in names},
        "all": figures(truth, p),
        "first_stage_alone": figures(truth, fitted.p_first),
        "second_stage_alone": figures(truth, fitted.p_second),
        "first_stage_decides": float(fitted.is_sure.mean()),
        "reliability": reliability(truth, p),
    }
    kinds = np.array([f"{s}: {k}" for s, k in zip(source, slices, strict=True)])[known]
    result["slices"] = {
        k: [int((kinds == k).sum()), round(float(((p >= 0.5) == truth)[kinds == k].mean()), 4)]
        for k in sorted(set(kinds))
    }
    result["band"] = min(0.2, float(np.quantile(np.abs(p - 0.5), MAX_ABSTAINING)))
    print(json.dumps({k: v for k, v in result.items() if k != "slices"}, indent=1))
    record("refusal_classifier", result, ("scikit-learn", "numpy"))
    if options.ship:
        model = replace(fitted.model, band=result["band"])
        write_card("learned", source[known], truth, p, result["band"])
        write_card("linear", source[known], truth, fitted.p_first, result["band"])
        path = ROOT / "src" / "demur" / "classify" / "refusals.npz"
        save_model(model, path)
        print(
            path.name,
            f"{path.stat().st_size / 1e6:.2f} MB, sure {model.sure_below}, {model.calm_below}, {model.declines_above}",
        )
    print(f"{time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
