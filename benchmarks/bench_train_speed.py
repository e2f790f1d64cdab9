"""A LoRA step of demur beside plain trl: python benchmarks/bench_train_speed.py. About 8 minutes on 2 idle cores.

Same base, rows, order, batches, adapter and arithmetic; tokens a second count the rows' own tokens, never padding. Each
measurement is a process of its own, the trainers take turns, and the losses of the first trl run and ours must agree.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from record import record

BATCH_ROWS, RANK, ALPHA, RATE, MAX_TOKENS = 16, 16, 32, 1e-4, 1024
# trl as installed; the same with demur's setting of the C library's allocator; with its own packing; then ours, as a
# library and as its jobs run it, with that setting.
VARIANTS = ("trl", "trl-kept", "trl-packed", "demur-unkept", "demur")


def rows_of(tokenizer, n_rows, seed):
    """Training rows as ids, in the order both trainers learn them in."""
    import numpy as np

    from demur.suites.training import load_training
    from demur.train.batches import step_rows
    from demur.train.rows import Example, encoder_of
    from demur.train.supervised import supervised_row

    data = [row for row in load_training("train") if row.appropriate]
    drawn = np.random.default_rng(seed).choice(len(data), n_rows, replace=False)
    encoder = encoder_of(tokenizer, max_tokens=MAX_TOKENS)
    rows = [supervised_row(encoder, Example(data[i].prompt, data[i].appropriate)) for i in drawn]
    steps = step_rows([n_rows], epochs=1.0, batch_rows=BATCH_ROWS, max_steps=None, seed=0)
    return rows, [rows[i] for step in steps for i in step]


def trained_by_trl(model, tokenizer, ordered, out, *, packing):
    from datasets import Dataset
    from trl import SFTConfig, SFTTrainer

    data = Dataset.from_list(
        [{"input_ids": row.ids, "completion_mask": [int(label >= 0) for label in row.labels]} for row in ordered]
    )
    tokens = sum(len(row.ids) for row in ordered)
    n_steps = len(ordered) // BATCH_ROWS
    arguments = SFTConfig(
        output_dir=str(out),
        num_train_epochs=1,
        # Packed sequences of the usual length hold more rows: as many in a step as make up the same tokens.
        per_device_train_batch_size=max(1, round(tokens / n_steps / MAX_TOKENS)) if packing else BATCH_ROWS,
        packing=packing,
        max_length=MAX_TOKENS,
        completion_only_loss=True,
        learning_rate=RATE,
        lr_scheduler_type="constant",
        logging_steps=1,
        save_strategy="no",
        report_to=[],
        bf16=False,
        use_cpu=True,
        gradient_checkpointing=False,
        disable_tqdm=True,
        dataloader_pin_memory=False,
        train_sampling_strategy="sequential",
        eos_token=tokenizer.eos_token,
    )
    trainer = SFTTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    return lambda: trainer.train() and [e["loss"] for e in trainer.state.log_history if "loss" in e]


def trained_by_demur(model, tokenizer, rows, out, *, micro_tokens):
    from demur.train.row_trainer import TrainerSettings, train_rows

    settings = TrainerSettings(
        learning_rate=RATE,
        schedule="constant",
        warmup=0.0,
        batch_rows=BATCH_ROWS,
        micro_tokens=micro_tokens,
        save_steps=10**6,
    )
    return lambda: list(train_rows(model, tokenizer, rows, settings, out).losses)


def worker(variant, options):
    """One run of one trainer; prints what it measured."""
    import torch

    from demur.core.memory import keep_freed_memory
    from demur.models import parse_model
    from demur.models.merging import base_folder, load_model, load_tokenizer
    from demur.train.adapters import AdapterSettings, attach
    from demur.train.peak_memory import peak_memory, watch_memory

    if variant in ("trl-kept", "demur"):
        keep_freed_memory()
    folder = base_folder(parse_model(options.model))
    tokenizer, model = load_tokenizer(folder), load_model(folder, dtype="float32")
    model = attach(model, AdapterSettings(rank=RANK, alpha=ALPHA))
    rows, ordered = rows_of(tokenizer, options.rows, options.seed)
    with tempfile.TemporaryDirectory() as out:
        if variant.startswith("demur"):
            train = trained_by_demur(model, tokenizer, rows, Path(out), micro_tokens=options.micro_tokens)
        else:
            train = trained_by_trl(model, tokenizer, ordered, Path(out), packing=variant == "trl-packed")
        watch_memory(model.device)
        before, begun = peak_memory(model.device), time.perf_counter()
        losses = train()
        seconds = time.perf_counter() - begun
    tokens = sum(len(row.ids) for row in rows)
    print(
        json.dumps(
            {
                "variant": variant,
                "seconds": seconds,
                "tokens": tokens,
                "tokens_per_second": tokens / seconds,
                "steps": len(losses),
                "losses": losses,
                "peak_gib": peak_memory(model.device) / 2**30,
                "peak_above_model_gib": (peak_memory(model.device) - before) / 2**30,
                "threads": torch.get_num_threads(),
            }
        )
    )


def measured(variant, options):
    given = {"model": options.model, "rows": options.rows, "seed": options.seed, "micro-tokens": options.micro_tokens}
    flags = [part for name, value in given.items() for part in (f"--{name}", str(value))]
    done = subprocess.run([sys.executable, __file__, "--worker", variant, *flags], capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{variant}: {done.stderr[-2000:]}")
    found = json.loads(done.stdout.strip().splitlines()[-1])
    print(
        f"{variant:11} {found['tokens_per_second']:7.1f} tokens/s  {found['peak_gib']:.2f} GiB  {found['steps']} steps"
    )
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--rows", type=int, default=64, help="a multiple of 16")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--micro-tokens", type=int, default=1024, help="of demur")
    parser.add_argument("--worker", choices=VARIANTS)
    options = parser.parse_args()
    if options.worker:
        return worker(options.worker, options)
    runs = [measured(variant, options) for _ in range(options.rounds) for variant in VARIANTS]
    by_variant = {name: [run for run in runs if run["variant"] == name] for name in VARIANTS}
    speed = {name: median(run["tokens_per_second"] for run in found) for name, found in by_variant.items()}
    apart = max(
        abs(a - b) for a, b in zip(by_variant["trl"][0]["losses"], by_variant["demur"][0]["losses"], strict=True)
    )
    result = {
        "model": options.model,
        "settings": {
            "batch_rows": BATCH_ROWS,
            "rank": RANK,
            "alpha": ALPHA,
            "rows": options.rows,
            "dtype": "float32",
            "micro_tokens": options.micro_tokens,
        },
        "tokens_per_second": speed,
        "peak_gib": {name: median(run["peak_gib"] for run in found) for name, found in by_variant.items()},
        "peak_above_model_gib": {
            name: median(run["peak_above_model_gib"] for run in found) for name, found in by_variant.items()
        },
        "times_as_fast": {name: speed["demur"] / speed[name] for name in VARIANTS if "trl" in name},
        "largest_difference_of_a_loss": apart,
        "runs": runs,
    }
    for name, times in result["times_as_fast"].items():
        print(f"demur is {times:.2f} times as fast as {name}")
    print(f"largest difference of a step's loss between trl and demur: {apart:.2g}")
    return record("train_speed", result, ("torch", "transformers", "peft", "trl"))


if __name__ == "__main__":
    main()
