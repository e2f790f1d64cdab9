"""Controlled models by name: base and adapter, a merged folder, a GGUF file, or a server that runs one of these."""

import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from demur.core.controlled import ControlledModel
from demur.core.errors import BadInputError
from demur.core.policy import Policy
from demur.core.signal import Signal
from demur.models import ModelSpec, base_name, parse_model, revision_of
from demur.models.adapter import (
    Adapter,
    ControlTokens,
    check_base,
    read_adapter,
    read_control_tokens,
    signal_identity,
)

if TYPE_CHECKING:
    from demur.models.controlled_dialects import Kind
    from demur.models.controlled_http import Address

Engine = Literal["auto", "llamacpp", "transformers"]
UPSTREAM_KEY = "DEMUR_UPSTREAM_KEY"


def controlled_model(
    name: str,
    *,
    upstream: "str | Address | None" = None,
    upstream_model: str = "",
    kind: "Kind | None" = None,
    signal: Signal | None = None,
    engine: Engine = "auto",
    progress: Callable[[str], None] | None = None,
) -> ControlledModel:
    """Make a controlled model; weights are read when it is first asked.

    Args:
        name: BASE+ADAPTER, gguf/PATH of an exported file, hf/FOLDER of a merged model; any model with a `signal`.
        upstream: Server that runs the model; its key is taken from $DEMUR_UPSTREAM_KEY if it is only an address.
        upstream_model: What the server calls it; asked for by default.
        kind: Kind of server; asked for by default.
        signal: Decides where the model has no control tokens.
        engine: 'auto' takes llama.cpp for bases that are GGUF files and transformers for others. The first use of an
            adapter on llama.cpp writes a merged file into the cache, which takes seconds.
        progress: Told what is being done.

    Raises:
        BadInputError: The model cannot be found, or has neither control tokens nor a signal.
        UnknownNameError: The name has none of the known forms.
    """
    spec = parse_model(name)
    adapter = checked_adapter(spec)
    control, identity = control_of(spec, adapter)
    if control is None and signal is None:
        raise BadInputError(
            f"model {name!r}: expected control tokens, found none; train them with 'demur train refusal-tokens' "
            "and name the model BASE+ADAPTER, or name a signal"
        )
    if control is None and signal is not None:
        identity = signal.identity
    if upstream is not None:
        return _behind(upstream, spec, control, identity, signal, upstream_model=upstream_model, kind=kind)
    if spec.family not in ("embedded", "gguf", "hf"):
        raise BadInputError(f"model {name!r}: expected smollm2, gguf/PATH or hf/ID; others need --upstream URL")
    if chosen_engine(spec, engine) == "llamacpp":
        from demur.models.controlled_llamacpp import LlamaCppControlled

        path = merged_gguf(spec, adapter, progress=progress) if adapter else _gguf_path(spec)
        return LlamaCppControlled(
            path=path, name=base_name(spec), own_signal=None if control else signal, control=control
        )
    from demur.models.controlled_transformers import TransformersControlled

    return TransformersControlled(
        name=base_name(spec),
        identity=identity,
        control=control,
        load=loader(spec, adapter),
        own_signal=None if control else signal,
    )


def check_policy(model: ControlledModel, policy: Policy) -> None:
    """Make sure that an engine can compute what a policy compares.

    Raises:
        BadInputError: The policy looks at probabilities over the whole vocabulary at a temperature at which the
            engine knows them only roughly.
    """
    exact = getattr(model, "exact_temperatures", (policy.temperature,))
    if policy.view == "full" and policy.temperature not in exact:
        raise BadInputError(
            f"policy {policy.name!r}: view 'full' at temperature {policy.temperature:g} needs engine 'transformers'; "
            f"this one is exact at {', '.join(f'{t:g}' for t in exact)}; use view 'posterior' or that engine"
        )


def base_spec(spec: ModelSpec) -> ModelSpec:
    """The base of a model with an adapter."""
    return parse_model(base_name(spec))


def checked_adapter(spec: ModelSpec) -> Adapter | None:
    """The adapter of a model, fit for its base; None if it has none.

    Raises:
        BadInputError: It is malformed, or was trained on another base.
    """
    if not spec.adapter:
        return None
    adapter, base = read_adapter(Path(spec.adapter)), base_spec(spec)
    check_base(adapter, base.name, revision_of(base))
    return adapter


