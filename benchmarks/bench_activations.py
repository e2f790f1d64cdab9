"""Capturing states of all layers at two positions: ours against the bare forward pass and against other tools.

    python benchmarks/bench_activations.py                    # what is installed; says what is skipped
    python benchmarks/bench_activations.py --install DIR      # installs the rivals, each into a folder of its own, first
    python benchmarks/bench_activations.py --rivals DIR       # uses such folders
    python benchmarks/bench_activations.py --prompts 32 --rounds 1   # a look; records nothing

512 prompts of the training suite in SmolLM2's chat template, residual stream at t_inst and t_post[-1]; every layer, and
again the lower half. Every arm is a process of its own and runs the same batches, sorted by length (rivals padded on
the left, as they recommend); rounds are interleaved and the median is kept. The bare pass is the decoder on the same
batches with nothing kept and no logits: the least anybody can do without sharing work between prompts.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from record import record
from rivals import install

HERE = Path(__file__).parent
RIVALS = {
    "nnsight": ["nnsight==0.8.1", "greenlet", "websocket-client", "cloudpickle", "zstandard"],
    "TransformerLens": [
        "transformer_lens==4.3.0",
        "beartype",
        "einops",
        "fancy-einsum",
        "jaxtyping",
        "wadler-lindig",
        "sentencepiece",
        "transformers-stream-generator",
        "typeguard",
        "wandb",
        "protobuf",
        "click",
        "gitpython",
        "gitdb",
        "smmap",
        "sentry-sdk",
        "platformdirs",
    ],
}
OURS, PLAIN, BARE = "demur", "demur, prefix not shared", "bare"
EVERY_LAYER = (BARE, OURS, PLAIN, "output_hidden_states", "output_hidden_states, last logits only", *RIVALS)
LOWER_HALF = (OURS, PLAIN, *RIVALS)
ROWS, TOKENS = 64, 2_048


def make_job(n_prompts, threads):
    """Prompts as token ids with their two positions, in batches of like length."""
    from demur.activations.batches import length_sorted
    from demur.activations.spans import tokenized
    from demur.jobs.labelled_prompts import read_labelled_prompts
    from demur.jobs.subject import cleaner
    from demur.models.merging import load_tokenizer
    from demur.models.unpacked import embedded_folder

    folder = embedded_folder()
    tokenizer = load_tokenizer(folder)
    texts = read_labelled_prompts(None).prompts
    texts = texts[:: max(1, len(texts) // n_prompts)][:n_prompts]
    prompts = [tokenized(tokenizer, text, clean=cleaner(tokenizer)) for text in texts]
    lengths = [len(p.ids) for p in prompts]
    rows = [{"ids": p.ids, "at": [p.position("t_inst"), p.position("t_post[-1]")]} for p in prompts]
    return {
        "folder": str(folder),
        "threads": threads,
        "rows": ROWS,
        "tokens": TOKENS,
        "prompts": rows,
        "batches": length_sorted(lengths, rows=ROWS, tokens=TOKENS),
    }


def run(arm, job, half, folder, scratch):
    """One process: its measurements and states, or why there are none."""
    job_file, states_file = scratch / "job.json", scratch / f"{arm}-{half}.npy"
    job_file.write_text(json.dumps({**job, "half": half}))
    paths = [str(folder / arm)] if folder and (folder / arm).is_dir() else []
    threads = {name: str(job["threads"]) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
    env = {
        **os.environ,
        **threads,
        "HF_HUB_OFFLINE": "1",
        "WANDB_MODE": "disabled",
        "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")]),
    }
    command = [sys.executable, str(HERE / "activation_rivals.py"), arm, str(job_file), str(states_file)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1][:200]}


def difference(arm, half, scratch):
    """Largest difference of a state from our plain one, in units of that state's length."""
    files = [scratch / f"{name}-{half}.npy" for name in (arm, PLAIN)]
    if not all(file.exists() for file in files):
        return None
    theirs, ours = map(np.load, files)
    if arm.startswith("output_hidden_states"):
        theirs, ours = theirs[:, :, :-1], ours[:, :, :-1]  # their last is taken after the final norm
    lengths = np.linalg.norm(ours, axis=-1, keepdims=True)
    return float((np.abs(theirs - ours) / lengths).max())


