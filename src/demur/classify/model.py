"""The fitted refusal model: arrays, and the probabilities that follow from them. Needs numpy only, loads at once."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.features import CUE_NAMES, N_BUCKETS, buckets, cue_features
from demur.core.errors import BadInputError

OUTCOMES = ("complied", "partial", "refused")
MANNERS = ("plain", "explains", "clarifies", "corrects", "disclaims", "redirects", "guides")
FORMAT = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class RefusalModel:
    """Two linear stages and a manner head.

    Attributes:
        words: First stage: weight of each hash bucket for each outcome; (N_BUCKETS, 3) float16.
        words_bias: (3,).
        manners: Weight of each bucket for each manner; (N_BUCKETS, 7) float16.
        manners_bias: (7,).
        cues: Second stage: weight of each first-stage score and cue for each outcome; (3 + n_cues, 3).
        cues_bias: (3,).
        centre: Mean of the second stage's inputs.
        scale: Their standard deviation.
        temperature: Divides the second stage's scores; fitted on held-out predictions.
        shift: Added to the refused score; 0 unless recalibrated on own labels.
        band: Half-width around 1/2 of p_refused inside which the model abstains.
        version: Changes when a probability could change.
        about: Training data, figures, date.
    """

    words: NDArray[np.float16]
    words_bias: NDArray[np.float64]
    manners: NDArray[np.float16]
    manners_bias: NDArray[np.float64]
    cues: NDArray[np.float64]
    cues_bias: NDArray[np.float64]
    centre: NDArray[np.float64]
    scale: NDArray[np.float64]
    temperature: float = 1.0
    shift: float = 0.0
    band: float = 0.0
    version: str = "0"
    about: str = ""

    def predict(
        self, prompts: Sequence[str], responses: Sequence[str]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Probabilities of outcomes (n, 3) and manners (n, 7) for each reply in the light of its prompt."""
        outcome_scores, manner_scores = [], []
        for prompt, response in zip(prompts, responses, strict=True):
            found = buckets(response)
            norm = np.sqrt(max(1, len(found)))
            first = self.words[found].sum(axis=0, dtype=np.float64) / norm + self.words_bias
            manner_scores.append(self.manners[found].sum(axis=0, dtype=np.float64) / norm + self.manners_bias)
            inputs = (np.concatenate([first - first.mean(), cue_features(prompt, response)]) - self.centre) / self.scale
            outcome_scores.append(inputs @ self.cues + self.cues_bias)
        if not outcome_scores:
            return np.zeros((0, 3)), np.zeros((0, 7))
        scores = np.array(outcome_scores) / self.temperature
        scores[:, 0] -= self.shift
        return softmax(scores), softmax(np.array(manner_scores))


def softmax(scores: NDArray[np.float64]) -> NDArray[np.float64]:
    """Rows of scores as rows of probabilities."""
    exponential = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(exponential / exponential.sum(axis=1, keepdims=True))


def save_model(model: RefusalModel, path: Path) -> None:
    """Write a model as compressed arrays and JSON; most buckets are empty, so it is small."""
    arrays: dict[str, Any] = {}
    for name in ("words", "manners"):
        weights: NDArray[np.float16] = getattr(model, name)
        used = np.flatnonzero(np.any(weights != 0, axis=1)).astype(np.int32)
        arrays[f"{name}_rows"], arrays[f"{name}_weights"] = used, weights[used]
    for name in ("words_bias", "manners_bias", "cues", "cues_bias", "centre", "scale"):
        arrays[name] = getattr(model, name)
    meta = {
        "format": FORMAT,
        "cue_names": CUE_NAMES,
        **{name: getattr(model, name) for name in ("temperature", "shift", "band", "version", "about")},
    }
    arrays["meta"] = np.frombuffer(json.dumps(meta).encode(), dtype=np.uint8)
    partial = path.with_suffix(".partial.npz")
    np.savez_compressed(partial, **arrays)
    partial.replace(path)


def load_model(path: Path | None = None) -> RefusalModel:
    """The shipped model, or one of the user's.

    Raises:
        BadInputError: Not a model of this format.
    """
    if path is None:
        return _shipped()
    try:
        return _read(path.read_bytes())
    except (OSError, ValueError, KeyError) as error:
        raise BadInputError(f"{path}: expected a refusal model of format {FORMAT}; {error}") from None


@cache
def _shipped() -> RefusalModel:
    return _read(files("demur.classify").joinpath("refusals.npz").read_bytes())


def _read(data: bytes) -> RefusalModel:
    with np.load(BytesIO(data), allow_pickle=False) as arrays:
        meta = json.loads(bytes(arrays["meta"]))
        if meta["format"] != FORMAT or tuple(meta["cue_names"]) != CUE_NAMES:
            raise ValueError(f"it has format {meta['format']} or other features")
        dense: dict[str, Any] = {}
        for name, width in (("words", len(OUTCOMES)), ("manners", len(MANNERS))):
            dense[name] = np.zeros((N_BUCKETS, width), dtype=np.float16)
            dense[name][arrays[f"{name}_rows"]] = arrays[f"{name}_weights"]
        small: dict[str, Any] = {
            name: arrays[name] for name in ("words_bias", "manners_bias", "cues", "cues_bias", "centre", "scale")
        }
    return RefusalModel(
        **dense, **small, **{name: meta[name] for name in ("temperature", "shift", "band", "version", "about")}
    )
