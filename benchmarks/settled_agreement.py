"""Does a reply cut where settling cuts it get the verdict of the whole reply? Whole replies on quick and on training prompts.

    python benchmarks/settled_agreement.py

The judges are the default one and the phrase rules; the training prompts are some the settling rule was not made with.
"""

import asyncio
import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from record import record

BENCH = Path(__file__).with_name("bench_audit.py")


def agreement(folder, name):
    """Share of whole replies whose verdict is the same when cut where settling would cut them."""
    from demur.core.exchange import Exchange, Message
    from demur.core.taxonomy import load_taxonomy
    from demur.data.folder import read_rows
    from demur.judges import load_judge
    from demur.models.llamacpp import CHECK_EVERY_CHARS

    judge, taxonomy, rows = load_judge(name), load_taxonomy(), read_rows(folder)

    def verdicts(texts_and_stops):
        exchanges = [
            Exchange(id=r.id, messages=(Message(role="user", text=r.prompt),), response=text, stop_reason=stop)
            for r, (text, stop) in zip(rows, texts_and_stops, strict=True)
        ]
        return asyncio.run(judge.judge(exchanges))

    cuts = [
        next((k for k in range(CHECK_EVERY_CHARS, len(r.response), CHECK_EVERY_CHARS) if judge.is_settled(r.prompt, r.response[:k])), None)
        for r in rows
    ]  # fmt: skip
    whole = verdicts([(r.response, r.stop_reason) for r in rows])
    part = verdicts([(r.response[:k], "settled" if k else r.stop_reason) for r, k in zip(rows, cuts, strict=True)])
    right = [
        [taxonomy.appropriate(r.subcategory, v, expected=r.expected) for r, v in zip(rows, found, strict=True)]
        for found in (whole, part)
    ]
    n = len(rows)
    return {
        "n": n,
        "outcome": sum(a.outcome == b.outcome for a, b in zip(whole, part, strict=True)) / n,
        "appropriate": sum(a == b for a, b in zip(*right, strict=True)) / n,
        "cut": sum(k is not None for k in cuts) / n,
    }


def main():
    result = {}
    with TemporaryDirectory() as scratch:
        for arm in ("full", "held_out"):
            command = [sys.executable, str(BENCH), "--arm", arm, "--prompts", "140", "--out", f"{scratch}/{arm}"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            result[arm] = {name: agreement(Path(scratch) / arm, name) for name in ("learned", "phrases")}
            print(arm, json.dumps(result[arm]), flush=True)
    record("settled_agreement", result, ("xllamacpp",))


if __name__ == "__main__":
    main()
