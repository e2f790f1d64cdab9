"""What an optimisation leaves behind for one query: every step with chain, thoughts, reply and both judgements."""

from typing import Literal, get_args

from demur.constructive.chain import Chain
from demur.constructive.critics import Judgement
from demur.constructive.game import Reply, pearl_point
from demur.constructive.risk import RiskRecord
from demur.constructive.score import Constructive, Weights
from demur.core.exchange import Frozen
from demur.suites.constructive import Query

Mode = Literal["both", "user", "developer"]
MODES: tuple[Mode, ...] = get_args(Mode)
Task = Literal["user", "developer", "both_low", "unsafe", "unhelpful", "fine"]
Stopped = Literal["rounds done", "scores reached", "unjudged", "unread", "failed"]
EVEN = 1e-9


class Draft(Frozen):
    """A reply with the thoughts it came from."""

    think: str = ""
    response: str


class Edit(Frozen):
    """One backward pass.

    Attributes:
        mode: What could be touched.
        task: What the gate asked for.
        proposed: The chain as the update proposed it.
        cut: Whether the projection found a set's change too large.
    """

    mode: Mode
    task: Task
    proposed: Chain
    cut: bool


class Step(Frozen):
    """One reply on the way.

    Attributes:
        round: -1 for the model's own reply, 0 for the first one from the chain, then 1, 2, ...
        edit: How its chain came from the step's before; None for the first two.
        chain: The chain of the reply; None for the model's own.
        general: The chain as it was used: without the risk nodes where nothing is at stake.
        think: Thoughts.
        response: What the person reads.
        judgement: Both critics.
    """

    round: int
    edit: Edit | None = None
    chain: Chain | None = None
    general: Chain | None = None
    think: str = ""
    response: str
    judgement: Judgement

    def constructive(self, weights: Weights) -> Constructive | None:
        """Its score; None where a critic could not be read."""
        satisfaction, risk = self.judgement.satisfaction, self.judgement.risk
        return None if satisfaction is None or risk is None else Constructive(satisfaction, risk, weights)


class Trajectory(Frozen):
    """Everything about one query.

    Attributes:
        query: The query.
        risk: What is at stake in it.
        max_risk: Edge of the safe region.
        steps: In order; none where the model never answered.
        stopped: Why it ended.
        problem: What went wrong, where something did.
    """

    query: Query
    risk: RiskRecord
    max_risk: float
    steps: tuple[Step, ...]
    stopped: Stopped
    problem: str = ""

    @property
    def original(self) -> Step | None:
        """The model's own reply."""
        return self.steps[0] if self.steps else None

    @property
    def pearl(self) -> Step | None:
        """The pearl point: the most satisfying step in the safe region, the earliest of equal ones; None if none."""
        judged = [step for step in self.steps if step.judgement.is_whole]
        replies = [
            Reply(str(at), step.judgement.satisfaction or 0.0, step.judgement.risk or 0.0, cost=at)
            for at, step in enumerate(judged)
        ]
        found = pearl_point(replies, max_risk=self.max_risk)
        return None if found is None else judged[int(found.name)]

    def best(self, weights: Weights) -> Step | None:
        """The step of the highest constructive score, the earliest of equal ones; None if none was judged."""
        scored = [(step, score.raw) for step in self.steps if (score := step.constructive(weights)) is not None]
        top = max((value for _, value in scored), default=0.0)
        return next((step for step, value in scored if value >= top - EVEN), None)

    def chosen(self, weights: Weights) -> Step | None:
        """The pearl point, or else the best step."""
        return self.pearl or self.best(weights)
