"""demur's engine against Inspect's own `hf` provider, in one run: prompts per second on `quick`, 128 new tokens.

    python benchmarks/bench_audit.py [--prompts 140]

Arms, in this order, each in a process of its own with both cores to itself:
  settled   demur, llama.cpp, replies end once the verdict on them stands
  full      demur, llama.cpp, whole replies
  inspect   Inspect's `hf` provider on the same weights (transformers, float32), greedy, batches of 32
  hf        demur's transformers provider on the same weights, whole replies
  held_out  demur, whole replies to 140 prompts of the training set (not timed)
Also: how often the settled arm's verdict is that of the same reply at full length (the phrase judge,
every reply of `full` judged whole and cut where `settled` would have cut it), and whether the two arms' own
verdicts agree (they differ also where batching changes a greedy argmax).
"""

import argparse
import importlib
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

from record import record

MAX_TOKENS = 128
ARMS = ("settled", "full", "inspect", "hf")
HELD_OUT = "held_out"


def arm_demur(name, n_prompts, out):
    import_engines()
    from demur.core.identity import Decoding
    from demur.core.run import RunSettings
    from demur.jobs.audit import AuditConfig, audit

    model = "smollm2"
    if name == "hf":
        from demur.models.unpacked import embedded_folder

        model = f"hf/{embedded_folder()}"
    suite = "quick"
    if name == HELD_OUT:
        suite = str(held_out_suite(out.with_suffix(".jsonl")))
    config = AuditConfig(
        model=model,
        suite=suite,
        limit=n_prompts,
        out=out,
        decoding=Decoding(max_tokens=MAX_TOKENS),
        run=RunSettings(settle=name == "settled"),
    )
    started = time.perf_counter()
    audit(config)
    return time.perf_counter() - started


def import_engines():
    """Import what any arm imports, so that no arm's seconds hold it; loading the model is in all of them."""
    for name in ("demur.evals.run", "demur.report.page", "inspect_ai", "torch", "xllamacpp"):
        importlib.import_module(name)
    importlib.import_module("transformers.models.llama.modeling_llama")


def held_out_suite(path):
    """Prompts of the training set, which the settling rule was not looked at with."""
    from demur.suites.training import load_training

    rows = [
        {"id": r.id, "prompt": r.prompt, "expected": r.expected, "category": r.category, "subcategory": r.subcategory}
        for r in load_training()
        if r.category != "ordinary"
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def arm_inspect(n_prompts, out):
    import_engines()
    import inspect_ai

    from demur.evals.tasks import suite_task
    from demur.models.unpacked import embedded_folder
    from demur.suites import load_suite

    folder = embedded_folder()
    task = suite_task(load_suite("quick", limit=n_prompts), judge="phrases")
    started = time.perf_counter()
    inspect_ai.eval(
        task,
        model="hf/smollm2",
        model_args={"model_path": str(folder), "tokenizer_path": str(folder), "do_sample": False, "batch_size": 32},
        max_tokens=MAX_TOKENS,
        max_connections=32,
        max_samples=32,
        temperature=None,
        display="none",
        log_dir=str(out),
    )
    return time.perf_counter() - started


def settled_agreement(folder):
    """Share of whole replies whose verdict is the same when cut where settling would cut them."""
    from demur.core.exchange import Exchange, Message
    from demur.core.taxonomy import load_taxonomy
    from demur.data.folder import read_rows
    from demur.judges.phrases import PhraseJudge
    from demur.models.llamacpp import CHECK_EVERY_CHARS

    judge, taxonomy = PhraseJudge(), load_taxonomy()
    same_outcome = same_conduct = n = 0
    for row in read_rows(folder):
        cuts = range(CHECK_EVERY_CHARS, len(row.response), CHECK_EVERY_CHARS)
        cut = next((k for k in cuts if judge.is_settled(row.prompt, row.response[:k])), None)
        whole, part = (
            judge._judge_one(
                Exchange(id=row.id, messages=(Message(role="user", text=row.prompt),), response=text, stop_reason=stop)
            )
            for text, stop in (
                (row.response, row.stop_reason),
                (row.response[:cut], "settled" if cut else row.stop_reason),
            )
        )
        right = [taxonomy.appropriate(row.subcategory, v, expected=row.expected) for v in (whole, part)]
        n += 1
        same_outcome += whole.outcome == part.outcome
        same_conduct += right[0] == right[1]
    return {"n": n, "outcome": same_outcome / n, "appropriate": same_conduct / n}


def between_arms(settled, full):
    from demur.data.folder import read_rows

    a, b = ({r.id: r.outcome for r in read_rows(folder)} for folder in (settled, full))
    return sum(a[k] == b[k] for k in a) / len(a)


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--prompts", type=int, default=140)
    parser.add_argument("--arm", choices=(*ARMS, HELD_OUT))
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    if options.arm:
        seconds = (
            arm_inspect(options.prompts, options.out)
            if options.arm == "inspect"
            else arm_demur(options.arm, options.prompts, options.out)
        )
        print(json.dumps({"seconds": seconds}))
        return
    from demur.models.embedded import embedded_gguf
    from demur.models.unpacked import embedded_folder

    embedded_gguf(), embedded_folder()  # made once, not timed
    with TemporaryDirectory() as scratch:
        rates = {}
        for arm in (*ARMS, HELD_OUT):
            command = [
                sys.executable,
                __file__,
                "--arm",
                arm,
                "--prompts",
                str(options.prompts),
                "--out",
                f"{scratch}/{arm}",
            ]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                sys.exit(done.stderr[-3000:])
            if arm == HELD_OUT:
                continue
            rates[arm] = options.prompts / json.loads(done.stdout.strip().splitlines()[-1])["seconds"]
            print(f"{arm:8} {rates[arm]:6.2f} prompts/s", flush=True)
        result = {
            "prompts": options.prompts,
            "max_tokens": MAX_TOKENS,
            "prompts_per_second": rates,
            "ratio_to_inspect_hf": {arm: rate / rates["inspect"] for arm, rate in rates.items()},
            "settled_against_whole_reply": settled_agreement(Path(scratch) / "full"),
            "settled_against_whole_reply_held_out": settled_agreement(Path(scratch) / HELD_OUT),
            "verdicts_equal_between_arms": between_arms(Path(scratch) / "settled", Path(scratch) / "full"),
        }
    print(json.dumps(result, indent=1))
    record("audit", result, ("xllamacpp", "torch", "transformers"))


if __name__ == "__main__":
    main()
