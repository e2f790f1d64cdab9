"""One page from results that lie apart: python benchmarks/inside_report.py OUT.html --directions DIR --cliff DIR ...

Takes the folders of `demur explain directions`, `explain cliff` and `guard fit`, and what `inside_steering.py` measured.
"""

import argparse
import json
from pathlib import Path

from demur.core.cliff import CliffResult
from demur.core.direction_study import DirectionStudy
from demur.core.profile import Interval
from demur.core.steering_study import Dose, DoseCurve, SteeringStudy
from demur.inside.guard_report import GuardReport
from demur.report.inside import InsideFindings, write_inside

SIDES = {"to decline": "refusal", "to answer": "over-refusal"}


def steering_study(found):
    """One model of what `inside_steering.run` returns, as the report takes it."""
    curves = []
    for name, doses in found["doses"].items():
        curves.append(curve(name, "direction", layer_of(name), doses))
    middle = found["layers"][len(found["layers"]) // 2]
    own = f"refusal at {middle}"
    curves += [curve(own, "random directions", int(middle), doses) for doses in found.get("random", {}).values()]
    if "ablated" in found:
        curves.append(curve(own, "ablation", None, {"1": found["ablated"]}))
    notes = []
    if "gated" in found:
        gated = found["gated"]
        curves.append(curve(own, "gated", int(middle), gated["doses"]))
        notes.append(f"The gate is a harmfulness score at t_inst, border {gated['border']}.")
    return SteeringStudy(model=found["identity"], curves=tuple(curves), notes=tuple(notes))


def layer_of(name):
    return int(name.rpartition(" ")[2])


def curve(name, kind, layer, doses):
    rows = [dose(float(strength), side, one) for strength, one in doses.items() for side in SIDES]
    return DoseCurve(name=name, kind=kind, layer=layer, doses=tuple(rows))


def dose(strength, side, found):
    declined, degenerate = found[SIDES[side]], found[f"degenerate, prompts {side}"]
    return Dose(strength=strength, side=side, declined=interval(declined), degenerate=interval(degenerate))


def interval(rate):
    known = rate["rate"]
    hits = 0.0 if known is None else round(known * rate["n"], 6)
    return Interval(estimate=known, low=rate["low"], high=rate["high"], n=rate["n"], hits=hits)


def models_of(path):
    """Models of a steering result, wherever the recorder put them."""
    found = json.loads(path.read_text(encoding="utf-8"))
    while "models" not in found:
        found = next(v for v in found.values() if isinstance(v, dict) and ("models" in v or "result" in v))
    return found["models"]


def main():
    """Write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("--directions", type=Path)
    parser.add_argument("--cliff", type=Path)
    parser.add_argument("--guard", type=Path)
    parser.add_argument("--steering", type=Path, help="JSON with the result of inside_steering, or one model of it")
    given = parser.parse_args()

    def read(folder, file, noun):
        return noun.model_validate_json((folder / file).read_text(encoding="utf-8")) if folder else None

    steering = ()
    if given.steering:
        whole = json.loads(given.steering.read_text(encoding="utf-8"))
        steering = [whole] if "doses" in whole else models_of(given.steering).values()
    write_inside(
        given.out,
        InsideFindings(
            directions=read(given.directions, "directions.json", DirectionStudy),
            cliff=read(given.cliff, "cliff.json", CliffResult),
            guard=read(given.guard, "report.json", GuardReport),
            steering=tuple(steering_study(one) for one in steering),
        ),
    )
    print(given.out)


if __name__ == "__main__":
    main()
