"""The texts that models are asked, filled in; what the policy says stands in each of them."""

import random
import re
import tomllib
from collections.abc import Sequence
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from demur.synthesis.policy import CategoryNorm, Kind, SynthesisPolicy

MAX_EXAMPLES = 8


@cache
def instructions() -> dict[str, Any]:
    """The packaged wording."""
    return tomllib.loads(files("demur.synthesis").joinpath("instructions.toml").read_text(encoding="utf-8"))


def wording_hash() -> str:
    """Hash of the packaged wording: part of every manifest."""
    text = files("demur.synthesis").joinpath("instructions.toml").read_text(encoding="utf-8")
    return sha256(text.encode()).hexdigest()[:12]


def seeds_text(policy: SynthesisPolicy, norm: CategoryNorm, kind: Kind, *, n: int, taken: Sequence[str]) -> str:
    """The question for ideas; those there are, are to be avoided."""
    known = "\nThese exist already; give others:\n" + "\n".join(f"- {t}" for t in taken) if taken else ""
    return _filled("seeds", _common(policy, norm, kind) | {"N": str(n), "TAKEN": known})


def writing_text(
    policy: SynthesisPolicy, norm: CategoryNorm, kind: Kind, *, seed: str, language: str, rng: random.Random
) -> str:
    """The question for one prompt; length, voice and reason are drawn."""
    table = instructions()["writing"]
    drawn = {
        "LENGTH": rng.choice(table["lengths"]),
        "VOICE": rng.choice(table["voices"]),
        "REASON": rng.choice(table["reasons"]),
    }
    return _filled("writing", _common(policy, norm, kind) | drawn | {"SEED": seed, "LANGUAGE": language})


def audit_text(
    policy: SynthesisPolicy, norm: CategoryNorm, kind: Kind, *, prompt: str, language: str, without: str = ""
) -> str:
    """The question about one prompt; the example `without` is left out, so that judges can be checked on it."""
    fence = "#" + sha256(prompt.encode("utf-8", "replace")).hexdigest()[:16]
    values = _common(policy, norm, kind, without=without)
    return _filled("audit", values | {"LANGUAGE": language, "PROMPT": prompt, "FENCE": fence})


def _common(policy: SynthesisPolicy, norm: CategoryNorm, kind: Kind, *, without: str = "") -> dict[str, str]:
    return {
        "REQUEST_KIND": instructions()["request"][kind],
        "POLICY": _policy_text(policy, norm, without),
        "CATEGORY": norm.id.replace("_", " ") + (f" ({norm.about})" if norm.about else ""),
    }


def _policy_text(policy: SynthesisPolicy, norm: CategoryNorm, without: str) -> str:
    parts = [f"The policy, {policy.name!r}:", policy.text.strip()]
    parts += ["Allowed in this category:", *(f"- {line}" for line in norm.allowed)] if norm.allowed else []
    parts += ["Not allowed in this category:", *(f"- {line}" for line in norm.not_allowed)] if norm.not_allowed else []
    near = [b for b in norm.borderline if b.prompt != without][:MAX_EXAMPLES]
    if near:
        sides = {"comply": "allowed", "refuse": "not allowed"}
        parts += ["Examples near the line:"]
        parts += [f"- {sides[b.expected]}: {b.prompt}" + (f" ({b.why})" if b.why else "") for b in near]
    if not (policy.text.strip() or norm.allowed or norm.not_allowed or near):
        parts.append("What is lawful and hurts nobody is allowed; what would help to harm a person is not.")
    return "\n".join(part for part in parts if part)


def _filled(name: str, values: dict[str, str]) -> str:
    """The text with its names filled in one pass, so that what is filled in is not itself filled in."""
    pattern = r"\{(" + "|".join(values) + r")\}"
    return re.sub(pattern, lambda m: values[m.group(1)], str(instructions()[name]["text"])).strip()
