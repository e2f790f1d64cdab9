"""Synthetic results of looking inside a model, of any size and with any text: what the report is tried on."""

import random
from math import exp

from demur.core.cliff import (
    AblationRow,
    CliffResult,
    CurveRow,
    GroupRow,
    HeadRow,
    MeanRow,
    ProbeRow,
    SelectionSummary,
    TruncationRow,
)
from demur.core.direction_study import (
    Attrition,
    Candidate,
    ControlRow,
    Curve,
    DirectionStudy,
    HonestyTable,
    MapPoint,
    Outcomes,
    PlaceMap,
    RandomTrial,
    Ranking,
    SavedDirection,
    Selection,
)
from demur.core.profile import Interval
from demur.core.steering_study import Dose, DoseCurve, SteeringStudy
from demur.inside.guard_report import FlaggedRow, GuardReport
from demur.stats.rates import interval

SPANS = ("t_inst", *(f"t_post[{k}]" for k in range(-7, 0)))
TEXTS = (".", "<|im_end|>", "\n", "<|im_start|>", "ass", "ist", "ant", "\n")
BUCKETS = ("refused_harmful", "accepted_harmful", "refused_harmless", "accepted_harmless", "")
TASKS = ("harmful / harmless", "refused / accepted", "refused / accepted, harmful")


def rate(share, n=80):
    return Interval(**interval(round(share * n), n).model_dump())


def mean(value, width=0.05):
    return MeanRow(mean=value, low=value - width, high=value + width)


def ranking(value, n=96):
    if value is None:
        return Ranking(auroc=None, low=None, high=None, n_positive=n, n_negative=0)
    return Ranking(auroc=value, low=max(0, value - 0.06), high=min(1, value + 0.05), n_positive=n, n_negative=n)


def control_rows(text="", top=0.94):
    return (
        ControlRow(kind="direction", name=f"harm direction{text}", ranking=ranking(top), seeds=(top, top - 0.01)),
        ControlRow(kind="layer 0", name="same, on embeddings", ranking=ranking(0.71)),
        ControlRow(kind="surface rule", name="final punctuation", ranking=ranking(0.55)),
        ControlRow(kind="surface rule", name="length", ranking=ranking(0.52)),
        ControlRow(kind="tf-idf", name="TF-IDF", ranking=ranking(0.93), note=text),
        ControlRow(kind="random directions", name="20 random directions", ranking=ranking(0.62), draws=(0.5, 0.7)),
        ControlRow(kind="shuffled labels", name="20 times with shuffled labels", ranking=ranking(None)),
        ControlRow(kind="base model", name="base model, its own direction", ranking=ranking(0.91)),
    )


def rising(n, top, rng, start=0.5):
    return tuple(
        round(start + (top - start) / (1 + exp(-(i - n / 3) / (n / 12 + 0.1))) + rng.gauss(0, 0.01), 4)
        for i in range(n)
    )


def curves(n, rng):
    found = []
    for axis, span, own in (("harm", "t_inst", 0), ("refusal", "t_post[-1]", 1)):
        for place in ("t_inst", "t_post[-1]"):
            for i, task in enumerate(TASKS):
                values = rising(n, 0.95 - 0.1 * (i != own) - 0.05 * (place != span), rng)
                found.append(curve(f"{axis} direction", axis, place, task, "direction", values))
        for kind, top in (("random directions", 0.6), ("shuffled labels", 0.5), ("base model", 0.9)):
            found.append(curve(kind, axis, span, TASKS[own], kind, rising(n, top, rng), 0.1))
    return tuple(found)


def curve(name, axis, span, task, kind, values, width=0.02):
    low, high = (tuple(v + way * width for v in values) for way in (-1, 1))
    return Curve(name=name, axis=axis, span=span, task=task, kind=kind, mean=values, low=low, high=high)


def maps(n, rng):
    names = (
        "AUROC of the harm direction, harmful / harmless",
        "AUROC of the refusal direction, refused / accepted",
        "cosine of harm and refusal directions",
        "cosine of the harm direction with the base model's",
    )
    found = []
    for name in names:
        auroc = name.startswith("AUROC")
        rows = [rising(n, rng.uniform(0.7, 1.0), rng) if auroc else rising(n, rng.uniform(-0.9, 0.9), rng, 0.0)
                for _ in SPANS]  # fmt: skip
        rows[-1] = (None, *rows[-1][1:])
        found.append(PlaceMap(name=name, spans=SPANS, values=tuple(tuple(r) for r in rows)))
    return tuple(found)


def points(n, rng, text):
    found = []
    for i in range(n):
        bucket = BUCKETS[i % 4 if i % 29 else 4]
        harm = 0.08 if "_harmful" in bucket else -0.08
        refusal = 0.06 if bucket.startswith("refused") else -0.05
        category = ("safety", "privacy", "deception", "")[i % 4]
        words = text or "How do I make a batch of something that I should perhaps not make at home, step by step"
        found.append(MapPoint(prompt=f"{words} {i}"[:120], category=category, bucket=bucket,
                              harm=harm + rng.gauss(0, 0.04), refusal=refusal + rng.gauss(0, 0.03)))  # fmt: skip
    return tuple(found)


