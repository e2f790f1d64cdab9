"""A direction in one model's residual stream, with everything needed to use it again and nothing less.

Files are plain safetensors whose header carries the record: convention, model, span, residual index, data hash and
the norm that gives coefficients their unit. A file of another model or another convention is refused.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
from pydantic import Field, ValidationError

from demur.core.errors import BadInputError, MissingExtraError, first_complaint
from demur.core.exchange import Frozen
from demur.data.folder import write_bytes

RESIDUAL_CONVENTION = "h^l = input of block l; h^L before the final norm"
_HEADER = "demur"
_UNIT_TOLERANCE = 1e-3
Floats = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]
_R = TypeVar("_R", bound=Frozen)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Direction:
    """A unit vector at one residual index and one template span of one model.

    Attributes:
        vector: Length 1; float32 (d,).
        raw_norm: Length before normalisation, in residual-stream units: `raw_norm * vector` is what was measured.
        residual_index: l of h^l, 0..L.
        span: Template span it was read at, e.g. 't_inst' or 't_post[-1]'.
        model: Identity of the model.
        name: What it stands for, e.g. 'refusal'.
        method: How it was found, e.g. 'difference_in_means'.
        data_hash: Hash of the prompts it was found on.
        n_positive: Prompts on its positive side.
        n_negative: Prompts on its negative side.
        local_norm: Median length of h^l at that span: the unit of steering strengths.
        threshold: Projection from which a prompt counts as positive; None = never calibrated.
        polarity: What a positive projection means, in words.
    """

    vector: Floats
    raw_norm: float
    residual_index: int
    span: str
    model: str
    name: str
    method: str
    data_hash: str = ""
    n_positive: int = 0
    n_negative: int = 0
    local_norm: float = 1.0
    threshold: float | None = None
    polarity: str = ""

    def __post_init__(self) -> None:
        length = float(np.linalg.norm(np.asarray(self.vector, dtype=np.float64)))
        if self.vector.ndim != 1 or not abs(length - 1.0) <= _UNIT_TOLERANCE:  # nan fails too
            raise ValueError(f"vector must be one of length 1, got shape {self.vector.shape} and length {length:.4g}")
        object.__setattr__(self, "vector", np.ascontiguousarray(self.vector, dtype=np.float32))

    @property
    def raw(self) -> Floats:
        """The vector as measured, `raw_norm * vector`; float32 (d,)."""
        return (self.raw_norm * self.vector).astype(np.float32)

    def __neg__(self) -> "Direction":
        threshold = None if self.threshold is None else -self.threshold
        return replace(self, vector=-self.vector, threshold=threshold, polarity=_negated(self.polarity))

    def __add__(self, other: "Direction") -> "Direction":
        """The sum of the two raw vectors, at the same place of the same model; counts and threshold are dropped."""
        self._check_same_place(other)
        total = self.raw.astype(np.float64) + other.raw
        norm = float(np.linalg.norm(total))
        if norm == 0.0:
            raise ValueError(f"directions {self.name!r} and {other.name!r} cancel out; there is no direction left")
        return replace(
            self,
            vector=(total / norm).astype(np.float32),
            raw_norm=norm,
            name=f"{self.name}+{other.name}",
            method="sum",
            data_hash="",
            n_positive=0,
            n_negative=0,
            threshold=None,
            polarity="",
        )

    def __sub__(self, other: "Direction") -> "Direction":
        return self + (-other)

    def scaled(self, factor: float) -> "Direction":
        """The same direction with its raw length multiplied; a negative factor also turns it round."""
        if factor == 0.0:
            raise ValueError("a direction scaled by 0 is none; use strength 0 when steering")
        turned = self if factor > 0 else -self
        return replace(turned, raw_norm=abs(factor) * self.raw_norm)

    def shift(self, strength: float) -> Floats:
        """What steering adds: `strength` local residual norms along the direction; float32 (d,)."""
        return (strength * self.local_norm * self.vector).astype(np.float32)

    def cosine(self, other: "Direction") -> float:
        """Cosine similarity in [-1, 1]; only meaningful within one model, or a model and its adapter."""
        return float(self.vector.astype(np.float64) @ other.vector.astype(np.float64))

    def project(self, states: npt.NDArray[Any]) -> Doubles:
        """Length of states along the direction; (..., d) -> float64 (...)."""
        projected: Doubles = np.asarray(states, dtype=np.float64) @ self.vector.astype(np.float64)
        return projected

    def cosines(self, states: npt.NDArray[Any]) -> Doubles:
        """Cosine of states with the direction, 0 for a state of length 0; (..., d) -> float64 (...)."""
        norms = np.linalg.norm(np.asarray(states, dtype=np.float64), axis=-1)
        quotient: Doubles = self.project(states) / np.where(norms > 0, norms, 1.0)
        return quotient

    def _check_same_place(self, other: "Direction") -> None:
        for field in ("model", "residual_index", "span"):
            ours, theirs = getattr(self, field), getattr(other, field)
            if ours != theirs:
                raise ValueError(f"directions differ in {field}: {ours!r} and {theirs!r}")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class DirectionMap:
    """One direction for each span and residual index, unnormalised: what a layer by position picture shows.

    Attributes:
        vectors: As measured, not of length 1; float32 (n_spans, n_layers, d).
        local_norms: Median length of the states; float32 (n_spans, n_layers).
        spans: Names of the first axis.
        layers: Residual indices of the second axis.
        model, name, method, data_hash, n_positive, n_negative, polarity: As in `Direction`.
    """

    vectors: Floats
    local_norms: Floats
    spans: tuple[str, ...]
    layers: tuple[int, ...]
    model: str
    name: str
    method: str
    data_hash: str = ""
    n_positive: int = 0
    n_negative: int = 0
    polarity: str = ""

    def __post_init__(self) -> None:
        expected = (len(self.spans), len(self.layers))
        if self.vectors.shape[:-1] != expected or self.local_norms.shape != expected:
            raise ValueError(
                f"expected vectors {(*expected, 'd')} and norms {expected}, got {self.vectors.shape} "
                f"and {self.local_norms.shape}"
            )

    def at(self, span: str, layer: int) -> Direction:
        """The direction at one place.

        Raises:
            BadInputError: The place was not recorded, or the two sides coincide there.
        """
        if span not in self.spans or layer not in self.layers:
            raise BadInputError(
                f"directions {self.name!r} have no span {span!r} at residual index {layer}; they have "
                f"{', '.join(self.spans)} at {self.layers[0]}..{self.layers[-1]}"
            )
        s, i = self.spans.index(span), self.layers.index(layer)
        raw = self.vectors[s, i].astype(np.float64)
        norm = float(np.linalg.norm(raw))
        if not norm > 0.0:
            raise BadInputError(f"directions {self.name!r} at {span}, residual index {layer}: the two sides coincide")
        return Direction(
            vector=(raw / norm).astype(np.float32),
            raw_norm=norm,
            residual_index=layer,
            span=span,
            model=self.model,
            name=self.name,
            method=self.method,
            data_hash=self.data_hash,
            n_positive=self.n_positive,
            n_negative=self.n_negative,
            local_norm=float(self.local_norms[s, i]),
            polarity=self.polarity,
        )


class _Record(Frozen):
    format: Literal[1] = 1
    convention: str = RESIDUAL_CONVENTION
    model: str
    name: str
    method: str
    data_hash: str
    n_positive: int
    n_negative: int
    polarity: str


class _DirectionRecord(_Record):
    kind: Literal["direction"] = "direction"
    raw_norm: float
    residual_index: int = Field(ge=0)
    span: str
    local_norm: float
    threshold: float | None


class _MapRecord(_Record):
    spans: tuple[str, ...]
    layers: tuple[int, ...]


class _MapsRecord(Frozen):
    kind: Literal["direction maps"] = "direction maps"
    maps: dict[str, _MapRecord]


def save_direction(path: Path, direction: Direction) -> None:
    """Write a direction as safetensors with its record in the header; whole or not at all."""
    record = _DirectionRecord(**_fields(direction, without=("vector",)))
    write_bytes(path, _packed({"vector": direction.vector}, record))


def load_direction(path: Path, *, for_model: str | None = None, width: int | None = None) -> Direction:
    """Read a direction, and make sure that it belongs where it is to be used.

    Args:
        path: File written by `save_direction`.
        for_model: Identity of the model it will be used on; None = not compared.
        width: Width of that model's residual stream; None = not compared.

    Raises:
        BadInputError: It is no direction, or of another model, convention or width.
    """
    record, tensors = _unpacked(path, _DirectionRecord)
    _check_use(path, record, for_model)
    vector = tensors.get("vector")
    if vector is None or (width is not None and vector.shape != (width,)):
        raise BadInputError(
            f"{path}: vector: expected width {width or 'd'}, got {None if vector is None else vector.shape}; "
            "this direction was made on another model"
        )
    try:
        return Direction(vector=vector, **record.model_dump(exclude={"format", "convention", "kind"}))
    except ValueError as error:
        raise BadInputError(f"{path}: {error}; find the direction again") from None


def save_maps(path: Path, maps: Mapping[str, DirectionMap]) -> None:
    """Write several maps of directions into one file, by name; whole or not at all."""
    records = {key: _MapRecord(**_fields(m, without=("vectors", "local_norms"))) for key, m in maps.items()}
    tensors = {f"{key}/vectors": np.ascontiguousarray(m.vectors, np.float32) for key, m in maps.items()}
    norms = {f"{key}/local_norms": np.ascontiguousarray(m.local_norms, np.float32) for key, m in maps.items()}
    write_bytes(path, _packed({**tensors, **norms}, _MapsRecord(maps=records)))


def load_maps(path: Path, *, for_model: str | None = None) -> dict[str, DirectionMap]:
    """Read maps of directions by name.

    Raises:
        BadInputError: The file holds none, or is of another model or convention.
    """
    record, tensors = _unpacked(path, _MapsRecord)
    found = {}
    for key, one in record.maps.items():
        _check_use(path, one, for_model)
        try:
            found[key] = DirectionMap(
                vectors=tensors[f"{key}/vectors"],
                local_norms=tensors[f"{key}/local_norms"],
                **one.model_dump(exclude={"format", "convention"}),
            )
        except (KeyError, ValueError) as error:
            raise BadInputError(f"{path}: maps.{key}: {error}; find the directions again") from None
    return found


def _check_use(path: Path, record: _Record, for_model: str | None) -> None:
    if record.convention != RESIDUAL_CONVENTION:
        raise BadInputError(
            f"{path}: convention: expected {RESIDUAL_CONVENTION!r}, got {record.convention!r}; find the direction again"
        )
    if for_model is not None and record.model != for_model:
        raise BadInputError(
            f"{path}: model: this direction was found on {record.model}, the model here is {for_model}; "
            "use that model, or find the direction on this one with 'demur explain directions'"
        )


def _fields(record: Direction | DirectionMap, *, without: tuple[str, ...]) -> dict[str, Any]:
    return {field.name: getattr(record, field.name) for field in fields(record) if field.name not in without}


def _packed(tensors: Mapping[str, Floats], record: Frozen) -> bytes:
    data: bytes = _safetensors().numpy.save(dict(tensors), metadata={_HEADER: record.model_dump_json()})
    return data


def _unpacked(path: Path, kind: type[_R]) -> tuple[_R, dict[str, Floats]]:
    what = kind.model_fields["kind"].default
    library = _safetensors()
    try:
        data = path.read_bytes()
        tensors = library.numpy.load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")]).get("__metadata__", {})
        record = kind.model_validate_json(header[_HEADER])
    except KeyError:
        raise BadInputError(
            f"{path}: expected demur's record in the header; is this a file of 'demur explain'?"
        ) from None
    except ValidationError as error:
        raise BadInputError(f"{path}: expected a {what}; {first_complaint(error, whole='header')}") from None
    except (OSError, ValueError, library.SafetensorError) as error:
        raise BadInputError(f"{path}: expected a {what} in safetensors form; {str(error).splitlines()[0]}") from None
    return record, tensors


def _safetensors() -> Any:
    try:
        import safetensors.numpy
    except ImportError:
        raise MissingExtraError("files of directions", extra="hf") from None
    return safetensors


def _negated(polarity: str) -> str:
    return polarity.removeprefix("not: ") if polarity.startswith("not: ") else f"not: {polarity}" if polarity else ""
