"""Minimal-change projection: however much a model rewrote a set of strategies, at most one strategy changes in a round.

Every function takes (new, old), the order of the released code. Two modes:

'one-edit' (default) keeps the old set but for one edit towards the new one, and so keeps the critic's correction.
'published' follows the released code, in which only *old* strategies can be added back; see `published`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

from demur.constructive.simhash import likeness
from demur.core.errors import UnknownNameError

ProjectionMode = Literal["one-edit", "published"]
MODES: tuple[ProjectionMode, ...] = get_args(ProjectionMode)
MOST_DIFFERENT = 2  # elements that stand in one set only: one strategy replaced by another


@dataclass(frozen=True, slots=True)
class Projected:
    """A set of strategies after projection; `cut` says whether the proposed change was too large to be taken whole."""

    strategies: tuple[str, ...]
    cut: bool


def project(new: Sequence[str], old: Sequence[str], mode: ProjectionMode = "one-edit") -> Projected:
    """The set to go on with.

    Args:
        new: As the update proposed it.
        old: As it was.
        mode: 'one-edit' or 'published'.

    Raises:
        UnknownNameError: No mode of that name.
    """
    if mode not in MODES:
        raise UnknownNameError("projection", mode, MODES)
    found = published(new, old) if mode == "published" else one_edit(new, old)
    return Projected(found, cut=set(found) != set(new))


def one_edit(new: Sequence[str], old: Sequence[str]) -> tuple[str, ...]:
    """The old set after one edit towards the new one: one strategy added, removed, or put in another's place.

    Of several added ones the most unlike anything old is taken, since it is the correction rather than a rewording; of
    several dropped ones that which is least like anything new gives way. An empty proposal changes nothing: a set that
    vanishes is a reply that went wrong. So |result xor old| <= 2 always, and old order is kept.
    """
    added = [s for s in dict.fromkeys(new) if s not in old]
    dropped = [s for s in dict.fromkeys(old) if s not in new]
    if not new or not (added or dropped):
        return tuple(dict.fromkeys(old))
    come = min(added, key=lambda s: max((likeness(s, o) for o in old), default=0.0)) if added else None
    gone = min(dropped, key=lambda s: max(likeness(s, n) for n in new)) if dropped else None
    if come is None:
        return tuple(s for s in dict.fromkeys(old) if s != gone)
    if gone is None:
        return (*dict.fromkeys(old), come)
    return tuple(come if s == gone else s for s in dict.fromkeys(old))


def published(new: Sequence[str], old: Sequence[str]) -> tuple[str, ...]:
    """As the released code: the new set where it differs by at most two elements, otherwise a mixture.

    With some strategies in common: those, and the *old* one least like the new set on average; everything new is
    discarded. With none in common: the *new* set, in which the old strategy that is most like one of it takes that
    one's place, and of the other old ones the least like it on average is added, so that nearly everything changes.

    Departures: sets keep their order (the code's is arbitrary), strategies stay apart (it joins with ',' in one
    branch and ';' in others, which fuses them for the next round), and its shortcut for an old text of fewer than
    three characters means here an old set without strategies: the new one is taken.

    Source: Alibaba-AAIG/Oyster, lingo_bp.py, read for its behaviour.
    """
    new, old = list(dict.fromkeys(new)), list(dict.fromkeys(old))
    if not old or len(set(new) ^ set(old)) <= MOST_DIFFERENT or not new:
        return tuple(new)
    common = [s for s in new if s in old]
    others = [s for s in old if s not in common]

    def mean(strategy: str) -> float:
        return sum(likeness(strategy, s) for s in new) / len(new)

    if common:
        return (*common, *([min(others, key=mean)] if others else []))
    kept = max(old, key=lambda o: max(likeness(o, s) for s in new))
    replaced = max(new, key=lambda s: likeness(s, kept))
    mixed = [kept if s == replaced else s for s in new]
    rest = [s for s in old if s != kept]
    return (*mixed, *([min(rest, key=mean)] if rest else []))
