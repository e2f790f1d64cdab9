"""Check the image suite and write its card: python benchmarks/image_suite_card.py [--check] [--cues].

Format, pairs, counts, near-duplicates, and how far surface cues give the sides away. Complaints end with exit status 1
and write nothing. With --check nothing is measured or written: the complaints, the files' hashes in the card and the
page made of it must agree. --cues lists words that lean to one side.
"""

import argparse
import hashlib
import json
import re
import sys
from collections import Counter, defaultdict
from pathlib import Path
from statistics import mean, median

import numpy as np
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score
from sklearn.model_selection import GroupKFold
from sklearn.pipeline import make_pipeline

from demur.suites.surface import commonest_opening, surface_scores

FOLDER = Path(__file__).parents[1] / "src/demur/suites/images"
CATEGORIES = [
    "privacy_individual",
    "privacy_public_figure",
    "copyright",
    "discrimination",
    "self_harm",
    "sexual_content",
    "illegal_activity",
    "unsafe_acts",
    "violence",
]
KEYS = ["id", "pair", "seed", "category", "expected", "prompt", "why"]
MIN_COMPLY, MIN_REFUSE = 54, 24
WORDS = (6, 45)
NEAR_DUPLICATE = 0.4
"""Character 5-gram Jaccard above which two prompts that are not twins are too alike."""
TWIN_JACCARD = (0.2, 0.95)
"""A twin keeps the scene (lower bound) and is not the same prompt (upper bound)."""
MINORS = (
    r"\b(child|children|kids?|teens?|teenagers?|teenage|minors?|boys?|girls?|bab(y|ies)|infants?|pupils?|"
    r"schoolgirls?|schoolboys?|daughter|son|young|youth|school)\b"
)


def load(category):
    """Rows of one category file, in order."""
    return [json.loads(line) for line in (FOLDER / f"{category}.jsonl").read_text(encoding="utf-8").splitlines()]


def grams(text, n=5):
    """Character n-grams of the lower-case letters and digits, words kept apart by one space."""
    flat = " ".join(re.findall(r"\w+", text.casefold()))
    return {flat[i : i + n] for i in range(max(1, len(flat) - n + 1))}


def jaccard(a, b):
    """Jaccard index of two sets."""
    return len(a & b) / len(a | b)


def ending(prompt):
    """Last character if it is punctuation, else nothing."""
    return "" if prompt[-1].isalnum() else prompt[-1]


def row_complaints(category, rows):
    """What is wrong with single rows."""
    for number, row in enumerate(rows, 1):
        n_words, where = len(row["prompt"].split()), row["id"]
        checks = {
            "keys": list(row) == KEYS,
            "id": where == f"images-{category}-{number:03}",
            "category": row["category"] == category,
            "expected": row["expected"] in ("comply", "refuse"),
            "pair": row["pair"] is None or re.fullmatch(rf"images-{category}-p\d{{3}}", row["pair"]),
            "seed": re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", row["seed"]),
            f"{n_words} words": WORDS[0] <= n_words <= WORDS[1],
            "why": 2 <= len(row["why"].split()) <= 12,
            "spaces": row["prompt"] == " ".join(row["prompt"].split()),
            "typewriter quotes": not re.search("[‘’“”–—…]", row["prompt"] + row["why"]),
            "minors": category != "sexual_content" or not re.search(MINORS, row["prompt"], re.IGNORECASE),
        }
        yield from (f"{where}: {name}" for name, fine in checks.items() if not fine)


def pair_complaints(rows):
    """What is wrong with pairs, seeds and counts."""
    pairs, seeds = defaultdict(list), Counter(r["seed"] for r in rows)
    for row in rows:
        if row["pair"]:
            pairs[row["pair"]].append(row)
        elif row["expected"] == "refuse":
            yield f"{row['id']}: refuse row without a pair"
    for pair, twins in pairs.items():
        if sorted(t["expected"] for t in twins) != ["comply", "refuse"] or len({t["seed"] for t in twins}) > 1:
            yield f"{pair}: not one comply and one refuse of one seed"
            continue
        a, b = (t["prompt"] for t in twins)
        ratio, alike = len(b) / len(a), jaccard(grams(a), grams(b))
        if not 0.84 <= ratio <= 1.19:
            yield f"{pair}: length ratio {ratio:.2f}"
        if ending(a) != ending(b):
            yield f"{pair}: endings {ending(a)!r} and {ending(b)!r}"
        if not TWIN_JACCARD[0] <= alike <= TWIN_JACCARD[1]:
            yield f"{pair}: twins' 5-gram Jaccard {alike:.2f}"
    yield from (f"seed {s}: {n} prompts" for s, n in seeds.items() if not 2 <= n <= 4)
    sides = Counter(r["expected"] for r in rows)
    if sides["comply"] < MIN_COMPLY or sides["refuse"] < MIN_REFUSE:
        yield f"{rows[0]['category']}: {sides['comply']} comply, {sides['refuse']} refuse"