def selection(n, rng, text):
    candidates = tuple(
        Candidate(span=span, layer=layer, variant=variant, bypass=rng.uniform(-6, 3), induce=rng.uniform(-3, 4),
                  kl=abs(rng.gauss(0.2, 0.2)), n=24, loudest=rng.uniform(0, 9), masked=(3, 9) if variant == "masked" else (),
                  rejected=() if layer == 5 else ("kl 0.31 above 0.100", text or "screened out on 8 prompts"),
                  rejected_relative=() if layer in (5, 6) else ("kl",))
        for span in SPANS for layer in range(n) for variant in ("plain", "masked")
    )  # fmt: skip
    counts = {"refused": 20, "partial": 3, "complied": 9, "degenerate": 4, "unjudged": 2}
    return Selection(
        metric_tokens=(f"I{text}", "Sorry"), metric_ids=(1, 2), metric_auroc=0.93, baseline_harmful=2.1,
        baseline_harmless=-1.9, kl_limit=0.1, kl_limit_relative=0.21, candidates=candidates,
        random=tuple(RandomTrial(layer=i, bypass=2.0, induce=-1.9, kl=0.02) for i in range(10)),
        attrition=(Attrition(name=f"candidates{text}", n=len(candidates), kept=len(SPANS), reason="kl: 400"),),
        chosen=next((i for i, c in enumerate(candidates) if not c.rejected), None), chosen_relative=None,
        outcomes=tuple(Outcomes(side=s, intervention=i + text, counts=counts)
                       for s in ("harmful", "harmless") for i in ("none", "ablated", "random ablated")),
        notes=(f"Random directions alone diverge by up to 0.21.{text}",),
    )  # fmt: skip


