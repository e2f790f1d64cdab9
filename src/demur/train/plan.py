"""What a run will take, before a weight is loaded: rows, tokens, steps, memory, and minutes from a measured speed."""

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError
from demur.data.folder import write_json
from demur.train.rows import LabelledRow
from demur.train.training_recipe import TrainingRecipe

GIB = 2**30
# Torch, transformers and the interpreter, before any weight.
_LIBRARIES = 0.7 * GIB
# Values kept by a block for its backward pass, in widths of the residual stream and of the feed-forward layer: inputs
# of norms and projections, queries to outputs of attention, and gate, up, their product and its input.
_OF_STREAM, _OF_FEED_FORWARD = 14, 5
_LOGIT_COPIES = 3  # logits, their softmax and its gradient


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """Sizes of a decoder, from its configuration."""

    width: int
    n_blocks: int
    feed_forward: int
    vocabulary: int
    n_heads: int
    n_key_heads: int
    head_width: int
    tied: bool

    @property
    def projections(self) -> dict[str, tuple[int, int]]:
        """Inputs and outputs of each projection of a block."""
        queries, keys = self.n_heads * self.head_width, self.n_key_heads * self.head_width
        return {
            "q_proj": (self.width, queries),
            "k_proj": (self.width, keys),
            "v_proj": (self.width, keys),
            "o_proj": (queries, self.width),
            "gate_proj": (self.width, self.feed_forward),
            "up_proj": (self.width, self.feed_forward),
            "down_proj": (self.feed_forward, self.width),
        }

    @property
    def n_parameters(self) -> int:
        """Weights of the model; norms counted, biases not."""
        block = sum(a * b for a, b in self.projections.values()) + 2 * self.width
        tables = self.vocabulary * self.width * (1 if self.tied else 2)
        return self.n_blocks * block + tables + self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingPlan:
    """What a run will take.

    Attributes:
        rows: Rows of an epoch.
        tokens: Tokens that the steps read, over all epochs.
        learnt: Labelled positions among them.
        longest: Tokens of the longest row.
        steps: Optimiser steps.
        trained: Parameters that move.
        parameters: Parameters of the model.
        memory: Bytes, estimated.
        free: Bytes there are; None = unknown.
        tokens_per_second: Measured speed; None = not measured.
        speed_from: Where the speed comes from.
    """

    rows: int
    tokens: int
    learnt: int
    longest: int
    steps: int
    trained: int
    parameters: int
    memory: int
    free: int | None
    tokens_per_second: float | None = None
    speed_from: str = ""

    @property
    def minutes(self) -> float | None:
        """Time of the steps; None where no speed is known."""
        return self.tokens / self.tokens_per_second / 60 if self.tokens_per_second else None

    def as_json(self) -> dict[str, Any]:
        """Every field and the minutes."""
        return {**asdict(self), "minutes": self.minutes}


def shape_of(config: Mapping[str, Any], *, origin: str) -> ModelShape:
    """Sizes from a model's config.json.

    Raises:
        BadInputError: A size is missing; names it.
    """

    def size(*names: str) -> int:
        found = next((config[name] for name in names if isinstance(config.get(name), int)), None)
        if found is None:
            raise BadInputError(f"{origin}: config.json: expected {names[0]}, found none; is this a decoder's folder?")
        return int(found)

    width, heads = size("hidden_size", "n_embd"), size("num_attention_heads", "n_head")
    keys, head = config.get("num_key_value_heads"), config.get("head_dim")
    return ModelShape(
        width=width,
        n_blocks=size("num_hidden_layers", "n_layer"),
        feed_forward=int(config.get("intermediate_size") or config.get("n_inner") or 4 * width),
        vocabulary=size("vocab_size"),
        n_heads=heads,
        n_key_heads=int(keys) if isinstance(keys, int) else heads,
        head_width=int(head) if isinstance(head, int) else width // heads,
        tied=bool(config.get("tie_word_embeddings", True)),
    )


def n_trained(shape: ModelShape, recipe: TrainingRecipe) -> int:
    """Parameters that a recipe moves."""
    adapter = recipe.adapter
    if adapter.kind == "full":
        return shape.n_parameters
    sizes = [shape.projections[name] for name in adapter.modules if name in shape.projections]
    each = sum(adapter.rank * (a + b) + (b if adapter.kind == "dora" else 0) for a, b in sizes)
    return each * (shape.n_blocks - adapter.first_block)


