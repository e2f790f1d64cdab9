"""A machine in one file: arrays and a JSON header inside an `.npz` archive, read without unpickling anything.

The compiled kernels check no bounds, so everything that a file says about sizes is checked before a machine is made
of it.
"""

import io
import json
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError
from demur.data.folder import write_bytes
from demur.tsetlin.arrays import Clauses
from demur.tsetlin.calibration import Calibration
from demur.tsetlin.lanes import LOW_PLANES
from demur.tsetlin.machine import Machine, real_bits
from demur.tsetlin.rules import Evidence

FORMAT = "demur-tsetlin"
VERSION = 1
HEADER = ("threshold", "slope", "measured", "can_learn", "settings", "classes", "names", "n_iter", "stream")
BROKEN = (KeyError, ValueError, OSError, EOFError, TypeError, AttributeError, zipfile.BadZipFile, zlib.error)

Arrays = dict[str, NDArray[Any]]


def write_machine(
    path: Path, machine: Machine, evidence: Evidence, calibration: Calibration, header: dict[str, Any]
) -> None:
    """Write everything needed to vote and, if the machine still can, to learn on.

    Args:
        path: File to write; it is replaced whole or not at all.
        machine: The machine.
        evidence: What its clauses did on the rows it learned from.
        calibration: How its votes become probabilities.
        header: What else to remember; anything JSON can say.

    Raises:
        BadInputError: The file cannot be written.
    """
    clauses = machine.clauses
    about = {
        "format": FORMAT,
        "version": VERSION,
        "threshold": calibration.threshold,
        "slope": calibration.slope,
        "measured": calibration.measured,
        "can_learn": machine.can_learn,
        **header,
    }
    arrays: Arrays = {
        "header": np.frombuffer(json.dumps(about, default=_plain).encode(), np.uint8),
        "included": clauses.included,
        "weight": clauses.weight,
        "sign": clauses.sign,
        "bank": clauses.bank,
        "frequency": machine.frequency,
        "offsets": calibration.offsets,
        "support": evidence.support,
        "right": evidence.right,
        "examples": evidence.examples,
    }
    if machine.can_learn:
        arrays["counters"] = clauses.counters
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    write_bytes(path, file.getvalue())


def header_of(classifier: Any) -> dict[str, Any]:
    """What a classifier is besides its machine.

    Raises:
        BadInputError: Its labels are neither numbers, booleans nor strings.
    """
    classes = classifier.classes_
    if not all(isinstance(label, str | bool | int | float) for label in classes.tolist()):
        raise BadInputError(f"labels must be numbers, booleans or strings to be saved, not {classes.tolist()!r}")
    settings = classifier.get_params()
    if isinstance(settings["random_state"], np.random.RandomState):
        settings["random_state"] = None  # its state is in the stream below
    return {
        "settings": settings,
        "classes": classes.tolist(),
        "classes_dtype": classes.dtype.str,
        "names": classifier._names,
        "named_columns": hasattr(classifier, "feature_names_in_"),
        "n_iter": classifier.n_iter_,
        "stream": classifier._stream.bit_generator.state,
    }


def restore(classifier: Any, header: dict[str, Any]) -> None:
    """Undo `header_of`."""
    dtype = np.dtype(header["classes_dtype"])
    classifier.classes_ = np.array(header["classes"], dtype=dtype)
    classifier._names, classifier.n_iter_ = header["names"], header["n_iter"]
    classifier.n_features_in_ = len(header["names"])
    if header["named_columns"]:
        classifier.feature_names_in_ = np.array(header["names"], dtype=object)
    classifier._stream = np.random.default_rng()
    classifier._stream.bit_generator.state = header["stream"]


def read_machine(path: Path) -> tuple[Machine, Evidence, Calibration, dict[str, Any]]:
    """Read what `write_machine` wrote.

    Raises:
        BadInputError: There is no such file, it is no saved Tsetlin machine, or a newer version wrote it.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            arrays: Arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays["header"].tobytes())
        newer = header["format"] == FORMAT and int(header["version"]) > VERSION
        if not newer:
            _check(arrays, header)
    except FileNotFoundError:
        raise BadInputError(f"{path}: no such file; expected a Tsetlin machine saved by demur (.npz)") from None
    except BROKEN as error:
        raise BadInputError(f"{path}: expected a Tsetlin machine saved by demur (.npz): {error}") from None
    if newer:
        raise BadInputError(f"{path}: written by a newer demur (format {header['version']}); update demur to read it")
    counters = arrays.get("counters", np.zeros((0, 0), np.uint64))
    parts = (np.ascontiguousarray(arrays[name]) for name in ("included", "weight", "sign", "bank"))
    machine = Machine(Clauses(counters, *parts), arrays["frequency"], can_learn=bool(header["can_learn"]))
    calibration = Calibration(
        threshold=float(header["threshold"]),
        slope=float(header["slope"]),
        offsets=arrays["offsets"],
        measured=bool(header["measured"]),
    )
    return machine, Evidence(arrays["support"], arrays["right"], arrays["examples"]), calibration, header


def _check(arrays: Arrays, header: dict[str, Any]) -> None:
    """Raise ValueError unless sizes, kinds and ranges fit together."""
    if header["format"] != FORMAT:
        raise ValueError(f"the format is {header['format']!r}")
    missing = [name for name in HEADER if name not in header]
    if missing:
        raise ValueError(f"the header lacks {missing[0]!r}")
    n_features, n_clauses = len(header["names"]), len(arrays["weight"])
    half = len(real_bits(n_features))
    n_words = arrays["included"].shape[-1]
    if n_words not in (half, 2 * half):
        raise ValueError(f"{n_words} words of literals do not fit {n_features} features")
    banks = 1 if len(header["classes"]) == 2 else len(header["classes"])
    shapes: dict[str, tuple[type, tuple[int, ...]]] = {
        "included": (np.uint64, (n_clauses, n_words)),
        "weight": (np.int64, (n_clauses,)),
        "sign": (np.int64, (n_clauses,)),
        "bank": (np.int64, (n_clauses,)),
        "frequency": (np.int64, (n_features,)),
        "offsets": (np.float64, (len(header["classes"]),)),
        "support": (np.int64, (n_clauses,)),
        "right": (np.int64, (n_clauses,)),
        "examples": (np.int64, (n_clauses, arrays["examples"].shape[-1])),
    }
    if header["can_learn"]:
        shapes["counters"] = (np.uint64, (n_clauses, n_words * LOW_PLANES))
    for name, (kind, shape) in shapes.items():
        if arrays[name].dtype != kind or arrays[name].shape != shape:
            raise ValueError(f"{name} is {arrays[name].dtype}{arrays[name].shape}, not {np.dtype(kind)}{shape}")
    if n_clauses % banks or not np.array_equal(arrays["bank"], np.repeat(np.arange(banks), n_clauses // banks)):
        raise ValueError(f"the clauses are not shared out among {banks} banks")
    real = np.tile(real_bits(n_features), n_words // half)
    if (np.abs(arrays["sign"]) != 1).any() or (arrays["weight"] < 0).any() or (arrays["included"] & ~real).any():
        raise ValueError("a sign, a weight or a literal is out of range")


def _plain(value: Any) -> Any:
    """Numbers of NumPy, which settings may be, as Python's."""
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} cannot be saved")
