"""A guard's folder: `demur_guard.json`, its mean states, and the prompts it was fitted on with states at one layer.

Plain JSON and safetensors. A folder of another model or convention, or with means that are not its record's, is
refused.
"""

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from demur.activations.direction import RESIDUAL_CONVENTION
from demur.core.errors import BadInputError, MissingExtraError, first_complaint
from demur.core.exchange import Frozen
from demur.data.folder import write_bytes, write_text
from demur.inside.guard import GuardOptions, LatentGuard
from demur.inside.guard_calibration import Calibration
from demur.inside.guard_examples import Example, Examples
from demur.inside.guard_geometry import Geometry, Metric

GUARD_FILE = "demur_guard.json"
MEANS_FILE = "means.safetensors"
EXAMPLES_FILE = "examples.jsonl"
STATES_FILE = "examples.safetensors"
_MEANS = ("harmful", "harmless", "by_category")
_GEOMETRY = ("centre", "scale", "normals")


class GuardRecord(Frozen):
    """The record `demur_guard.json`.

    Attributes:
        format: Version of the record.
        convention: What a residual index means.
        model: Identity of the model.
        source: The model's name as typed.
        span: Template span that is read.
        layers: Residual indices.
        metric: How states are compared; see `demur.inside.guard_geometry`.
        augmented: Whether extra rows joined the means.
        nearest: Whether the nearest category's mean decides.
        categories: Harmful kinds with a mean of their own.
        n_harmful: Prompts behind the harmful mean.
        n_harmless: Prompts behind the harmless mean.
        data_hash: Hash of the prompts fitted on.
        means: SHA-256 of the file of means.
        calibration: Threshold and probabilities.
        manifest: How it was made.
    """

    format: Literal[1] = 1
    convention: str = RESIDUAL_CONVENTION
    model: str
    source: str
    span: str
    layers: Annotated[tuple[Annotated[int, Field(ge=0)], ...], Field(min_length=1)]
    metric: Metric
    augmented: bool
    nearest: bool
    categories: tuple[str, ...]
    n_harmful: int
    n_harmless: int
    data_hash: str
    means: str
    calibration: Calibration | None
    manifest: dict[str, Any] = {}


def is_guard_folder(folder: Path) -> bool:
    """Whether a folder says it holds a guard."""
    return (folder / GUARD_FILE).is_file()


def save_guard(
    folder: Path,
    guard: LatentGuard,
    *,
    source: str = "",
    examples: Examples | None = None,
    manifest: Mapping[str, Any] | None = None,
) -> Path:
    """Write a guard; the record comes last, so that a folder with a record is whole.

    Args:
        folder: Made if it is not there. An earlier guard in it is replaced.
        guard: What to write.
        source: The model's name, so that the guard can be applied without naming it again.
        examples: Prompts it was fitted on; their texts are then part of the folder.
        manifest: How it was made, for people.

    Returns:
        The record's path.

    Raises:
        BadInputError: The folder holds something else, or cannot be written.
    """
    check_place(folder)
    tensors = {name: getattr(guard, name) for name in _MEANS} | {n: getattr(guard.geometry, n) for n in _GEOMETRY}
    means = _packed({name: np.asarray(value, dtype=np.float64) for name, value in tensors.items()})
    write_bytes(folder / MEANS_FILE, means)
    for name in (EXAMPLES_FILE, STATES_FILE):
        (folder / name).unlink(missing_ok=True)
    if examples is not None:
        states = {"states": examples.states.astype(np.float32), "layer": np.array([examples.layer])}
        write_bytes(folder / STATES_FILE, _packed(states))
        write_text(folder / EXAMPLES_FILE, "".join(row.model_dump_json() + "\n" for row in examples.rows))
    record = GuardRecord(
        model=guard.model,
        source=source,
        span=guard.options.span,
        layers=guard.layers,
        metric=guard.options.metric,
        augmented=guard.options.augment,
        nearest=guard.options.nearest,
        categories=guard.categories,
        n_harmful=guard.n_harmful,
        n_harmless=guard.n_harmless,
        data_hash=guard.data_hash,
        means=sha256(means).hexdigest(),
        calibration=guard.calibration,
        manifest=dict(manifest or {}),
    )
    write_text(folder / GUARD_FILE, record.model_dump_json(indent=1) + "\n")
    return folder / GUARD_FILE


def check_place(folder: Path) -> None:
    """Make sure that writing a guard there destroys nothing else.

    Raises:
        BadInputError: The folder holds something that is no guard.
    """
    if folder.exists() and (not folder.is_dir() or (any(folder.iterdir()) and not is_guard_folder(folder))):
        raise BadInputError(f"{folder}: holds something that is no guard; choose another --out")


