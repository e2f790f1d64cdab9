"""Changing a model's activations or weights along directions, by row, under gates; strength as a dial."""

from demur.core.lazy import lazy_names

_HOMES = {
    "steered": "demur.steer.hooks",
    "AddDirection": "demur.steer.interventions",
    "AblateDirection": "demur.steer.interventions",
    "TokenRanges": "demur.steer.interventions",
    "at": "demur.steer.interventions",
    "Condition": "demur.steer.gates",
    "parse_gate": "demur.steer.gates",
    "single_gate": "demur.steer.gates",
    "SteeringControl": "demur.steer.control",
    "SteeringPlan": "demur.steer.plan",
    "load_steering": "demur.steer.folder",
    "save_steering": "demur.steer.folder",
    "orthogonalise": "demur.steer.weights",
    "orthonormal": "demur.steer.interventions",
}
__all__ = sorted(_HOMES)

__getattr__ = lazy_names(__name__, _HOMES, extra="hf", modules=frozenset({"torch", "transformers"}))
