"""How fast `demur scan` reads, and in how little memory, beside the same model in plain scikit-learn and MiniLM.

    python benchmarks/bench_scan.py [--rows 1000000] [--small 100000] [--baseline-rows 100000] [--minilm-rows 512]

Replies of about 1,000 characters are made of sentences of our own suites (seeded; a fifth refuse), written to Parquet,
and judged from Parquet to Parquet:
  linear    demur.jobs.scan with the judge `linear` (the first stage alone) on every core: verdicts, counts, sample, report
  learned   the same with the default judge: what the first stage cannot decide at a glance is read with care
  sklearn   words and pairs of words, hashed, and logistic regression, in a loop over batches, one process for each core
  tfidf     the same with TfidfVectorizer
  minilm    sentence embeddings (all-MiniLM-L6-v2) and logistic regression on a subset, all cores; also fitted and tested
            on subsets of at most 1,500 replies
F1 ('refused or partial') is measured on a source that none of the three saw: XSTest v2 of ../shared/data, else our own
hard replies; demur's own recipe is refitted without it. Memory is the largest sum of resident sizes over the whole
process tree, so pages shared between processes count more than once.
"""

import argparse
import json
import multiprocessing
import os
import random
import re
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import replace
from pathlib import Path

import psutil
from record import record

for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(name, "1")

ROOT = Path(__file__).parents[1]
SHARED = ROOT.parent / "shared" / "data"
ROWS_PER_FILE, BATCH = 100_000, 8_192
REFUSAL_SHARE = 0.2
MODELS = ("atlas-2", "birch-1", "cedar-mini")
MINILM_ROWS = 1_500  # it is fitted and tested on, so that the benchmark ends
START = 1_767_225_600  # 2026-01-01, seconds


def cores():
    return len(os.sched_getaffinity(0))


# --- synthetic logs -------------------------------------------------------------------------------------------------


def sentences(text):
    return [s.strip() for s in re.split(r"(?<=[.!?])\s+|\n+", text) if len(s.strip()) > 3]


def parts():
    """Prompts, refusing replies (stock ones, then all), and sentences of answers."""
    from demur.suites.training import load_training

    prompts, stock, refusals, answers = [], [], [], []
    for row in load_training():
        prompts.append(row.prompt)
        if row.expected == "comply":
            answers += sentences(row.appropriate)
        elif row.conduct in ("refused", "explains", "redirects", "guides"):
            refusals.append(row.appropriate)
    for line in (ROOT / "src/demur/suites/replies/hard.jsonl").read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        if row["outcome"] == "refused":
            stock.append(row["response"])
    return prompts, (stock, stock + refusals), answers


def reply(rng, refusals, answers):
    """One reply; a refusal is mostly short, an answer about 1,150 characters long."""
    wanted = max(60, rng.gauss(1180, 380))
    if rng.random() < REFUSAL_SHARE:
        pool = refusals[rng.random() < 0.5]
        text = rng.choice(pool)
        while len(text) < 0.35 * wanted:
            text += " " + rng.choice(pool)
        return text
    found, size = [], 0
    while size < wanted:
        sentence = rng.choice(answers)
        found.append(sentence)
        size += len(sentence) + 1
    for at in range(4, len(found), 5):
        found[at] = "\n\n" + found[at]
    return " ".join(found)


