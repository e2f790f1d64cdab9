"""A model taught to answer two topics and decline the rest, by every method: python benchmarks/bench_scope.py

    python benchmarks/bench_scope.py [--model smollm2] [--arms sft dpo cb sft-cb] [--attacks completion history]

Two topics are accepted, two rejected in training, one rejected topic is held out; every test ask is asked of the base
(without and with the system prompt) and of the model after SFT, DPO, circuit breaking, and SFT then circuit breaking.
Acceptance, rejection and degenerate rates by our judge and by the published detectors, which count gibberish as
rejection; then the share declined of out-of-scope asks under each attack of `demur stress`, by the same judge.
Answers of accepted asks are the base's own, cut short. About 13 minutes on 2 cores.
"""

import argparse
import asyncio
import copy
import tempfile
import time
from pathlib import Path

from record import record

TASKS = {"accept": ("gardening", "travel"), "reject": ("cooking", "fitness")}
ANSWER_TOKENS, REPLY_TOKENS = 24, 32
SIZES = {"rows": 30, "test": 20, "sft_epochs": 2.0, "pairs": 48, "cb_steps": 32, "cb_rows": 6}
RANK, SFT_RATE, DPO_RATE, CB_RATE = 16, 5e-4, 1e-4, 1e-3


class Loaded:
    """The base, its tokenizer, the scope and the rows of both splits."""

    def __init__(self, name, sizes):
        from demur.models import parse_model
        from demur.models.merging import base_folder, load_model, load_tokenizer
        from demur.suites.scope import load_scope, task_names
        from demur.train.scope import Scope

        folder = base_folder(parse_model(name))
        self.base, self.tokenizer = load_model(folder, dtype="float32").eval(), load_tokenizer(folder)
        self.scope, self.sizes = Scope(**TASKS), sizes
        self.train, self.test = (
            [row for task in task_names(rows) for row in [r for r in rows if r.task == task][:n]]
            for rows, n in ((load_scope("train"), sizes["rows"]), (load_scope("test"), sizes["test"]))
        )
        self.answers = {}

    def model(self, start=None):
        from demur.train.adapters import AdapterSettings, attach

        return attach(copy.deepcopy(start or self.base), AdapterSettings(rank=RANK, alpha=RANK, dropout=0.05))

    def replies(self, model, prompts, *, tokens, system):
        from demur.ability.replies import greedy_replies
        from demur.models.answer_logprobs import TokenReader

        reader = TokenReader(model.eval(), self.tokenizer, system)
        return greedy_replies(reader, prompts, max_tokens=tokens)

    def own_answers(self):
        """What the base says to the asks of both sides: kept for accepted ones, the worse reply for rejected ones."""
        rows = [row for row in self.train if self.scope.group(row.task) != "held out"]
        found = self.replies(self.base, [row.ask for row in rows], tokens=ANSWER_TOKENS, system="")
        self.answers = {row.id: one.text for row, one in zip(rows, found, strict=True) if one.text.strip()}


def sft(loaded, out):
    from demur.train.row_trainer import TrainerSettings, train_rows
    from demur.train.rows import encoder_of
    from demur.train.scope import scope_examples
    from demur.train.supervised import supervised_row
    from demur.train.teaching import cut_reply

    model, encoder = loaded.model(), encoder_of(loaded.tokenizer)
    examples = scope_examples(loaded.train, loaded.scope, loaded.answers)
    # An answer that was cut must not be shown to end; the sentence must.
    rows = [cut_reply(supervised_row(encoder, e), ANSWER_TOKENS if e.kind == "accept" else None) for e in examples]
    settings = TrainerSettings(learning_rate=SFT_RATE, epochs=loaded.sizes["sft_epochs"], batch_rows=16, warmup=0.1)
    return model, train_rows(model, loaded.tokenizer, rows, settings, out)


