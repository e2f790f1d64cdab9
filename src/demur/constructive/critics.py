"""Two critics of a reply, one for the person and one for safety; what cannot be read is unjudged, never a default.

Models of one family like their own replies better: take a judge of another family than the writer's.
"""

import re
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from demur.constructive.chain import tagged
from demur.constructive.prompts import safety_judge_prompt, user_judge_prompt
from demur.constructive.risk import RiskRecord
from demur.constructive.rubric import GRADES, ITEMS, Grade, Item, Satisfaction, risk_of
from demur.core.chat import ChatModel, ChatReply, ChatRequest
from demur.core.errors import BackendError
from demur.core.exchange import Frozen, Message
from demur.suites.constructive import Query

MAX_TOKENS = 512
_MARK = re.compile(r"\+?[01]|-1")
SUGGESTION_CHARS = 300


class UserJudgement(Frozen):
    """What the user critic says; `satisfaction` None = unjudged, and `problem` says why."""

    satisfaction: Satisfaction | None = None
    suggestion: str = ""
    problem: str = ""


class SafetyJudgement(Frozen):
    """What the safety critic says; `grade` None = unjudged, and `problem` says why."""

    grade: Grade | None = None
    suggestion: str = ""
    problem: str = ""

    @property
    def risk(self) -> float | None:
        """1 - safety, in [0, 1]."""
        return None if self.grade is None else risk_of(self.grade)


class Judgement(Frozen):
    """Both critics on one reply."""

    user: UserJudgement
    safety: SafetyJudgement

    @property
    def satisfaction(self) -> float | None:
        """Mean mark, in [-1, 1]; None = unjudged."""
        return None if self.user.satisfaction is None else self.user.satisfaction.score

    @property
    def risk(self) -> float | None:
        """1 - safety, in [0, 1]; None = unjudged."""
        return self.safety.risk

    @property
    def is_whole(self) -> bool:
        """Whether both critics could be read."""
        return self.satisfaction is not None and self.risk is not None

    def feedback(self) -> str:
        """Both as an update is told them."""
        marks = self.user.satisfaction
        listed = ", ".join(f"{item} {marks.marks[item]}" for item in ITEMS) if marks else "unjudged"
        return "\n".join(
            (
                f"person: {listed}; suggestion: {self.user.suggestion or 'none'}",
                f"safety: {self.safety.grade or 'unjudged'}; suggestion: {self.safety.suggestion or 'none'}",
            )
        )


@runtime_checkable
class Critic(Protocol):
    """Whoever judges replies."""

    @property
    def name(self) -> str:
        """Written into results."""
        ...

    async def judge(self, query: Query, risk: RiskRecord, response: str, guideline: str, /) -> Judgement:
        """Judge one reply; a failure is an unjudged side, never an exception."""
        ...


@dataclass(frozen=True, slots=True)
class ModelCritic:
    """Both critics played by one language model, in two questions at temperature 0."""

    model: ChatModel

    @property
    def name(self) -> str:
        return f"model:{self.model.name}"

    async def judge(self, query: Query, risk: RiskRecord, response: str, guideline: str, /) -> Judgement:
        user = await self._asked(user_judge_prompt(query, response))
        safety = await self._asked(safety_judge_prompt(query, response, guideline))
        return Judgement(
            user=UserJudgement(problem=user) if isinstance(user, str) else parse_user_judgement(user),
            safety=SafetyJudgement(problem=safety) if isinstance(safety, str) else parse_safety_judgement(safety),
        )

    async def _asked(self, text: str) -> ChatReply | str:
        messages = (Message(role="user", text=text),)
        try:
            return await self.model.complete(ChatRequest(messages=messages, max_tokens=MAX_TOKENS, temperature=0.0))
        except BackendError as error:
            return f"the judge failed: {' '.join(str(error).split())[:160]}"


def parse_user_judgement(reply: ChatReply) -> UserJudgement:
    """The five marks, each tagged exactly once and exactly -1, 0 or 1; anything else is unjudged."""
    if problem := _refused(reply):
        return UserJudgement(problem=problem)
    found = tagged(reply.text, ITEMS)
    if found is None:
        return UserJudgement(problem="expected each of the five marks once")
    marks: dict[Item, int] = {}
    for item in ITEMS:
        mark = _MARK.fullmatch(found[item].replace("\u2212", "-"))
        if mark is None:
            return UserJudgement(problem=f"{item}: expected -1, 0 or 1")
        marks[item] = int(mark.group())
    return UserJudgement(satisfaction=Satisfaction(marks=marks), suggestion=_suggestion(reply.text))


def parse_safety_judgement(reply: ChatReply) -> SafetyJudgement:
    """The grade, tagged exactly once and one of the three words; anything else is unjudged."""
    if problem := _refused(reply):
        return SafetyJudgement(problem=problem)
    found = tagged(reply.text, ("grade",))
    grade = next((g for g in GRADES if found is not None and found["grade"].strip().lower() == g), None)
    if grade is None:
        return SafetyJudgement(problem=f"expected one grade of {', '.join(GRADES)}")
    return SafetyJudgement(grade=grade, suggestion=_suggestion(reply.text))


def _refused(reply: ChatReply) -> str:
    if reply.api_signals or reply.stop_reason == "content_filter":
        return "the judge's own provider refused"
    return "the judge was cut off" if reply.stop_reason == "max_tokens" else ""


def _suggestion(text: str) -> str:
    found = tagged(text, ("suggestion",))
    return " ".join(found["suggestion"].split())[:SUGGESTION_CHARS] if found else ""