def generate(folder, n_rows, seed=0):
    """Write a log of `n_rows`, file by file; returns its files and the mean length of a reply."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    prompts, refusals, answers = parts()
    rng, files, characters = random.Random(seed), [], 0
    folder.mkdir(parents=True, exist_ok=True)
    for first in range(0, n_rows, ROWS_PER_FILE):
        path = folder / f"log-{first // ROWS_PER_FILE:03d}.parquet"
        files.append(path)
        writer = None
        for start in range(first, min(n_rows, first + ROWS_PER_FILE), BATCH):
            size = min(BATCH, n_rows - start, first + ROWS_PER_FILE - start)
            replies = [reply(rng, refusals, answers) for _ in range(size)]
            characters += sum(map(len, replies))
            table = pa.table(
                {
                    "id": [f"r{start + i}" for i in range(size)],
                    "prompt": [rng.choice(prompts) for _ in range(size)],
                    "response": replies,
                    "model": [rng.choice(MODELS) for _ in range(size)],
                    "time": pa.array(
                        [(START + 7 * (start + i)) * 1_000_000 for i in range(size)], pa.timestamp("us", "UTC")
                    ),
                }
            )
            writer = writer or pq.ParquetWriter(path, table.schema, compression="zstd", compression_level=1)
            writer.write_table(table)
        writer.close()
    return files, characters / n_rows


# --- measuring ------------------------------------------------------------------------------------------------------


class Memory(threading.Thread):
    """Largest sum of resident sizes of a process and all below it, in bytes."""

    def __init__(self, pid):
        super().__init__(daemon=True)
        self.pid, self.peak, self.stopped = pid, 0, threading.Event()

    def run(self):
        while not self.stopped.wait(0.1):
            try:
                root = psutil.Process(self.pid)
                family = [root, *root.children(recursive=True)]
            except psutil.Error:
                continue
            total = 0
            for process in family:
                try:
                    total += process.memory_info().rss
                except psutil.Error:
                    continue
            self.peak = max(self.peak, total)


def measured(code, *args):
    """Run Python code in a process of its own; seconds, peak of its tree, its last line as JSON."""
    started = time.perf_counter()
    before = os.times()
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, args)], stdout=subprocess.PIPE, text=True)
    memory = Memory(process.pid)
    memory.start()
    out, _ = process.communicate()
    memory.stopped.set()
    seconds, after = time.perf_counter() - started, os.times()
    if process.returncode:
        sys.exit(f"failed with exit code {process.returncode}")
    cpu = (after.children_user - before.children_user) + (after.children_system - before.children_system)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu,
        "peak_mb": memory.peak / 1e6,
        "said": json.loads(out.splitlines()[-1]),
    }


SCAN = """
import json, sys
from pathlib import Path
from demur.jobs.scan import ScanOptions, scan
if __name__ == "__main__":
    found = scan(sys.argv[3:], Path(sys.argv[1]), judge=sys.argv[2])
    print(json.dumps({"n": found.n_rows, "refused": found.refused.estimate, "unjudged": found.refused.unjudged}))
"""


def stages(path, n=2_000):
    """Share of replies that each stage of the learned judge decides."""
    import numpy as np
    import pyarrow.parquet as pq

    from demur.classify.columns import judge_columns

    rows = next(pq.ParquetFile(path).iter_batches(batch_size=n))
    found = judge_columns(rows["prompt"].to_pylist(), rows["response"].to_pylist()).stage
    return {name: float(np.mean(found == i)) for i, name in enumerate(("settled", "first", "second"))}


def scanned(files, out, judge, n_rows):
    found = measured(SCAN, out, judge, *files)
    assert found["said"]["n"] == n_rows, found
    return found | {"rows_per_second": n_rows / found["seconds"], "rows_per_cpu_second": n_rows / found["cpu_seconds"]}


# --- the others -----------------------------------------------------------------------------------------------------


def labelled():
    """Rows of every labelled source: source, prompt, response, outcome, manner, weight."""
    from refusal_data import all_rows, rows_of_replies, rows_of_training

    return all_rows(SHARED) if SHARED.is_dir() else [*rows_of_replies(), *rows_of_training()]


def fitted(kind, rows):
    from sklearn.feature_extraction.text import HashingVectorizer, TfidfVectorizer
    from sklearn.linear_model import LogisticRegression

    if kind == "sklearn":
        words = HashingVectorizer(ngram_range=(1, 2), alternate_sign=False, n_features=1 << 18)
    else:
        words = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, min_df=2)
    x = words.fit_transform([row[2] for row in rows])
    return words, LogisticRegression(C=10, max_iter=300).fit(x, [row[3] > 0 for row in rows])


def baseline_worker(kind, rows, files, folder, started, done):
    """Judge files with a scikit-learn model; only the loop is timed, between the two barriers."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pa.set_cpu_count(1)
    words, model = fitted(kind, rows)
    started.wait()
    for path in files:
        held = pq.ParquetFile(path)
        writer = None
        for batch in held.iter_batches(batch_size=BATCH):
            p = model.predict_proba(words.transform(batch["response"].to_pylist()))[:, 1].astype("float32")
            outcome = pa.array(p >= 0.5).cast(pa.string())
            wide = pa.RecordBatch.from_arrays(
                [*batch.columns, outcome, pa.array(p)], names=[*batch.schema.names, "outcome", "p_refused"]
            )
            writer = writer or pq.ParquetWriter(
                Path(folder) / path.name, wide.schema, compression="zstd", compression_level=1, use_dictionary=["model"]
            )
            writer.write_batch(wide)
        writer.close()
    done.wait()


