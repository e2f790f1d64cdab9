"""Why a predictor expects a refusal: contributions to one decision, and n-gram weights with bootstrap intervals."""

import re
from collections import defaultdict
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.design import Design, View, features_of
from demur.classify.predictor import RefusalPredictor
from demur.classify.prompt_features import (
    GRAMS,
    LOGIT_LIMIT,
    TOKEN,
    Array,
    Counted,
    GramView,
    KernelView,
    Labels,
    fit_logistic,
    logit,
    readable,
    tf_idf,
)
from demur.classify.templates import fills_template

N_RESAMPLES = 50
FEWEST_PROMPTS = 3  # an n-gram in fewer prompts than this says more about them than about refusals


@dataclass(frozen=True, slots=True, kw_only=True)
class Explanation:
    """One decision taken apart; contributions are log-odds and add up.

    Attributes:
        p_refused: Predicted probability.
        in_known_template: Whether the prompt fills a template of the training prompts; the views are then weighed by
            how they do within these templates.
        baseline: What the predictor would say of a prompt without any known feature.
        views: Contribution of each view beyond the baseline; with the baseline they sum to the log-odds.
        grams: Contribution of each n-gram of the prompt, largest first: (view, n-gram, contribution).
        words: The prompt's words in order, each with what its word and character n-grams contribute; long prompts
            are cut in the middle.
    """

    p_refused: float
    in_known_template: bool
    baseline: float
    views: dict[str, float]
    grams: tuple[tuple[str, str, float], ...]
    words: tuple[tuple[str, float], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coefficient:
    """Weight of one n-gram in its view.

    Attributes:
        gram: The n-gram.
        weight: Log-odds of a refusal for each unit of its TF-IDF value.
        low: Lower bound of the 95 % bootstrap interval over groups of prompts.
        high: Upper bound.
        n_prompts: Distinct prompts that hold it.
        refused: Refusal rate of these prompts.
    """

    gram: str
    weight: float
    low: float
    high: float
    n_prompts: int
    refused: float


def explain(predictor: RefusalPredictor, prompt: str, other_models: Any = None) -> Explanation:
    """Take one prediction apart.

    Args:
        predictor: Fitted.
        prompt: The prompt.
        other_models: What other models did with it, (n_models,), as in `fit`.
    """
    others = None if other_models is None else np.asarray(other_models, dtype=float)[None, :]
    logits, others_known = predictor.view_logits([prompt], others)
    is_known = predictor.known_ is not None and bool(fills_template(predictor.patterns_, [prompt])[0])
    weighing = predictor.known_ if is_known and predictor.known_ is not None else predictor.new_
    stack = weighing.whole if others_known[0] else weighing.alone
    total = float(stack.logits(logits)[0])
    # Where log-odds were cut, the parts are scaled so that they still add up.
    whole = float(stack.unlimited(logits)[0])
    scale = total / whole if whole else 1.0
    baseline, views = scale * stack.intercept, {}
    grams: list[tuple[str, str, float]] = []
    by_gram: dict[str, dict[str, float]] = {}
    for i, (name, view) in enumerate(predictor.views_.items()):
        raw = float(logits[0, i])
        start = float(np.clip(_start(view), -LOGIT_LIMIT, LOGIT_LIMIT))
        weight = scale * float(stack.weights[i])
        baseline += weight * start
        views[name] = weight * (raw - start)
        if isinstance(view, GramView) and weight:
            shares = _gram_shares(view, prompt)
            reached = sum(shares.values())
            factor = views[name] / reached if reached else 0.0
            by_gram[name] = {gram: factor * share for gram, share in shares.items()}
            grams += [(name, gram, value) for gram, value in by_gram[name].items()]
    grams.sort(key=lambda entry: -abs(entry[2]))
    return Explanation(
        p_refused=float(1 / (1 + np.exp(-total))),
        in_known_template=is_known,
        baseline=baseline,
        views=views,
        grams=tuple(grams),
        words=_words(prompt, by_gram),
    )


def _start(view: View) -> float:
    """A view's log-odds for a prompt without any known feature."""
    return float(logit(np.array(view.intercept))) if isinstance(view, KernelView) else view.intercept


def _gram_shares(view: GramView, prompt: str) -> dict[str, float]:
    values = view.values(features_of(view, [prompt], {}))
    return {
        view.grams[i]: float(x * view.coefficients[i])
        for i, x in zip(values.indices, values.data, strict=True)
        if x * view.coefficients[i] != 0
    }


def _words(prompt: str, by_gram: dict[str, dict[str, float]]) -> tuple[tuple[str, float], ...]:
    """Each n-gram's contribution, shared out evenly among the words in which it occurs."""
    shown = readable(prompt).split()
    totals = np.zeros(len(shown))
    for kind, shares in by_gram.items():
        places = _word_places(shown) if kind == "words" else _character_places(shown)
        for gram, share in shares.items():
            where = places.get(gram, [])
            for i in where:
                totals[i] += share / len(where)
    return tuple((word, float(value)) for word, value in zip(shown, totals, strict=True))


def _word_places(shown: list[str]) -> dict[str, list[int]]:
    tokens = [(token, i) for i, word in enumerate(shown) for token in re.findall(TOKEN, word.lower())]
    places: dict[str, list[int]] = defaultdict(list)
    low, high = GRAMS["words"]["ngram_range"]
    for n in range(low, high + 1):
        for at in range(len(tokens) - n + 1):
            run = tokens[at : at + n]
            places[" ".join(token for token, _ in run)] += [i for _, i in run]
    return places


def _character_places(shown: list[str]) -> dict[str, list[int]]:
    places: dict[str, list[int]] = defaultdict(list)
    low, high = GRAMS["characters"]["ngram_range"]
    for i, word in enumerate(shown):
        padded = f" {word.lower()} "
        for n in range(low, high + 1):
            for at in range(max(1, len(padded) - n + 1)):
                places[padded[at : at + n]].append(i)
    return places


def coefficient_intervals(
    design: Design, view: GramView, c: float, *, n_top: int = 15, n_resamples: int = N_RESAMPLES, seed: int = 0
) -> list[Coefficient]:
    """The heaviest n-grams of a view on both sides, each with a bootstrap interval.

    Groups of prompts are drawn again with replacement and the regression is fitted anew; the IDF values stay. The
    n-grams shown were chosen for their weight, so their intervals are a little too far from 0.

    Args:
        design: What the predictor was fitted on.
        view: The fitted view.
        c: Its inverse penalty.
        n_top: n-grams on each side.
        n_resamples: Fits.
        seed: Of the draws.
    """
    counted = design.features[view.kind]
    assert isinstance(counted, Counted)
    values, present = tf_idf(counted.counts, view.idf), counted.counts > 0
    n_prompts = np.asarray(present.sum(axis=0)).ravel()
    rate = np.asarray(present.T @ design.labels.rate).ravel() / np.maximum(1, n_prompts)
    enough = np.flatnonzero(n_prompts >= FEWEST_PROMPTS)
    order = enough[np.argsort(view.coefficients[enough], kind="stable")]
    picked = [*order[::-1][:n_top], *order[:n_top][::-1]]
    shown = [int(i) for i in dict.fromkeys(picked) if view.coefficients[i] != 0]
    if not shown:
        return []
    draws = _resampled(values, design, c, shown, n_resamples, seed)
    low, high = np.quantile(draws, (0.025, 0.975), axis=0)
    return [
        Coefficient(
            gram=view.grams[i],
            weight=float(view.coefficients[i]),
            low=float(low[at]),
            high=float(high[at]),
            n_prompts=int(n_prompts[i]),
            refused=float(rate[i]),
        )
        for at, i in enumerate(shown)
    ]


def _resampled(values: Any, design: Design, c: float, shown: list[int], n_resamples: int, seed: int) -> Array:
    rng = np.random.default_rng(seed)
    group = np.unique(design.groups, return_inverse=True)[1]
    n_groups = int(group.max()) + 1
    draws = []
    for _ in range(n_resamples):
        times = np.bincount(rng.integers(0, n_groups, n_groups), minlength=n_groups)[group]
        rows: NDArray[np.int64] = np.flatnonzero(times)
        labels = design.labels.of(rows)
        drawn = Labels(n_refused=labels.n_refused, n_replies=labels.n_replies, weight=labels.weight * times[rows])
        draws.append(fit_logistic(values[rows], drawn, c)[0][shown])
    return np.array(draws)
