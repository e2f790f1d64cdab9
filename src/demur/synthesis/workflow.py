"""The steps in order, and in rounds until there are enough good prompts or a round brings none."""

import asyncio
import math
from collections import Counter
from collections.abc import Callable, Coroutine, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from demur.core.chat import ChatModel
from demur.core.exchange import Frozen
from demur.synthesis.asking import Asker
from demur.synthesis.auditing import JudgeCheck, Panel
from demur.synthesis.copies import Sources
from demur.synthesis.diversity import Spread, farthest_first, spread, tfidf
from demur.synthesis.draft import GOOD, Draft
from demur.synthesis.duplicates import NEAR, nearest_earlier
from demur.synthesis.policy import Kind, SynthesisPolicy, quotas
from demur.synthesis.seeds import gather_seeds
from demur.synthesis.writing import Writer

Progress = Callable[[str, int, int], None]
T = TypeVar("T")
LEAST_YIELD = 0.2  # later rounds ask for at most five drafts for each prompt that is missing


class Effort(Frozen):
    """How much to ask for, and what counts as the same prompt.

    Attributes:
        n: Prompts wanted.
        oversample: Drafts asked for in the first round for each prompt wanted.
        rounds: Rounds at most.
        near: Jaccard index of character 5-grams from which prompts are duplicates.
        seed: Of everything that is drawn.
    """

    n: int
    oversample: float = 1.6
    rounds: int = 3
    near: float = NEAR
    seed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What came of the steps that ask.

    Attributes:
        drafts: Every draft with its state, by category and number.
        checks: The judges.
        wanted: Prompts wanted by category.
        spreads: Diversity of the selected by category.
        n_rounds: Rounds it took.
    """

    drafts: tuple[Draft, ...]
    checks: tuple[JudgeCheck, ...]
    wanted: dict[str, int]
    spreads: dict[str, Spread]
    n_rounds: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Workflow:
    """A synthesis: who writes, who judges, for which policy.

    Attributes:
        against: Prompts of other suites that must not be written again.
        progress: Called with step, done and total.
    """

    policy: SynthesisPolicy
    kind: Kind
    model: ChatModel
    judges: Sequence[ChatModel]
    asker: Asker
    effort: Effort
    against: Sequence[str]
    progress: Progress

    async def run(self) -> Written:
        """Ask until there are enough good prompts; the same call after an interruption asks only the rest.

        Raises:
            BadInputError: The numbers or templates of the policy do not fit.
            BackendError: The writer answers nothing.
        """
        wanted = quotas(self.policy, self.effort.n)
        writer = await self._writer(wanted)
        panel = Panel(policy=self.policy, kind=self.kind, judges=self.judges, asker=self.asker)
        drafts: list[Draft] = []
        taken = self._taken(writer)
        n_rounds = 0
        for _ in range(self.effort.rounds):
            n_good = _n_good(drafts)
            todo = self._todo(drafts, wanted)
            if not todo:
                break
            n_rounds += 1
            drafts += await self._round(writer, panel, todo)
            drafts = without_duplicates(drafts, taken, near=self.effort.near)
            if sum(_n_good(drafts).values()) == sum(n_good.values()):
                break
        checks = await panel.check(drafts)
        selected, spreads = select(drafts, wanted, seed=self.effort.seed)
        return Written(drafts=tuple(selected), checks=tuple(checks), wanted=wanted, spreads=spreads, n_rounds=n_rounds)

    async def _writer(self, wanted: dict[str, int]) -> Writer:
        total = {name: math.ceil(n * self.effort.oversample) for name, n in wanted.items()}
        gathered = await _all(
            gather_seeds(self.policy, norm, self.kind, self.model, self.asker, n_prompts=total[norm.id])
            for norm in self.policy.category
        )
        seeds: dict[str, Sequence[str]] = {
            norm.id: found for norm, found in zip(self.policy.category, gathered, strict=True)
        }
        return Writer(
            policy=self.policy,
            kind=self.kind,
            model=self.model,
            asker=self.asker,
            seeds=seeds,
            sources=Sources([*self.policy.examples, *(s for found in seeds.values() for s in found)]),
            seed=self.effort.seed,
        )

    def _taken(self, writer: Writer) -> list[str]:
        """What counts as written before: examples, ideas, and the other suites."""
        return [*self.policy.examples, *(s for found in writer.seeds.values() for s in found), *self.against]

    def _todo(self, drafts: Sequence[Draft], wanted: dict[str, int]) -> list[tuple[str, int]]:
        """Category and number of the drafts of the next round."""
        asked, good = Counter(d.category for d in drafts), _n_good(drafts)
        todo = []
        for name, n in wanted.items():
            missing = n - good[name]
            if missing <= 0:
                continue
            gain = max(good[name] / asked[name], LEAST_YIELD) if asked[name] else 1 / self.effort.oversample
            todo += [(name, asked[name] + at) for at in range(math.ceil(missing / gain))]
        return todo

    async def _round(self, writer: Writer, panel: Panel, todo: Sequence[tuple[str, int]]) -> list[Draft]:
        done = 0

        async def one(category: str, number: int) -> Draft:
            nonlocal done
            draft = await writer.write(category, number)
            if draft.state == "reserve":
                draft = await panel.audit(draft)
            done += 1
            self.progress("writing and auditing", done, len(todo))
            return draft

        return await _all(one(category, number) for category, number in todo)


def without_duplicates(drafts: Sequence[Draft], taken: Sequence[str], *, near: float) -> list[Draft]:
    """The drafts with near-duplicates of earlier good ones, or of what was written before, marked as such."""
    good = [d for d in drafts if d.state in GOOD]
    found = nearest_earlier([d.prompt for d in good], before=taken, near=near)
    marked = {}
    for draft, nearest in zip(good, found, strict=True):
        name = "" if nearest.at is None else good[nearest.at].id if nearest.at >= 0 else "example"
        about: dict[str, object] = {"nearest": name, "similarity": round(nearest.similarity, 3)}
        if nearest.similarity >= near:
            about["state"] = "duplicate"
        marked[draft.id] = draft.model_copy(update=about)
    return [marked.get(d.id, d) for d in drafts]


def select(drafts: Sequence[Draft], wanted: dict[str, int], *, seed: int) -> tuple[list[Draft], dict[str, Spread]]:
    """The drafts with the most diverse good ones of every category selected, in the order of choice, the rest after."""
    chosen: list[Draft] = []
    spreads = {}
    for category, n in wanted.items():
        good = [d for d in drafts if d.category == category and d.state in GOOD]
        if not good:
            continue
        rows = tfidf([d.prompt for d in good])
        picked = farthest_first(rows, [d.seed for d in good], n)
        spreads[category] = spread(rows, picked, seed=seed)
        chosen += [good[at].model_copy(update={"state": "selected"}) for at in picked]
    ids = {d.id for d in chosen}
    rest = [d.model_copy(update={"state": "reserve"}) if d.state in GOOD else d for d in drafts if d.id not in ids]
    return [*chosen, *sorted(rest, key=lambda d: d.state != "reserve")], spreads


def _n_good(drafts: Sequence[Draft]) -> Counter[str]:
    return Counter(d.category for d in drafts if d.state in GOOD)


async def _all(work: Iterable[Coroutine[Any, Any, T]]) -> list[T]:
    """Every result; the first failure stops the rest, and is raised."""
    tasks = [asyncio.ensure_future(one) for one in work]
    try:
        return list(await asyncio.gather(*tasks))
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        raise