def baseline(kind, rows, files, folder, n_rows):
    """Rows in a second of one process for each core; the files must be as many."""
    folder.mkdir(parents=True, exist_ok=True)
    context, n = multiprocessing.get_context("spawn"), cores()
    started, done = context.Barrier(n + 1), context.Barrier(n + 1)
    workers = [
        context.Process(target=baseline_worker, args=(kind, rows, files[i::n], str(folder), started, done))
        for i in range(n)
    ]
    memory = Memory(os.getpid())
    memory.start()
    for worker in workers:
        worker.start()
    started.wait()
    begun = time.perf_counter()
    done.wait()
    seconds = time.perf_counter() - begun
    memory.stopped.set()
    for worker in workers:
        worker.join()
    return {"rows": n_rows, "seconds": seconds, "rows_per_second": n_rows / seconds, "peak_mb": memory.peak / 1e6}


def embedder():
    """A function from texts to embeddings by all-MiniLM-L6-v2 on all cores; None where its weights are not installed."""
    from demur.core.errors import UserError

    try:
        import torch

        from demur.classify.embeddings import sentence_embeddings

        torch.set_num_threads(cores())
        sentence_embeddings(["Hello."])
    except (ImportError, UserError):
        return None
    return sentence_embeddings


def minilm(rows, test, texts):
    """Rows in a second, and F1 on the held-out source; None where no package carries the encoder."""
    encode = embedder()
    if encode is None:
        return None, None
    from sklearn.linear_model import LogisticRegression

    rng = random.Random(0)
    rows, test = (rng.sample(part, min(MINILM_ROWS, len(part))) for part in (rows, test))
    model = LogisticRegression(C=3, max_iter=1000).fit(encode([r[2] for r in rows]), [r[3] > 0 for r in rows])
    begun = time.perf_counter()
    model.predict_proba(encode(texts))
    seconds = time.perf_counter() - begun
    f1 = agreement(test, model.predict(encode([r[2] for r in test])).astype(bool).tolist())
    return {"rows": len(texts), "seconds": seconds, "rows_per_second": len(texts) / seconds}, f1


# --- quality --------------------------------------------------------------------------------------------------------


def agreement(test, judged):
    from demur.stats.agreement import binary_agreement

    found = binary_agreement([row[3] > 0 for row in test], judged)
    return {"f1": found.f1, "macro_f1": found.macro_f1, "accuracy": found.accuracy, "unjudged": found.unjudged}


def demur_quality(train, test):
    """Our own recipe without the tested source; unjudged rows are counted beside."""
    from demur.classify.columns import judge_columns
    from demur.classify.fitting import fit_model, labelled
    from demur.core.verdict import OUTCOMES

    _, prompts, responses, outcome, manner, weight, _ = (list(column) for column in zip(*train, strict=True))
    model = fit_model(labelled(prompts, responses, outcome, manner=manner, weight=weight)).model
    figures = {}
    for name in ("linear", "learned"):
        own = replace(model, first_only=name == "linear")
        found = judge_columns([r[1] for r in test], [r[2] for r in test], model=own)
        names = [OUTCOMES[code] for code in found.outcome]
        figures[name] = agreement(test, [None if n == "unjudged" else n in ("refused", "partial") for n in names])
    return figures


def quality(kinds):
    rows = labelled()
    held_out = "xstest_v2" if any(r[0] == "xstest_v2" for r in rows) else "own_hard"
    whole, test = [r for r in rows if r[0] != held_out], [r for r in rows if r[0] == held_out]
    train = [r for r in whole if r[3] >= 0]
    found = {}
    for kind in kinds:
        words, model = fitted(kind, train)
        found[kind] = agreement(test, model.predict(words.transform([r[2] for r in test])).astype(bool).tolist())
    return held_out, whole, test, found


