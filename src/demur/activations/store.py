"""Recordings larger than memory: a folder that grows by chunks, survives being killed, and is read memory-mapped.

Space is reserved before the first prompt runs, so that a full disk is a message and not a crash; each chunk is on disk
before the record says so; a second run of the same recording continues where the first one stopped.
"""

import os
from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import ValidationError

from demur.activations.direction import RESIDUAL_CONVENTION
from demur.activations.recording import Activations, Floats, Site
from demur.activations.spans import DEFAULT_SPANS, PromptTokens
from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.data.folder import write_text

if TYPE_CHECKING:
    from demur.activations.capture import Wanted
    from demur.activations.record import RecordOptions
    from demur.activations.subject import Subject

RECORD = "activations.json"


class StoreRecord(Frozen):
    """What a store holds; `activations.json` in its folder.

    Attributes:
        format: Version of the record.
        convention: What residual indices mean.
        model: Identity of the model.
        prompts: Hash of the token ids and positions, in order.
        n: Prompts in all.
        done: Prompts recorded so far, from the first.
        spans: Second axis.
        layers: Third axis, by site.
        widths: Further axes, by site.
    """

    format: Literal[1] = 1
    convention: str = RESIDUAL_CONVENTION
    model: str
    prompts: str
    n: int
    done: int = 0
    spans: tuple[str, ...]
    layers: dict[Site, tuple[int, ...]]
    widths: dict[Site, tuple[int, ...]]

    def shape(self, site: Site) -> tuple[int, ...]:
        """Shape of a site's array."""
        return (self.n, len(self.spans), len(self.layers[site]), *self.widths[site])


def record_to(
    folder: Path,
    subject: "Subject",
    prompts: Sequence[PromptTokens],
    *,
    sites: Sequence[Site] = ("resid",),
    spans: Sequence[str] = DEFAULT_SPANS,
    layers: Sequence[int] | None = None,
    options: "RecordOptions | None" = None,
) -> Activations:
    """Record states of many prompts into a folder; a recording that was begun there is continued.

    Args:
        folder: Folder of the store; made if it is not there.
        subject: The model.
        prompts: Tokenized prompts; the same ones in the same order when a recording is continued.
        sites: What to record, as for `demur.activations.record.record`.
        spans: Names of positions.
        layers: Residual indices or block numbers; all by default.
        options: How to run.

    Returns:
        The finished recording, memory-mapped.

    Raises:
        BadInputError: The folder holds another recording, the disk is full, or as for `record`.
    """
    from demur.activations.capture import wanted_layers
    from demur.activations.record import RecordOptions, record

    how = options or RecordOptions()
    wanted = wanted_layers(subject.parts, sites, layers)
    state = _begun(folder, _planned(subject, prompts, wanted, tuple(spans)))
    for begin in range(state.done, state.n, how.chunk_rows):
        chunk = prompts[begin : begin + how.chunk_rows]
        found = record(subject, chunk, sites=sites, spans=spans, layers=layers, options=replace(how, progress=None))
        for site in wanted:
            _write(folder, site, found.of(site).values, begin)
        state = state.model_copy(update={"done": begin + len(chunk)})
        write_text(folder / RECORD, state.model_dump_json(indent=1) + "\n")
        if how.progress:
            how.progress(state.done, state.n)
    return open_store(folder, for_model=subject.name)


def open_store(folder: Path, *, for_model: str | None = None) -> Activations:
    """Read a finished store, memory-mapped and read-only.

    Args:
        folder: Folder written by `record_to`.
        for_model: Identity of the model it must be of; None = not compared.

    Raises:
        BadInputError: There is no finished store, or it is of another model or convention.
    """
    state = _read(folder)
    if state.done < state.n:
        raise BadInputError(
            f"{folder}: {state.done} of {state.n} prompts are recorded; run the recording again to go on"
        )
    if for_model is not None and state.model != for_model:
        raise BadInputError(f"{folder}: recorded on {state.model}, the model here is {for_model}; record it anew")
    found = [
        Activations(values=_mapped(folder, state, site), layers=layers, spans=state.spans, site=site, model=state.model)
        for site, layers in state.layers.items()
    ]
    return replace(found[0], others=tuple(found[1:]))


