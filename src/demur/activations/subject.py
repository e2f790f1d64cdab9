"""A model to look into: weights, tokenizer, identity and parts, opened once and kept together."""

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.core.errors import BadInputError, MissingExtraError

if TYPE_CHECKING:
    from demur.activations.parts import Parts


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Subject:
    """A model with everything that looking into it needs.

    Attributes:
        model: Causal language model of transformers, in evaluation mode.
        tokenizer: Its tokenizer.
        name: Identity string; the key of every recording and direction.
        parts: Its modules, found and checked.
    """

    model: Any
    tokenizer: Any
    name: str
    parts: "Parts"

    @property
    def device(self) -> Any:
        """Where token ids have to be."""
        return self.parts.embedding.weight.device


def subject(model: Any, tokenizer: Any, *, name: str) -> Subject:
    """A subject from a model that is loaded already.

    Raises:
        BadInputError: Its architecture is not understood.
    """
    from demur.activations.parts import find_parts

    return Subject(model=model.eval(), tokenizer=tokenizer, name=name, parts=find_parts(model))


def open_subject(
    source: str | Path, *, name: str, adapter: Path | None = None, dtype: str = "float32", merge: bool = True
) -> Subject:
    """Load a model, and an adapter on top of it, onto the best device there is.

    Args:
        source: Folder or hub id.
        name: Identity string.
        adapter: Folder of a PEFT adapter.
        dtype: Of the weights.
        merge: Merge the adapter into the weights rather than leave it attached.

    Raises:
        BadInputError: A file is missing, or the architecture is not understood.
        MissingExtraError: transformers or peft is not installed.
    """
    try:
        import torch
        import transformers
        from transformers.utils import logging
    except ImportError:
        raise MissingExtraError("looking into models", extra="hf") from None
    logging.disable_progress_bar()
    if not hasattr(torch, dtype):
        raise BadInputError(f"dtype: expected float32, bfloat16 or float16, got {dtype!r}")
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(str(source), dtype=getattr(torch, dtype))
        tokenizer = transformers.AutoTokenizer.from_pretrained(_tokenizer_source(source, adapter), padding_side="left")
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"model {str(source)!r}: expected a local folder or hub id; {reason}") from None
    if adapter is not None:
        model = _adapted(model, adapter, rows=len(tokenizer), merge=merge)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return subject(model.to(device), tokenizer, name=name)


def _tokenizer_source(source: str | Path, adapter: Path | None) -> str:
    brings_its_own = adapter is not None and (adapter / "tokenizer_config.json").is_file()
    return str(adapter if brings_its_own else source)


def _adapted(model: Any, adapter: Path, *, rows: int, merge: bool) -> Any:
    try:
        from peft import PeftModel
    except ImportError:
        raise MissingExtraError("adapters", extra="train") from None
    if rows > model.get_input_embeddings().weight.shape[0]:  # the adapter's tokenizer has tokens the base has not
        model.resize_token_embeddings(rows, mean_resizing=False)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # peft calls what transformers has renamed, and doubts its own tying
            attached = PeftModel.from_pretrained(model, str(adapter)).eval()
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise BadInputError(f"{adapter}: expected an adapter for this base; {reason}") from None
    if not merge:
        return attached
    merged = attached.merge_and_unload()
    merged.tie_weights()
    return merged
