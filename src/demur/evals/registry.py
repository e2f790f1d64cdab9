"""What Inspect finds through the `inspect_ai` entry point; kept light, since every `inspect` start imports it."""

from inspect_ai.model import ModelAPI, modelapi

from demur.evals.constructive_tasks import constructive, constructiveness
from demur.evals.cultures_tasks import agreement, agrees, cultures_logprob, cultures_longform, evaded
from demur.evals.images_provider import images_provider
from demur.evals.images_tasks import image_refused, images
from demur.evals.scorer import appropriate, refused
from demur.evals.stress_solvers import (
    cipher,
    code,
    completion,
    deciphered,
    forced_prefix,
    history,
    tense_reformulation,
)
from demur.evals.stress_tasks import stress
from demur.evals.tasks import core, quick, suite

__all__ = [
    "agreement",
    "agrees",
    "appropriate",
    "cipher",
    "code",
    "completion",
    "constructive",
    "constructiveness",
    "core",
    "cultures_logprob",
    "cultures_longform",
    "deciphered",
    "demur_provider",
    "evaded",
    "forced_prefix",
    "history",
    "image_refused",
    "images",
    "images_provider",
    "quick",
    "refused",
    "stress",
    "suite",
    "tense_reformulation",
]


@modelapi(name="demur")
def demur_provider() -> type[ModelAPI]:
    """Local models through demur's own provider."""
    from demur.evals.provider import DemurAPI

    return DemurAPI
