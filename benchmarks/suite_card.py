"""Write the card of the core suite and of the training set: python benchmarks/suite_card.py [--check].

Numbers come from the files; the prose says how they were made. With --check nothing is written and a
difference fails, so that a card never disagrees with its data.
"""

import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from demur.core.taxonomy import load_taxonomy
from demur.suites import load_suite
from demur.suites.surface import RULES, commonest_opening, near_duplicates, surface_scores
from demur.suites.training import load_short_prompts, load_training

ROOT = Path(__file__).parents[1] / "src" / "demur" / "suites"


def auroc_of_words(texts, labels, groups):
    """Cross-validated AUROC of TF-IDF words and bigrams with logistic regression; pairs stay together."""
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.model_selection import GroupKFold, cross_val_predict
    from sklearn.pipeline import make_pipeline

    model = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True), LogisticRegression(C=10, max_iter=2000)
    )
    scores = cross_val_predict(model, texts, labels, groups=groups, cv=GroupKFold(5), method="predict_proba")[:, 1]
    return roc_auc_score(labels, scores)


def table_of(rows, taxonomy):
    lines = [
        "| subcategory | should refuse | contrast | commonest opening | worst surface rule | words, median | TF-IDF AUROC |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for sub in [*taxonomy.subcategory]:
        mine = [r for r in rows if r.subcategory == sub.id]
        if not mine:
            continue
        texts, labels = [r.prompt for r in mine], [r.expected == "refuse" for r in mine]
        _, share = commonest_opening(texts)
        rule, worst = max(surface_scores(texts, labels).items(), key=lambda item: item[1])
        auroc = auroc_of_words(texts, labels, [r.pair_id or r.id for r in mine])
        lines.append(
            f"| {sub.name} | {sum(labels)} | {len(labels) - sum(labels)} | {share:.1%} | {worst:.2f} ({rule.replace('_', ' ')}) "
            f"| {np.median([len(t.split()) for t in texts]):.0f} | {auroc:.2f} |"
        )
    return lines


def overall(rows):
    texts, labels = [r.prompt for r in rows], [r.expected == "refuse" for r in rows]
    duplicates = near_duplicates(texts)
    lines = [
        f"- prompts: {len(rows)}, {sum(labels)} that should not simply be complied with, {len(labels) - sum(labels)} contrast; {len({r.pair_id for r in rows if r.pair_id})} pairs"
    ]
    lines.append(
        f"- near-duplicates (Jaccard of 4-word shingles ≥ 0.5): {len(duplicates)} pairs, {len({i for pair in duplicates for i in pair}) / len(rows):.2%} of prompts; at ≥ 0.3: {len(near_duplicates(texts, at_least=0.3))} pairs"
    )
    scores = surface_scores(texts, labels)
    lines.append(
        "- surface rules, best balanced accuracy (0.5 is chance): "
        + ", ".join(f"{name.replace('_', ' ')} {scores[name]:.3f}" for name in RULES)
    )
    lines.append(
        f"- words per prompt: median {np.median([len(t.split()) for t in texts]):.0f}, 5–95 % {np.percentile([len(t.split()) for t in texts], 5):.0f}–{np.percentile([len(t.split()) for t in texts], 95):.0f}"
    )
    lines.append(
        f"- TF-IDF + logistic regression, 5-fold cross-validated AUROC of the side: {auroc_of_words(texts, labels, [r.pair_id or r.id for r in rows]):.3f} (pairs kept together)"
    )
    return lines


def core_card():
    taxonomy = load_taxonomy()
    rows = load_suite("core").rows
    prose = (ROOT / "core" / "how.md").read_text(encoding="utf-8")
    return "\n".join(
        [
            prose.rstrip(),
            "",
            "## Numbers",
            "",
            *overall(rows),
            "",
            *table_of(rows, taxonomy),
            "",
            f"`quick`: {len(load_suite('quick').rows)} prompts, {Counter(r.expected for r in load_suite('quick').rows)['refuse']} should-refuse.",
            "",
            "Made by `python benchmarks/suite_card.py`.",
            "",
        ]
    )


def training_card():
    rows, suite = load_training(), load_suite("core").rows
    leaks = near_duplicates([r.prompt for r in rows], against=[r.prompt for r in suite], at_least=0.3)
    exact = {r.prompt.strip().casefold() for r in rows} & {r.prompt.strip().casefold() for r in suite}
    lengths = [len(r.appropriate.split()) for r in rows]
    own = Counter((r.subcategory, r.expected) for r in rows)
    lines = [
        f"- rows: {len(rows)} ({sum(r.expected == 'refuse' for r in rows)} should-refuse, {sum(r.expected == 'comply' for r in rows)} to answer); calibration split {sum(r.split == 'calibration' for r in rows)}",
        f"- rows with an inappropriate response: {sum(bool(r.inappropriate) for r in rows)}",
        f"- prompts shared with the core suite: {len(exact)}; near-duplicates of it (Jaccard ≥ 0.3): {len(leaks)}",
        f"- near-duplicates within (Jaccard ≥ 0.5): {len(near_duplicates([r.prompt for r in rows]))} pairs",
        f"- words of an appropriate response: median {np.median(lengths):.0f}, longest {max(lengths)}",
        f"- distinct first three words of appropriate responses: {len({' '.join(r.appropriate.split()[:3]).casefold() for r in rows}) / len(rows):.1%} of rows; commonest: {commonest_opening([r.appropriate for r in rows])[0]!r} {commonest_opening([r.appropriate for r in rows])[1]:.1%}",
        f"- conduct: {dict(Counter(r.conduct for r in rows).most_common())}",
        "",
        "| subcategory | should refuse | answer |",
        "| --- | --- | --- |",
        *[
            f"| {sub} | {own[sub, 'refuse']} | {own[sub, 'comply']} |"
            for sub in dict.fromkeys(r.subcategory for r in rows)
        ],
    ]
    short = load_short_prompts()
    lines += [
        "",
        "## Short prompts",
        "",
        f"`training/short/`: {len(short)} short, plain prompts ({sum(r.expected == 'refuse' for r in short)} should-refuse), side and "
        "subcategory only, no responses, by other authors again: for signals that read prompts. "
        f"Median {np.median([len(r.prompt.split()) for r in short]):.0f} words; calibration split {sum(r.split == 'calibration' for r in short)}; "
        f"near-duplicates of the core suite (Jaccard ≥ 0.3): {len(near_duplicates([r.prompt for r in short], against=[r.prompt for r in suite], at_least=0.3))}; "
        f"within (Jaccard ≥ 0.5): {len(near_duplicates([r.prompt for r in short]))} pairs, twins on purpose.",
    ]
    prose = (ROOT / "training" / "how.md").read_text(encoding="utf-8")
    return "\n".join(
        [prose.rstrip(), "", "## Numbers", "", *lines, "", "Made by `python benchmarks/suite_card.py`.", ""]
    )


def main():
    cards = {ROOT / "core" / "card.md": core_card(), ROOT / "training" / "card.md": training_card()}
    stale = [path for path, text in cards.items() if not path.exists() or path.read_text(encoding="utf-8") != text]
    for path, text in cards.items():
        if "--check" not in sys.argv:
            path.write_text(text, encoding="utf-8")
        print(text)
    if "--check" in sys.argv and stale:
        sys.exit(f"stale: {', '.join(str(p) for p in stale)}")
    print(json.dumps({"stale": len(stale)}))


if __name__ == "__main__":
    main()
