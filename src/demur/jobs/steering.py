"""Controlled models by name, steered or not: 'MODEL+FOLDER' with a steering folder is made here, all else in models."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from demur.core.chat import ChatModel
from demur.core.controlled import ControlledModel
from demur.core.errors import BadInputError
from demur.core.identity import Decoding, Identity
from demur.core.signal import Signal
from demur.jobs.guarded import guarded, split_guard
from demur.models import ModelSpec, base_name, identity_of, parse_model, revision_of
from demur.models.adapter import TOKENS_FILE, ControlTokens, signal_identity
from demur.models.controlled import Engine, checked_adapter, control_of, controlled_model


def split_steering(name: str) -> tuple[str, Path] | None:
    """Model and steering folder of 'MODEL+FOLDER'; None if it names no steering folder. MODEL may have an adapter."""
    from demur.steer.folder import is_steering_folder

    at = name.find("+")
    while at >= 0:
        if is_steering_folder(Path(name[at + 1 :])):
            return name[:at], Path(name[at + 1 :])
        at = name.find("+", at + 1)
    return None


def controlled(
    name: str,
    *,
    signal: Signal | None = None,
    upstream: str | None = None,
    upstream_model: str = "",
    engine: Engine = "auto",
    progress: Callable[[str], None] | None = None,
) -> ControlledModel:
    """Make a controlled model, with or without steering; weights are read when it is first asked.

    Args:
        name: As `demur.models.controlled.controlled_model` takes it, or MODEL+FOLDER of 'demur steer --out'.
        signal: Decides where neither control tokens nor gates do.
        upstream: Server that runs the model.
        upstream_model: What that server calls it.
        engine: What runs models in this process; steering takes transformers.
        progress: Told what is being done.

    Raises:
        BadInputError: The model cannot be found, nothing decides, or steering is asked of an engine that cannot.
        UnknownNameError: The name has none of the known forms.
    """
    guard = split_guard(name)
    if guard is not None:
        return guarded(*guard, elsewhere=upstream is not None or engine == "llamacpp")
    found = split_steering(name)
    if found is None:
        return controlled_model(
            name, upstream=upstream, upstream_model=upstream_model, signal=signal, engine=engine, progress=progress
        )
    if upstream is not None or engine == "llamacpp":
        where = "an upstream server" if upstream is not None else "llama.cpp"
        raise BadInputError(
            f"model {name!r}: steering acts inside a model that transformers runs here, not in {where}; leave the "
            "option out, or export with 'demur steer --bake' or '--gguf'"
        )
    from demur.steer.folder import load_steering
    from demur.steer.model import steered_model

    base, folder = found
    spec = parse_model(base)
    plan = load_steering(folder, for_model=known_identity(spec))
    return steered_model(
        plan, loader(base, plan.model), name=base_name(spec), control=control_tokens(spec), signal=signal
    )


def steered_chat(name: str, decoding: Decoding) -> tuple[ModelSpec, Identity, ChatModel] | None:
    """A model under its steering as one that is simply asked, for audits; None if the name has no steering folder.

    Steering with gates acts where they open, other steering on every request; at the strengths of the folder.

    Raises:
        BadInputError: The steering is another model's, or the model cannot be found.
    """
    found = split_steering(name)
    if found is None:
        return None
    from demur.jobs.steer import build
    from demur.steer.control import SteeringControl
    from demur.steer.folder import load_steering

    base, folder = found
    spec = parse_model(base)
    plan = load_steering(folder, for_model=known_identity(spec))
    identity = identity_of(spec, decoding=decoding).model_copy(update={"intervention": plan.hash})
    return spec, identity, SteeringControl(build(base, plan), gated=bool(plan.gates)).at(1.0)


def loader(base: str, identity: str) -> Callable[[], tuple[Any, Any]]:
    """What loads (model, tokenizer) of a model and makes sure that it is the one meant."""

    def load() -> tuple[Any, Any]:
        import torch

        from demur.jobs.subject import subject_of
        from demur.models.controlled_transformers import number_type

        subject = subject_of(base, dtype=number_type(torch))
        if subject.name != identity:
            raise BadInputError(f"this steering was made for {identity}, the model here is {subject.name}")
        return subject.model, subject.tokenizer

    return load


def known_identity(spec: ModelSpec) -> str | None:
    """Identity of a model as far as it can be told without loading it: what its directions are named after.

    Raises:
        BadInputError: A file is missing, or the adapter was trained on another base.
    """
    if not spec.adapter:
        return signal_identity(spec.name, revision_of(spec))
    if (Path(spec.adapter) / TOKENS_FILE).is_file():
        return str(identity_of(spec)).partition("[")[0]
    return None


def control_tokens(spec: ModelSpec) -> ControlTokens | None:
    """Control tokens of a model; None if it has none."""
    if spec.adapter and not (Path(spec.adapter) / TOKENS_FILE).is_file():
        return None
    return control_of(spec, checked_adapter(spec))[0]
