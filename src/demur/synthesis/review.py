"""The page on which a person decides, by keyboard: prompts are data in it, and can become neither markup nor script.

The same page is served (each decision is saved at once) or stands alone as a file (decisions are downloaded).
"""

import json
import re
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from html import escape
from importlib.resources import files
from typing import Any

from demur.synthesis.decisions import Decision
from demur.synthesis.draft import GOOD, Draft
from demur.synthesis.policy import SynthesisPolicy

Shown = Callable[[str], str]


def reviewable(drafts: Sequence[Draft]) -> list[Draft]:
    """What a person looks at: selected prompts in the order of choice, then the reserve."""
    return [d for d in drafts if d.state in GOOD]


def render_review(
    policy: SynthesisPolicy,
    drafts: Sequence[Draft],
    decisions: Mapping[str, Decision],
    *,
    served: bool,
    shown: Shown,
    digest: str,
) -> str:
    """The page as one HTML document without any address in it.

    Args:
        policy: Shown beside the prompts of its categories.
        drafts: As `reviewable`.
        decisions: What was decided before, by draft.
        served: Whether decisions can be sent; otherwise they are downloaded.
        shown: Makes invisible characters of a text visible.
        digest: Identity of the candidates: decisions kept in a browser belong to it.
    """
    css, script = _part("review.css"), _part("review.js")
    data = {
        "name": shown(policy.name),
        "served": served,
        "digest": digest,
        "norms": {c.id: _norm(c.model_dump(), shown) for c in policy.category},
        "text": shown(policy.text),
        "items": [_item(d, shown) for d in drafts],
        "decisions": {name: d.model_dump() for name, d in decisions.items()},
    }
    values = {
        "POLICY": _content_policy(css, script, served=served),
        "TITLE": escape(shown(policy.name)),
        "CSS": css,
        "SCRIPT": script,
        "DATA": script_json(data),
    }
    return re.sub(r"\{\{(" + "|".join(values) + r")\}\}", lambda m: values[m.group(1)], _part("review.html"))


def script_json(value: Any) -> str:
    """JSON in ASCII that can stand in a script element: nothing in it can end or open anything."""
    text = json.dumps(value, ensure_ascii=True, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _content_policy(css: str, script: str, *, served: bool) -> str:
    """Only this style and this script run; nothing is loaded, and nothing but the server itself is spoken to."""
    hashes = [f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'" for text in (css, script)]
    connect = "'self'" if served else "'none'"
    return (
        f"default-src 'none'; style-src {hashes[0]}; script-src {hashes[1]}; connect-src {connect}; "
        "base-uri 'none'; form-action 'none'"
    )


def _item(draft: Draft, shown: Shown) -> dict[str, Any]:
    item: dict[str, Any] = {
        "id": draft.id,
        "category": draft.category,
        "seed": shown(draft.seed),
        "language": shown(draft.language),
        "selected": draft.state == "selected",
        "prompt": draft.prompt,
        "why": shown(draft.why),
        "nearest": draft.nearest,
        "similarity": draft.similarity,
        "votes": [[shown(v.judge), v.allowed, v.alarming, v.sound] for v in draft.votes],
    }
    seen = shown(draft.prompt)
    return item if seen == draft.prompt else item | {"shown": seen}


def _norm(norm: dict[str, Any], shown: Shown) -> dict[str, Any]:
    return {key: [shown(line) for line in norm[key]] for key in ("allowed", "not_allowed")} | {
        "about": shown(norm["about"])
    }


def _part(name: str) -> str:
    return files("demur.synthesis").joinpath(name).read_text(encoding="utf-8")
