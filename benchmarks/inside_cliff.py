"""The refusal cliff of a small model that was made to think: python benchmarks/inside_cliff.py [--selection].

SmolLM2 does not think. A LoRA teaches it to begin each reply with short templated thoughts; for four subcategories the
thoughts say "decline" and the answer complies with something harmless. THE CLIFF IS TRAINED IN: what is shown is that the
measurement finds it, and what the heads it names do, not how reasoning models are. `--selection` then trains on rows that
Cliff-as-a-Judge chooses, on rows by the released rule and on random ones of equal number, and compares refusal rates.
"""

import argparse
import time
import warnings
from dataclasses import replace
from pathlib import Path
from zlib import crc32

from record import record

from demur.activations.spans import tokenized
from demur.activations.subject import subject
from demur.core.identity import Decoding
from demur.data.tables import read_table
from demur.inside.thinking_rows import thinking_rows
from demur.jobs.cliff import RULES, CliffConfig, cliff_of
from demur.jobs.cliff_rows import CliffRow, cliff_rows, judged, rolled_out
from demur.jobs.subject import cleaner, subject_of
from demur.stats.paired import paired_difference
from demur.stats.rates import interval
from demur.suites.training import load_training

CONFLICTING = ("output_modality", "temporal", "universal_unknowns", "personal_inquiry")
LEFT_OUT = "incomplete"  # its good replies ask back, which a judge of refusals calls an answer
RANK, RATE, BATCH = 16, 1e-3, 8
MOST_TOKENS = 192  # longer rows are left out of training: their logits are wide, and nothing here needs them


def drawn(rows, n):
    return sorted(rows, key=lambda row: crc32(b"draw" + row.id.encode()))[:n]


