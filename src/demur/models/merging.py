"""Base and adapter as one plain transformers model, proven equal to the two attached."""

import os
import shutil
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from demur.core.errors import BadInputError, MissingExtraError
from demur.data.folder import write_text
from demur.models import ModelSpec
from demur.models.adapter import (
    PEFT_WEIGHTS,
    TOKENS_FILE,
    Adapter,
    ControlTokens,
    check_tokenizer,
    read_control_tokens,
)

# Attached and merged compute the same in another order; more than this share of the largest logit is no rounding.
LARGEST_DIFFERENCE = 1e-5
_PROBE_TOKENS = 24


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Merged:
    """A base with its adapter merged into it.

    Attributes:
        model: The transformers model, in evaluation mode.
        tokenizer: The adapter's tokenizer.
        control: Its control tokens.
        difference: Largest difference of a logit between attached and merged, on a probe text; -1 where there was
            nothing to merge.
        touched: Names of the parameters that differ from the base.
    """

    model: Any
    tokenizer: Any
    control: ControlTokens
    difference: float
    touched: frozenset[str]


def base_folder(spec: ModelSpec) -> Path:
    """The base as something transformers can load: a folder, or a hub id.

    Raises:
        BadInputError: The base is not a local model, or not there.
    """
    if spec.family == "embedded":
        from demur.models.unpacked import embedded_folder

        return embedded_folder()
    if spec.family == "gguf":
        return unpacked_gguf(Path(spec.rest))
    if spec.family == "hf":
        return Path(spec.rest)
    raise BadInputError(f"model {spec.name!r}: expected smollm2, gguf/PATH or hf/ID; an adapter needs a local base")


def unpacked_gguf(path: Path) -> Path:
    """Folder of any GGUF file's model for transformers; made on first use and kept in the cache."""
    from demur.models.embedded import cache_dir, file_hash
    from demur.models.unpacked import unpack

    if not path.is_file():
        raise BadInputError(f"model 'gguf/{path}': expected a GGUF file at {path}, found none")
    target = cache_dir() / "models" / f"{path.stem}-{file_hash(path)}"
    if not target.is_dir():
        partial = target.with_name(f"{target.name}.{os.getpid()}.partial")
        try:
            unpack(path, partial)
            partial.replace(target)
        except (OSError, ValueError, KeyError) as error:
            reason = str(error).splitlines()[0] if str(error) else type(error).__name__
            raise BadInputError(f"{path}: expected a model that transformers can read; {reason}") from None
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return target


def merge(adapter: Adapter, base: Path, *, dtype: str = "float32", check: bool = True) -> Merged:
    """Attach an adapter to its base and merge it.

    Args:
        adapter: The adapter.
        base: Folder or hub id of the base.
        dtype: Of the weights; 'auto' as the base has it.
        check: Compare logits before and after merging; in float32 only.

    Raises:
        BadInputError: Base and adapter do not fit, or merging would change what the model says.
    """
    torch = _libraries()
    tokenizer = load_tokenizer(adapter.folder)
    check_tokenizer(adapter.control, tokenizer, origin=str(adapter.folder))
    model = load_model(base, dtype=dtype)
    make_room(model, adapter, len(tokenizer))
    attached = _attach(model, adapter)
    probe = _probe(adapter.control, tokenizer, torch) if check and dtype == "float32" else None
    before = _logits(attached, probe, torch)
    merged = attached.merge_and_unload().eval()
    merged.tie_weights()
    after = _logits(merged, probe, torch)
    difference = -1.0 if before is None else float((before - after).abs().max())
    limit = 0.0 if before is None else LARGEST_DIFFERENCE * max(10.0, float(before.abs().max()))
    if not difference <= limit:
        raise BadInputError(
            f"{adapter.folder}: merging changed a logit by {difference:.2g}, expected at most {limit:.2g}; "
            "the adapter changes parts that cannot be merged"
        )
    return Merged(merged, tokenizer, adapter.control, difference, touched_parameters(adapter))


def load_merged(folder: Path, *, dtype: str = "auto") -> Merged:
    """A folder that already is base and adapter in one.

    Raises:
        BadInputError: It has no control tokens, or cannot be loaded.
    """
    _libraries()
    control = read_control_tokens(folder)
    if control is None:
        raise BadInputError(f"{folder}: expected {TOKENS_FILE} of a controlled model, found none")
    tokenizer = load_tokenizer(folder)
    check_tokenizer(control, tokenizer, origin=str(folder))
    return Merged(load_model(folder, dtype=dtype).eval(), tokenizer, control, -1.0, frozenset())


