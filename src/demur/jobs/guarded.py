"""Guards by name: 'guard:FOLDER' as a signal beside any model, 'BASE+FOLDER' as a model that a guard decides for."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from demur.core.errors import BadInputError

if TYPE_CHECKING:
    from demur.core.controlled import ControlledModel
    from demur.core.signal import Signal

GUARD = "guard:"


def guard_signal(name: str) -> "Signal":
    """The signal of 'guard:FOLDER'; the model it was fitted with is loaded when it is first asked.

    Raises:
        BadInputError: No guard there, one that does not say which model it is of, or that is not calibrated.
    """
    from demur.inside.guard_signal import GuardSignal
    from demur.inside.guard_store import check_model, guard_identity, load_guard

    folder = Path(name.removeprefix(GUARD))
    guard, record = load_guard(folder)
    if not record.source:
        raise BadInputError(f"{folder}: this guard does not say which model it is of; name the model BASE+{folder}")

    def load() -> Any:
        from demur.jobs.subject import subject_of

        subject = subject_of(record.source)
        check_model(record, subject.name)
        return subject

    return GuardSignal(guard, load, identity=guard_identity(record))


def split_guard(name: str) -> tuple[str, Path] | None:
    """Model and guard's folder of 'MODEL+FOLDER'; None if it names no guard. MODEL may have an adapter."""
    from demur.inside.guard_store import is_guard_folder

    at = name.find("+")
    while at >= 0:
        if is_guard_folder(Path(name[at + 1 :])):
            return name[:at], Path(name[at + 1 :])
        at = name.find("+", at + 1)
    return None


def guarded(base: str, folder: Path, *, elsewhere: bool = False) -> "ControlledModel":
    """A model that a guard on its own states decides for, on transformers: one pass reads and scores a prompt.

    Args:
        base: The model, as typed.
        folder: The guard.
        elsewhere: Whether the model is to run in a server or in llama.cpp, where its states cannot be read.

    Raises:
        BadInputError: No guard, one of another model, or a model that runs elsewhere.
        UnknownNameError: The name has none of the known forms.
    """
    if elsewhere:
        raise BadInputError(
            f"model '{base}+{folder}': a guard reads states inside a model that transformers runs here; leave the "
            f"option out, or name the model alone and --signal guard:{folder}"
        )
    from demur.inside.guard_serving import guarded_model
    from demur.inside.guard_store import check_model, guard_identity, load_guard
    from demur.jobs.steering import control_tokens, known_identity
    from demur.models import base_name, parse_model

    spec = parse_model(base)
    guard, record = load_guard(folder)
    known = known_identity(spec)
    if known is not None:
        check_model(record, known)
    return guarded_model(
        guard,
        _loader(base, record.model),
        name=base_name(spec),
        identity=guard_identity(record),
        control=control_tokens(spec),
    )


def _loader(base: str, identity: str) -> Callable[[], tuple[Any, Any]]:
    def load() -> tuple[Any, Any]:
        import torch

        from demur.jobs.subject import subject_of
        from demur.models.controlled_transformers import number_type

        subject = subject_of(base, dtype=number_type(torch))
        if subject.name != identity:
            raise BadInputError(f"this guard was fitted on {identity}, the model here is {subject.name}")
        return subject.model, subject.tokenizer

    return load