def load_guard(folder: Path, *, for_model: str | None = None) -> tuple[LatentGuard, GuardRecord]:
    """Read a guard, and make sure that it belongs where it is to be used.

    Args:
        folder: Written by `save_guard`.
        for_model: Identity of the model it will be used on; None = not compared.

    Raises:
        BadInputError: Incomplete, malformed, or of another model or convention; names the file and the field.
    """
    record = read_record(folder)
    path = folder / GUARD_FILE
    if record.convention != RESIDUAL_CONVENTION:
        raise BadInputError(
            f"{path}: convention: expected {RESIDUAL_CONVENTION!r}, got {record.convention!r}; fit the guard again"
        )
    if for_model is not None:
        check_model(record, for_model)
    tensors = _unpacked(folder / MEANS_FILE, sha=record.means)
    try:
        guard = _guard(record, tensors)
    except (KeyError, ValueError, TypeError) as error:
        raise BadInputError(f"{folder / MEANS_FILE}: {error}; fit the guard again") from None
    return guard, record


def read_record(folder: Path) -> GuardRecord:
    """The record of a guard's folder.

    Raises:
        BadInputError: There is none, or it is malformed.
    """
    path = folder / GUARD_FILE
    try:
        return GuardRecord.model_validate_json(path.read_bytes())
    except OSError:
        raise BadInputError(f"{folder}: expected {GUARD_FILE}; make one with 'demur guard fit MODEL --out'") from None
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error)}; fit the guard again") from None


def check_model(record: GuardRecord, model: str) -> None:
    """Make sure that a guard is of a model.

    Raises:
        BadInputError: It is of another.
    """
    if record.model != model:
        raise BadInputError(
            f"guard: model: this guard was fitted on {record.model}, the model here is {model}; "
            "use that model, or fit one on this with 'demur guard fit'"
        )


def load_examples(folder: Path) -> Examples | None:
    """The prompts a guard was fitted on; None where they were not kept.

    Raises:
        BadInputError: They are malformed.
    """
    if not (folder / EXAMPLES_FILE).is_file():
        return None
    tensors = _unpacked(folder / STATES_FILE)
    try:
        lines = (folder / EXAMPLES_FILE).read_text(encoding="utf-8").split("\n")
        rows = tuple(Example.model_validate_json(line) for line in lines if line)
        return Examples(rows=rows, states=tensors["states"], layer=int(tensors["layer"][0]))
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise BadInputError(f"{folder / EXAMPLES_FILE}: {reason}; fit the guard again") from None


def guard_identity(record: GuardRecord) -> str:
    """What scores depend on, as the key of caches and policies: model, means and how they are compared."""
    shown = record.model_dump(mode="json", exclude={"manifest", "source", "n_harmful", "n_harmless", "data_hash"})
    digest = sha256(json.dumps(shown, sort_keys=True).encode()).hexdigest()[:8]
    return f"{record.model}!guard:{digest}"


def _guard(record: GuardRecord, tensors: Mapping[str, np.ndarray[Any, Any]]) -> LatentGuard:
    shape = (len(record.layers), tensors["harmful"].shape[-1])
    expected: dict[str, tuple[int, ...]] = dict.fromkeys((*_MEANS, *_GEOMETRY), shape)
    expected |= {
        "by_category": (len(record.categories), *shape),
        "normals": shape if record.metric == "learned" else (0, shape[1]),
    }
    for name, wanted in expected.items():
        if tensors[name].shape != wanted or not np.isfinite(tensors[name]).all():
            raise ValueError(f"{name}: expected finite numbers {wanted}, got {tensors[name].shape}")
    options = GuardOptions(
        span=record.span,
        layers=record.layers,
        metric=record.metric,
        augment=record.augmented,
        nearest=record.nearest,
    )
    return LatentGuard(
        model=record.model,
        options=options,
        categories=record.categories,
        n_harmful=record.n_harmful,
        n_harmless=record.n_harmless,
        data_hash=record.data_hash,
        calibration=record.calibration,
        geometry=Geometry(**{name: np.asarray(tensors[name], dtype=np.float64) for name in _GEOMETRY}),
        **{name: np.asarray(tensors[name], dtype=np.float64) for name in _MEANS},
    )


def _packed(tensors: Mapping[str, np.ndarray[Any, Any]]) -> bytes:
    data: bytes = _safetensors().numpy.save({name: np.ascontiguousarray(value) for name, value in tensors.items()})
    return data


def _unpacked(path: Path, *, sha: str | None = None) -> dict[str, np.ndarray[Any, Any]]:
    library = _safetensors()
    try:
        data = path.read_bytes()
        found: dict[str, np.ndarray[Any, Any]] = library.numpy.load(data)
    except (OSError, ValueError, library.SafetensorError) as error:
        raise BadInputError(f"{path}: expected safetensors of a guard; {str(error).splitlines()[0]}") from None
    if sha is not None and sha256(data).hexdigest() != sha:
        raise BadInputError(f"{path}: is not the file that {GUARD_FILE} was written with; fit the guard again")
    return found


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise MissingExtraError("files of guards", extra="hf") from None
    return safetensors
