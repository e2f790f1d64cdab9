"""A base with its adapter merged in, as an ordinary chat model: for audits and every other job that asks one."""

from pathlib import Path

from demur.core.chat import ChatModel
from demur.core.errors import BadInputError
from demur.models import ModelSpec
from demur.models.adapter import Adapter
from demur.models.controlled import base_spec, checked_adapter, chosen_engine, merged_gguf


def build_adapted(spec: ModelSpec, *, identity: str) -> ChatModel:
    """Make the model of BASE+ADAPTER; merged once and kept in the cache.

    Left to itself it says its control token first, which is never part of the text.

    Raises:
        BadInputError: No adapter there, or one of another base.
    """
    adapter = checked_adapter(spec)
    if adapter is None:
        raise BadInputError(f"model {spec.name!r}: expected BASE+ADAPTER")
    if chosen_engine(spec, "auto") == "llamacpp":
        from demur.models.llamacpp import LlamaCppModel

        return LlamaCppModel(path=merged_gguf(spec, adapter), name=identity)
    from demur.models.local import TransformersModel

    return TransformersModel(source=str(_merged_folder(spec, adapter)), name=identity)


def _merged_folder(spec: ModelSpec, adapter: Adapter) -> Path:
    from demur.models.embedded import cache_dir
    from demur.models.merging import base_folder, merge, save_merged

    target = cache_dir() / "models" / f"merged-{adapter.hash}"
    if not target.is_dir():
        save_merged(merge(adapter, base_folder(base_spec(spec))), target, identity=adapter.identity)
    return target