def planned(rows: Sequence[LabelledRow], recipe: TrainingRecipe, shape: ModelShape) -> TrainingPlan:
    """The plan of a recipe's encoded rows, without a speed.

    Args:
        rows: Rows of one epoch; for losses over pairs both replies, one after the other.
        recipe: Optimiser and adapter.
        shape: Sizes of the model.
    """
    own, paired = recipe.settings, recipe.loss in ("dpo", "orpo", "kto")
    lengths = [len(row.ids) for row in rows]
    n = len(rows) // 2 if paired else len(rows)
    steps = own.max_steps or max(1, math.ceil(own.epochs * n / own.batch_rows))
    passes = steps * own.batch_rows / max(1, n)
    learnt = [len(row.learnt) for row in rows]
    return TrainingPlan(
        rows=n,
        tokens=round(passes * sum(lengths)),
        learnt=round(passes * sum(learnt)),
        longest=max(lengths),
        steps=steps,
        trained=n_trained(shape, recipe),
        parameters=shape.n_parameters,
        memory=estimated_memory(shape, recipe, longest=max(lengths), learnt_share=sum(learnt) / sum(lengths)),
        free=free_memory(),
    )


def estimated_memory(shape: ModelShape, recipe: TrainingRecipe, *, longest: int, learnt_share: float) -> int:
    """Bytes at the peak: libraries, weights, gradients and moments, activations of one pass, logits of labels."""
    own, trained = recipe.settings, n_trained(shape, recipe)
    paired = recipe.loss in ("dpo", "orpo", "kto")
    held = min(own.batch_rows, 4) * 2 * longest if paired else max(own.micro_tokens, longest)
    blocks = shape.n_blocks - (recipe.adapter.first_block if recipe.adapter.kind != "full" else 0)
    of_block = 4 * (_OF_STREAM * shape.width + _OF_FEED_FORWARD * shape.feed_forward)
    activations = held * (4 * shape.width * blocks + of_block if own.gradient_checkpointing else of_block * blocks)
    logits = held * (1.0 if paired else learnt_share) * shape.vocabulary * 4 * _LOGIT_COPIES
    copies = 2 if recipe.adapter.kind == "full" and recipe.loss in ("dpo", "kto", "cb") else 1
    return round(_LIBRARIES + copies * 4 * shape.n_parameters + 12 * trained + activations + logits)


def check_memory(plan: TrainingPlan) -> None:
    """Make sure that the run fits.

    Raises:
        BadInputError: It needs more memory than there is.
    """
    if plan.free is not None and plan.memory > plan.free:
        raise BadInputError(
            f"memory: the run needs about {plan.memory / GIB:.1f} GiB, {plan.free / GIB:.1f} GiB are free; lower "
            "optimiser.micro_tokens, set optimiser.gradient_checkpointing = true, or train an adapter instead of "
            "every weight"
        )


def free_memory() -> int | None:
    """Bytes a process may still take: what the system has, or less where a control group allows less."""
    known = [n for n in (_available(), _left_in_group()) if n is not None]
    return min(known) if known else None


def _available() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (OSError, StopIteration, ValueError):
        pages = os.sysconf_names.get("SC_AVPHYS_PAGES")
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if pages is not None else None


def _left_in_group(folder: Path = Path("/sys/fs/cgroup")) -> int | None:
    try:
        limit = (folder / "memory.max").read_text(encoding="ascii").strip()
        used = int((folder / "memory.current").read_text(encoding="ascii"))
        stat = (folder / "memory.stat").read_text(encoding="ascii").split()
        cached = int(stat[stat.index("inactive_file") + 1]) if "inactive_file" in stat else 0
        return None if limit == "max" else max(0, int(limit) - used + cached)
    except (OSError, ValueError):
        return None


def speed_key(recipe: TrainingRecipe, model: str, device: str) -> str:
    """What a speed was measured for: model, what is trained, its loss, and the machine's processors."""
    own = recipe.adapter
    what = own.kind if own.kind == "full" else f"{own.kind}{own.rank} from {own.first_block}"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{model} | {what} | {recipe.loss} | {device} | {cores} cores"


def stored_speed(file: Path, key: str) -> float | None:
    """Tokens a second that an earlier run or plan measured; None if there was none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))[key]
        return float(found) if float(found) > 0 else None
    except (OSError, ValueError, KeyError, TypeError):
        return None


def store_speed(file: Path, key: str, tokens_per_second: float) -> None:
    """Remember a measured speed."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        held = {}
    write_json(file, {**(held if isinstance(held, dict) else {}), key: round(tokens_per_second, 1)})