def measure(job, rounds, folder, scratch):
    """Every arm's runs, interleaved; arms that fail are left out of later rounds."""
    plan = [(arm, False) for arm in EVERY_LAYER] + [(arm, True) for arm in LOWER_HALF]
    runs, skipped = {key: [] for key in plan}, {}
    for number in range(rounds):
        for arm, half in plan:
            if (arm, half) in skipped:
                continue
            found = run(arm, job, half, folder, scratch)
            if "failed" in found:
                skipped[arm, half] = found["failed"]
                print(f"{title(arm, half):<48} skipped: {found['failed']}", flush=True)
                continue
            runs[arm, half].append(found)
            print(f"round {number + 1}: {title(arm, half):<48} {found['cpu_s']:8.1f} CPU-s", flush=True)
    return runs, skipped


def title(arm, half):
    return f"{arm}, lower half" if half else arm


def table(runs, scratch):
    """Medians by arm, as ratios to the bare pass of the same rounds."""
    bare = [found["cpu_s"] for found in runs[BARE, False]]
    rows = {}
    for (arm, half), found in runs.items():
        if not found:
            continue
        ratios = [one["cpu_s"] / base for one, base in zip(found, bare, strict=False)]
        rows[title(arm, half)] = {
            "cpu_s": round(statistics.median(one["cpu_s"] for one in found), 2),
            "ratio_to_bare": round(statistics.median(ratios), 3),
            "ratio_range": [round(min(ratios), 3), round(max(ratios), 3)],
            "wall_s": round(statistics.median(one["wall_s"] for one in found), 2),
            "above_load_mb": round(statistics.median(one["above_load_mb"] for one in found), 1),
            "largest_difference": None if arm == BARE else difference(arm, half, scratch),
            "runs": len(found),
        }
    return rows


def verdicts(rows):
    """What the targets ask."""
    rivals = [name for name in EVERY_LAYER if name in rows and name not in (BARE, OURS, PLAIN)]
    halves = [title(name, True) for name in (OURS, PLAIN)]
    found = {
        "at_most_1.10_of_bare": rows[OURS]["ratio_to_bare"] <= 1.10,
        "at_most_1.10_of_bare_without_sharing_the_prefix": rows[PLAIN]["ratio_to_bare"] <= 1.10,
        "lower_half_at_most_0.55_of_bare": all(rows[name]["ratio_to_bare"] <= 0.55 for name in halves),
    }
    if rivals:
        found["fastest"] = rows[OURS]["cpu_s"] < min(rows[name]["cpu_s"] for name in rivals)
        found["fastest_without_sharing_the_prefix"] = rows[PLAIN]["cpu_s"] < min(rows[n]["cpu_s"] for n in rivals)
        found["least_memory"] = rows[OURS]["above_load_mb"] < min(rows[name]["above_load_mb"] for name in rivals)
    return found


def show(rows, found):
    print(f"\n{'':<48} {'CPU-s':>8} {'x bare':>7} {'wall-s':>8} {'MB above load':>14} {'difference':>11}")
    for name, row in rows.items():
        off = "" if row["largest_difference"] is None else f"{row['largest_difference']:.1e}"
        print(
            f"{name:<48} {row['cpu_s']:>8.1f} {row['ratio_to_bare']:>7.2f} {row['wall_s']:>8.1f} "
            f"{row['above_load_mb']:>14.0f} {off:>11}"
        )
    for target, met in found.items():
        print(f"{target.replace('_', ' ')}: {'yes' if met else 'no'}")


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="DIR", help="install the rivals into this folder, then use it")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="folder with one folder of packages for each rival")
    parser.add_argument("--prompts", type=int, default=512)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def main():
    options = parse()
    folder = options.install or options.rivals
    if options.install:
        install(options.install, RIVALS)
    job = make_job(options.prompts, options.threads)
    lengths = [len(prompt["ids"]) for prompt in job["prompts"]]
    about = {
        "prompts": len(lengths),
        "tokens": sum(lengths),
        "shortest": min(lengths),
        "longest": max(lengths),
        "batches": len(job["batches"]),
        "threads": options.threads,
        "rounds": options.rounds,
    }
    print(about, flush=True)
    with tempfile.TemporaryDirectory() as scratch:
        runs, skipped = measure(job, options.rounds, folder, Path(scratch))
        rows = table(runs, Path(scratch))
    found = verdicts(rows)
    show(rows, found)
    if options.prompts < 512:
        return print("fewer prompts than 512: nothing recorded")
    result = {"about": about, "arms": rows, "targets": found, "skipped": {title(*key): v for key, v in skipped.items()}}
    return record("activations", result, ("torch", "transformers", "numpy"))


if __name__ == "__main__":
    main()