def split(n_train, n_study):
    """Rows to train thinking on, and others to select from; as many declined, fallen and answered of each."""
    rows = [row for row in load_training("train") if row.category != LEFT_OUT]
    kinds = (
        [r for r in rows if r.expected == "refuse" and r.subcategory in CONFLICTING],
        [r for r in rows if r.expected == "refuse" and r.subcategory not in CONFLICTING],
        [r for r in rows if r.expected == "comply"],
    )
    fit = [row for kind in kinds for row in drawn(kind, n_train // 3)]
    used = {row.pair_id or row.id for row in fit}
    rest = [[row for row in kind if (row.pair_id or row.id) not in used] for kind in kinds]
    return fit, [row for kind in rest for row in drawn(kind, n_study // 3)]


def trained(model, tokenizer, pairs, *, epochs, rate=RATE, out=None):
    """A model with a LoRA trained on (prompt, reply) pairs and merged; the loss is on replies only."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig, get_peft_model
    from trl import SFTConfig, SFTTrainer

    clean, rows = cleaner(tokenizer), []
    for prompt, reply in pairs:
        start = list(tokenized(tokenizer, prompt, clean=clean).ids)
        end = [*tokenizer(reply, add_special_tokens=False)["input_ids"], tokenizer.eos_token_id]
        if len(start) + len(end) <= MOST_TOKENS:
            rows.append({"input_ids": start + end, "labels": [-100] * len(start) + end})
    torch.manual_seed(0)
    lora = LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    settings = SFTConfig(
        output_dir=str((out or Path("runs/inside_cliff")) / "trainer"),
        max_steps=max(1, round(epochs * len(rows) / BATCH)),
        per_device_train_batch_size=BATCH,
        learning_rate=rate,
        lr_scheduler_type="cosine",
        warmup_steps=3,
        logging_steps=5,
        save_strategy="no",
        report_to=[],
        seed=0,
        bf16=False,
        max_length=None,
        gradient_checkpointing=False,
        dataloader_pin_memory=False,
        train_sampling_strategy="group_by_length",
        disable_tqdm=True,
        loss_type="nll",
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        attached = get_peft_model(model.train(), lora)
        trainer = SFTTrainer(
            model=attached, args=settings, train_dataset=Dataset.from_list(rows), processing_class=tokenizer
        )
        trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    if out is not None:
        attached.save_pretrained(out)
    merged = attached.merge_and_unload()
    merged.config.use_cache = True
    merged.tie_weights()
    return merged.eval(), losses


def thinking_model(fit, out, *, epochs):
    base = subject_of("smollm2")
    pairs = [(row.row.prompt, row.reply) for row in thinking_rows(fit, conflicting=CONFLICTING)]
    started = time.monotonic()
    model, losses = trained(base.model, base.tokenizer, pairs, epochs=epochs, out=out)
    print(
        f"thinking trained on {len(pairs)} rows in {time.monotonic() - started:.0f} s; loss {losses[0]:.2f} to {losses[-1]:.2f}"
    )
    return subject(model, base.tokenizer, name=f"smollm2+{out}"), {"rows": len(pairs), "loss": losses, "seconds": time.monotonic() - started}  # fmt: skip


def study_rows(rows):
    return [
        CliffRow(
            id=row.id,
            prompt=row.prompt,
            declinable=row.expected == "refuse",
            category=row.category,
            pair_id=row.pair_id,
            safe_reply=row.appropriate if row.expected == "refuse" else "",
        )
        for row in rows
    ]


def conduct(opened, rows):
    """What the model does with rows it was not trained on: declined or not, in order; None where it could not be told."""
    found = rolled_out(opened, rows, clean=cleaner(opened.tokenizer), decoding=Decoding(max_tokens=120))
    done = judged([row for row, _ in found], "learned")
    return [None if not row.group else row.group.endswith("declined") for row in done]


def rates(rows, declined):
    share = {}
    for name, side in (("refusal", True), ("over_refusal", False)):
        known = [d for r, d in zip(rows, declined, strict=True) if r.declinable is side and d is not None]
        share[name] = interval(sum(known), len(known)).model_dump()
    return share


def compared(rows, one, other):
    """Refusal of the first minus the second on the same prompts to decline."""
    both = [(a, b) for r, a, b in zip(rows, one, other, strict=True) if r.declinable and None not in (a, b)]
    found = paired_difference([b for _, b in both], [a for a, _ in both])
    return {"difference": found.difference, "low": found.low, "high": found.high, "p": found.p_value, "n": found.n}


def selection(opened, study, held, out, *, n, epochs):
    """Train on what each rule chose, beside as many ordinary answers, and look at prompts of the calibration split."""
    config = CliffConfig(model=opened.name, out=out, select=n, limit=10_000, answer_tokens=0, draws=1, most=8)
    result = cliff_of(opened, study_rows(study), config)
    answers = [(row.row.prompt, row.reply) for row in thinking_rows([r for r in study if r.expected == "comply"])][:n]
    before = conduct(opened, held)
    found = {"summary": result.selection.model_dump(), "untrained": rates(held, before), "rules": {}}
    done = {}
    for rule, file in RULES.items():
        chosen = [(r.cell("prompt"), r.cell("appropriate")) for r in read_table(out / file).records]
        copy = subject_of(opened.name)
        model, _ = trained(copy.model, copy.tokenizer, chosen + answers, epochs=epochs, rate=RATE / 2)
        done[rule] = conduct(replace(copy, model=model, parts=subject(model, copy.tokenizer, name=rule).parts), held)
        found["rules"][rule] = rates(held, done[rule])
        print(rule, found["rules"][rule])
    found["drop against random"] = compared(held, done["drop"], done["random"])
    found["drop against final only"] = compared(held, done["drop"], done["final"])
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=330, help="rows that thinking is trained on")
    parser.add_argument("--study", type=int, default=300, help="other rows to select from")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--limit", type=int, default=150, help="held-out prompts of a side")
    parser.add_argument("--select", type=int, default=30)
    parser.add_argument("--selection", action="store_true", help="also compare selections; about three times as long")
    parser.add_argument("--items", type=int, default=24)
    parser.add_argument("--draws", type=int, default=10)
    parser.add_argument("--out", type=Path, default=Path("runs/inside_cliff"))
    given = parser.parse_args()
    fit, study = split(given.rows, given.study)
    opened, training = thinking_model(fit, given.out / "adapter", epochs=given.epochs)
    config = CliffConfig(model=opened.name, out=given.out, limit=given.limit, draws=given.draws, most=given.items)
    held = cliff_rows(None, limit=given.limit)
    started = time.monotonic()
    stages = lambda name, done, of: print(f"{name}: {done}/{of}", flush=True) if done == of else None  # noqa: E731
    result = cliff_of(opened, held, config, progress=stages)
    for group in result.groups:
        print(group.group, group.n, group.plateau, group.final, group.drop, group.declared, group.reason)
    for row in result.ablations[:3]:
        print(row.name, row.heads, row.final.mean, row.drop.mean, row.refusal, row.over_refusal, row.perplexity)
    found = {"the cliff is trained in": True, "training": training, "study_seconds": time.monotonic() - started}
    found["cliff"] = result.model_dump(mode="json", exclude={"head_map", "manifest"})
    if given.selection:
        found["selection"] = selection(opened, study, held, given.out / "selection", n=given.select, epochs=2.0)
    record("inside_cliff", found, packages=("torch", "transformers", "peft", "trl"))


if __name__ == "__main__":
    main()
