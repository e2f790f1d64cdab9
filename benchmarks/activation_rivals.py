"""One way of capturing states, in a process of its own: captures, measures, prints one JSON line.

    python benchmarks/activation_rivals.py ARM JOB.json STATES.npy

`bench_activations.py` starts it with the rival's own folder on PYTHONPATH. JOB.json holds the model's folder, the
token ids of every prompt, the two positions of each and the batches, which are the same for every arm. Time is process
CPU time after the model is loaded, every weight touched and one small batch run; memory is the peak above what the
process held when it was loaded.
"""

import contextlib
import json
import re
import sys
import time
import warnings
from pathlib import Path

import numpy as np

warnings.filterwarnings("ignore")


class Setting:
    """What every arm gets: the job, the model, and the result's array (prompts, positions, layers, width)."""

    def __init__(self, job, model, n_prompts=None):
        import torch

        self.job, self.model, self.torch = job, model, torch
        self.prompts = job["prompts"][:n_prompts]
        self.batches = job["batches"] if n_prompts is None else [list(range(n_prompts))]
        self.n_layers = model.config.num_hidden_layers
        self.last = self.n_layers // 2 if job["half"] else self.n_layers
        self.out = np.zeros((len(self.prompts), 2, self.last + 1, model.config.hidden_size), dtype=np.float32)

    def padded(self, batch, side="left"):
        """A batch as transformers takes it, and the two positions of each row in it."""
        torch, rows = self.torch, [self.prompts[i]["ids"] for i in batch]
        width = max(map(len, rows))
        ids = torch.zeros((len(rows), width), dtype=torch.long)
        mask = torch.zeros_like(ids)
        shifts = [width - len(row) if side == "left" else 0 for row in rows]
        for k, (row, shift) in enumerate(zip(rows, shifts, strict=True)):
            ids[k, shift : shift + len(row)] = torch.tensor(row)
            mask[k, shift : shift + len(row)] = 1
        where = torch.tensor([[p + s for p in self.prompts[i]["at"]] for i, s in zip(batch, shifts, strict=True)])
        if side == "right":
            return {"input_ids": ids}, where
        positions = (mask.cumsum(-1) - 1).clamp_min(0)
        return {"input_ids": ids, "attention_mask": mask, "position_ids": positions}, where

    def keep(self, batch, layer, states):
        self.out[batch, :, layer] = states.float().numpy()


def bare(s):
    """The forward pass itself: decoder only, nothing kept."""
    for batch in s.batches:
        given, _ = s.padded(batch, "right")
        s.model.model(**given, use_cache=False)


def demur(s, *, share=True):
    """Ours, as a user calls it."""
    from demur.activations.record import RecordOptions, record
    from demur.activations.spans import PromptTokens
    from demur.activations.subject import subject

    prompts = [PromptTokens(ids=tuple(p["ids"]), spans=dict(zip(("a", "b"), p["at"], strict=True))) for p in s.prompts]
    options = RecordOptions(share_prefix=share, batch_rows=s.job["rows"], batch_tokens=s.job["tokens"])
    found = record(
        subject(s.model, None, name="bench"), prompts, spans=("a", "b"), layers=range(s.last + 1), options=options
    )
    s.out = found.values


def hidden_states(s, *, logits):
    """What transformers offers: every state of every token, then the two positions."""
    for batch in s.batches:
        given, where = s.padded(batch)
        extra = {} if logits == "all" else {"logits_to_keep": 1}
        states = s.model(**given, output_hidden_states=True, use_cache=False, **extra).hidden_states
        for layer in range(s.last + 1):
            s.keep(batch, layer, states[layer][s.torch.arange(len(batch))[:, None], where])


def nnsight(s):
    """A trace of the decoder (no logits), only the two positions saved; stopped where half is asked for."""
    from nnsight import NNsight

    wrapped = NNsight(s.model.model)
    for batch in s.batches:
        given, where = s.padded(batch)
        rows, n_blocks, stops = s.torch.arange(len(batch))[:, None], min(s.last + 1, s.n_layers), s.last < s.n_layers
        with wrapped.trace(**given, use_cache=False) as tracer:
            found = []
            for layer in wrapped.layers[:n_blocks]:
                found.append(layer.input[rows, where])  # noqa: PERF401
            if not stops:
                found.append(wrapped.norm.input[rows, where])
            found = found.save()
            if stops:
                tracer.stop()
        for layer, states in enumerate(found):
            s.keep(batch, layer, states)


def transformer_lens(s):
    """The bridge's cache of the residual stream, sliced to the two positions, stopped where half is asked for."""
    if not hasattr(s.job, "bridge"):
        from transformer_lens.model_bridge import TransformerBridge
        from transformers import AutoTokenizer

        tokenizer = AutoTokenizer.from_pretrained(s.job["folder"], padding_side="left")
        s.job.bridge = TransformerBridge.boot_transformers(s.job["folder"], hf_model=s.model, tokenizer=tokenizer)
    names = [f"blocks.{i}.hook_in" for i in range(min(s.last + 1, s.n_layers))]
    stop = {} if s.last == s.n_layers else {"stop_at_layer": s.last + 1}
    names += [] if stop else [f"blocks.{s.n_layers - 1}.hook_out"]
    for batch in s.batches:
        given, where = s.padded(batch)
        _, cache = s.job.bridge.run_with_cache(
            given["input_ids"], attention_mask=given["attention_mask"], names_filter=names, return_cache_object=False,
            pos_slice=where[0].tolist(), **stop,
        )  # fmt: skip
        for layer, name in enumerate(names):
            s.keep(batch, layer, cache[name])


class Job(dict):
    """The job, with room for what an arm builds once."""


ARMS = {
    "bare": bare,
    "demur": demur,
    "demur, prefix not shared": lambda s: demur(s, share=False),
    "output_hidden_states": lambda s: hidden_states(s, logits="all"),
    "output_hidden_states, last logits only": lambda s: hidden_states(s, logits="last"),
    "nnsight": nnsight,
    "TransformerLens": transformer_lens,
}


def memory(field):
    """A field of this process's memory status, in MB."""
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    return int(found.group(1)) / 1024 if found else float("nan")


def load(job):
    import torch
    from transformers import AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    torch.set_num_threads(job["threads"])
    model = AutoModelForCausalLM.from_pretrained(job["folder"], dtype=torch.float32).eval()
    for parameter in model.parameters():
        float(parameter.sum())  # weights are mapped from the file: without this they would count as memory of the run
    return model


def main():
    arm, job_file, states_file = sys.argv[1:4]
    job = Job(json.loads(Path(job_file).read_text()))
    import torch

    model = load(job)
    held = memory("VmRSS")
    with torch.inference_mode():
        warm = Setting(job, model, n_prompts=4)
        ARMS[arm](warm)
        setting = Setting(warm.job, model)
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
        wall, cpu = time.perf_counter(), time.process_time()
        ARMS[arm](setting)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    peak = memory("VmHWM")
    if arm != "bare":
        np.save(states_file, setting.out)
    print(json.dumps({"cpu_s": cpu, "wall_s": wall, "held_mb": held, "above_load_mb": peak - held}))


if __name__ == "__main__":
    main()
