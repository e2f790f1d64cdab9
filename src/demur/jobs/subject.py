"""A model to look into, by the name the command line uses."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from demur.activations.subject import Subject, open_subject, subject
from demur.core.errors import BadInputError
from demur.models import ModelSpec, base_name, parse_model, revision_of
from demur.models.adapter import PEFT_WEIGHTS, TOKENS_FILE, signal_identity
from demur.models.controlled import base_spec, checked_adapter
from demur.models.merging import base_folder, merge
from demur.models.untrusted import safe_text


def subject_of(model_name: str, *, adapter: bool = True, dtype: str = "float32") -> Subject:
    """Load a model with its parts.

    Args:
        model_name: smollm2, gguf/PATH, hf/ID, or one of these +FOLDER of an adapter: one made by 'demur train', or
            any PEFT adapter.
        adapter: Put the adapter on; False gives the base it belongs to, to compare with.
        dtype: Of the weights.

    Raises:
        BadInputError: The model is not local, a file is missing, or the architecture is not understood.
        UnknownNameError: The name has none of the known forms.
    """
    spec = parse_model(model_name)
    if spec.family not in ("embedded", "gguf", "hf"):
        raise BadInputError(
            f"model {model_name!r}: expected smollm2, gguf/PATH or hf/ID, with or without +ADAPTER; "
            "only a model whose weights are here can be looked into"
        )
    base = base_spec(spec)
    folder = base_folder(base)
    if not spec.adapter or not adapter:
        return open_subject(folder, name=signal_identity(base.name, revision_of(base)), dtype=dtype)
    if (Path(spec.adapter) / TOKENS_FILE).is_file():
        return _controlled(spec, base, folder, dtype=dtype)
    return open_subject(folder, name=_plain_identity(spec, base), adapter=Path(spec.adapter), dtype=dtype)


def cleaner(tokenizer: Any) -> Callable[[str], str]:
    """What makes user text safe for a tokenizer: its control tokens are split, as everywhere in demur."""
    added = [str(t) for t in tokenizer.added_tokens_decoder.values() if t.special or not str(t).strip().isalnum()]
    tokens = frozenset((*map(str, tokenizer.all_special_tokens), *(text for text in added if text.strip())))
    return lambda text: safe_text(text, tokens)


def _controlled(spec: ModelSpec, base: ModelSpec, folder: Path, *, dtype: str) -> Subject:
    found = checked_adapter(spec)
    assert found is not None
    merged = merge(found, folder, dtype=dtype)
    name = signal_identity(base_name(spec), revision_of(base), found.hash)
    return subject(merged.model, merged.tokenizer, name=name)


def _plain_identity(spec: ModelSpec, base: ModelSpec) -> str:
    from demur.models.embedded import file_hash

    weights = Path(spec.adapter) / PEFT_WEIGHTS
    if not weights.is_file():
        raise BadInputError(f"{spec.adapter}: expected an adapter's folder with {PEFT_WEIGHTS}, found none")
    return signal_identity(base_name(spec), revision_of(base), file_hash(weights))
