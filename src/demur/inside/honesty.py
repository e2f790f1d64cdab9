"""The controls that every probe or direction has to beat, in the same table and on the same held-out prompts.

A direction that separates two sets of prompts proves little: the last character, the length, the words alone, a
random direction or the model before it was trained may do as well.
"""

from collections.abc import Callable, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from demur.activations.direction import Direction
from demur.core.direction_study import ControlKind, ControlRow, Ranking
from demur.core.errors import BadInputError
from demur.data.matching import ending
from demur.inside.buckets import Labelled
from demur.stats.ranking import auroc, auroc_interval

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Fit = Callable[[Floats, Booleans], Floats]
N_DRAWS = 20
FEWEST_DRAWS = 10


def ranking(scores: ArrayLike, positive: ArrayLike) -> Ranking:
    """AUROC of scores with its interval and counts."""
    s, y = np.asarray(scores, dtype=np.float64).tolist(), np.asarray(positive, dtype=bool).tolist()
    bounds = auroc_interval(s, y)
    return Ranking(
        auroc=auroc(s, y),
        low=bounds[0] if bounds else None,
        high=bounds[1] if bounds else None,
        n_positive=sum(y),
        n_negative=len(y) - sum(y),
    )


def scored_row(kind: ControlKind, name: str, scores: ArrayLike, positive: ArrayLike, *, note: str = "") -> ControlRow:
    """A line of the table from scores of the held-out prompts."""
    return ControlRow(kind=kind, name=name, ranking=ranking(scores, positive), note=note)


def check_disjoint(fit: Sequence[Labelled], test: Sequence[Labelled]) -> None:
    """Make sure that no prompt, and no group of contrast twins, is on both sides.

    Raises:
        BadInputError: One is.
    """
    for what, one, other in (
        ("prompts", {_plain(r.prompt) for r in fit}, {_plain(r.prompt) for r in test}),
        ("groups", {r.group for r in fit if r.group}, {r.group for r in test if r.group}),
    ):
        shared = len(one & other)
        if shared:
            raise BadInputError(f"{shared} {what} are both fitted on and tested on; remove the duplicates")


def random_directions(
    fit: ArrayLike, fit_positive: ArrayLike, test: ArrayLike, positive: ArrayLike, *, n: int = N_DRAWS, seed: int = 0
) -> ControlRow:
    """Directions drawn evenly from the sphere, each turned so that it points the right way on the fitted prompts.

    Length does not matter to a ranking; where it does (steering), `matched_random` gives directions of a length.

    Args:
        fit: States the direction was fitted on; (n, d).
        fit_positive: Their labels.
        test: Held-out states; (m, d).
        positive: Their labels.
        n: Draws.
        seed: Of the draws.
    """
    _check_draws(n)
    states, kinds, held_out = np.asarray(fit, np.float64), np.asarray(fit_positive, bool), np.asarray(test, np.float64)
    drawn = matched_random(states.shape[1], n=n, seed=seed).astype(np.float64)
    turned = drawn * np.where((states[kinds].mean(axis=0) - states[~kinds].mean(axis=0)) @ drawn.T < 0, -1, 1)[:, None]
    return drawn_row("random directions", f"{n} random directions", held_out @ turned.T, positive)


def shuffled_labels(
    fit: ArrayLike,
    fit_positive: ArrayLike,
    test: ArrayLike,
    positive: ArrayLike,
    *,
    direction: Fit | None = None,
    n: int = N_DRAWS,
    seed: int = 0,
) -> ControlRow:
    """The same estimator on the same states with labels dealt out at random: what the shape of the cloud alone gives.

    Args:
        fit: States the direction was fitted on; (n, d).
        fit_positive: Their labels.
        test: Held-out states; (m, d).
        positive: Their labels.
        direction: Fits a direction (states, labels) -> (d,); difference in means by default.
        n: Draws.
        seed: Of the draws.
    """
    _check_draws(n)
    rng, states, kinds = np.random.default_rng(seed), np.asarray(fit, np.float64), np.asarray(fit_positive, bool)
    found = [(direction or _means)(states, rng.permutation(kinds)) for _ in range(n)]
    scores = np.asarray(test, np.float64) @ np.stack(found).T
    return drawn_row("shuffled labels", f"{n} times with shuffled labels", scores, positive)


def matched_random(width: int, *, n: int, length: float = 1.0, seed: int = 0) -> NDArray[np.float32]:
    """Directions drawn evenly from the sphere, of a given length; (n, width)."""
    drawn = np.random.default_rng(seed).standard_normal((n, width))
    lengths = np.linalg.norm(drawn, axis=1, keepdims=True)
    return np.asarray(drawn / lengths * length, dtype=np.float32)