def near_duplicates(rows, at_least=NEAR_DUPLICATE):
    """Pairs of prompts, twins apart, whose 5-grams overlap; with the highest overlap found."""
    sets, found, highest = [grams(r["prompt"]) for r in rows], [], 0.0
    for i, a in enumerate(rows):
        for j in range(i):
            if a["pair"] and a["pair"] == rows[j]["pair"]:
                continue
            alike = jaccard(sets[i], sets[j])
            highest = max(highest, alike)
            if alike >= at_least:
                found.append((a["id"], rows[j]["id"], round(alike, 2)))
    return found, highest


def vectoriser(kind):
    """The two baselines: words and word pairs, or characters within words."""
    if kind == "words":
        return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b")
    return TfidfVectorizer(ngram_range=(2, 5), analyzer="char_wb", sublinear_tf=True)


def out_of_fold(rows, kind, repeats):
    """Scores of held-out rows, (repeats, n_rows); rows of one seed, hence of one pair, stay in one fold."""
    texts, sides = [r["prompt"] for r in rows], np.array([r["expected"] == "refuse" for r in rows])
    groups = [r["category"] + r["seed"] for r in rows]
    scores = np.zeros((repeats, len(rows)))
    for repeat in range(repeats):
        for train, test in GroupKFold(5, shuffle=True, random_state=repeat).split(texts, sides, groups):
            model = make_pipeline(vectoriser(kind), LogisticRegression(C=10, class_weight="balanced", max_iter=2000))
            model.fit([texts[i] for i in train], sides[train])
            scores[repeat, test] = model.decision_function([texts[i] for i in test])
    return scores


def auroc(rows, kind="words", repeats=5):
    """Cross-validated AUROC of the side (mean over repeats), and share of pairs ordered rightly."""
    sides, scores = [r["expected"] == "refuse" for r in rows], out_of_fold(rows, kind, repeats)
    twins = defaultdict(dict)
    for number, row in enumerate(rows):
        if row["pair"]:
            twins[row["pair"]][row["expected"]] = number
    right = [(s[t["refuse"]] > s[t["comply"]]) for s in scores for t in twins.values()]
    return float(np.mean([roc_auc_score(sides, s) for s in scores])), float(np.mean(right))


def balance(rows):
    """Surface figures of one category or of all."""
    paired = [r for r in rows if r["pair"]]
    area, ordered = auroc(paired)
    texts, sides = [r["prompt"] for r in rows], [r["expected"] == "refuse" for r in rows]
    rules = surface_scores(texts, sides)
    for name, mark in {"commas": ",", "colons": ":", "quotes": '"'}.items():
        rules |= {name: max_balanced([t.count(mark) for t in texts], sides)}
    worst = max(rules, key=rules.get)
    words = {s: [len(r["prompt"].split()) for r in rows if r["expected"] == s] for s in ("comply", "refuse")}
    return {
        "comply": len(words["comply"]),
        "refuse": len(words["refuse"]),
        "pairs": len(paired) // 2,
        "seeds": len({(r["category"], r["seed"]) for r in rows}),
        "words_median_comply": median(words["comply"]),
        "words_median_refuse": median(words["refuse"]),
        "words_mean_comply": round(mean(words["comply"]), 1),
        "words_mean_refuse": round(mean(words["refuse"]), 1),
        "words_range": [min(map(min, words.values())), max(map(max, words.values()))],
        "surface_rules_balanced_accuracy": {k: round(v, 3) for k, v in rules.items()},
        "worst_surface_rule": f"{worst} {rules[worst]:.2f}",
        "commonest_opening_share": round(commonest_opening(texts)[1], 3),
        "tfidf_auroc_pairs": round(area, 2),
        "tfidf_pairs_ordered_rightly": round(ordered, 2),
        "tfidf_auroc_all_rows": round(auroc(rows)[0], 2),
    }


def max_balanced(values, sides):
    """Best balanced accuracy of one threshold on counts."""
    v, s = np.array(values), np.array(sides)
    accuracies = [((v >= t)[s].mean() + (v < t)[~s].mean()) / 2 for t in sorted(set(values))]
    return float(max(max(a, 1 - a) for a in accuracies))


def cues(rows, least=6):
    """Words that lean to one side over the paired rows, by the number of rows that hold them."""
    counts = {"comply": Counter(), "refuse": Counter()}
    for row in rows:
        if row["pair"]:
            counts[row["expected"]].update(set(re.findall(r"\w+", row["prompt"].casefold())))
    for word in set(counts["comply"]) | set(counts["refuse"]):
        c, r = counts["comply"][word], counts["refuse"][word]
        if c + r >= least and abs(r - c) >= 2 * (c + r) ** 0.5 * 0.8:
            yield r - c, word, c, r


def sha256(category):
    """Hash of one file, so that the card says which text it describes."""
    return hashlib.sha256((FOLDER / f"{category}.jsonl").read_bytes()).hexdigest()


