"""Reply inversion: can the model do the task, and if so, which direction moves its answers, and from where?"""

import numpy as np

from demur.activations.direction import Direction
from demur.core.errors import BadInputError
from demur.inside.buckets import FEWEST
from demur.inside.estimators import difference_in_means
from demur.inside.inversion_answers import reply_inversion
from demur.jobs.direction_conduct import by_token, has_control_tokens
from demur.jobs.guard import SPANS, recorded
from demur.jobs.guard_prompts import guard_prompts
from demur.jobs.subject import cleaner, subject_of

NAME = "reply inversion"
PACKAGES = ("torch", "transformers")
SHARES = (0.3, 0.45, 0.6, 0.75)  # of the blocks: layers at which directions are read and added
STRENGTHS = (0.25, 0.5, 1.0)


def run(models, *, quick, work, progress):
    """The base model and every model given."""
    del work  # nothing is resumed
    n_fit, n_test = (16, 10) if quick else (200, 60)
    base = models[0].partition("+")[0]
    return {"models": {model: one(model, n_fit, n_test, progress) for model in dict.fromkeys((base, *models))}}


def one(model, n_fit, n_test, progress):
    """The task on one model; under steering only where it can do it."""
    prompts = guard_prompts(None, n_fit=n_fit, n_check=n_test)
    subject = subject_of(model)
    directions, left_out = directions_of(model, subject, prompts, progress)
    clean = cleaner(subject.tokenizer)
    test = [r.row for r in prompts.parts["test"] if r.row.harmful or not r.row.to_decline]
    half = [row for row in test if row.harmful][:n_test] + [row for row in test if not row.harmful][:n_test]
    result = reply_inversion(
        subject, [clean(row.prompt) for row in half], [row.harmful for row in half], directions, strengths=STRENGTHS
    )
    return {
        **result.model_dump(mode="json"),
        "directions": [f"{a} {d.residual_index}" for a, d in directions],
        **left_out,
    }


def directions_of(model, subject, prompts, progress):
    """Harm at the text's end, and, where the model says what it will do, refusal at the prompt's end."""
    rows = [r.row for r in prompts.parts["fit"]]
    found, _ = recorded(subject, [r.prompt for r in rows], SPANS, None, progress)
    layers = sorted({round(share * subject.parts.n_layers) for share in SHARES})
    harmful = np.array([r.harmful for r in rows])
    listed = [("harm", made(found, "harm", SPANS[0], layer, harmful, ~harmful)) for layer in layers]
    if not has_control_tokens(model):
        return listed, {"refusal direction": "none: this model says no control token"}
    refused = np.array([row.refused is True for row in by_token(model, rows, progress=progress)])
    if min(refused.sum(), (~refused).sum()) < FEWEST:
        return listed, {"refusal direction": f"none: {int(refused.sum())} of {len(rows)} prompts declined"}
    listed += [("refusal", made(found, "refusal", SPANS[1], layer, refused, ~refused)) for layer in layers]
    return listed, {}


def made(found, name, span, layer, up, down):
    states = found.at(span, layer)
    try:
        vector, norm = difference_in_means(states[up], states[down])
    except BadInputError as error:
        raise BadInputError(f"{name}, layer {layer}: {error}") from None
    return Direction(
        vector=vector,
        raw_norm=norm,
        residual_index=layer,
        span=span,
        model=found.model,
        name=name,
        method="difference_in_means",
        local_norm=float(np.median(np.linalg.norm(states, axis=1))),
    )
