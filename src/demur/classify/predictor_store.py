"""A predictor as a folder: JSON and plain arrays, checked by hash, nothing that runs code when it is read.

predictor.json    format, settings, stacking weights, SHA-256 of the other two
vocabulary.json   n-grams by view
arrays.npz        weights by view
"""

import io
import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.design import View
from demur.classify.predictor import RefusalPredictor
from demur.classify.prompt_features import DenseView, GramView, KernelView
from demur.classify.stacking import Stack, Weighing
from demur.core.errors import BadInputError
from demur.data.folder import write_bytes, write_json

FORMAT = 1
KIND = "demur refusal predictor"
HEADER = "predictor.json"
# How a view is stored: its class and its arrays.
FORMS: dict[str, tuple[type[View], tuple[str, ...]]] = {
    "grams": (GramView, ("idf", "coefficients")),
    "dense": (DenseView, ("centre", "scale", "coefficients")),
    "kernel": (KernelView, ("landmarks", "coefficients")),
}
_REMEDY = "fit it again with 'demur predict fit'"


def save_predictor(predictor: RefusalPredictor, folder: Path, *, about: dict[str, Any] | None = None) -> None:
    """Write a fitted predictor into a folder; the header comes last, so that half a predictor is none.

    Raises:
        BadInputError: The folder cannot be written.
    """
    stacks = _stacks(predictor)
    arrays: dict[str, NDArray[Any]] = {name: stack.weights for name, stack in stacks.items()}
    vocabulary: dict[str, list[str]] = {}
    views: list[dict[str, Any]] = []
    for name, view in predictor.views_.items():
        entry: dict[str, Any] = {"name": name, "kind": view.kind, "intercept": view.intercept}
        entry["form"] = next(form for form, (cls, _) in FORMS.items() if isinstance(view, cls))
        if isinstance(view, GramView):
            # All known n-grams stay: those of weight 0 take part in a row's length.
            used = np.flatnonzero(view.idf > 0)
            vocabulary[name] = [view.grams[i] for i in used]
            arrays[f"{name}.idf"], arrays[f"{name}.coefficients"] = view.idf[used], view.coefficients[used]
        else:
            arrays |= {f"{name}.{part}": getattr(view, part) for part in FORMS[entry["form"]][1]}
        views.append(entry)
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]  # names are not those of its own parameters
    words = json.dumps(vocabulary, ensure_ascii=True).encode("ascii")
    (folder / HEADER).unlink(missing_ok=True)
    write_bytes(folder / "arrays.npz", buffer.getvalue())
    write_bytes(folder / "vocabulary.json", words)
    header = {
        "kind": KIND,
        "format": FORMAT,
        "settings": {
            "views": list(predictor.views),
            "penalties": predictor.penalties,
            "n_folds": predictor.n_folds,
            "random_state": predictor.random_state,
        },
        "classes": [_plain(c) for c in predictor.classes_],
        "views": views,
        "n_others": predictor.n_others_,
        "stacks": {name: {"intercept": stack.intercept, "limit": stack.limit} for name, stack in stacks.items()},
        "templates": predictor.patterns_,
        "sha256": {"arrays.npz": sha256(buffer.getvalue()).hexdigest(), "vocabulary.json": sha256(words).hexdigest()},
        "about": about or {},
    }
    write_json(folder / HEADER, header)


def _stacks(predictor: RefusalPredictor) -> dict[str, Stack]:
    found = {"new.whole": predictor.new_.whole, "new.alone": predictor.new_.alone}
    if predictor.known_ is not None:
        found |= {"known.whole": predictor.known_.whole, "known.alone": predictor.known_.alone}
    return found


def load_predictor(folder: Path) -> tuple[RefusalPredictor, dict[str, Any]]:
    """Read a predictor, and what its fit noted about it.

    Raises:
        BadInputError: No predictor there, one of another format, or a damaged one.
    """
    header = _header(folder)
    try:
        parts = {name: _checked(folder / name, digest) for name, digest in header["sha256"].items()}
        vocabulary = json.loads(parts["vocabulary.json"])
        with np.load(io.BytesIO(parts["arrays.npz"]), allow_pickle=False) as stored:
            arrays = {name: stored[name] for name in stored.files}
        predictor = RefusalPredictor(**header["settings"])
        predictor.classes_ = np.array(header["classes"])
        predictor.views_ = {entry["name"]: _view(entry, arrays, vocabulary) for entry in header["views"]}
        predictor.n_others_ = int(header["n_others"])
        stacks = {name: Stack(weights=arrays[name], **rest) for name, rest in header["stacks"].items()}
        predictor.new_ = Weighing(whole=stacks["new.whole"], alone=stacks["new.alone"])
        predictor.known_ = None
        if "known.whole" in stacks:
            predictor.known_ = Weighing(whole=stacks["known.whole"], alone=stacks["known.alone"])
        predictor.patterns_ = tuple((tuple(first), tuple(last)) for first, last in header["templates"])
        about = dict(header["about"])
    except (KeyError, TypeError, ValueError, EOFError) as error:
        raise BadInputError(f"{folder}: expected a whole predictor, got a damaged one ({error}); {_REMEDY}") from None
    return predictor, about


def _header(folder: Path) -> dict[str, Any]:
    path = folder / HEADER
    if not path.is_file():
        raise BadInputError(f"{folder}: expected the folder of a predictor with {HEADER}, found none; {_REMEDY}")
    try:
        header = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise BadInputError(f"{path}: expected JSON, got {str(error).splitlines()[0]}; {_REMEDY}") from None
    if not isinstance(header, dict) or header.get("kind") != KIND:
        raise BadInputError(f"{path}: expected a {KIND}, got another file; {_REMEDY}")
    if header.get("format") != FORMAT:
        raise BadInputError(
            f"{path}: expected a predictor of format {FORMAT}, got {header.get('format')!r}; "
            f"{_REMEDY} or use the demur that wrote it"
        )
    return header


def _checked(path: Path, digest: str) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path.name}: {error.strerror}") from None
    if sha256(data).hexdigest() != digest:
        raise ValueError(f"{path.name} has been changed")
    return data


def _view(entry: dict[str, Any], arrays: dict[str, NDArray[Any]], vocabulary: dict[str, list[str]]) -> View:
    name = entry["name"]
    make, parts = FORMS[entry["form"]]
    stored: dict[str, Any] = {part: arrays[f"{name}.{part}"] for part in parts}
    if make is GramView:
        stored["grams"] = tuple(vocabulary[name])
    return make(kind=entry["kind"], intercept=float(entry["intercept"]), **stored)


def _plain(value: Any) -> Any:
    return value.item() if hasattr(value, "item") else value