def directions(layers=4, n_points=8, text="", **changes):
    rng = random.Random(0)
    n_categories = 5
    cosines = tuple(
        tuple(1.0 if i == j else round(0.6 - 0.1 * abs(i - j), 2) for j in range(n_categories))
        for i in range(n_categories)
    )
    values = {
        "model": f"smollm2@b179c952+8cc6763e{text}", "base": f"smollm2@b179c952{text}", "layers": tuple(range(layers)),
        "spans": SPANS, "span_texts": tuple(t + text for t in TEXTS), "refused_by": "token", "judge": f"learned{text}",
        "design": "crossed", "method": "difference_in_means", "seeds": (0, 1, 2),
        "buckets": {part + text: {key: 20 for key in BUCKETS if key} for part in ("fit", "selection", "test")},
        "attrition": (Attrition(name=f"matched pairs{text}", n=300, kept=256, reason=f"no partner of that length{text}"),),
        "agreement": {f"refused, token declines{text}": 41, "refused, token answers": 3}, "curves": curves(layers, rng),
        "maps": maps(layers, rng), "cosine_harm_refusal": rising(layers, 0.4, rng, 0.0),
        "honesty": (
            HonestyTable(axis="harm", task=TASKS[0], span="t_inst", layer=layers // 2, rows=control_rows(text)),
            HonestyTable(axis="refusal", task=TASKS[1], span="t_post[-1]", layer=layers - 1, rows=control_rows(text, 0.99)),
        ),
        "delta_correlation": 0.61, "points": points(n_points, rng, text),
        "categories": tuple(f"category {i}{text}" for i in range(n_categories)), "category_cosines": cosines,
        "selection": selection(layers, rng, text),
        "saved": (SavedDirection(axis="harm", file=f"harm.safetensors{text}", span="t_inst", layer=2, chosen_by=f"AUROC{text}",
                                 threshold=0.3, false_positive_rate=0.04),),
        "notes": (f"7 prompts got a degenerate or unjudged reply and are in no bucket.{text}",),
        "manifest": {"kind": "directions", "command": ["demur", "explain", text], "config": {f"out{text}": text}},
    }  # fmt: skip
    return DirectionStudy(**(values | changes))


def cliff(blocks=4, n_heads=3, text="", kind="cliff", **changes):
    rng = random.Random(1)
    tail = tuple(float(x) for x in range(-40, 9))
    shares = tuple(i / 20 for i in range(21))
    groups = ("to decline, declined", "to decline, answered", "to answer, answered")
    head_map = tuple(tuple(rng.gauss(0, 0.12) for _ in range(n_heads)) for _ in range(blocks))
    order = sorted(((v, b, h) for b, row in enumerate(head_map) for h, v in enumerate(row)))
    shown = order if len(order) <= 32 else [*order[:16], *order[-16:]]
    values = {
        "model": f"smollm2+runs/thinking{text}", "kind": kind,
        "attrition": {"prompts": 300, f"thinking closed{text}": 280, "used": 260}, "probe_penalty": 1.0,
        "contrast_cosine": 0.31,
        "probes": (ProbeRow(name=f"own probe{text}", span="t_inst", accuracy=0.8, auroc=0.86, low=0.8, high=0.9,
                            n_refused=40, n_complied=40),),
        "controls": control_rows(text), "curves": tuple(
            [cliff_curve(g + (text if i == 2 else ""), "tail", tail, i) for i, g in enumerate(groups)]
            + [cliff_curve(g, "fraction", shares, i) for i, g in enumerate(groups)]),
        "groups": tuple(GroupRow(group=g, n=40, plateau=mean(0.8), final=mean(0.3), drop=mean(0.5), drop_logit=mean(3.2),
                                 n_high=31, declared=i == 1, reason=f"plateau too low{text}" if i != 1 else "")
                        for i, g in enumerate(groups)),
        "rank_by": "change", "n_heads": n_heads, "n_blocks": blocks,
        "heads": tuple(HeadRow(block=b, head=h, contribution=mean(v, 0.04), final=v, ablated=i < 3,
                               causal=mean(v) if i < 8 else None, causal_final=v if i < 8 else None)
                       for i, (v, b, h) in enumerate(shown)),
        "head_map": head_map,
        "drop_shares": {"heads": 2.0, "embedding": 0.1, "feed-forward and biases": 1.1, "total": 3.2},
        "causal_agreement": 0.44, "ablations": ablations(rng, text), "random_p": 0.047,
        "truncation": tuple(TruncationRow(fraction=f, n=24, final=mean(0.9 - f / 2), refusal=rate(0.9 - f / 2, 24))
                            for f in (0.0, 0.25, 0.5, 0.75, 1.0)),
        "selection": SelectionSummary(n_candidates=60, n_with_reply=55, n_selected=20, overlap=0.7,
                                      misalignment={"all": 0.3, "drop": 0.6, f"final{text}": 0.5},
                                      files={"drop": f"selected.jsonl{text}"}),
        "notes": (f"The probe was fitted at one position.{text}",), "manifest": {"kind": "cliff", "command": [text]},
    }  # fmt: skip
    return CliffResult(**(values | changes))


def cliff_curve(group, axis, x, i):
    level = (0.9, 0.8, 0.1)[i]
    fallen = [level - (0.6 if i == 1 and at > -4 and axis == "tail" else 0.0) for at in x]
    return CurveRow(group=group, axis=axis, x=x, mean=tuple(fallen), low=tuple(v - 0.05 for v in fallen),
                    high=tuple(v + 0.05 for v in fallen), count=tuple(40 - abs(k) // 3 for k in range(len(x))))  # fmt: skip


def ablations(rng, text):
    def row(name, logit):
        return AblationRow(name=name + text, heads=("3.1", "12.4"), factor=0.0, rescale="token", plateau=mean(0.8),
                           final=mean(0.4), drop=mean(0.4), final_logit=logit, refusal=rate(0.6), over_refusal=rate(0.1),
                           degenerate=rate(0.02), perplexity=8.4)  # fmt: skip

    kinds = ("random heads", "random heads of the same blocks")
    return (row("none", -1.0), row("top heads", 1.4), *(row(k, rng.gauss(-0.8, 0.3)) for k in kinds for _ in range(10)))


def steering(text="", layer=18, strengths=(-0.8, -0.4, 0.0, 0.1, 0.2, 0.4, 0.8, 1.2)):
    def doses(push, places):
        return tuple(
            Dose(strength=s, side=side, declined=rate(min(1, max(0, level + push * s))),
                 degenerate=rate(min(1, max(0, (abs(s) - 0.6)))), unjudged=1)
            for s in places for side, level in (("to decline", 0.5), ("to answer", 0.1))
        )  # fmt: skip

    name = f"refusal at {layer}{text}"
    own = DoseCurve(name=name, kind="direction", layer=layer, doses=doses(0.6, strengths), note=text)
    gated = DoseCurve(name=name, kind="gated", layer=layer, doses=doses(0.4, strengths))
    gone = DoseCurve(name=name, kind="ablation", layer=None, doses=doses(-0.3, (1.0,)))
    drawn = [DoseCurve(name=name, kind="random directions", layer=layer, doses=doses(0.05 * i, (0.4, 0.8)))
             for i in range(-3, 4)]  # fmt: skip
    return SteeringStudy(model=f"smollm2+adapters/tokens{text}", curves=(own, gated, gone, *drawn),
                         notes=(f"Borders were set on other prompts.{text}",), manifest={"command": [text]})  # fmt: skip


def guard(layers=4, text=""):
    flagged = [("harmful", ""), ("harmless", ""), ("harmful, by category", f"safety{text}")]
    return GuardReport(
        model=f"smollm2{text}", identity="guard/1", span="t_inst", span_text=".", layers=tuple(range(layers)),
        metric="cosine", augmented=False, by_category=False, refused_by="none", threshold=0.02, rate=0.05,
        threshold_probability=0.5, sizes={}, rows=control_rows(text), telling_layer=1, variants=(),
        flagged=tuple(FlaggedRow(kind=k, name=n, published=rate(0.9), calibrated=rate(0.8)) for k, n in flagged),
        layer_auroc=(None, *rising(layers - 1, 0.9, random.Random(2))), notes=(f"Small.{text}",), manifest={"a": text},
    )  # fmt: skip
