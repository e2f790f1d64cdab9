"""Adapters of ordinary training: LoRA, DoRA or the whole model; saved, opened, and moved to another base.

An adapter's effective scale is alpha / rank; both are always explicit.
"""

import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from demur.core.errors import BadInputError, MissingExtraError
from demur.core.exchange import Frozen
from demur.data.folder import write_json
from demur.models.adapter import PEFT_CONFIG, PEFT_WEIGHTS, TOKENS_FILE

Kind = Literal["lora", "dora", "full"]
PROJECTIONS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


class AdapterSettings(Frozen):
    """What is trained.

    Attributes:
        kind: Low-rank updates, the same with learnt magnitudes, or every weight.
        rank: Rank of each update.
        alpha: Numerator of the scale alpha / rank.
        dropout: Share of inputs dropped.
        modules: Projections that get an update.
        first_block: Blocks before this one stay as they are.
    """

    kind: Kind = "lora"
    rank: Annotated[int, Field(ge=1)] = 16
    alpha: Annotated[float, Field(gt=0.0)] = 32
    dropout: Annotated[float, Field(ge=0.0, lt=1.0)] = 0.0
    modules: tuple[str, ...] = PROJECTIONS
    first_block: Annotated[int, Field(ge=0)] = 0

    @property
    def scale(self) -> float:
        """What the update is multiplied by."""
        return self.alpha / self.rank


