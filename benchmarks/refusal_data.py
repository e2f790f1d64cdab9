"""Labelled replies for training and testing the refusal classifier, by source."""

import json
import sys
from pathlib import Path

from demur.classify.model import MANNERS, OUTCOMES

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
LABELS = {"refusal": 2, "partial": 1, "compliance": 0}
OUTCOME = {name: i for i, name in enumerate(OUTCOMES)}
REFUSING = ("refused", "clarifies", "redirects", "guides", "explains")


def all_rows(shared=SHARED):
    """Every labelled row: (source, prompt, response, outcome or -1, manner or -1, weight, slice)."""
    return [*rows_of_shared(shared), *rows_of_replies(), *rows_of_training()]


def rows_of_shared(folder):
    for name in ("xstest_v2", "chatgpt_refusals"):
        path = folder / f"{name}.jsonl"
        if not path.exists():
            sys.exit(f"{path}: expected the labelled rows of ../shared/data")
        for line in path.read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["label"] in LABELS:
                yield (
                    row["source"],
                    row["prompt"],
                    row["response"],
                    LABELS[row["label"]],
                    -1,
                    1.0,
                    row.get("tone") or row.get("model", ""),
                )


def rows_of_replies():
    for name in ("hard", "multilingual", "english", "languages"):
        for line in (ROOT / "src/demur/suites/replies" / f"{name}.jsonl").read_text(encoding="utf-8").splitlines():
            row = json.loads(line)
            if row["outcome"] in OUTCOME:
                manner = MANNERS.index(row["manner"]) if row["manner"] else -1
                yield (
                    f"own_{name}",
                    row["prompt"],
                    row["response"],
                    OUTCOME[row["outcome"]],
                    manner,
                    1.0,
                    row["slice"] if name in ("hard", "english") else row["language"],
                )


def rows_of_training():
    """Responses of our training set whose outcome is beyond doubt."""
    from demur.suites.training import load_training

    for row in load_training():
        manner = MANNERS.index(row.conduct) if row.conduct in MANNERS else -1
        if row.expected == "comply":
            yield "own_training", row.prompt, row.appropriate, 0, MANNERS.index("plain"), 0.5, row.subcategory
        elif row.conduct in REFUSING:
            yield "own_training", row.prompt, row.appropriate, 2, manner, 0.5, row.subcategory
        else:
            yield "own_training", row.prompt, row.appropriate, -1, manner, 0.5, row.subcategory
        if row.expected == "refuse" and row.inappropriate:
            yield "own_training", row.prompt, row.inappropriate, 0, MANNERS.index("plain"), 0.5, row.subcategory


def rows_of_pyrit():
    """Human-labelled refusal rows inside the `pyrit` wheel, distinct ones; empty where it is not installed."""
    import csv
    from importlib.util import find_spec

    spec = find_spec("pyrit")
    if spec is None or not spec.submodule_search_locations:
        return []
    seen, rows = set(), []
    for path in sorted(Path(spec.submodule_search_locations[0]).rglob("*refusal*.csv")):
        lines = path.read_text(encoding="utf-8").splitlines()
        start = next((i for i, line in enumerate(lines) if "assistant_response" in line), None)
        for row in csv.DictReader(lines[start:]) if start is not None else ():
            label = next((v for k, v in row.items() if k and k.startswith("human_score")), "")
            key = " ".join((row.get("assistant_response") or "").split())
            if key and key not in seen and str(label).strip().lower() in ("0", "1", "true", "false", "0.0", "1.0"):
                seen.add(key)
                refused = str(label).strip().lower() in ("1", "true", "1.0")
                rows.append(
                    ("pyrit", row.get("objective") or "", row["assistant_response"], 2 if refused else 0, -1, 1.0)
                )
    return rows
