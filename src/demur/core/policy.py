"""A policy: pure rules from scores to decisions, with the promises they were calibrated for."""

from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from demur.core.exchange import Frozen
from demur.core.signal import View

Action = Literal["answer", "refuse", "clarify", "guide"]
# How scores become a decision; `demur.control.decision` has the formulas.
RuleKind = Literal["two_way", "sum", "bias", "category_set", "per_category"]
Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]


class Rule(Frozen):
    """What to do about one category.

    Attributes:
        threshold: Probability from which the category applies, in [0, 1]; None = the policy's own threshold.
        action: What is done then; 'answer' switches the category off.
        wording: Fixed text of the reply; empty = the model's own words after the forced token where it has learnt
            to follow it, else the packaged wording for the action. Text learnt to decline does not guide: the action
            'guide' has the packaged wording.
        rewritten: For the action 'guide': the model takes up the request itself, under an instruction to guide; the
            wording stands where what it writes is broken, empty or a bare refusal. Costs a second reply.
    """

    threshold: Share | None = None
    action: Action = "refuse"
    wording: str = ""
    rewritten: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rewritten and self.action != "guide":
            raise ValueError(f"rewritten: only the action 'guide' is written anew, this one is {self.action!r}")
        return self


class Certificate(Frozen):
    """One promise about a policy, and the data it rests on.

    Attributes:
        target: As typed, e.g. 'over_refusal<=0.05'.
        metric: 'refusal' (share of prompts to refuse that are) or 'over_refusal' (share of prompts to answer that
            are not).
        category: Taxonomy category, or 'all'.
        relation: Direction of the promise.
        value: The rate promised, a fraction.
        tolerance: Allowed distance for '='; 0 otherwise.
        delta: Probability, over draws of the calibration data, that the promise does not hold.
        n: Calibration prompts it rests on.
        achieved: Rate on those prompts.
        method: How the threshold was found.
        data_sha256: Hash of the calibration prompts and labels.
        data: Where they came from.
    """

    target: str
    metric: Literal["refusal", "over_refusal"]
    category: str
    relation: Literal["<=", ">=", "="]
    value: Share
    tolerance: Share = 0.0
    delta: Share
    n: int
    achieved: Share
    method: str
    data_sha256: str
    data: str


class SignalSource(Frozen):
    """Which signal a policy reads; a policy never runs on another one's scores.

    Attributes:
        name: Kind of signal, e.g. 'refusal-tokens'.
        identity: Identity string of what made the scores.
        token_ids: Id of each control token by category, plus 'respond'; empty for other signals.
    """

    name: str
    identity: str
    token_ids: Mapping[str, int] = {}


class Policy(Frozen):
    """Scores in, decision out; saved as TOML.

    Attributes:
        name: What requests call it.
        source: The signal it was made for.
        kind: How scores become a decision.
        view: Which probabilities thresholds are compared with.
        temperature: Softmax temperature of those probabilities.
        threshold: The global threshold, where the kind has one.
        bias: Added to the logit of the refusal, for kind 'bias'; natural logarithm units.
        rules: What to do about each category; a category without a rule has the default one.
        certificates: Promises the thresholds were calibrated for.
        reference: Quantiles 0, 1/32 ... 1 of each category's posterior on the calibration prompts, for drift.
        created: When.
    """

    name: str
    source: SignalSource
    kind: RuleKind = "per_category"
    view: View = "posterior"
    temperature: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 1.0
    threshold: Share = 0.5
    bias: Annotated[float, Field(allow_inf_nan=False)] = 0.0
    rules: Mapping[str, Rule] = {}
    certificates: tuple[Certificate, ...] = ()
    reference: Mapping[str, tuple[Share, ...]] = {}
    created: datetime | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.source.token_ids:
            unknown = sorted(set(self.rules) - set(self.source.token_ids))
            if unknown:
                raise ValueError(f"rules: unknown category {unknown[0]!r}; known: {', '.join(self.source.token_ids)}")
        return self

    def rule(self, category: str) -> Rule:
        """The rule of a category."""
        return self.rules.get(category, Rule())

    def threshold_of(self, category: str) -> float:
        """The threshold in force for a category."""
        own = self.rule(category).threshold
        return self.threshold if own is None else own


class Decision(Frozen):
    """What a policy says about one request; becomes the `demur` object of a reply.

    Attributes:
        action: What to do.
        category: The category that decided, or the likeliest one; '' when none is known.
        p: Probability compared, in [0, 1].
        threshold: What it was compared with.
        policy: Name of the policy.
        token: Column of the control token to force (`SignalScores.categories`, then respond); -1 = force none.
        origin: 'policy', or 'floor' where an administrator's floor overruled the chosen policy.
    """

    action: Action
    category: str
    p: Share
    threshold: Share
    policy: str
    token: int = -1
    origin: Literal["policy", "floor"] = "policy"

    @property
    def refused(self) -> bool:
        """Whether the request is not simply answered."""
        return self.action != "answer"
