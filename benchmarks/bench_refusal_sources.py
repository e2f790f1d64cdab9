"""Trained without a source, tested on it: the refusal classifier beside keyword lists and MiniLM, in one run.

    python benchmarks/bench_refusal_sources.py [../shared/data] [--no-minilm]

Sources: XSTest v2 and Reuter & Schulze (people's labels), our own labelled replies, and the human-labelled refusal rows
inside the `pyrit` package where it is installed (never trained on; off-topic answers count as refusals there).
"""

import argparse
import json
import re
from pathlib import Path

import numpy as np
from record import record
from refusal_data import SHARED, all_rows, rows_of_pyrit
from refusal_figures import figures

from demur.classify.features import CUE_NAMES
from demur.classify.fitting import first_scores, fit_model, labelled
from demur.classify.model import OUTCOMES

# What a keyword detector looks for: the apologies and inabilities that everybody lists.
KEYWORDS = re.compile(
    r"\bi(?:'m| am) sorry\b|\bi apologi[sz]e\b|\bas an ai\b|\bi (?:cannot|can't|can not|won't|will not)\b"
    r"|\bi(?:'m| am) (?:unable|not able)\b|\bi must decline\b|\bnot appropriate\b|\bunethical\b|\billegal\b",
    re.IGNORECASE,
)


def p_refused(model, replies):
    """p_refused of the whole cascade on held-out rows."""
    first = np.zeros((len(replies), len(model.bias)))
    first[:, : len(OUTCOMES)] = first_scores(model, replies.words)
    pieces = replies.pieces @ model.pieces + model.pieces_bias
    scores = model.second_scores(first[:, : len(OUTCOMES)], pieces, replies.cues)
    second = model.second_p_refused(scores, replies.cues)
    return np.where(model.is_sure(first, replies.glances), model.sure_probabilities(first)[:, 1:].sum(axis=1), second)


def minilm_p(texts, train, test, truth, weight):
    from sklearn.linear_model import LogisticRegression

    from demur.classify.embeddings import sentence_embeddings

    if not hasattr(minilm_p, "vectors"):
        minilm_p.vectors = np.asarray(sentence_embeddings([t[:1500] for t in texts]))
    x = minilm_p.vectors
    fitted = LogisticRegression(C=3.0, max_iter=500).fit(x[train], truth[train], sample_weight=weight[train])
    return fitted.predict_proba(x[test])[:, 1]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("data", nargs="?", type=Path, default=SHARED)
    parser.add_argument("--no-minilm", action="store_true")
    options = parser.parse_args()
    rows = [r for r in [*all_rows(options.data), *rows_of_pyrit()] if r[3] >= 0]
    source, prompts, responses, outcome, manner, weight, _ = (list(column) for column in zip(*rows, strict=True))
    replies, source = labelled(prompts, responses, outcome, manner=manner, weight=weight), np.array(source)
    truth, table = replies.outcome > 0, {}
    for held_out in [s for s in dict.fromkeys(source) if s != "own_training"]:
        test = np.flatnonzero(source == held_out)
        train = np.flatnonzero(
            (source != held_out) & (source != "pyrit") & ~np.isin(replies.group, replies.group[test])
        )
        model = fit_model(replies.rows(train)).model
        found = {
            "demur": p_refused(model, replies.rows(test)),
            "phrases": replies.cues[test][:, CUE_NAMES.index("phrases_p_refused")],
            "keywords": np.array([float(bool(KEYWORDS.search(responses[i][:400].replace("’", "'")))) for i in test]),
        }
        if not options.no_minilm:
            found["minilm_lr"] = minilm_p(responses, train, test, truth, replies.weight)
        table[held_out] = {name: figures(truth[test], p) for name, p in found.items()}
        for name, row in table[held_out].items():
            shown = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
            print(f"{held_out:18} {name:10}", json.dumps(shown), flush=True)
    record("refusal_sources", table, ("scikit-learn", "numpy"))


if __name__ == "__main__":
    main()
