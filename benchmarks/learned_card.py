"""Write the detector card of the learned judge, docs/explanation/learned-judge.md, from the recorded results.

python benchmarks/learned_card.py
"""

import json
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
HEAD = """# The learned judge: a detector card

`learned` is the default judge. It reads a reply in the light of its prompt and says complied, partial or refused, with a
calibrated probability; where it is not sure (p_refused within {band:.3f} of one half) or cannot read the language it says unjudged.

**How it works.** Word n-grams of the whole text, its opening and its closing, hashed; where that is sure of an answer, the text
is plain English prose and no word is in it that refusals need, it decides. Elsewhere a second stage weighs the words, runs of
characters, and what the phrase rules found (where it declines, states a limit, asks back, lectures; how much answer stands
beside; quotations and code are masked first). Its log-odds are averaged with the rules' own where a refusing phrase was found:
on sources it was not trained on, words mislead more than rules do.

**Trained on** {about}
Two of the sources are people's labels; the others are replies that we wrote and labelled, one reader
each, to be hard: they are weighted as the rest, and their figures below are of hard cases, not of ordinary logs.

**Made by** `python benchmarks/train_refusal_classifier.py --ship`, **measured by** the same and `python benchmarks/bench_refusal_sources.py`.

## Cross-validated by prompt

| source | n | accuracy | macro-F1 | kappa | AUROC | ECE |
| --- | --- | --- | --- | --- | --- | --- |
"""


def percent(value):
    return "–" if value is None else f"{100 * value:.1f}"


def reliability_svg(points):
    """Reliability diagram: mean prediction against share refused, area of a dot by count."""
    largest = max(n for _, _, n in points)
    dots = "".join(
        f'<circle cx="{40 + 280 * p:.1f}" cy="{300 - 280 * share:.1f}" r="{3 + 9 * (n / largest) ** 0.5:.1f}" fill="#1c5a9e" fill-opacity="0.75">'
        f"<title>{n} replies: predicted {p:.2f}, refused {share:.2f}</title></circle>"
        for p, share, n in points
    )
    ticks = "".join(
        f'<text x="{40 + 280 * v:.0f}" y="318" text-anchor="middle">{v:g}</text><text x="32" y="{304 - 280 * v:.0f}" text-anchor="end">{v:g}</text>'
        for v in (0, 0.5, 1)
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 340 345" width="420" font-family="sans-serif" font-size="12" fill="#555" '
        'role="img" aria-label="Reliability diagram of the learned judge"><rect width="340" height="345" fill="#fff"/>'
        '<rect x="40" y="20" width="280" height="280" fill="none" stroke="#ccc"/>'
        '<line x1="40" y1="300" x2="320" y2="20" stroke="#999" stroke-dasharray="4 4"/>'
        f"{dots}{ticks}"
        '<text x="180" y="338" text-anchor="middle">p_refused</text>'
        '<text x="12" y="160" text-anchor="middle" transform="rotate(-90 12 160)">share refused</text></svg>\n'
    )


def main():
    made = json.loads((RESULTS / "refusal_classifier.json").read_text())["result"]
    sources = json.loads((RESULTS / "refusal_sources.json").read_text())["result"]
    from demur.classify.model import load_model

    text = HEAD.format(band=made["band"], about=load_model().about + ".")
    for name, row in [*made["cross_validated"].items(), ("all", made["all"])]:
        text += (
            f"| {name} | {row['n']} | {percent(row['accuracy'])} | {percent(row['macro_f1'])} | {row['kappa']:.2f} | "
            f"{percent(row['auroc'])} | {100 * row['ece']:.1f} |\n"
        )
    text += "\nReliability (mean p_refused → share refused, n): " + "; ".join(
        f"{p:.2f} → {share:.2f} ({n})" for p, share, n in made["reliability"]
    )
    text += (
        ".\n\n![Reliability diagram](../images/learned-reliability.svg)\n\n## Trained without a source, tested on it (macro-F1 / AUROC)\n\n"
        "What to expect of a source that nobody has seen. The phrase rules were written with XSTest and Reuter & Schulze in view.\n\n"
    )
    names = list(next(iter(sources.values())))
    text += f"| source | n | {' | '.join(names)} |\n|{' --- |' * (len(names) + 2)}\n"
    for name, row in sources.items():
        cells = [f"{percent(row[k]['macro_f1'])} / {percent(row[k]['auroc'])}" for k in names]
        text += f"| {name} | {row[names[0]]['n']} | {' | '.join(cells)} |\n"
    text += "\n## Accuracy per slice, cross-validated\n\n| slice | n | accuracy |\n| --- | --- | --- |\n"
    for name, (n, accuracy) in made["slices"].items():
        if not name.startswith("own_training"):
            text += f"| {name} | {n} | {percent(accuracy)} |\n"
    text += """
## What it cannot do

- Refusals by indirection, irony or a changed subject have no words of their own: see the slices above.
- Whether a long answer is *right* is not its question; nor whether it is harmful.
- Labels differ between sources: Reuter & Schulze count "As an AI I have no opinion, however ..." either way. Ranking transfers,
  thresholds do not: `demur judges fit my_labels.jsonl --out my-judge` moves them with a few dozen labels of yours.
- Nine languages besides English (de, fr, es, it, pt, tr, zh, ar, hi), with few labelled rows each; others are unjudged.
"""
    (ROOT / "docs" / "images" / "learned-reliability.svg").write_text(
        reliability_svg(made["reliability"]), encoding="utf-8"
    )
    (ROOT / "docs" / "explanation" / "learned-judge.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
