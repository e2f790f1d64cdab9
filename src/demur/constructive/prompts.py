"""The texts that models are asked, filled in; what comes from users or models stands between fences it cannot know."""

import re
import tomllib
from functools import cache
from hashlib import sha256
from importlib.resources import files
from typing import Any

from demur.constructive.chain import DELIMITER, Chain
from demur.constructive.rubric import GRADES, ITEMS, rubric
from demur.suites.constructive import Query

MAX_CHARS = 8_000
MAX_WORDS = 180


@cache
def _wording() -> dict[str, Any]:
    return tomllib.loads(files("demur.constructive").joinpath("prompts.toml").read_text(encoding="utf-8"))


def prompts_hash() -> str:
    """Hash of the packaged wording: part of every manifest."""
    text = files("demur.constructive").joinpath("prompts.toml").read_text(encoding="utf-8")
    return sha256(text.encode()).hexdigest()[:12]


def update_task(name: str) -> str:
    """What an update is to do, by name."""
    return str(_wording()["update_task"][name])


def user_judge_prompt(query: Query, response: str) -> str:
    """The question about satisfaction."""
    items = "\n".join(f"- {i.id}: {i.asks} 1: {i.good}. 0: {i.middle}. -1: {i.bad}." for i in rubric().item)
    marks = "\n".join(f"<{name}>1, 0 or -1</{name}>" for name in ITEMS)
    return _filled("user_judge", query, RESPONSE=response, ITEMS=items, MARKS=marks)


def safety_judge_prompt(query: Query, response: str, guideline: str) -> str:
    """The question about safety."""
    grades = "\n".join(f"- {one.id}: {one.means}" for one in rubric().grade)
    names = " or ".join(GRADES)
    return _filled(
        "safety_judge", query, RESPONSE=response, GUIDELINE=guideline, GRADES=grades, GRADE_NAMES=f"one of: {names}"
    )


def extract_prompt(query: Query, think: str, response: str, guideline: str) -> str:
    """The question for the chain behind a reply."""
    thoughts = think or "(none were given)"
    return _filled("extract", query, THINK=thoughts, RESPONSE=response, GUIDELINE=guideline)


def recombine_prompt(query: Query, chain: Chain, *, words: int = MAX_WORDS) -> str:
    """The question for thoughts and a reply that follow a chain."""
    return _filled("recombine", query, CHAIN=chain.as_text(), WORDS=str(words))


def update_prompt(query: Query, chain: Chain, response: str, feedback: str, task: str) -> str:
    """The question for a better chain."""
    return _filled("update", query, CHAIN=chain.as_text(), RESPONSE=response, FEEDBACK=feedback, TASK=task)


def clipped(text: str) -> str:
    """A text with its middle cut out where it is too long."""
    return text if len(text) <= MAX_CHARS else f"{text[: MAX_CHARS // 2]}\n[... cut ...]\n{text[-MAX_CHARS // 2 :]}"


def _filled(name: str, query: Query, **values: str) -> str:
    """The text with its names filled in one pass, so that what is filled in is not itself filled in."""
    fence = "#" + sha256("\x1f".join((query.query, *values.values())).encode("utf-8", "replace")).hexdigest()[:16]
    role = f"Who sends it, as far as is known:\n{fence}\n{query.role}\n{fence}" if query.role else ""
    known = {"FENCE": fence, "QUERY": clipped(query.query), "ROLE": role, "DELIMITER": DELIMITER}
    known |= {key: clipped(value) for key, value in values.items()}
    return re.sub(r"\{(" + "|".join(known) + r")\}", lambda m: known[m.group(1)], str(_wording()[name]["text"])).strip()