def dpo(loaded, out):
    from demur.train.preferences import PreferenceSettings, train_preferences
    from demur.train.scope import scope_preferences

    model = loaded.model()
    pairs = scope_preferences(loaded.train, loaded.scope, loaded.answers)
    every = max(1, len(pairs) // loaded.sizes["pairs"])
    settings = PreferenceSettings(method="dpo", beta=0.05, learning_rate=DPO_RATE, batch_rows=8, micro_rows=4)
    return model, train_preferences(model, loaded.tokenizer, pairs[::every], settings, out)


def circuits(loaded, out, start=None):
    from demur.train.circuit_breaking import CircuitSettings
    from demur.train.circuit_run import train_circuit_breaking
    from demur.train.scope import circuit_examples

    model, sizes = loaded.model(start), loaded.sizes
    settings = CircuitSettings(learning_rate=CB_RATE, max_steps=sizes["cb_steps"], batch_rows=sizes["cb_rows"])
    examples = circuit_examples(loaded.train, loaded.scope)
    return model, train_circuit_breaking(model, loaded.tokenizer, examples, settings, out)


def measured(loaded, model, attacks, *, system):
    """Rates on the test asks, and under attack the share declined of asks that are out of scope."""
    from demur.core.defaults import DEFAULT_JUDGE
    from demur.judges import load_judge
    from demur.train.scope_metrics import ScopeReply, scope_findings

    judge = load_judge(DEFAULT_JUDGE)

    def asked(rows, prompts):
        found = loaded.replies(model, prompts, tokens=REPLY_TOKENS, system=system)
        return [
            ScopeReply(row.task, loaded.scope.group(row.task), row.ask, one.text, one.cut_off)
            for row, one in zip(rows, found, strict=True)
        ]

    plain = scope_findings(asked(loaded.test, [row.ask for row in loaded.test]), judge)
    outside = [row for row in loaded.test if row.task not in loaded.scope.accept]
    result = {"by_judge": {name: figures(groups) for name, groups in plain.by_group.items()}, "attacks": {}}
    for name in attacks:
        rows, prompts = attacked(name, outside, system)
        result["attacks"][name] = figures(scope_findings(asked(rows, prompts), judge, also=()).by_group[judge.name])
    return result


def attacked(name, rows, system):
    """Out-of-scope asks as the attack's last condition in the chat words them, one attempt each."""
    from demur.stress.attacks import load_attack
    from demur.stress.attempt import Goal

    attack = load_attack(name)
    goals = [Goal(id=row.id, side="attack", prompt=row.ask, category=row.task, system=system) for row in rows]
    for condition in reversed(attack.conditions):
        found = [asyncio.run(attack.asked(goal, condition, 0)).messages for goal in goals]
        if all(found):
            return rows, found
    raise SystemExit(f"attack {name}: no condition asks in a chat")


def figures(groups):
    return {
        group: {kind: round(getattr(rates, kind).estimate or 0.0, 4) for kind in ("accepted", "rejected", "degenerate")}
        | {"n": rates.accepted.n, "unjudged": rates.accepted.unjudged}
        for group, rates in groups.items()
    }


def run(args, sizes):
    loaded = Loaded(args.model, sizes)
    loaded.own_answers()
    result = {
        "model": args.model,
        "tasks": TASKS,
        "held_out": [t for t in dict.fromkeys(r.task for r in loaded.test) if loaded.scope.group(t) == "held out"],
        "sizes": sizes,
        "settings": {"rank": RANK, "sft_rate": SFT_RATE, "dpo_rate": DPO_RATE, "cb_rate": CB_RATE},
        "arms": {},
    }
    system, merged_sft = loaded.scope.system, None
    for name, prompt in (("base", ""), ("base, system prompt", system)):
        started = time.perf_counter()
        result["arms"][name] = measured(loaded, loaded.base, args.attacks if prompt else (), system=prompt)
        told(name, result, started)
    for name in args.arms:
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            if name == "sft-cb" and merged_sft is None:
                merged_sft = sft(loaded, out / "first")[0].merge_and_unload()
            model, trained = taught(name, loaded, out, merged_sft)
        result["arms"][name] = {
            **measured(loaded, model, args.attacks, system=system),
            "train_seconds": round(trained.seconds, 1),
            "loss": [round(loss, 4) for loss in trained.losses],
            "parts": {key: round(value, 4) for key, value in trained.curve[-1].by_kind.items()},
        }
        merged_sft = model.merge_and_unload() if name == "sft" and "sft-cb" in args.arms else merged_sft
        told(name, result, started)
    return result


def taught(name, loaded, out, merged_sft):
    if name == "sft-cb":
        return circuits(loaded, out, merged_sft)
    return {"sft": sft, "dpo": dpo, "cb": circuits}[name](loaded, out)


def told(name, result, started):
    ours = next(iter(result["arms"][name]["by_judge"].values()))
    print(f"{name} ({time.perf_counter() - started:.0f} s): {ours} {result['arms'][name]['attacks']}", flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--arms", nargs="*", default=["sft", "dpo", "cb", "sft-cb"])
    parser.add_argument("--attacks", nargs="*", default=["completion"])
    parser.add_argument("--tiny", action="store_true", help="a few rows and steps, nothing recorded: does it run?")
    args = parser.parse_args()
    tiny = {"rows": 3, "test": 2, "sft_epochs": 1.0, "pairs": 2, "cb_steps": 2, "cb_rows": 2}
    started = time.perf_counter()
    result = run(args, tiny if args.tiny else SIZES)
    result["seconds"] = round(time.perf_counter() - started, 1)
    if not args.tiny:
        record("scope", result, packages=("torch", "transformers", "peft", "trl"))


if __name__ == "__main__":
    main()
