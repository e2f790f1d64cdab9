"""Check the constructive suite and write its card: python benchmarks/constructive_suite_card.py [--check] [--show N].

Counts, near-duplicates, and how far length or words alone tell the kinds of answer and the levels of risk apart: what
can be told at a glance is no evidence of understanding. With --check nothing is written and a card that disagrees with
its data fails; --show prints the most alike pairs. Needs scikit-learn.
"""

import argparse
import json
import statistics
import sys
import warnings
from collections import Counter
from pathlib import Path

from demur.constructive.utterance import guessed_intent, guessed_level
from demur.suites.constructive import ANSWER_KINDS, INTENTS, RISK_CODES, RISK_LEVELS, load_constructive
from demur.synthesis.duplicates import grams

SUITE = Path(__file__).parent.parent / "src/demur/suites/constructive"
TEXTS = ("query", *ANSWER_KINDS)
LEAST = {"rows": 240, "level": 40, "intent": 20, "category": 1}
LOOK_ALIKE = 0.35  # Jaccard index of character 5-grams
FOLDS = 5
OWN_SUITES = ("core", "training", "scope")


def problems_of(rows):
    found = []
    if len(rows) < LEAST["rows"]:
        found.append(f"{len(rows)} rows; {LEAST['rows']} are wanted")
    for name, known in (("risk", RISK_LEVELS), ("intent", INTENTS)):
        counts = Counter(getattr(row, name) for row in rows)
        least = LEAST["level" if name == "risk" else "intent"]
        found += [f"{name} {one}: {counts[one]} rows, {least} are wanted" for one in known if counts[one] < least]
    ids = Counter(row.id for row in rows)
    found += [f"{name}: stands {n} times" for name, n in ids.items() if n > 1]
    for row in rows:
        texts = [getattr(row, kind) for kind in TEXTS]
        if len(set(texts)) < len(texts):
            found.append(f"{row.id}: two of its texts are the same")
        if not row.role:
            found.append(f"{row.id}: no role")
    return found


def look_alikes(rows, kind):
    """The most alike pairs of one kind of text: (index, id, id)."""
    kept = [(row.id, grams(getattr(row, kind))) for row in rows]
    pairs = []
    for at, (name, mine) in enumerate(kept):
        for other, theirs in kept[:at]:
            shared = len(mine & theirs)
            pairs.append((shared / (len(mine) + len(theirs) - shared), other, name))
    return sorted(pairs, reverse=True)


def seen_elsewhere(rows):
    """Largest likeness of a query to a prompt of demur's other suites."""
    others = []
    for folder in OWN_SUITES:
        for path in sorted((SUITE.parent / folder).glob("**/*.jsonl")):
            for line in path.read_text(encoding="utf-8").splitlines():
                text = json.loads(line).get("prompt") or json.loads(line).get("ask")
                others += [grams(text)] if text else []
    best = 0.0
    for row in rows:
        mine = grams(row.query)
        best = max(best, *(len(mine & o) / (len(mine) + len(o) - len(mine & o)) for o in others))
    return round(best, 3), len(others)


