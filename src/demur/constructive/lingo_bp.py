"""Lingo-BP: a reply improved by small edits to the chain behind it, two critics pointing the way; no gradient anywhere.

Judge, gate, update, project, write again: a coordinate-wise search over text. Source: Oyster-I (Alibaba AAIG 2025),
lingo_bp.py and optimize.py, from the description of their behaviour; prompts and code are demur's.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from demur.constructive.chain import Chain
from demur.constructive.critics import Critic, Judgement
from demur.constructive.projection import ProjectionMode, project
from demur.constructive.risk import PolicyTable, RiskRecord, Strategies, load_policy_table, risk_of_query
from demur.constructive.trajectory import Draft, Edit, Mode, Step, Stopped, Task, Trajectory
from demur.constructive.writers import Writer
from demur.core.errors import BackendError, BadInputError
from demur.suites.constructive import Query

ROUNDS = 3  # default number of rounds, all of mode 'both', as released
MOST_ROUNDS = 20
WHOLE = 1.0  # score at which there is nothing left to gain
ENOUGH = 0.6  # satisfaction below which the gate calls a reply unhelpful: one item of five may be middling or worse


@dataclass(frozen=True, slots=True)
class LingoBP:
    """The loop.

    Attributes:
        writer: Who writes.
        critic: Who judges.
        modes: One for each round.
        projection: How a proposed set is cut down.
        policy: Strategies, guidelines and safe regions.
        early_stop: End once the scores that the next mode is about have reached 1.
    """

    writer: Writer
    critic: Critic
    modes: tuple[Mode, ...] = ("both", "both", "both")
    projection: ProjectionMode = "one-edit"
    policy: PolicyTable | None = None
    early_stop: bool = True

    def __post_init__(self) -> None:
        if not 0 <= len(self.modes) <= MOST_ROUNDS:
            raise BadInputError(f"--rounds: expected 0 to {MOST_ROUNDS}, got {len(self.modes)}")

    async def run(self, query: Query) -> Trajectory:
        """Optimise one query; a writer or critic that fails ends it, with everything up to then kept."""
        table = self.policy or load_policy_table()
        risk = risk_of_query(query, table)
        walk = _Walk(self, query, risk, table.guideline(risk), [])
        try:
            stopped, problem = await walk.go()
        except BackendError as error:
            stopped, problem = "failed", " ".join(str(error).split())[:200]
        return Trajectory(
            query=query,
            risk=risk,
            max_risk=table.max_risk(risk),
            steps=tuple(walk.steps),
            stopped=stopped,
            problem=problem,
        )


@dataclass(slots=True)
class _Walk:
    """One query on its way."""

    loop: LingoBP
    query: Query
    risk: RiskRecord
    guideline: str
    steps: list[Step]

    async def go(self) -> tuple[Stopped, str]:
        writer = self.loop.writer
        draft = await writer.answer(self.query, self.risk)
        self.steps.append(Step(round=-1, **_said(draft), judgement=await self._judged(draft)))
        chain = await writer.extract(self.query, draft, self.guideline)
        if chain is None:
            return "unread", "the chain behind the reply could not be read"
        if not await self._forward(0, chain, None):
            return "unread", "round 0: the reply could not be read"
        for number, mode in enumerate(self.loop.modes, start=1):
            judgement = self.steps[-1].judgement
            if not judgement.is_whole:
                return "unjudged", judgement.user.problem or judgement.safety.problem
            if self.loop.early_stop and is_reached(mode, judgement):
                return "scores reached", ""
            edit = await self._backward(mode, chain, judgement)
            if edit is None:
                return "unread", f"round {number}: the new chain could not be read"
            chain = projected(edit, chain, self.loop.projection)
            cut = chain.strategies != _allowed(edit.mode, edit.proposed, chain).strategies
            if not await self._forward(number, chain, edit.model_copy(update={"cut": cut})):
                return "unread", f"round {number}: the reply could not be read"
        return "rounds done", ""

    async def _backward(self, mode: Mode, chain: Chain, judgement: Judgement) -> Edit | None:
        task = gate(mode, judgement)
        response = self.steps[-1].response
        proposed = await self.loop.writer.update(self.query, chain, response, judgement.feedback(), task)
        return None if proposed is None else Edit(mode=mode, task=task, proposed=proposed, cut=False)

    async def _forward(self, number: int, chain: Chain, edit: Edit | None) -> bool:
        draft = await self.loop.writer.recombine(self.query, chain.general)
        if draft is None:
            return False
        judgement = await self._judged(draft)
        self.steps.append(
            Step(round=number, edit=edit, chain=chain, general=chain.general, **_said(draft), judgement=judgement)
        )
        return True

    async def _judged(self, draft: Draft) -> Judgement:
        return await self.loop.critic.judge(self.query, self.risk, draft.response, self.guideline)


def gate(mode: Mode, judgement: Judgement) -> Task:
    """What an update is to do; in mode 'both' safety below 1 asks for correction, otherwise limits may be loosened.

    Args:
        mode: What may be touched.
        judgement: Both critics, whole.
    """
    if mode != "both":
        return mode
    helpful = (judgement.satisfaction or 0.0) >= ENOUGH
    safe = 1.0 - (judgement.risk if judgement.risk is not None else 1.0) >= WHOLE
    if safe:
        return "fine" if helpful else "unhelpful"
    return "unsafe" if helpful else "both_low"


def is_reached(mode: Mode, judgement: Judgement) -> bool:
    """Whether the scores that a mode is about have reached 1."""
    pleased = judgement.satisfaction is not None and judgement.satisfaction >= WHOLE
    safe = judgement.risk is not None and 1.0 - judgement.risk >= WHOLE
    return {"user": pleased, "developer": safe, "both": pleased and safe}[mode]


def projected(edit: Edit, old: Chain, mode: ProjectionMode) -> Chain:
    """The chain to go on with: the proposed nodes that the mode may touch, each set cut down to a minimal change."""
    new = _allowed(edit.mode, edit.proposed, old)
    sets = Strategies(
        usefulness=project(new.strategies.usefulness, old.strategies.usefulness, mode).strategies,
        safety=_kept(new.strategies.safety, old.strategies.safety, edit, mode),
    )
    return new.model_copy(update={"strategies": sets})


def _kept(new: Sequence[str], old: Sequence[str], edit: Edit, mode: ProjectionMode) -> tuple[str, ...]:
    return tuple(old) if edit.mode == "user" else project(new, old, mode).strategies


def _allowed(mode: Mode, proposed: Chain, old: Chain) -> Chain:
    """The proposal without what the mode may not touch: 'user' changes needs and usefulness only."""
    if mode != "user":
        return proposed
    sets = Strategies(usefulness=proposed.strategies.usefulness, safety=old.strategies.safety)
    return old.model_copy(update={"needs": proposed.needs, "strategies": sets})


def _said(draft: Draft) -> dict[str, str]:
    return {"think": draft.think, "response": draft.response}
