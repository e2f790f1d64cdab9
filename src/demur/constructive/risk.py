"""What is at stake in a query (level, intent, category, who may be asking), and the policy table of what to do then."""

import tomllib
from collections.abc import Mapping
from functools import cache
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from pydantic import Field, ValidationError, model_validator

from demur.constructive.profile import PRIORS, UserProfile, Users
from demur.constructive.utterance import guessed_intent, guessed_level
from demur.core.errors import BadInputError, first_complaint
from demur.core.exchange import Frozen
from demur.suites.constructive import INTENTS, RISK_CODES, RISK_LEVELS, Intent, Query, RiskLevel


class Strategies(Frozen):
    """Two sets of strategies: what makes a reply useful, and what keeps it safe."""

    usefulness: tuple[str, ...] = ()
    safety: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> "Strategies":
        if any(";" in text or not text.strip() for text in (*self.usefulness, *self.safety)):
            raise ValueError("expected strategies with words and without ';', which sets them apart")
        return self

    def plus(self, other: "Strategies") -> "Strategies":
        """Both, each text once."""
        return Strategies(
            usefulness=tuple(dict.fromkeys((*self.usefulness, *other.usefulness))),
            safety=tuple(dict.fromkeys((*self.safety, *other.safety))),
        )


class LevelPolicy(Strategies):
    """What to do at a level of risk: besides strategies, the edge of the safe region and who is likely to ask."""

    max_risk: float = Field(ge=0.0, le=1.0)
    users: Users
    guideline: str


class CategoryPolicy(Strategies):
    """What is special about a category."""

    guideline: str = ""


class PolicyTable(Frozen):
    """Default strategies by level and intent, with guidelines by category; TOML, replaceable."""

    name: str
    level: Mapping[RiskLevel, LevelPolicy]
    intent: Mapping[Intent, Strategies]
    category: Mapping[str, CategoryPolicy] = {}

    @model_validator(mode="after")
    def _check(self) -> "PolicyTable":
        for kind, known, given in (("level", RISK_LEVELS, self.level), ("intent", INTENTS, self.intent)):
            missing = [name for name in known if name not in given]
            if missing:
                raise ValueError(f"{kind}.{missing[0]}: expected an entry, got none")
        return self

    def strategies(self, risk: "RiskRecord") -> Strategies:
        """Strategies of the level, then of the intent, then of the category."""
        found = Strategies(usefulness=self.level[risk.level].usefulness, safety=self.level[risk.level].safety)
        found = found.plus(self.intent[risk.intent])
        own = self.category.get(risk.category)
        return found if own is None else found.plus(Strategies(usefulness=own.usefulness, safety=own.safety))

    def guideline(self, risk: "RiskRecord") -> str:
        """The level's guideline and, where there is risk, the category's."""
        own = self.category.get(risk.category)
        extra = own.guideline if own is not None and risk.level != "none" else ""
        return f"{self.level[risk.level].guideline} {extra}".strip()

    def max_risk(self, risk: "RiskRecord") -> float:
        """Edge of the safe region."""
        return self.level[risk.level].max_risk


class RiskRecord(Frozen):
    """What is at stake in one query.

    Attributes:
        level: 'none' (R0), 'sensitive' (R1) or 'adversarial' (R2).
        intent: What kind of utterance it is.
        category: Subject; empty where unknown.
        profile: Who asks, as far as one can tell.
        guessed: Whether level or intent were guessed from words alone.
    """

    level: RiskLevel
    intent: Intent
    category: str = ""
    profile: UserProfile
    guessed: bool = False

    @property
    def code(self) -> str:
        """R0, R1 or R2."""
        return RISK_CODES[self.level]


def risk_of_query(query: Query, policy: PolicyTable | None = None) -> RiskRecord:
    """What is at stake, as the row says; what it leaves open is guessed from its words, and marked as guessed."""
    level, intent = query.risk or guessed_level(query.query), query.intent or guessed_intent(query.query)
    users = policy.level[level].users if policy else PRIORS[level]
    return RiskRecord(
        level=level,
        intent=intent,
        category=query.category,
        profile=UserProfile(role=query.role, users=users),
        guessed=query.risk is None or query.intent is None,
    )


def load_policy_table(path: Path | None = None) -> PolicyTable:
    """The packaged table, or the user's own.

    Raises:
        BadInputError: The file cannot be read, or a field is missing, unknown or of the wrong kind; names it.
    """
    if path is None:
        return _packaged()
    try:
        return PolicyTable.model_validate(tomllib.loads(path.read_text(encoding="utf-8")))
    except OSError as error:
        raise BadInputError(f"{path}: expected a readable policy table; {error.strerror or error}") from None
    except ValidationError as error:
        raise BadInputError(f"{path}: {first_complaint(error)}; see 'docs/howto/constructive.md'") from None
    except ValueError as error:
        raise BadInputError(f"{path}: expected TOML, got {error}; mend the file") from None


def policy_hash(policy: PolicyTable) -> str:
    """Hash of a table's contents."""
    return sha256(policy.model_dump_json().encode()).hexdigest()[:12]


@cache
def _packaged() -> PolicyTable:
    text = files("demur.constructive").joinpath("strategies.toml").read_text(encoding="utf-8")
    return PolicyTable.model_validate(tomllib.loads(text))