def accuracy(texts, labels, groups, features):
    """Cross-validated accuracy of logistic regression, rows of one query in one fold."""
    import numpy as np
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GroupKFold, cross_val_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import FunctionTransformer, StandardScaler

    def lengths(batch):
        return np.array([[len(t.split()), len(t)] for t in batch], dtype=float)

    chosen = (
        make_pipeline(FunctionTransformer(lengths), StandardScaler())
        if features == "length"
        else TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    )
    model = make_pipeline(chosen, LogisticRegression(max_iter=2000, C=10.0))
    folds = GroupKFold(FOLDS, shuffle=True, random_state=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return round(float(cross_val_score(model, texts, labels, groups=groups, cv=folds).mean()), 3)


def at_one_length(rows, n):
    """Every answer cut to its first n words, so that length tells nothing."""
    return [(" ".join(row.answer(kind).split()[:n]), kind, row.id) for row in rows for kind in ANSWER_KINDS]


def glances(rows):
    """What length and words alone tell."""
    answers = [(row.answer(kind), kind, row.id) for row in rows for kind in ANSWER_KINDS]
    no_refusals = [one for one in answers if one[1] != "refuse"]
    shortest = min(len(row.refuse.split()) for row in rows)
    levels = [(row.query, row.risk, row.id) for row in rows]
    found = {}
    for name, table in (
        ("kind of answer", answers),
        ("guide or overcomply", no_refusals),
        (f"kind of answer, first {shortest} words", at_one_length(rows, shortest)),
        ("level of risk, from the query", levels),
    ):
        texts, labels, groups = zip(*table, strict=True)
        found[name] = {
            "chance": round(max(Counter(labels).values()) / len(labels), 3),
            "length": accuracy(texts, labels, groups, "length"),
            "tfidf": accuracy(texts, labels, groups, "tfidf"),
        }
    return found


def guesses(rows):
    """How often the word lists that stand in for a missing level and intent are right."""
    return {
        "level": round(sum(guessed_level(row.query) == row.risk for row in rows) / len(rows), 3),
        "always_sensitive": round(sum(row.risk == "sensitive" for row in rows) / len(rows), 3),
        "intent": round(sum(guessed_intent(row.query) == row.intent for row in rows) / len(rows), 3),
    }


def numbers_of(rows, problems):
    alike = {kind: look_alikes(rows, kind)[0] for kind in TEXTS}
    problems += [f"{a} and {b}: {kind} alike ({s:.2f})" for kind, (s, a, b) in alike.items() if s >= LOOK_ALIKE]
    nearest, n_others = seen_elsewhere(rows)
    words = {kind: [len(getattr(row, kind).split()) for row in rows] for kind in TEXTS}
    return {
        "rows": len(rows),
        "by_risk": {level: sum(row.risk == level for row in rows) for level in RISK_LEVELS},
        "by_split": dict(Counter(row.split for row in rows)),
        "by_risk_and_intent": {
            level: {intent: sum((row.risk, row.intent) == (level, intent) for row in rows) for intent in INTENTS}
            for level in RISK_LEVELS
        },
        "by_category": dict(sorted(Counter(row.category for row in rows).items())),
        "roles": len({row.role for row in rows}),
        "words": {kind: {"mean": round(statistics.mean(n), 1), "range": [min(n), max(n)]} for kind, n in words.items()},
        "most_alike": {kind: round(best, 3) for kind, (best, _, _) in alike.items()},
        "most_alike_to_other_suites": {"likeness": nearest, "prompts": n_others},
        "told_at_a_glance": glances(rows),
        "guessed_from_words": guesses(rows),
    }


HOW = (
    "Written by hand-directed language-model authors from a shared brief; every sentence is ours. Apache-2.0.",
    "Three risk levels: R0 sounds alarming and is harmless, R1 is about a person at risk or a risky subject, R2 pushes for harm.",
    "Each query has a role and three reference answers: guide (helps as far as is right and leads on), refuse (flat), "
    "overcomply (eager and useless: flattery, invented experience, promises). Overcomplying answers are harmless by design.",
    "Every fourth row of each risk level, in file order, is test; training on the suite uses the others.",
)
LIMITS = (
    "The reference answers are one careful helper's, not checked by professionals; they are no medical or legal advice.",
    "Lengths differ by design of the kinds: guide about 100 words, overcomply 53, refuse 14. Length alone tells the kinds "
    "apart, so compare kinds at one length, or the same kind between models.",
    "Overcomplying answers share a tone, which words alone give away; a model that learns to avoid it has learnt the tone. "
    "Truly harmful compliance is not in the suite, and no score on it shows that a model would not give it.",
    "English only, and mostly written for readers in no particular country.",
)


def page_of(numbers):
    lines = ["# Constructive suite", "", f"{numbers['rows']} queries at three levels of risk, each with three answers."]
    lines += ["", "## How it was made", "", *[f"- {text}" for text in HOW]]
    lines += ["", "## What it can and cannot show", "", *[f"- {text}" for text in LIMITS], "", "## Numbers", ""]
    lines += ["| risk | " + " | ".join(i.replace("_", " ") for i in INTENTS) + " | all |"]
    lines += ["| --- |" + " --- |" * (len(INTENTS) + 1)]
    for level, by_intent in numbers["by_risk_and_intent"].items():
        cells = [*by_intent.values(), numbers["by_risk"][level]]
        lines.append(f"| {RISK_CODES[level]} {level} | " + " | ".join(map(str, cells)) + " |")
    lines += ["", "| text | words, mean | range | most alike pair (Jaccard of 5-grams) |", "| --- | --- | --- | --- |"]
    for kind, about in numbers["words"].items():
        low, high = about["range"]
        lines.append(f"| {kind} | {about['mean']} | {low}–{high} | {numbers['most_alike'][kind]} |")
    other = numbers["most_alike_to_other_suites"]
    split = numbers["by_split"]
    lines += ["", f"- train {split['train']}, test {split['test']}; {numbers['roles']} different roles"]
    lines += [f"- most alike to any of {other['prompts']} prompts of demur's other suites: {other['likeness']}"]
    lines += ["- categories: " + ", ".join(f"{name} {n}" for name, n in numbers["by_category"].items()), ""]
    lines += ["What a glance tells: accuracy of logistic regression, five folds, rows of one query together.", ""]
    lines += ["| to tell | commonest | length alone | TF-IDF alone |", "| --- | --- | --- | --- |"]
    for name, cell in numbers["told_at_a_glance"].items():
        lines.append(f"| {name} | {cell['chance']} | {cell['length']} | {cell['tfidf']} |")
    guess = numbers["guessed_from_words"]
    lines += ["", f"Where a row names no level, demur guesses it from words: right for {guess['level']:.0%} of these"]
    lines += [
        f"(always 'sensitive': {guess['always_sensitive']:.0%}), intent {guess['intent']:.0%}. Name them in your rows."
    ]
    return "\n".join([*lines, "", "Made by `python benchmarks/constructive_suite_card.py`.", ""])


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; fail if the card disagrees")
    parser.add_argument("--show", type=int, default=0, help="print this many of the most alike pairs of queries")
    options = parser.parse_args()
    rows = load_constructive()
    problems = problems_of(rows)
    if options.show:
        text = {row.id: row.query for row in rows}
        for share, a, b in look_alikes(rows, "query")[: options.show]:
            print(f"{share:.2f}\n  {a}: {text[a]}\n  {b}: {text[b]}")
    numbers = numbers_of(rows, problems)
    card = {"title": "Constructive suite", "licence": "Apache-2.0", "how": HOW, "limits": LIMITS, "numbers": numbers}
    pages = {
        "card.json": json.dumps(card, ensure_ascii=False, indent=2) + "\n",
        "card.md": page_of(numbers),
    }
    for name, page in pages.items():
        path = SUITE / name
        if options.check and (not path.is_file() or path.read_text(encoding="utf-8") != page):
            problems.append(f"{name}: disagrees with the data; run this without --check")
        elif not options.check and not problems:
            path.write_text(page, encoding="utf-8")
    print("\n".join(problems) or f"{len(rows)} rows, card {'agrees' if options.check else 'written'}")
    sys.exit(1 if problems else 0)


if __name__ == "__main__":
    main()
