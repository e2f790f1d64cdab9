"""A run of circuit breaking: steps decided by the seed alone, resumable to the bit, an ordinary adapter at the end."""

import json
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from hashlib import sha256
from math import ceil, cos, isfinite, pi
from pathlib import Path
from typing import Any

from demur.core.errors import BackendError, BadInputError
from demur.data.folder import write_json
from demur.train.checkpoints import FOLDER, mark_whole, newest, removed
from demur.train.circuit_breaking import (
    CircuitPrompts,
    CircuitSettings,
    backward,
    encode_prompts,
    target_blocks,
)
from demur.train.peak_memory import peak_memory, watch_memory
from demur.train.row_trainer import Say, Step, Trained
from demur.train.rows import Example, encoder_of
from demur.train.split_model import decoder_of

STATE, TENSORS = "state.json", "tensors.safetensors"
MOMENTS = ("exp_avg", "exp_avg_sq")


@dataclass(slots=True, eq=False)
class _Run:
    """What every step needs."""

    model: Any
    prompts: CircuitPrompts
    settings: CircuitSettings
    steps: int
    trained: dict[str, Any]
    optimiser: Any
    claim: str
    curve: list[Step] = field(default_factory=list)


def train_circuit_breaking(
    model: Any,
    tokenizer: Any,
    examples: Sequence[Example],
    settings: CircuitSettings,
    out: Path,
    say: Say = lambda *_: None,
    *,
    watch: Callable[[Step], None] = lambda _: None,
) -> Trained:
    """Break a peft model's circuits in place; goes on from the newest checkpoint under `out`/checkpoints.

    Args:
        model: What `adapters.attach` returned for 'lora' or 'dora'; without its adapter it is the reference.
        tokenizer: With a chat template.
        examples: Prompts of the kinds 'accept' and 'reject'; their responses are not read.
        settings: How.
        out: Folder of the run.
        say: Told ("breaking circuits", steps done, steps).
        watch: Told every step.

    Raises:
        BackendError: The loss is not a number; the last checkpoint is kept.
        BadInputError: No prompts of one kind, every weight is trained, another run's checkpoints, or a full disk.
    """
    run = _begun(model, encode_prompts(encoder_of(tokenizer, max_tokens=settings.max_tokens), examples), settings)
    first = _resumed(run, out / FOLDER)
    started, tokens = time.perf_counter(), 0
    was_training = model.training
    model.train()
    watch_memory(model.device)
    try:
        for number in range(first, run.steps):
            step = _stepped(run, number, out)
            run.curve.append(step)
            watch(step)
            tokens += sum(
                len(p.ids) for side in run.prompts.dealt(number, settings.batch_rows, settings.seed) for p in side
            )
            if (number + 1) % settings.save_steps == 0 or number + 1 == run.steps:
                _save(run, number + 1, out / FOLDER)
            say("breaking circuits", number + 1, run.steps)
    finally:
        model.train(was_training)
    return Trained(
        curve=tuple(run.curve),
        tokens=tokens,
        learnt=0,
        seconds=time.perf_counter() - started,
        peak_memory=peak_memory(model.device),
        resumed_at=first,
        layout="prompts",
    )


def _begun(model: Any, prompts: CircuitPrompts, settings: CircuitSettings) -> _Run:
    import torch

    if not hasattr(model, "disable_adapter"):
        raise BadInputError("circuit breaking: expected an adapter over a frozen model; set adapter.kind = 'lora'")
    blocks = decoder_of(model).layers
    deepest = max(target_blocks(len(blocks), settings.depths))
    for block in blocks[deepest + 1 :]:
        block.requires_grad_(False)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not trained:
        raise BadInputError(f"circuit breaking: the adapter begins behind block {deepest}; lower adapter.first_block")
    per_round = min(len(prompts.accept), len(prompts.reject)) / settings.batch_rows
    steps = settings.max_steps or max(1, ceil(settings.epochs * per_round))
    optimiser = torch.optim.AdamW(
        trained.values(), lr=settings.learning_rate, betas=(0.9, 0.999), eps=1e-8, weight_decay=settings.weight_decay
    )
    told = settings.model_dump_json(exclude={"save_steps", "micro_tokens"}) + json.dumps(asdict(prompts))
    return _Run(model, prompts, settings, steps, trained, optimiser, sha256(told.encode()).hexdigest()[:16])