def random_like(like: Sequence[Direction], *, n: int, seed: int = 0) -> list[Direction]:
    """Random directions to steer with, each of the length, place and model of one of `like`, in turn; `n` of them."""
    drawn = matched_random(len(like[0].vector), n=n, seed=seed)
    return [
        Direction(
            vector=vector,
            raw_norm=model.raw_norm,
            residual_index=model.residual_index,
            span=model.span,
            model=model.model,
            name="random",
            method="random",
            local_norm=model.local_norm,
        )
        for vector, model in zip(drawn, cycle(like), strict=False)
    ]


def drawn_row(kind: ControlKind, name: str, scores: Floats, positive: ArrayLike) -> ControlRow:
    """A line of the table from many draws: the median, with their whole range as interval; scores are (m, n)."""
    labels = np.asarray(positive, dtype=bool).tolist()
    draws = tuple(auroc(column.tolist(), labels) or 0.0 for column in scores.T) if any(labels) else ()
    known = bool(draws) and not all(labels)
    return ControlRow(
        kind=kind,
        name=name,
        ranking=Ranking(
            auroc=float(np.median(draws)) if known else None,
            low=min(draws) if known else None,
            high=max(draws) if known else None,
            n_positive=sum(labels),
            n_negative=len(labels) - sum(labels),
        ),
        draws=draws if known else (),
        note="median of the draws; the interval is their range",
    )


def surface_rows(
    fit: Sequence[str], fit_positive: Sequence[bool], test: Sequence[str], positive: Sequence[bool]
) -> list[ControlRow]:
    """Final punctuation and length, each learnt on the fitted prompts and applied to the others."""
    rates = _rates([ending(text) for text in fit], fit_positive)
    everywhere = (sum(fit_positive) + 1) / (len(fit_positive) + 2)
    by_ending = [rates.get(ending(text), everywhere) for text in test]
    lengths = [len(text) for text in fit]
    up = auroc(lengths, fit_positive)
    sign = -1.0 if up is not None and up < 0.5 else 1.0
    return [
        scored_row("surface rule", "final punctuation", by_ending, positive),
        scored_row("surface rule", "length", [sign * len(text) for text in test], positive),
    ]


def tfidf_row(
    fit: Sequence[str], fit_positive: Sequence[bool], test: Sequence[str], positive: Sequence[bool]
) -> ControlRow:
    """Words and pairs of words, no model at all: logistic regression on TF-IDF fitted on the same prompts."""
    try:
        from sklearn.feature_extraction.text import TfidfVectorizer
        from sklearn.linear_model import LogisticRegression
        from sklearn.pipeline import make_pipeline
    except ImportError:
        empty = Ranking(auroc=None, low=None, high=None, n_positive=sum(positive), n_negative=0)
        return ControlRow(kind="tf-idf", name="TF-IDF", ranking=empty, note="needs the 'classify' extra")
    if len(set(fit_positive)) < 2:
        return scored_row("tf-idf", "TF-IDF", [0.0] * len(test), positive, note="one kind of prompt to learn from")
    model: Any = make_pipeline(
        TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, token_pattern=r"(?u)\b\w+\b"),
        LogisticRegression(C=10.0, max_iter=2000),
    )
    model.fit(list(fit), list(fit_positive))
    return scored_row("tf-idf", "TF-IDF", model.predict_proba(list(test))[:, 1], positive)


def over_seeds(rows: Sequence[ControlRow]) -> ControlRow:
    """One line of the table from the same line under several seeds: the first, with the AUROC of each."""
    seeds = tuple(row.ranking.auroc for row in rows if row.ranking.auroc is not None)
    return rows[0].model_copy(update={"seeds": seeds, "draws": tuple(d for row in rows for d in row.draws)})


def _means(states: Floats, positive: Booleans) -> Floats:
    return np.asarray(states[positive].mean(axis=0) - states[~positive].mean(axis=0))


def _rates(kinds: Sequence[str], positive: Sequence[bool]) -> dict[str, float]:
    return {
        kind: (sum(p for k, p in zip(kinds, positive, strict=True) if k == kind) + 1) / (kinds.count(kind) + 2)
        for kind in set(kinds)
    }


def _check_draws(n: int) -> None:
    if n < FEWEST_DRAWS:
        raise BadInputError(f"random controls: expected at least {FEWEST_DRAWS} draws, got {n}")


def _plain(prompt: str) -> str:
    return " ".join(prompt.split()).casefold()
