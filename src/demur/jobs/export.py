"""Export: base and adapter as one model that other programs run, as a GGUF file or a transformers folder."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from demur.core.errors import BadInputError
from demur.core.exchange import Frozen
from demur.models import ModelSpec, parse_model
from demur.models.adapter import TOKENS_FILE, Adapter

if TYPE_CHECKING:
    from demur.models.merging import Merged

Progress = Callable[[str], None]


class ExportConfig(Frozen):
    """An export, completely.

    Attributes:
        model: BASE+ADAPTER.
        gguf: File to write for llama.cpp; this or `merged`.
        merged: Folder to write for transformers and vLLM.
        quant: How matrices are stored in the GGUF file.
        force: Replace what an earlier export wrote.
    """

    model: str
    gguf: Path | None = None
    merged: Path | None = None
    quant: Literal["q8_0", "f16", "f32"] = "q8_0"
    force: bool = False


def export(config: ExportConfig, *, progress: Progress | None = None) -> dict[str, Any]:
    """Merge an adapter into its base, check that nothing changed, and write the result.

    Returns:
        What was written: kind, path, bytes, identity, token ids, and the largest difference of a logit between
        attached and merged.

    Raises:
        BadInputError: Something the caller can fix; nothing is written then.
    """
    say = progress or (lambda _: None)
    spec = parse_model(config.model)
    if (config.gguf is None) == (config.merged is None):
        raise BadInputError("expected one of --gguf FILE and --merged DIR; name where to write")
    if not spec.adapter:
        raise BadInputError(f"model {config.model!r}: expected BASE+ADAPTER, e.g. smollm2+adapters/tokens")
    from demur.models.controlled import base_spec, checked_adapter
    from demur.models.merging import base_folder, merge

    base = base_spec(spec)
    target = _checked_target(config, base, Path(spec.adapter))
    if config.gguf is not None and base.family not in ("embedded", "gguf"):
        raise BadInputError(
            f"model {base.name!r}: expected a base that is a GGUF file (smollm2, gguf/PATH) for --gguf; write --merged "
            "and convert that folder with llama.cpp's own script"
        )
    adapter = checked_adapter(spec)
    assert adapter is not None
    source = _source(base) if config.gguf is not None else None
    say(f"merging {adapter.folder} into {base.name}")
    merged = merge(adapter, base_folder(base))
    written = (
        _write_gguf(config, merged, source, target, adapter, say)
        if source
        else _write_folder(merged, target, adapter, base, say)
    )
    return {
        "model": config.model,
        "path": str(target),
        "identity": adapter.identity,
        "mode": adapter.mode,
        "token_ids": adapter.token_ids,
        "logit_difference": merged.difference,
        **written,
    }


def _write_gguf(
    config: ExportConfig, merged: "Merged", source: Path, target: Path, adapter: Adapter, say: Progress
) -> dict[str, Any]:
    from demur.models.gguf_export import export_gguf

    report = export_gguf(merged, source, target, quant=config.quant, identity=adapter.identity, progress=say)
    return {
        "kind": "gguf",
        "quant": config.quant,
        "bytes": report.bytes,
        "n_tensors": report.tensors,
        "n_copied": report.copied,
    }


def _write_folder(merged: "Merged", target: Path, adapter: Adapter, base: ModelSpec, say: Progress) -> dict[str, Any]:
    from demur.models.merging import base_folder, save_merged, stored_dtype

    merged.model.to(stored_dtype(base_folder(base)))
    save_merged(merged, target, identity=adapter.identity, progress=say)
    size = sum(path.stat().st_size for path in target.iterdir())
    return {"kind": "merged", "dtype": str(merged.model.dtype).removeprefix("torch."), "bytes": size}


def _source(base: ModelSpec) -> Path:
    """GGUF file of the base, checked before anything is loaded."""
    from demur.models.embedded import embedded_gguf
    from demur.models.gguf_export import check_source

    source = embedded_gguf() if base.family == "embedded" else Path(base.rest)
    check_source(source)
    return source


def _checked_target(config: ExportConfig, base: ModelSpec, adapter: Path) -> Path:
    """Where to write, once it is sure that nothing is lost by it."""
    target = config.gguf or config.merged
    assert target is not None
    inputs = [path.resolve() for path in (adapter, Path(base.rest)) if path.exists()]
    if target.resolve() in inputs:
        raise BadInputError(f"{target}: the model is read from there; choose another place")
    above = next(folder for folder in target.absolute().parents if folder.exists())
    if not above.is_dir():
        raise BadInputError(f"{target}: {above} is a file, expected a folder; choose another place")
    if not target.exists() or (target.is_dir() and config.merged is not None and not any(target.iterdir())):
        return target
    ours = target.is_file() if config.gguf is not None else (target / TOKENS_FILE).is_file()
    if not ours:
        raise BadInputError(
            f"{target}: expected nothing or an earlier export there, found something else; choose another"
        )
    if not config.force:
        raise BadInputError(f"{target}: already there; say --force to replace it")
    return target