def prompts_hash(prompts: Sequence[PromptTokens], spans: Sequence[str] = ()) -> str:
    """Eight hex digits over the token ids and the named positions of prompts, in order."""
    digest = sha256()
    for prompt in prompts:
        positions = [prompt.position(span) for span in spans]
        digest.update(np.asarray([len(prompt.ids), *prompt.ids, *positions], dtype=np.int64).tobytes())
    return digest.hexdigest()[:8]


def _planned(
    subject: "Subject", prompts: Sequence[PromptTokens], wanted: "Wanted", spans: tuple[str, ...]
) -> StoreRecord:
    parts = subject.parts
    heads, stream = (parts.n_heads, parts.head_dim), (parts.d_model,)
    return StoreRecord(
        model=subject.name,
        prompts=prompts_hash(prompts, spans),
        n=len(prompts),
        spans=spans,
        layers=dict(wanted),
        widths={site: heads if site == "head_out" else stream for site in wanted},
    )


def _begun(folder: Path, planned: StoreRecord) -> StoreRecord:
    """The state of a store: what is there already, else a new one with its space reserved."""
    if (folder / RECORD).is_file():
        held = _read(folder)
        different = [
            name
            for name in StoreRecord.model_fields
            if name != "done" and getattr(held, name) != getattr(planned, name)
        ]
        if different:
            raise BadInputError(
                f"{folder} holds another recording ({different[0]}: {getattr(held, different[0])!r}, now "
                f"{getattr(planned, different[0])!r}); choose another folder or remove it"
            )
        return held
    for site in planned.layers:
        reserve(folder / _name(site), planned.shape(site))
    write_text(folder / RECORD, planned.model_dump_json(indent=1) + "\n")
    return planned


def reserve(path: Path, shape: tuple[int, ...]) -> None:
    """Make an array file of float32 with all its space on disk, so that writing into it later cannot fail.

    Raises:
        BadInputError: There is not that much space; no file is left.
    """
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("wb") as file:
            np.lib.format.write_array_header_1_0(file, header)
            size = file.tell() + 4 * int(np.prod(shape))
            file.flush()
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
    except OSError as error:
        path.unlink(missing_ok=True)
        raise BadInputError(
            f"{path}: cannot reserve {4 * np.prod(shape) / 1e9:.2f} GB: {error.strerror or error}; free space, choose "
            "another folder, or ask for fewer layers"
        ) from None


def _write(folder: Path, site: Site, values: Floats, begin: int) -> None:
    array = np.lib.format.open_memmap(folder / _name(site), mode="r+")
    array[begin : begin + len(values)] = values
    array.flush()


def _mapped(folder: Path, state: StoreRecord, site: Site) -> Floats:
    path = folder / _name(site)
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise BadInputError(
            f"{path}: expected recorded states; {str(error).splitlines()[0]}; record them anew"
        ) from None
    if array.shape != state.shape(site):
        raise BadInputError(f"{path}: expected shape {state.shape(site)}, got {array.shape}; record it anew")
    found: Floats = array
    return found


def _read(folder: Path) -> StoreRecord:
    path = folder / RECORD
    try:
        state = StoreRecord.model_validate_json(path.read_text(encoding="utf-8"))
    except OSError:
        raise BadInputError(f"{folder}: expected a folder of recorded states with {RECORD}, found none") from None
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error, whole='record')}; record the states anew") from None
    if state.convention != RESIDUAL_CONVENTION:
        raise BadInputError(f"{path}: convention: expected {RESIDUAL_CONVENTION!r}, got {state.convention!r}")
    return state


def _name(site: Site) -> str:
    return f"{site}.npy"
