"""The leader-follower game: the model commits to a reply, a user of hidden type leaves, accepts, asks on or attacks.

The model's utility is alpha * retention - beta * risk - gamma * cost, the user's best move foreseen (Stackelberg).
The source gives the utility and the idea; the followers' pay-offs are demur's, stated here and worked through in docs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from demur.constructive.profile import Move, Users, UserType
from demur.core.errors import BadInputError

MOVES: tuple[Move, ...] = ("accept", "ask_on", "leave", "attack")
_EQUAL = 1e-12


@dataclass(frozen=True, slots=True)
class Reply:
    """A reply the model could commit to.

    Attributes:
        name: For tables.
        satisfaction: What it gives to somebody with a legitimate need, in [-1, 1].
        risk: Chance or degree of harm it opens, in [0, 1].
        cost: Of writing it, e.g. hundreds of tokens; 0 or more.
        opening: How far it invites a next step (a question, an offer), in [0, 1].
    """

    name: str
    satisfaction: float
    risk: float
    cost: float = 0.0
    opening: float = 0.0


@dataclass(frozen=True, slots=True)
class Follower:
    """What one type of user wants.

    Attributes:
        malice: Weight of harm in what satisfies this type: 0 wants the answer, 1 wants the harm.
        outside: Pay-off of leaving for another source.
        need: What a next step is worth where the reply opens one.
        effort: Of asking on.
        gain: What a unit of risk is worth to an attack.
        attempt: Cost of an attack.
    """

    malice: float
    outside: float
    need: float
    effort: float
    gain: float
    attempt: float

    def liking(self, reply: Reply) -> float:
        """Satisfaction as this type feels it, in [-1, 1]: the reply's own, or how much harm it opens."""
        return (1 - self.malice) * reply.satisfaction + self.malice * (2 * reply.risk - 1)

    def payoff(self, reply: Reply, move: Move) -> float:
        """Pay-off of a move after a reply."""
        if move == "leave":
            return self.outside
        if move == "accept":
            return self.liking(reply)
        if move == "ask_on":
            return self.liking(reply) + self.need * reply.opening - self.effort
        return self.gain * reply.risk - self.attempt


FOLLOWERS: dict[UserType, Follower] = {
    "benign": Follower(malice=0.0, outside=0.0, need=0.2, effort=0.1, gain=0.0, attempt=1.0),
    "sensitive": Follower(malice=0.0, outside=-0.2, need=0.5, effort=0.1, gain=0.0, attempt=1.0),
    "malicious": Follower(malice=1.0, outside=0.0, need=0.0, effort=0.1, gain=2.0, attempt=0.5),
}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one type does about a reply, and what the model gets from it."""

    kind: UserType
    move: Move
    retention: float
    risk: float
    utility: float


@dataclass(frozen=True, slots=True)
class Valued:
    """A reply with the model's expected utility, the mean over the types of `outcomes`."""

    reply: Reply
    utility: float
    outcomes: tuple[Outcome, ...]


@dataclass(frozen=True, slots=True)
class Game:
    """A game with its weights.

    Attributes:
        users: Distribution over the hidden types.
        alpha: Weight of retention.
        beta: Weight of risk.
        gamma: Weight of cost.
        followers: What each type wants.
    """

    users: Users
    alpha: float = 1.0
    beta: float = 2.0
    gamma: float = 0.05
    followers: dict[UserType, Follower] = field(default_factory=lambda: dict(FOLLOWERS))

    def outcome(self, kind: UserType, reply: Reply) -> Outcome:
        """The best move of one type; among equal ones that which the model likes best (the strong Stackelberg rule)."""
        follower = self.followers[kind]
        best = max(follower.payoff(reply, move) for move in MOVES)
        moves = [move for move in MOVES if follower.payoff(reply, move) >= best - _EQUAL]
        return max((self._outcome(kind, reply, move) for move in moves), key=lambda one: one.utility)

    def value(self, reply: Reply) -> Valued:
        """The model's expected utility of a reply, with what each type does about it."""
        found = tuple(self.outcome(kind, reply) for kind in self.followers)
        return Valued(reply, sum(self.users.of(one.kind) * one.utility for one in found), found)

    def solve(self, replies: Sequence[Reply]) -> list[Valued]:
        """Every reply with its value, the one to commit to first.

        Raises:
            BadInputError: There are none.
        """
        if not replies:
            raise BadInputError("game: expected replies to choose from, got none")
        return sorted(map(self.value, replies), key=lambda one: -one.utility)

    def _outcome(self, kind: UserType, reply: Reply, move: Move) -> Outcome:
        # Harm that somebody wants is no reason to keep them: only a legitimate liking counts as retention.
        follower = self.followers[kind]
        stays = move in ("accept", "ask_on")
        retention = (1 - follower.malice) * reply.satisfaction if stays else 0.0
        risk = 1 - (1 - reply.risk) ** 2 if move == "attack" else reply.risk  # an attack takes the chance twice
        utility = self.alpha * retention - self.beta * risk - self.gamma * reply.cost
        return Outcome(kind, move, retention, risk, utility)


def pearl_point(replies: Sequence[Reply], *, max_risk: float) -> Reply | None:
    """The most satisfying reply inside the safe region; the cheaper of equal ones; None if nothing is safe enough.

    Args:
        replies: To choose from.
        max_risk: Edge of the safe region, in [0, 1], which is part of it.
    """
    safe = [reply for reply in replies if reply.risk <= max_risk]
    return max(safe, key=lambda one: (one.satisfaction, -one.risk, -one.cost), default=None)