def save_merged(merged: Merged, target: Path, *, identity: str, progress: Callable[[str], None] | None = None) -> None:
    """Write a plain transformers folder with its tokenizer, chat template and control tokens, whole or not at all.

    Args:
        merged: Base and adapter as one.
        target: Folder to write; replaced if it is there.
        identity: Identity of the signal, so that policies made before merging stay valid.
        progress: Told what is being done.
    """
    say = progress or (lambda _: None)
    partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    try:
        say("writing weights")
        merged.model.save_pretrained(partial)
        merged.tokenizer.save_pretrained(partial)
        record = merged.control.model_copy(update={"identity": identity})
        write_text(partial / TOKENS_FILE, record.model_dump_json(indent=1) + "\n")
        if target.exists():
            target.replace(old)
        partial.replace(target)
    except OSError as error:
        raise BadInputError(f"{target}: cannot be written: {error.strerror or error}; choose another folder") from None
    finally:
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def touched_parameters(adapter: Adapter) -> frozenset[str]:
    """Names of the base's parameters that the adapter changes, from the names of its own weights."""
    from safetensors import safe_open

    with safe_open(str(adapter.folder / PEFT_WEIGHTS), framework="numpy") as file:
        keys = list(file.keys())
    names = set()
    for key in keys:
        name = key.removeprefix("base_model.model.")
        for mark in (".lora_", ".token_adapter.", ".trainable_tokens_", ".modules_to_save."):
            name = name.partition(mark)[0]
        names.add(name.removesuffix(".weight") + ".weight")
    return frozenset(names)


def make_room(model: Any, adapter: Adapter, vocabulary: int) -> None:
    """Give the model rows for the control tokens, if there are any; a table that is large enough stays as it is.

    Raises:
        BadInputError: Input and output rows are separate, and the adapter brings only one of them.
    """
    if not adapter.control.tokens:
        return
    if max(adapter.control.ids) >= model.get_input_embeddings().weight.shape[0]:
        model.resize_token_embeddings(max(vocabulary, max(adapter.control.ids) + 1), mean_resizing=False)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    touched = touched_parameters(adapter)
    if not tied and sum("embed" in name or "lm_head" in name for name in touched) < 2:
        raise BadInputError(
            f"{adapter.folder}: the base keeps input and output rows apart, the adapter trained only one of them "
            f"({', '.join(sorted(n for n in touched if 'embed' in n or 'lm_head' in n)) or 'none'}); "
            "train with trainable_token_indices for embed_tokens and lm_head"
        )


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a folder.

    Raises:
        BadInputError: There is none, or it has no chat template.
    """
    import transformers

    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{folder}: expected a tokenizer's files; {str(error).splitlines()[0]}") from None
    if tokenizer.chat_template is None:
        raise BadInputError(f"{folder}: expected a tokenizer with a chat template; add one to its tokenizer")
    return tokenizer


def load_model(source: Path, *, dtype: str) -> Any:
    """A causal language model from a folder or hub id.

    Raises:
        BadInputError: It cannot be loaded.
    """
    torch = _libraries()
    import transformers

    wanted = dtype if dtype == "auto" else getattr(torch, dtype)
    try:
        return transformers.AutoModelForCausalLM.from_pretrained(str(source), dtype=wanted)
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"model {str(source)!r}: expected a local folder or hub id; {reason}") from None


def stored_dtype(source: Path) -> Any:
    """The torch type of a model's stored weights; 32 bits if it does not say."""
    torch = _libraries()
    import transformers

    found = getattr(transformers.AutoConfig.from_pretrained(str(source)), "dtype", None)
    return getattr(torch, found) if isinstance(found, str) else found or torch.float32


def _attach(model: Any, adapter: Adapter) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("adapters", extra="train") from None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft calls what transformers has renamed, and doubts its own tying
            return PeftModel.from_pretrained(model, str(adapter.folder)).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{adapter.folder}: expected an adapter for this base; {reason}") from None


def _probe(control: ControlTokens, tokenizer: Any, torch: Any) -> Any:
    ordinary = tokenizer("What may I ask, and what would you rather not say?")["input_ids"][:_PROBE_TOKENS]
    return torch.tensor([[*ordinary, *control.ids, *ordinary[:4]]])


def _logits(model: Any, probe: Any, torch: Any) -> Any:
    if probe is None:
        return None
    with torch.inference_mode():
        return model(input_ids=probe.to(model.device)).logits.float()


def _libraries() -> Any:
    try:
        import torch
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError("transformers models", extra="hf") from None
    logging.disable_progress_bar()
    return torch
