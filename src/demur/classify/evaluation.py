"""What a fitted predictor can be expected to do: two splits side by side, by source, with its ceiling and errors."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.classify.ceiling import estimate_ceiling
from demur.classify.design import Design
from demur.classify.explain import coefficient_intervals
from demur.classify.predictor import RefusalPredictor
from demur.classify.prompt_features import Array, GramView, sigmoid
from demur.classify.reliability import auroc, figures_of, roc_curve

N_ERRORS = 20
N_TEMPLATES = 20
N_RESAMPLES = 50
MANY_PROMPTS = 5_000  # from here on fewer resamples: intervals get narrow and fits slow
FEWEST_OF_SOURCE = 10
SHOWN_CHARACTERS = 2_000


def evaluate(
    predictor: RefusalPredictor,
    sources: Sequence[str],
    *,
    sensitivity: float | None = None,
    specificity: float | None = None,
) -> dict[str, Any]:
    """Everything the report shows, as plain values.

    Figures come from predictions for prompts that the fit has not seen. In the first split no part of a prompt's
    template (or of the user's group) was seen either; in the second, prompts were dealt out at random.

    Args:
        predictor: Fitted in this process.
        sources: Source of each row it was fitted on.
        sensitivity: Of whatever made the labels, if known.
        specificity: Likewise.
    """
    design = predictor.design_
    labels, n = design.labels, len(design.prompts)
    y, k = labels.n_refused, labels.n_replies
    first_row = np.unique(design.row_of, return_index=True)[1]
    source = np.array([sources[i] for i in first_row], dtype=object)
    p = sigmoid(predictor.held_out_logits_)
    at_random = sigmoid(predictor.random_logits_)
    return {
        "n_prompts": n,
        "n_replies": int(k.sum()),
        "refused": float(y.sum() / k.sum()),
        "n_groups": len(np.unique(design.groups)),
        "groups_given": design.templates is None,
        "stacked_by_group": predictor.stacked_by_group_,
        "templates": _templates(design),
        "splits": {
            "templates held out": figures_of(p, y, k, groups=design.groups).as_dict(),
            "random": figures_of(at_random, y, k).as_dict(),
        },
        "roc": roc_curve(p, y, k),
        "views": _views(predictor, y, k),
        "sources": _by_source(source, p, at_random, y, k, design.groups),
        "ceiling": estimate_ceiling(y, k, sensitivity=sensitivity, specificity=specificity).as_dict(),
        "coefficients": _coefficients(predictor, design),
        "errors": _worst(design, source, p),
    }


def _templates(design: Design) -> list[dict[str, Any]]:
    if design.templates is None:
        return []
    sizes = Counter(design.groups.tolist())
    listed: list[dict[str, Any]] = []
    for group, name in design.templates.names.items():
        inside = design.groups == group
        rate = float(design.labels.n_refused[inside].sum() / design.labels.n_replies[inside].sum())
        listed.append({"name": name, "n": sizes[group], "refused": rate})
    return sorted(listed, key=lambda entry: -entry["n"])[:N_TEMPLATES]


def _views(predictor: RefusalPredictor, y: Array, k: Array) -> list[dict[str, Any]]:
    return [
        {
            "name": name,
            "weight": float(predictor.new_.whole.weights[i]),
            "weight_known": None if predictor.known_ is None else float(predictor.known_.whole.weights[i]),
            "auroc": auroc(predictor.unseen_[:, i], y, k),
            "n_features": len(view.coefficients),
        }
        for i, (name, view) in enumerate(predictor.views_.items())
    ]


def _by_source(
    source: NDArray[Any], p: Array, at_random: Array, y: Array, k: Array, groups: NDArray[Any]
) -> list[dict[str, Any]]:
    found = []
    for name, n in Counter(source.tolist()).most_common():
        if n < FEWEST_OF_SOURCE:
            continue
        inside = source == name
        held_out = figures_of(p[inside], y[inside], k[inside], groups=groups[inside]).as_dict()
        spread = figures_of(at_random[inside], y[inside], k[inside]).as_dict()
        for figures in (held_out, spread):
            figures.pop("bins")
        found.append({"source": name, "templates held out": held_out, "random": spread})
    return found


def _coefficients(predictor: RefusalPredictor, design: Design) -> list[dict[str, Any]]:
    view = predictor.views_.get("words")
    if not isinstance(view, GramView):
        return []
    n_resamples = N_RESAMPLES if len(design.prompts) <= MANY_PROMPTS else N_RESAMPLES // 2
    return [asdict(c) for c in coefficient_intervals(design, view, predictor.penalty("words"), n_resamples=n_resamples)]


def _worst(design: Design, source: NDArray[Any], p: Array) -> list[dict[str, Any]]:
    rate = design.labels.rate
    order = np.argsort(-np.abs(p - rate), kind="stable")
    _, first = np.unique(design.groups[order], return_index=True)  # one of each template is enough to see
    order = order[np.sort(first)][:N_ERRORS]
    return [
        {
            "prompt": design.prompts[i][:SHOWN_CHARACTERS],
            "source": str(source[i]),
            "p_refused": float(p[i]),
            "n_refused": int(design.labels.n_refused[i]),
            "n_replies": int(design.labels.n_replies[i]),
        }
        for i in order
    ]
