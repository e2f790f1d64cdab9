"""What a predictor is fitted on: distinct prompts with their counts, groups and features, computed once.

Repeats of a prompt are its replies, so they are merged first: no fold can then hold the same prompt twice.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.ceiling import dispersion_of
from demur.classify.embeddings import Encode
from demur.classify.prompt_features import (
    GRAMS,
    Array,
    Counted,
    DenseView,
    GramView,
    KernelView,
    Labels,
    count_grams,
    fit_dense,
    fit_grams,
    fit_kernel,
    recount,
)
from demur.classify.templates import Templates, find_templates

OTHERS = "others"
# Inverse penalties of regressions over rows of length about 1; set on the Quora rows of the benchmark.
C_OF = {"words": 10.0, "characters": 10.0, "embeddings": 1.0, "states": 3.0, OTHERS: 10.0}
View = GramView | DenseView | KernelView
KERNEL = "embeddings"


@dataclass(frozen=True, slots=True, kw_only=True)
class Design:
    """Distinct prompts, ready to be fitted on.

    Attributes:
        prompts: Distinct prompts in order of first appearance; n of them.
        labels: Their replies and weights.
        groups: Group of each prompt; (n,).
        templates: Templates found among the prompts, or None where groups were given.
        features: By view: counted n-grams, or numbers (n, width).
        row_of: Distinct prompt behind each given row; (n_rows,).
    """

    prompts: tuple[str, ...]
    labels: Labels
    groups: NDArray[Any]
    templates: Templates | None
    features: dict[str, Counted | NDArray[Any]]
    row_of: NDArray[np.int64]

    def fit_view(self, name: str, rows: NDArray[np.int64], c: float) -> View:
        """One view fitted on some rows."""
        found = self.features[name]
        if isinstance(found, Counted):
            return fit_grams(name, found, rows, self.labels, c)
        return (fit_kernel if name == KERNEL else fit_dense)(name, found, rows, self.labels, c)

    def logits(self, view: View, rows: NDArray[np.int64]) -> Array:
        """A view's log-odds for some rows."""
        found = self.features[view.kind]
        if isinstance(view, GramView):
            assert isinstance(found, Counted)
            return view.logits(found.counts[rows])
        assert not isinstance(found, Counted)
        return view.logits(found[rows])


def build_design(
    prompts: Sequence[str],
    counts: tuple[Array, Array],
    *,
    views: Sequence[str],
    encoders: dict[str, Encode],
    groups: Sequence[Any] | None = None,
    sample_weight: Array | None = None,
    other_models: NDArray[Any] | None = None,
) -> Design:
    """Merge repeated prompts, find templates, compute features.

    Args:
        prompts: One for each row.
        counts: Refused replies of each row, and all its labelled replies.
        views: Names of the views to compute.
        encoders: How the views that are not n-grams turn prompts into numbers.
        groups: Group of each row; found among the prompts by default.
        sample_weight: Weight of each row; averaged over the rows of a prompt.
        other_models: Other models' refusal rates, (n_rows, n_models), nan where unknown; averaged likewise.
    """
    first_of: dict[str, int] = {}
    row_of = np.array([first_of.setdefault(p, len(first_of)) for p in prompts], dtype=np.int64)
    distinct, n = tuple(first_of), len(first_of)
    y, k = (np.bincount(row_of, count, n).astype(np.float64) for count in counts)
    weight = np.ones(n) if sample_weight is None else _mean(np.asarray(sample_weight, dtype=float), row_of, n)
    alike = dispersion_of(y, k)
    # k replies tell less than k prompts: the variance of their mean is that of k / (1 + (k - 1) alike) separate ones.
    labels = Labels(n_refused=y, n_replies=k, weight=weight * k / (1 + (k - 1) * alike))
    templates = find_templates(distinct) if groups is None else None
    if groups is None:
        assert templates is not None
        group: NDArray[Any] = templates.groups
    else:
        _, firsts = np.unique(row_of, return_index=True)
        group = np.unique(np.asarray(list(map(str, groups))), return_inverse=True)[1][firsts]
    features: dict[str, Counted | NDArray[Any]] = {
        name: count_grams(name, distinct) if name in GRAMS else encoders[name](distinct) for name in views
    }
    if other_models is not None:
        columns = np.asarray(other_models, dtype=float)
        features[OTHERS] = np.stack([_mean(column, row_of, n) for column in columns.T], axis=1)
    return Design(prompts=distinct, labels=labels, groups=group, templates=templates, features=features, row_of=row_of)


def features_of(view: View, prompts: Sequence[str], encoders: dict[str, Encode]) -> Any:
    """What a fitted view reads of other prompts."""
    return recount(view.kind, view.grams, prompts) if isinstance(view, GramView) else encoders[view.kind](prompts)


def _mean(values: Array, row_of: NDArray[np.int64], n: int) -> Array:
    known = ~np.isnan(values)
    total = np.bincount(row_of[known], values[known], n)
    count = np.bincount(row_of[known], minlength=n)
    return np.where(count > 0, total / np.maximum(1, count), np.nan)
