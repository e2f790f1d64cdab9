"""Directions on a model with refusals: both axes with all controls, base-against-adapter cosines, selection."""

from pathlib import Path

from demur.core.errors import BadInputError
from demur.jobs.direction_selection import SelectionSettings
from demur.jobs.directions import DirectionsConfig, study_directions

NAME = "harmfulness and refusal directions"
PACKAGES = ("torch", "transformers", "peft", "scikit-learn")


def run(models, *, quick, work, progress):
    """Studies of every model, labelled by its token and by its reply, several seeds each."""
    return {
        "models": {
            model: {label: one(model, label, quick, work, progress) for label in ("token", "reply")} for model in models
        }
    }


def one(model, label, quick, work, progress):
    """One study in short; the reason where the model cannot be studied with that label."""
    out = work / f"{Path(model).name}-{label}{'-quick' if quick else ''}"
    few = {"n_fit": 16, "n_selection": 8, "n_test": 16, "seeds": (0, 1), "n_draws": 10, "n_agreement": 4}
    search = SelectionSettings(layer_step=8, n_trial=4, n_screen=2, n_outcomes=2, reply_tokens=8)
    config = DirectionsConfig(
        model=model,
        out=out,
        refused_by=label,
        **(few if quick else {"seeds": (0, 1, 2, 3, 4), "n_fit": 192}),
        # The search is about the token that is said; it is done once.
        selection=None if label == "reply" else search if quick else SelectionSettings(layer_step=2, n_outcomes=32),
    )
    try:
        study = study_directions(config, progress=progress)
    except BadInputError as error:
        return {"not studied": str(error)}
    return summary(study)


def summary(study):
    """What the closing note needs of a study."""
    spans = ("t_inst", "t_post[-1]")
    maps = {place.name: dict(zip(place.spans, place.values, strict=True)) for place in study.maps}
    return {
        "model": study.model,
        "refused means": study.refused_by,
        "buckets": study.buckets,
        "design": study.design,
        "agreement of words and token": study.agreement,
        "layers": study.layers,
        "auroc by layer": {
            f"{c.name} at {c.span}, {c.task}": {"mean": rounded(c.mean), "low": rounded(c.low), "high": rounded(c.high)}
            for c in study.curves
        },
        "cosine of v_harm and v_ref by layer": rounded(study.cosine_harm_refusal),
        "cosine with the base model's by layer": {
            f"{name.split()[3]} at {span}": rounded(values[span])
            for name, values in maps.items()
            if "base model" in name
            for span in spans
        },
        "honesty": {f"{t.axis}, layer {t.layer}, {t.task}": [line(row) for row in t.rows] for t in study.honesty},
        "correlation of the two scores": study.delta_correlation,
        "category cosines": {"names": study.categories, "cosines": [rounded(row) for row in study.category_cosines]},
        "selection": study.selection.model_dump(mode="json") if study.selection else None,
        "attrition": [a.model_dump(mode="json") for a in study.attrition],
        "saved": [s.model_dump(mode="json") for s in study.saved],
        "notes": study.notes,
    }


def line(row):
    """One control in one line of JSON."""
    r = row.ranking
    return {
        "kind": row.kind,
        "name": row.name,
        "auroc": rounded([r.auroc])[0],
        "interval": rounded([r.low, r.high]),
        "n": [r.n_positive, r.n_negative],
        "seeds": rounded(row.seeds),
    }


def rounded(values):
    return [None if value is None else round(value, 4) for value in values]