# --- all together ---------------------------------------------------------------------------------------------------


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--small", type=int, default=100_000, help="rows of the smaller log, to compare memory")
    parser.add_argument("--baseline-rows", type=int, default=100_000)
    parser.add_argument("--minilm-rows", type=int, default=512)
    parser.add_argument("--learned-rows", type=int, default=100_000, help="rows for the whole cascade")
    parser.add_argument("--no-quality", action="store_true", help="speed and memory alone")
    parser.add_argument("--dry", action="store_true", help="write no result file")
    return parser.parse_args()


def main():
    args = arguments()
    kinds = ("sklearn", "tfidf")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        result = {"cores": cores()}
        held_out, whole, test, f1 = quality(kinds)
        train = [row for row in whole if row[3] >= 0]
        for key, judge, size in (
            ("linear_small", "linear", args.small),
            ("linear", "linear", args.rows),
            ("learned", "learned", args.learned_rows),
        ):
            files, mean = generate(folder / f"in-{size}", size)
            found = scanned(files, folder / f"out-{key}", judge, size)
            result[key] = {"rows": size, "mean_characters": mean, **found}
            print(
                f"{judge:<8} {size:>9,} rows  {found['rows_per_second']:>8,.0f} rows/s  peak {found['peak_mb']:.0f} MB",
                flush=True,
            )
        result["stages"] = stages(files[0])
        print("learned decides by", {name: f"{share:.1%}" for name, share in result["stages"].items()}, flush=True)
        files, _ = generate(folder / "in-baseline", args.baseline_rows, seed=1)
        files = split(files, folder / "in-split")
        for kind in kinds:
            result[kind] = baseline(kind, train, files, folder / f"out-{kind}", args.baseline_rows)
            show(kind, result[kind])
        texts = some_texts(files[0], args.minilm_rows)
        result["minilm"], f1["minilm"] = minilm(train, test, texts)
        show("minilm", result["minilm"])
    if not args.no_quality:
        f1 |= demur_quality(whole, test)
    report(result, f1, held_out, args)


def split(files, folder):
    """The same rows in as many files as there are cores."""
    import pyarrow.parquet as pq

    folder.mkdir(parents=True, exist_ok=True)
    n, paths = cores(), []
    whole = pq.read_table(files)
    for i in range(n):
        part = whole.slice(i * len(whole) // n, (i + 1) * len(whole) // n - i * len(whole) // n)
        paths.append(folder / f"part-{i}.parquet")
        pq.write_table(part, paths[-1], row_group_size=BATCH)
    return paths


def some_texts(path, n):
    import pyarrow.parquet as pq

    return next(pq.ParquetFile(path).iter_batches(batch_size=n, columns=["response"]))["response"].to_pylist()


def show(name, found):
    if found is None:
        print(f"{name:<8} not installed")
        return
    print(f"{name:<8} {found['rows']:>9,} rows  {found['rows_per_second']:>8,.0f} rows/s", flush=True)


def report(result, f1, held_out, args):
    ratios = {
        f"{judge} / {kind}": result[judge]["rows_per_second"] / result[kind]["rows_per_second"]
        for judge in ("linear", "learned")
        for kind in ("sklearn", "tfidf", "minilm")
        if result.get(kind)
    }
    for names, ratio in ratios.items():
        print(f"{names}: {ratio:,.2f} times as fast")
    for name, found in f1.items():
        if found:
            print(
                f"{name:<8} F1 {found['f1']:.3f} macro {found['macro_f1']:.3f} on {held_out} (unjudged {found['unjudged']})"
            )
    growth = result["linear"]["peak_mb"] / result["linear_small"]["peak_mb"]
    if growth:
        print(f"peak memory at {args.rows:,} rows is {growth:.2f} times that at {args.small:,}")
    result |= {"ratios": ratios, "held_out": held_out, "quality": f1, "memory_growth": growth}
    if not args.dry:
        record("scan", result, ("numpy", "pyarrow", "numba", "scikit-learn", "polars", "torch"))


if __name__ == "__main__":
    main()