def control_of(spec: ModelSpec, adapter: Adapter | None) -> tuple[ControlTokens | None, str]:
    """Control tokens of a model and the identity of its signal; (None, '') if it has none.

    Raises:
        BadInputError: Their record is malformed.
    """
    if adapter is not None:
        return (None, "") if adapter.mode == "plain" else (adapter.control, adapter.identity)
    found: ControlTokens | None = None
    if spec.family == "gguf":
        from demur.models.gguf_header import read_header

        found = read_header(Path(spec.rest)).control
    elif spec.family == "hf" and Path(spec.rest).is_dir():
        found = read_control_tokens(Path(spec.rest))
    if found is None or found.mode == "plain":
        return None, ""
    return found, found.identity or signal_identity(spec.name, revision_of(spec))


def chosen_engine(spec: ModelSpec, engine: Engine) -> Literal["llamacpp", "transformers"]:
    """The engine that runs a model.

    Raises:
        BadInputError: The engine asked for cannot run it.
    """
    from_gguf = spec.family in ("embedded", "gguf")
    if engine == "llamacpp" and not from_gguf:
        raise BadInputError(
            f"model {spec.name!r}: expected smollm2 or gguf/PATH for llama.cpp; use engine transformers"
        )
    if engine == "transformers" and spec.family == "gguf" and not spec.adapter:
        raise BadInputError(
            f"model {spec.name!r}: a GGUF file runs on llama.cpp; export with --merged for transformers"
        )
    if engine != "auto":
        return engine
    return "llamacpp" if from_gguf and (not spec.adapter or find_spec("xllamacpp") is not None) else "transformers"


def merged_gguf(spec: ModelSpec, adapter: Adapter, *, progress: Callable[[str], None] | None = None) -> Path:
    """Base and adapter as one GGUF file in the cache; made on first use.

    Raises:
        BadInputError: The base cannot be exported.
    """
    from demur.models.embedded import cache_dir
    from demur.models.gguf_export import export_gguf
    from demur.models.merging import base_folder, merge

    base = base_spec(spec)
    source = _gguf_path(base)
    target = cache_dir() / "models" / f"{source.stem}-{revision_of(base)}+{adapter.hash}.gguf"
    if not target.is_file():
        if progress:
            progress("merging base and adapter (once)")
        merged = merge(adapter, base_folder(base))
        export_gguf(merged, source, target, quant="q8_0", identity=adapter.identity, progress=progress)
    return target


def loader(spec: ModelSpec, adapter: Adapter | None) -> Callable[[], tuple[Any, Any]]:
    """What loads (model, tokenizer) for transformers."""

    def load() -> tuple[Any, Any]:
        import torch

        from demur.models.controlled_transformers import number_type
        from demur.models.merging import base_folder, load_merged, load_model, load_tokenizer, merge

        dtype = number_type(torch)
        if adapter is not None:
            merged = merge(adapter, base_folder(base_spec(spec)), dtype=dtype, check=False)
            return merged.model, merged.tokenizer
        folder = base_folder(spec)
        if folder.is_dir() and read_control_tokens(folder) is not None:
            merged = load_merged(folder, dtype=dtype)
            return merged.model, merged.tokenizer
        return load_model(folder, dtype=dtype), load_tokenizer(folder)

    return load


def _gguf_path(spec: ModelSpec) -> Path:
    from demur.models.embedded import embedded_gguf

    return embedded_gguf() if spec.family == "embedded" else Path(spec.rest)


def _behind(
    upstream: "str | Address",
    spec: ModelSpec,
    control: ControlTokens | None,
    identity: str,
    signal: Signal | None,
    *,
    upstream_model: str,
    kind: "Kind | None",
) -> ControlledModel:
    from demur.models.controlled_http import Address
    from demur.models.controlled_upstream import UpstreamControlled

    key = os.environ.get(UPSTREAM_KEY, "")
    address = Address(url=upstream, key=key) if isinstance(upstream, str) else upstream
    assert address.base
    return UpstreamControlled(
        name=base_name(spec),
        address=address,
        model=upstream_model,
        identity=identity,
        control=control,
        own_signal=None if control else signal,
        kind=kind,
    )