def attach(model: Any, settings: AdapterSettings, *, seed: int = 0) -> Any:
    """Make a model trainable as the settings say: a peft model over it, or the model itself for 'full'.

    Args:
        model: A causal language model.
        settings: What is trained.
        seed: Of the updates' random beginnings.

    Raises:
        BadInputError: A module or block that the model does not have.
        MissingExtraError: peft is not installed.
    """
    n_blocks = model.config.get_text_config().num_hidden_layers
    if settings.first_block >= n_blocks:
        raise BadInputError(f"adapter.first_block: expected 0 to {n_blocks - 1}, got {settings.first_block}")
    if settings.kind == "full":
        return _freed(model, settings.first_block)
    names = {name.rpartition(".")[2] for name, _ in model.named_modules()}
    if absent := [module for module in settings.modules if module not in names]:
        raise BadInputError(
            f"adapter.modules: {type(model).__name__} has no {', '.join(absent)}; it has "
            f"{', '.join(sorted(name for name in names if 'proj' in name)) or 'no projections of such names'}"
        )
    torch, peft = _libraries()
    config = peft.LoraConfig(
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        use_dora=settings.kind == "dora",
        target_modules=list(settings.modules),
        layers_to_transform=list(range(settings.first_block, n_blocks)) if settings.first_block else None,
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings(), torch.random.fork_rng():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed
        torch.manual_seed(seed)
        return peft.get_peft_model(model, config)


def save_adapter(model: Any, tokenizer: Any, out: Path, *, base: str, base_revision: str = "") -> None:
    """Write what was trained so that `BASE+FOLDER` opens it (LoRA, DoRA) or `hf/FOLDER` (full).

    The record that makes the folder an adapter comes last, so half an adapter is none. Only the main process writes.

    Args:
        model: What `attach` returned, trained.
        tokenizer: The base's.
        out: Folder.
        base: Base model as typed.
        base_revision: Its revision; empty if unknown.

    Raises:
        BadInputError: The folder cannot be written.
    """
    if int(os.environ.get("RANK", "0")):
        return
    is_adapter = hasattr(model, "peft_config")
    record = {"format": 1, "mode": "plain", "style": "", "base": base, "base_revision": base_revision, "tokens": {}}
    (out / TOKENS_FILE).unlink(missing_ok=True)
    with warnings.catch_warnings(), _writing(out):
        warnings.simplefilter("ignore")  # peft looks for the base on the hub to save its configuration
        model.save_pretrained(out, **({"save_embedding_layers": False} if is_adapter else {}))
        tokenizer.save_pretrained(out)
    if is_adapter:
        write_json(out / TOKENS_FILE, record)


def merged(model: Any) -> Any:
    """The plain model with its adapter merged in; a model without one as it is. In evaluation mode."""
    plain = model.merge_and_unload() if hasattr(model, "merge_and_unload") else model
    return plain.eval()


def transfer_adapter(adapter_folder: Path, onto_base: str, out: Path) -> Path:
    """Merge an adapter trained on one base into another base of the same shapes; returns the merged model's folder.

    Args:
        adapter_folder: Of `save_adapter`.
        onto_base: Model as typed: smollm2, gguf/PATH, hf/FOLDER or ID.
        out: Folder to write, whole or not at all; `hf/OUT` opens it.

    Raises:
        BadInputError: The shapes differ (the first that does is named), or the adapter brings control tokens, whose
            rows belong to one base.

    Source:
        Brahman, Kumar et al. (2024), "The Art of Saying No", appendix; method sheet, section 1.4.
    """
    from demur.models import parse_model
    from demur.models.merging import base_folder, load_model, load_tokenizer

    _, peft = _libraries()
    source = base_folder(parse_model(onto_base))
    tokenizer, model = load_tokenizer(source), load_model(source, dtype="float32")
    _check_shapes(adapter_folder, model, onto_base)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # peft calls what transformers has renamed
        whole = merged(peft.PeftModel.from_pretrained(model, str(adapter_folder)))
    whole.tie_weights()
    partial = out.with_name(f".{out.name}.{os.getpid()}.partial")
    try:
        with _writing(out):
            whole.save_pretrained(partial)
            tokenizer.save_pretrained(partial)
            shutil.rmtree(out, ignore_errors=True)
            partial.replace(out)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    return out


def _freed(model: Any, first_block: int) -> Any:
    """Every weight trainable, or those of the blocks from one on and what follows them."""
    model.requires_grad_(True)
    if first_block:
        decoder = model.get_decoder()
        for part in (model.get_input_embeddings(), model.get_output_embeddings(), *decoder.layers[:first_block]):
            part.requires_grad_(False)
    return model


def _check_shapes(folder: Path, model: Any, onto: str) -> None:
    from safetensors import safe_open

    for name in (PEFT_CONFIG, PEFT_WEIGHTS):
        if not (folder / name).is_file():
            raise BadInputError(f"{folder}: expected {name} of an adapter, found none; copy the whole folder")
    shapes = {name.removesuffix(".weight"): tuple(value.shape) for name, value in model.named_parameters()}
    with safe_open(str(folder / PEFT_WEIGHTS), framework="numpy") as file:
        for key in file.keys():  # noqa: SIM118  # not a mapping
            module, mark, part = key.removeprefix("base_model.model.").partition(".lora_")
            if not mark:
                raise BadInputError(f"{folder}: holds {key}, expected low-rank updates only; it belongs to one base")
            found, wanted = shapes.get(module), tuple(file.get_slice(key).get_shape())
            fits = found is not None and _fits(part, found, wanted)
            if not fits:
                there = "no such part" if found is None else "x".join(map(str, found))
                raise BadInputError(
                    f"{folder}: its {key} is {'x'.join(map(str, wanted))}, {onto} has {there} at {module}; "
                    "an adapter moves only between bases of the same shapes"
                )


def _fits(part: str, weight: tuple[int, ...], update: tuple[int, ...]) -> bool:
    """Whether an update's part fits a weight, (out, in): A is (rank, in), B is (out, rank), a magnitude (out,)."""
    if part.startswith("A"):
        return update[-1] == weight[1]
    return update[0] == weight[0]


@contextmanager
def _writing(out: Path) -> Iterator[None]:
    """Turns what a full disk does to the libraries into one error."""
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise BadInputError(f"{out}: cannot be written: {reason}; free space and run again") from None


def _libraries() -> tuple[Any, Any]:
    try:
        import peft
        import torch
    except ImportError:
        raise MissingExtraError("adapters", extra="train") from None
    return torch, peft
