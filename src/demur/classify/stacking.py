"""Folds that keep groups together, predictions for rows a model has not seen, and the model that weighs the views."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.prompt_features import LOGIT_LIMIT, Array, Labels

N_FOLDS = 5
C_STACK = 1.0
# Fits one view on some rows and gives its log-odds for others.
FitAndPredict = Callable[[NDArray[np.int64], NDArray[np.int64]], Array]


def folds(rate: Array, groups: NDArray[Any], *, n_folds: int = N_FOLDS, seed: int = 0) -> NDArray[np.int64]:
    """Fold of each prompt; a group is never divided and both kinds are spread as evenly as that allows.

    Groups are dealt out largest first, each to the fold in which both kinds are then fewest.

    Args:
        rate: Share refused of each prompt; (n,).
        groups: Group of each prompt; (n,).
        n_folds: Wanted folds; fewer if there are fewer groups.
        seed: Of the order among groups of one size.

    Returns:
        Fold numbers from 0; (n,).
    """
    names, group = np.unique(groups, return_inverse=True)
    n_groups = len(names)
    n_folds = max(2, min(n_folds, n_groups))
    held = np.stack([np.bincount(group, rate, n_groups), np.bincount(group, 1 - rate, n_groups)], axis=1)
    total = held.sum(axis=0) + 1e-9
    order = np.random.default_rng(seed).permutation(n_groups)
    order = order[np.argsort(-held.sum(axis=1)[order], kind="stable")]
    load = np.zeros((n_folds, 2))
    fold_of = np.zeros(n_groups, dtype=np.int64)
    for number in order:
        cost = (((load + held[number]) / total) ** 2 - (load / total) ** 2).sum(axis=1)
        best = int(np.argmin(cost + 1e-9 * load.sum(axis=1)))
        fold_of[number] = best
        load[best] += held[number]
    return fold_of[group]


def keeps_both_kinds(rate: Array, fold: NDArray[np.int64]) -> bool:
    """Whether each fit without a fold still sees at least half of all refusals and half of all answers."""
    for kind in (rate, 1 - rate):
        held = np.bincount(fold, kind)
        if held.max() > held.sum() / 2:
            return False
    return True


def out_of_fold(fits: Sequence[FitAndPredict], fold: NDArray[np.int64]) -> Array:
    """Each view's log-odds for each prompt, from a fit that has not seen the prompt's fold; (n_prompts, n_views)."""
    found = np.zeros((len(fold), len(fits)))
    for number in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        for view, fit in enumerate(fits):
            found[test, view] = np.clip(fit(train, test), -LOGIT_LIMIT, LOGIT_LIMIT)
    return found


@dataclass(frozen=True, slots=True, kw_only=True)
class Stack:
    """Weighs the views' log-odds: p = sigmoid(intercept + sum of weights * logits).

    Attributes:
        weights: One for each view; (n_views,).
        intercept: Moves all probabilities.
        limit: Largest log-odds it may claim: by the rule of succession, n prompts do not tell rarer than 1 in n + 2.
    """

    weights: Array
    intercept: float
    limit: float

    def logits(self, view_logits: Array) -> Array:
        """Log-odds of a refusal; (n_prompts,)."""
        return np.clip(self.unlimited(view_logits), -self.limit, self.limit)

    def unlimited(self, view_logits: Array) -> Array:
        """The same before the limit."""
        cut = np.clip(view_logits, -LOGIT_LIMIT, LOGIT_LIMIT)
        return np.asarray(cut @ self.weights + self.intercept)


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighing:
    """Two stacks for one kind of prompt.

    Attributes:
        whole: With other models' outcomes, where there are any.
        alone: Without, for prompts where none is known.
    """

    whole: Stack
    alone: Stack

    def logits(self, view_logits: Array, others_known: NDArray[np.bool_]) -> Array:
        """Log-odds of a refusal; (n_prompts,)."""
        return np.where(others_known, self.whole.logits(view_logits), self.alone.logits(view_logits))


def fit_weighing(
    view_logits: Array, labels: Labels, others: int | None, groups: NDArray[Any] | None = None
) -> Weighing:
    """Fit both stacks; `others` is the column of the view on other models, None without."""
    whole = fit_stack(view_logits, labels, groups)
    if others is None:
        return Weighing(whole=whole, alone=whole)
    alone = fit_stack(np.delete(view_logits, others, axis=1), labels, groups)
    return Weighing(whole=whole, alone=replace(alone, weights=np.insert(alone.weights, others, 0.0)))


def fit_stack(view_logits: Array, labels: Labels, groups: NDArray[Any] | None = None, *, c: float = C_STACK) -> Stack:
    """Fit the weights on out-of-fold log-odds, which also calibrates: few parameters, unseen predictions.

    Weights are never negative, since that would say the opposite of what a view found, and they are drawn towards the
    plain mean of the views: with little evidence the views are averaged, not silenced. Prompts of one group speak
    with the weight of the root of their number, because they mostly say the same.

    Args:
        view_logits: Out-of-fold log-odds; (n_prompts, n_views).
        labels: What the model did.
        groups: Group of each prompt; each on its own by default.
        c: Inverse strength of the pull towards the mean.
    """
    from scipy.optimize import minimize

    n_views, rate, weight = view_logits.shape[1], labels.rate, labels.weight
    if groups is not None:
        _, group, size = np.unique(groups, return_inverse=True, return_counts=True)
        weight = weight / np.sqrt(size[group])
    mean = np.full(n_views, 1 / n_views)

    def loss(at: Array) -> tuple[float, Array]:
        z = view_logits @ at[:-1] + at[-1]
        away = at[:-1] - mean
        slope = weight * (1 / (1 + np.exp(-z)) - rate)
        value = float((weight * (np.logaddexp(0, z) - rate * z)).sum() + (away @ away) / (2 * c))
        return value, np.append(view_logits.T @ slope + away / c, slope.sum())

    bounds = [(0.0, 10.0)] * n_views + [(-LOGIT_LIMIT, LOGIT_LIMIT)]
    found = minimize(loss, np.append(mean, 0.0), jac=True, method="L-BFGS-B", bounds=bounds).x
    return Stack(weights=found[:-1], intercept=float(found[-1]), limit=float(np.log(1 + labels.weight.sum())))


def cross_fitted(
    view_logits: Array, labels: Labels, fold: NDArray[np.int64], groups: NDArray[Any] | None = None
) -> Array:
    """Log-odds of the stacked model for each prompt, its weights fitted without the prompt's fold; (n_prompts,)."""
    found = np.zeros(len(fold))
    for number in range(int(fold.max()) + 1):
        train, test = np.flatnonzero(fold != number), np.flatnonzero(fold == number)
        own = None if groups is None else groups[train]
        found[test] = fit_stack(view_logits[train], labels.of(train), own).logits(view_logits[test])
    return found
