"""Additions as a control vector for llama.cpp (`--control-vector FILE`): what that format cannot hold is refused.

It adds one vector to the output of each block from 1 on, for every token of every sequence: no gates, no positions, no
ablation. Tensor 'direction.N' belongs to the output of block N, which is h^(N+1), so h^0 and h^1 cannot be reached.
"""

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError
from demur.data.folder import write_bytes
from demur.models.gguf_header import read_header
from demur.steer.interventions import AddDirection, Intervention, blocks_of

FIRST_INDEX = 2
_VERSION, _ALIGNMENT, _F32 = 3, 32, 0
_U32, _STRING = 4, 8


def control_vector(interventions: Sequence[Intervention], *, n_layers: int) -> dict[int, NDArray[np.float32]]:
    """What to add to the output of each block, by number; float32 (d,) each.

    Args:
        interventions: Additions to all tokens, without gates, at residual indices from 2 on.
        n_layers: Blocks of the model.

    Raises:
        BadInputError: One that a control vector cannot express; the message says which part.
    """
    total: dict[int, NDArray[np.float64]] = {}
    for found in interventions:
        _check(found, n_layers)
        assert isinstance(found, AddDirection)
        for index in blocks_of(found, n_layers):
            shift = found.amount(index) * found.direction.vector.astype(np.float64)
            total[index - 1] = total.get(index - 1, 0.0) + shift
    return {block: vector.astype(np.float32) for block, vector in sorted(total.items())}


def write_control_vector(
    path: Path,
    interventions: Sequence[Intervention],
    *,
    n_layers: int,
    architecture: str,
    notes: Mapping[str, str] | None = None,
) -> list[int]:
    """Write a control vector; strengths are in it, so llama.cpp takes it at scale 1.

    Args:
        path: A .gguf file.
        interventions: See `control_vector`.
        n_layers: Blocks of the model.
        architecture: The model's, as GGUF calls it, e.g. 'llama'.
        notes: Further texts to store, by key under 'demur.'.

    Returns:
        Blocks whose output is changed.

    Raises:
        BadInputError: Something a control vector cannot express, or the file cannot be written.
    """
    if path.suffix != ".gguf":
        raise BadInputError(f"{path}: expected a file ending in .gguf, got {path.suffix!r}; rename it")
    vectors = control_vector(interventions, n_layers=n_layers)
    if not vectors:
        raise BadInputError(f"{path}: expected an addition of some strength, got none; there is nothing to export")
    texts = {"general.architecture": "controlvector", "controlvector.model_hint": architecture}
    texts |= {f"demur.{key}": value for key, value in (notes or {}).items()}
    values = b"".join(_key(key, _STRING) + _text(value) for key, value in texts.items())
    values += _key("controlvector.layer_count", _U32) + struct.pack("<I", len(vectors))
    infos, data = b"", b""
    for block, vector in vectors.items():
        infos += _text(f"direction.{block}") + struct.pack("<IQIQ", 1, len(vector), _F32, len(data))
        data += _aligned(vector.astype("<f4").tobytes())
    head = struct.pack("<4sIQQ", b"GGUF", _VERSION, len(vectors), len(texts) + 1) + values + infos
    write_bytes(path, _aligned(head) + data)
    return list(vectors)


def architecture_of(path: Path) -> str:
    """Architecture of a model's GGUF file, as a control vector's hint."""
    return read_header(path).architecture


def _check(found: Intervention, n_layers: int) -> None:
    what = f"direction {found.direction.name!r}"
    if not isinstance(found, AddDirection):
        raise BadInputError(f"{what}: a control vector can only add, not ablate; bake ablations into the weights")
    if found.gate is not None or found.where.positions != "all":
        raise BadInputError(
            f"{what}: a control vector acts on every token of every request: no gates, no positions; "
            "serve the steering with demur instead"
        )
    for index in blocks_of(found, n_layers):
        if index < FIRST_INDEX:
            raise BadInputError(
                f"{what}: residual index {index}: a control vector begins at the output of block 1, which is index "
                f"{FIRST_INDEX}; add it at a later block"
            )


def _key(name: str, kind: int) -> bytes:
    return _text(name) + struct.pack("<I", kind)


def _text(text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    return struct.pack("<Q", len(data)) + data


def _aligned(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % _ALIGNMENT)