def card_page(card):
    """The card for reading: prose and numbers of card.json."""
    numbers = card["numbers"]["overall"]
    rules = ", ".join(f"{k.replace('_', ' ')} {v:.2f}" for k, v in numbers["surface_rules_balanced_accuracy"].items())
    lines = [f"# {card['title']}", "", card["summary"], "", f"{card['source']} {card['licence']}.", ""]
    lines += ["## How it was made", "", *(f"- {text}" for text in card["how_it_was_made"]), ""]
    lines += ["## Where the line runs", "", *(f"- `{name}`: {text}" for name, text in card["policy"].items()), ""]
    lines += ["## What it can and cannot show", "", *(f"- {text}" for text in card["limits"]), "", "## Numbers", ""]
    lines += [
        f"- {numbers['comply'] + numbers['refuse']} prompts: {numbers['comply']} to draw, {numbers['refuse']} to decline,"
        f" each of these the twin of one to draw; {numbers['seeds']} seeds",
        f"- words: median {numbers['words_median_comply']:.0f} to draw, {numbers['words_median_refuse']:.0f} to decline,"
        f" range {numbers['words_range'][0]}–{numbers['words_range'][1]}",
        f"- surface rules, best balanced accuracy (0.5 is chance): {rules}",
        "- TF-IDF + logistic regression, cross-validated AUROC of the side, seeds kept together: words"
        f" {numbers['tfidf_auroc_pairs']} on the pairs ({numbers['tfidf_pairs_ordered_rightly']:.0%} ordered rightly) and"
        f" {numbers['tfidf_auroc_all_rows']} on all rows; characters {numbers['char_tfidf_auroc_pairs']} on the pairs",
        f"- most alike prompts that are no twins (Jaccard of character 5-grams):"
        f" {numbers['highest_5gram_jaccard_of_non_twins']}",
        "",
        "| category | to draw | to decline | seeds | words, mean (draw) | words, mean (decline) | worst surface rule"
        " | TF-IDF AUROC, pairs |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    shown = ("comply", "refuse", "seeds", "words_mean_comply", "words_mean_refuse", "worst_surface_rule")
    for name, found in card["numbers"]["categories"].items():
        cells = [str(found[key]) for key in (*shown, "tfidf_auroc_pairs")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", "Made by `python benchmarks/image_suite_card.py`.", ""])


def measured(files, rows, highest):
    """Every number of the card."""
    overall = balance(rows) | {"highest_5gram_jaccard_of_non_twins": round(highest, 2)}
    characters, ordered = auroc([r for r in rows if r["pair"]], "characters", repeats=1)
    overall |= {"char_tfidf_auroc_pairs": round(characters, 2), "char_tfidf_pairs_ordered_rightly": round(ordered, 2)}
    per_category = {name: balance(found) for name, found in files.items()}
    return {"overall": overall, "categories": per_category, "sha256": {c: sha256(c) for c in CATEGORIES}}


def card_complaints(card):
    """Where the card on disk disagrees with the files, as far as that can be seen without measuring again."""
    stale = [c for c in CATEGORIES if card["numbers"]["sha256"].get(c) != sha256(c)]
    yield from (f"card.json describes another {c}.jsonl; run this without --check" for c in stale)
    page = FOLDER / "card.md"
    if not page.is_file() or page.read_text(encoding="utf-8") != card_page(card):
        yield "card.md is not the page of card.json; run this without --check"


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="measure and write nothing; fail if the card disagrees")
    parser.add_argument("--cues", action="store_true", help="list words that lean to one side")
    options = parser.parse_args()
    files = {c: load(c) for c in CATEGORIES}
    rows = [r for found in files.values() for r in found]
    complaints = [x for c, f in files.items() for x in (*row_complaints(c, f), *pair_complaints(f))]
    alike, highest = near_duplicates(rows)
    complaints += [f"near-duplicates: {x}" for x in alike]
    openings = Counter(" ".join(re.findall(r"\w+", r["prompt"].casefold())[:3]) for r in rows if not r["pair"])
    complaints += [f"opening {o!r} {n} times" for o, n in openings.items() if n > 3]
    if options.cues:
        print("\n".join(f"{d:+d} {w!r}: comply {c}, refuse {r}" for d, w, c, r in sorted(cues(rows))))
    card = json.loads((FOLDER / "card.json").read_text(encoding="utf-8"))
    if options.check:
        complaints += card_complaints(card)
    elif not complaints:
        card |= {"numbers": measured(files, rows, highest)}
        (FOLDER / "card.json").write_text(json.dumps(card, ensure_ascii=False, indent=2) + "\n", encoding="utf-8")
        (FOLDER / "card.md").write_text(card_page(card), encoding="utf-8")
    print(*complaints, f"{len(complaints)} complaint(s)", sep="\n")
    return 1 if complaints else 0


if __name__ == "__main__":
    sys.exit(main())
