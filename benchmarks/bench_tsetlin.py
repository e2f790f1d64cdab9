"""Tsetlin machines: ours against every installable CPU library and against linear models, on the same bits.

    python benchmarks/bench_tsetlin.py                    # what is installed; says what is skipped
    python benchmarks/bench_tsetlin.py --install DIR      # installs the rivals, each into a folder of its own, first
    python benchmarks/bench_tsetlin.py --rivals DIR       # uses such folders
    python benchmarks/bench_tsetlin.py --only rules       # rules against L1 logistic regression, and ten rules to read

Corpora: the refusal replies (../shared/data, the paper's split: 1,194 to learn, validation and test together 512), the
XSTest replies (three classes, split by prompt), docstrings of NumPy, SciPy and scikit-learn (which package is it? with
the names cut out), and rows made up in the shape of IMDb (24,000 x 5,000 bits), for time only. Neither IMDb nor
20 Newsgroups comes with a package; give your own with --corpus FILE.jsonl (text, label, split).
Every run is a process of its own, one thread; times are process CPU seconds.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from record import RESULTS, record
from rivals import install
from tsetlin_corpora import CORPORA, load_corpus, save_corpus
from tsetlin_reading import reading

HERE = Path(__file__).parent
RIVALS = {
    "green-tsetlin": ["green-tsetlin==1.1.0", "optuna", "sqlalchemy", "alembic", "colorlog", "mako"],
    "pyTsetlinMachine": ["pyTsetlinMachine==0.6.6"],
    "pyTsetlinMachineParallel": ["pyTsetlinMachineParallel==0.2.1"],
    "tmu": [
        "tmu==0.8.3",
        "numpy==1.26.4",
        "cffi",
        "pycparser",
        "xxhash",
        "pandas<3",
        "pytz",
        "tzdata",
        "python-dateutil",
        "six",
    ],  # it crashes with NumPy 2
    "torchtsetlin": ["torchtsetlin==0.5.0"],
    "pytsetlin": ["pytsetlin==1.1.1", "optuna", "sqlalchemy", "alembic", "colorlog", "mako"],
}
LINEAR = ("logistic regression", "linear SVM", "multinomial NB")
SLOW = ("torchtsetlin", "pytsetlin", "demur, torch")
DROPPERS = ("demur", "pyTsetlinMachine", "tmu", "torchtsetlin")
SETTINGS = {  # T in votes per clause of a class
    "s 5, T 0.2": {"s": 5.0, "votes": 0.2, "clause_drop": 0.0},  # what the libraries' examples use
    "s 2, T 2": {"s": 2.0, "votes": 2.0, "clause_drop": 0.0},  # what suits sparse text
    "s 2, T 2, drop .5": {"s": 2.0, "votes": 2.0, "clause_drop": 0.5},
}
TEXT = "s 2, T 2"
PLAN = {  # corpus: clauses, passes, seeds, settings, who else than ours and the linear models
    "refusals": (500, 20, 2, tuple(SETTINGS), tuple(RIVALS)),
    "xstest": (750, 15, 2, (TEXT,), ("green-tsetlin", "pyTsetlinMachine", "tmu")),
    "docstrings": (
        900,
        6,
        1,
        (TEXT, "s 2, T 2, drop .5"),
        ("green-tsetlin", "pyTsetlinMachine", "pyTsetlinMachineParallel", "tmu"),
    ),
    "imdb-shaped": (1000, 2, 1, (TEXT,), ("green-tsetlin", "tmu")),
}
TIMED_ONLY = ("imdb-shaped",)


def run(model, corpus_file, setting, folder):
    """One process: its result, or why there is none."""
    paths = [str(folder / model)] if folder and (folder / model).is_dir() else []
    threads = {
        name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
    }
    env = {**os.environ, **threads, "PYTHONPATH": os.pathsep.join([*paths, os.environ.get("PYTHONPATH", "")])}
    command = [sys.executable, str(HERE / "tsetlin_rivals.py"), model, str(corpus_file), json.dumps(setting)]
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        return {"failed": reason[:200]}


def summary(runs, epochs, linear):
    accuracies = [run["accuracy"] for run in runs]
    return {
        "accuracy": round(100 * statistics.mean(accuracies), 2),
        "spread": round(100 * statistics.stdev(accuracies), 2) if len(runs) > 1 else None,
        "cpu_s_per_epoch" if not linear else "cpu_s_fit": round(
            statistics.median(run["train_cpu_s"] for run in runs) / (1 if linear else epochs), 4
        ),
        "predict_rows_per_cpu_s": round(statistics.median(run["predict_rows_per_cpu_s"] for run in runs)),
        "runs": len(runs),
    }


def tournament(name, corpus_file, folder):
    """Every model on one corpus, setting by setting; slow ones once, in the setting for text, with fewer passes."""
    clauses, epochs, seeds, settings, rivals = PLAN.get(name, PLAN["docstrings"])
    table, skipped = {}, {}
    ours = ("demur", "demur, torch") if name == "refusals" else ("demur",)
    linear = () if name in TIMED_ONLY else LINEAR
    for model in (*ours, *rivals, *linear):
        for label in settings:
            setting, slow = SETTINGS[label], model in SLOW
            if ((slow or model in LINEAR) and label != TEXT) or (setting["clause_drop"] and model not in DROPPERS):
                continue
            passes = min(5, epochs) if slow else epochs
            runs = []
            n_runs = 1 if slow or model in LINEAR else seeds * (5 if model == "demur" else 1)  # ours take no time
            for seed in range(n_runs):
                found = run(
                    model, corpus_file, {**setting, "n_clauses": clauses, "epochs": passes, "seed": seed}, folder
                )
                if "accuracy" not in found:
                    skipped[model] = found.get("missing") or found["failed"]
                    break
                runs.append(found)
            if model in skipped:
                print(f"{name:<12} {model:<26} skipped: {skipped[model]}", flush=True)
                break
            label = "" if model in LINEAR else label
            table[f"{model} | {label}"] = summary(runs, passes, model in LINEAR)
            show_row(name, model, label, table[f"{model} | {label}"])
    return {"clauses": clauses, "epochs": epochs, "models": table, "skipped": skipped}


def show_row(corpus, model, label, row):
    time = (
        f"{row['cpu_s_per_epoch']:>9.4f} s/epoch" if "cpu_s_per_epoch" in row else f"{row['cpu_s_fit']:>9.4f} s/fit  "
    )
    accuracy = (
        ""
        if corpus in TIMED_ONLY
        else f"{row['accuracy']:>6.2f} %" + (f" +- {row['spread']:.2f}" if row["spread"] is not None else "        ")
    )
    print(
        f"{corpus:<12} {model:<26} {label:<18} {time} {row['predict_rows_per_cpu_s']:>10,} rows/s {accuracy}",
        flush=True,
    )


def ratios(result, timed_only):
    """Ours against each rival: times faster and points better, setting by setting, the least of them."""
    models, found = result["models"], {}
    ours = {label: row for key, row in models.items() for m, label in [key.split(" | ")] if m == "demur"}
    for rival in RIVALS:
        theirs = {label: row for key, row in models.items() for m, label in [key.split(" | ")] if m == rival}
        both = [label for label in theirs if label in ours]
        if not both:
            continue
        faster = [theirs[k]["cpu_s_per_epoch"] / ours[k]["cpu_s_per_epoch"] for k in both]
        reads = [ours[k]["predict_rows_per_cpu_s"] / theirs[k]["predict_rows_per_cpu_s"] for k in both]
        found[rival] = {"training_times_faster": round(min(faster), 1), "prediction_times_faster": round(min(reads), 1)}
        if not timed_only:
            a, b = (max(rows.values(), key=lambda row: row["accuracy"]) for rows in (ours, theirs))
            found[rival]["points_better_each_at_its_best"] = round(a["accuracy"] - b["accuracy"], 2)
            if a["spread"] is not None and b["spread"] is not None:
                error = (a["spread"] ** 2 / a["runs"] + b["spread"] ** 2 / b["runs"]) ** 0.5
                found[rival]["standard_error_over_seeds"] = round(error, 2)
    return found


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--install", type=Path, metavar="DIR", help="install the rivals into this folder, then use it")
    parser.add_argument("--rivals", type=Path, metavar="DIR", help="folder with one folder of packages for each rival")
    parser.add_argument("--only", nargs="+", choices=[*CORPORA, "rules"], help="a part of it")
    parser.add_argument("--corpus", type=Path, action="append", default=[], help="JSON Lines: text, label, split")
    return parser.parse_args()


def main():
    options = parse()
    folder = options.install or options.rivals
    if options.install:
        install(options.install, RIVALS)
    results = {}
    with tempfile.TemporaryDirectory() as scratch:
        for name in [*CORPORA, *options.corpus]:
            if options.only and name not in options.only and name in CORPORA:
                continue
            corpus = load_corpus(name)
            if isinstance(corpus, str):
                print(f"{name}: skipped: {corpus}")
                continue
            file = save_corpus(corpus, Path(scratch) / f"{Path(str(name)).stem}.npz")
            title = Path(str(name)).stem
            print(f"\n{title}: {corpus.about}")
            results[title] = {"about": corpus.about, **tournament(title, file, folder)}
            results[title]["ours_against"] = ratios(results[title], title in TIMED_ONLY)
            for rival, row in results[title]["ours_against"].items():
                print(f"  against {rival}: {row}")
    if not options.only or "rules" in options.only:
        results["rules"] = reading()
    keep(results, everything=not options.only)


def keep(results, *, everything):
    """Record; a part measured by itself takes the place of that part of the last record."""
    last = RESULTS / "tsetlin.json"
    if not everything and last.exists():
        results = {**json.loads(last.read_text(encoding="utf-8"))["result"], **results}
    record("tsetlin", results, ("numpy", "scipy", "scikit-learn", "numba", "torch"))


if __name__ == "__main__":
    main()