def _stepped(run: _Run, number: int, out: Path) -> Step:
    import torch

    for group in run.optimiser.param_groups:
        group["lr"] = learning_rate(number, run.steps, run.settings)
    run.optimiser.zero_grad(set_to_none=True)
    device = run.model.device
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), _arithmetic(run):
        torch.manual_seed(run.settings.seed * 1_000_003 + number)  # dropout of a step, whatever came before it
        loss, parts = backward(run.model, run.prompts, number, run.steps, run.settings)
    norm = torch.nn.utils.clip_grad_norm_(run.trained.values(), run.settings.max_grad_norm)
    if not (isfinite(loss) and isfinite(float(norm))):
        raise BackendError(
            f"the loss of step {number + 1} is not a number; the last checkpoint is kept under {out / 'checkpoints'}; "
            "lower optimiser.learning_rate",
            retriable=False,
        )
    run.optimiser.step()
    return Step(number + 1, run.steps, loss, parts)


def learning_rate(step: int, steps: int, settings: CircuitSettings) -> float:
    """Learning rate of a step from 0: a linear rise, then the schedule."""
    warmup = round(settings.warmup * steps)
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    done = (step - warmup) / max(1, steps - warmup)
    share = {"constant": 1.0, "linear": 1 - done, "cosine": (1 + cos(pi * done)) / 2}[settings.schedule]
    return float(settings.learning_rate * share)


def _arithmetic(run: _Run) -> AbstractContextManager[Any]:
    import torch

    kind, wanted = run.model.device.type, run.settings.precision
    if wanted == "fp32" or (wanted == "auto" and kind == "cpu"):
        return nullcontext()
    if wanted == "fp16":
        raise BadInputError("optimiser.precision: expected fp32, bf16 or auto for circuit breaking, got fp16")
    lower: AbstractContextManager[Any] = torch.autocast(kind, dtype=torch.bfloat16)
    return lower


def _resumed(run: _Run, folder: Path) -> int:
    """Put the newest checkpoint back; the number of steps done."""
    from safetensors.torch import load_file

    checkpoint = newest(folder)
    if checkpoint is None:
        return 0
    state = json.loads((checkpoint / STATE).read_text(encoding="utf-8"))
    if state["claim"] != run.claim:
        raise BadInputError(f"{folder.parent} holds another run's checkpoints; choose another --out or remove it")
    tensors = load_file(str(checkpoint / TENSORS))
    for name, parameter in run.trained.items():
        parameter.data.copy_(tensors[f"weight/{name}"])
        moments = {moment: tensors[f"{moment}/{name}"].to(parameter) for moment in MOMENTS}
        run.optimiser.state[parameter] = {"step": tensors["step"].clone(), **moments}
    run.curve += [Step(*values) for values in state["curve"]]
    return int(state["step"])


def _save(run: _Run, done: int, folder: Path) -> None:
    """A checkpoint, whole or not at all; the ones before it go."""
    import torch
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    target = folder / f"checkpoint-{done}"
    tensors = {"step": torch.tensor(float(done))}
    for name, parameter in run.trained.items():
        tensors[f"weight/{name}"] = parameter.detach().contiguous()
        tensors |= {f"{moment}/{name}": run.optimiser.state[parameter][moment].contiguous() for moment in MOMENTS}
    try:
        target.mkdir(parents=True, exist_ok=True)
        save_file(tensors, str(target / TENSORS))
        curve = [[s.number, s.steps, s.loss, dict(s.by_kind)] for s in run.curve]
        write_json(target / STATE, {"step": done, "claim": run.claim, "curve": curve})
        mark_whole(target)
    except (BadInputError, OSError, SafetensorError) as error:
        raise removed(target, error) from None
