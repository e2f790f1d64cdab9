"""Who may be asking: a distribution over three hidden types of user, with the role that is known."""

from typing import Literal, Self, get_args

from pydantic import Field, model_validator

from demur.core.exchange import Frozen
from demur.suites.constructive import RiskLevel

UserType = Literal["benign", "sensitive", "malicious"]
USER_TYPES: tuple[UserType, ...] = get_args(UserType)
Move = Literal["leave", "accept", "ask_on", "attack"]


class Users(Frozen):
    """Probabilities of the three types: benign (wants an answer), sensitive (is at risk), malicious (wants harm).

    Raises:
        ValueError: They do not sum to 1.
    """

    benign: float = Field(ge=0.0, le=1.0)
    sensitive: float = Field(ge=0.0, le=1.0)
    malicious: float = Field(ge=0.0, le=1.0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        total = self.benign + self.sensitive + self.malicious
        if abs(total - 1.0) > 1e-9:
            raise ValueError(f"expected probabilities that sum to 1, got {total:g}")
        return self

    def of(self, kind: UserType) -> float:
        """Probability of a type."""
        return {"benign": self.benign, "sensitive": self.sensitive, "malicious": self.malicious}[kind]

    def after(self, likelihood: dict[UserType, float]) -> "Users":
        """The distribution after a follow-up of the given likelihoods, by Bayes; unchanged if all of them are 0."""
        joint = {kind: self.of(kind) * likelihood.get(kind, 0.0) for kind in USER_TYPES}
        total = sum(joint.values())
        return Users(**{kind: value / total for kind, value in joint.items()}) if total > 0 else self


class UserProfile(Frozen):
    """Who asks, as far as one can tell.

    Attributes:
        role: In a few words; empty where unknown.
        users: Distribution over the hidden types.
    """

    role: str = ""
    users: Users


# Beliefs before anything is measured; a policy table of one's own replaces them.
PRIORS: dict[RiskLevel, Users] = {
    "none": Users(benign=0.95, sensitive=0.04, malicious=0.01),
    "sensitive": Users(benign=0.35, sensitive=0.60, malicious=0.05),
    "adversarial": Users(benign=0.10, sensitive=0.20, malicious=0.70),
}
