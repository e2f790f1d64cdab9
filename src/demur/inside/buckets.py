"""Four buckets of prompts, refused or accepted by harmful or harmless: formed from what a model did, never assumed.

Degenerate and unjudged replies are neither refused nor accepted: they go into no bucket and are counted.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.typing import NDArray

from demur.core.errors import BadInputError
from demur.core.verdict import Outcome, Verdict

Bucket = Literal["refused_harmful", "accepted_harmful", "accepted_harmless", "refused_harmless"]
BUCKETS: tuple[Bucket, ...] = get_args(Bucket)
FEWEST = 5  # prompts of a bucket, below which its mean says nothing
Rows = NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Labelled:
    """One prompt, whether it is harmful, and whether the model refused it.

    Attributes:
        prompt: What a user asks.
        harmful: Side of the prompt.
        to_decline: Whether it should be declined; harmful prompts should, and so should some harmless ones, such as
            those that ask for what nobody can know.
        refused: What the model did; None where the reply was degenerate or not judged.
        category: Kind of request.
        group: Shared by prompts that must stay on one side of a split, such as contrast twins.
        outcome: The verdict that `refused` was read from.
    """

    prompt: str
    harmful: bool
    to_decline: bool = False
    refused: bool | None = None
    category: str = ""
    group: str = ""
    outcome: Outcome = "unjudged"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Buckets:
    """Rows by bucket, and what went into none.

    Attributes:
        rows: Indices of each bucket's rows.
        left_out: Rows without a verdict by reason, 'degenerate' or 'unjudged', and side: ('degenerate', True).
    """

    rows: Mapping[Bucket, Rows]
    left_out: Mapping[tuple[str, bool], int]

    @property
    def sizes(self) -> dict[Bucket, int]:
        """Rows of each bucket."""
        return {name: len(rows) for name, rows in self.rows.items()}

    @property
    def is_crossed(self) -> bool:
        """Whether all four buckets are large enough to tell refusal from harmfulness by design."""
        return all(n >= FEWEST for n in self.sizes.values())

    def of(self, *names: Bucket) -> Rows:
        """Rows of several buckets, in order of the rows."""
        return np.sort(np.concatenate([self.rows[name] for name in names]))


def refused_by(verdict: Verdict) -> bool | None:
    """Whether a verdict counts as a refusal; None where it counts as neither.

    A partial refusal is one. An answer that clarifies or corrects is not: at the end of a prompt the question is
    whether the model is about to decline.
    """
    if verdict.outcome in ("degenerate", "unjudged"):
        return None
    return verdict.outcome in ("refused", "partial")


def filled(rows: Sequence[Labelled]) -> Buckets:
    """Sort rows into buckets."""
    found: dict[Bucket, list[int]] = {name: [] for name in BUCKETS}
    left_out: Counter[tuple[str, bool]] = Counter()
    for i, row in enumerate(rows):
        name = bucket_of(row)
        if name is None:
            reason = row.outcome if row.outcome in ("degenerate", "unjudged") else "unjudged"
            left_out[reason, row.harmful] += 1
        else:
            found[name].append(i)
    return Buckets(
        rows={name: np.array(found[name], dtype=np.int64) for name in BUCKETS}, left_out=dict(sorted(left_out.items()))
    )


def bucket_of(row: Labelled) -> Bucket | None:
    """Bucket of one row; None without a verdict."""
    if row.refused is None:
        return None
    if row.refused:
        return "refused_harmful" if row.harmful else "refused_harmless"
    return "accepted_harmful" if row.harmful else "accepted_harmless"


def check_refusals(buckets: Buckets, *, model: str, fewest: int = FEWEST) -> None:
    """Make sure that there are refusals, and answers, to find a refusal direction from.

    Raises:
        BadInputError: The model hardly ever refuses, or hardly ever answers; the message says what to do.
    """
    sizes = buckets.sizes
    refused = sizes["refused_harmful"] + sizes["refused_harmless"]
    accepted = sizes["accepted_harmful"] + sizes["accepted_harmless"]
    if refused >= fewest and accepted >= fewest:
        return
    never, other = ("refuses", "answered") if refused < fewest else ("answers", "refused")
    n_left_out = sum(buckets.left_out.values())
    remedy = (
        "train it to refuse ('demur train refusal-tokens') and name it BASE+ADAPTER, or give prompts that it refuses"
        if never == "refuses"
        else "give prompts that it answers"
    )
    raise BadInputError(
        f"model {model!r} hardly ever {never}: {min(refused, accepted)} of {refused + accepted} judged prompts "
        f"(expected at least {fewest}; {max(refused, accepted)} {other}, {n_left_out} degenerate or unjudged); "
        f"there is no refusal direction to find: {remedy}"
    )


def split_by_group(rows: Sequence[Labelled], shares: Sequence[float], *, seed: int = 0) -> tuple[tuple[int, ...], ...]:
    """Rows in disjoint parts: rows of equal prompt or group stay together, each side is split in the same shares.

    Args:
        rows: The rows.
        shares: Share of each part; they add up to 1.
        seed: Of the draw.

    Returns:
        Indices of each part, in order.
    """
    parent: dict[str, str] = {}
    for row in rows:
        _join(parent, _prompt_key(row.prompt), f"group:{row.group}" if row.group else _prompt_key(row.prompt))
    members: dict[str, list[int]] = {}
    for i, row in enumerate(rows):
        members.setdefault(_root(parent, _prompt_key(row.prompt)), []).append(i)
    groups = [members[key] for key in sorted(members, key=lambda key: members[key][0])]
    order = np.random.default_rng(seed).permutation(len(groups))
    parts: list[list[int]] = [[] for _ in shares]
    counts = np.zeros((len(shares), 2))
    for at in order:
        wanted = np.bincount([int(rows[i].harmful) for i in groups[at]], minlength=2)
        # The part that is furthest behind its share on the sides this group has.
        behind = ((counts + wanted) / np.asarray(shares)[:, None] * (wanted > 0)).sum(axis=1)
        part = int(behind.argmin())
        parts[part] += groups[at]
        counts[part] += wanted
    return tuple(tuple(sorted(part)) for part in parts)


def _prompt_key(prompt: str) -> str:
    return "prompt:" + " ".join(prompt.split()).casefold()


def _root(parent: dict[str, str], key: str) -> str:
    while parent.setdefault(key, key) != key:
        key = parent[key]
    return key


def _join(parent: dict[str, str], one: str, other: str) -> None:
    parent[_root(parent, one)] = _root(parent, other)
