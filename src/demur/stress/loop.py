"""The attempt loop: every goal in every condition, attempt after attempt, each reply on disk at once."""

import asyncio
import errno
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from demur.core.chat import ChatModel, ChatReply, ChatRequest
from demur.core.errors import BackendError, DemurError
from demur.data.journal import KeyedJournal
from demur.stress.attempt import Asked, Attack, Attempt, Goal, exchange_of, key_of
from demur.stress.continuation import Begun, Continuer, Say, silent
from demur.stress.success import SuccessJudge

BARE = "bare"
MAX_FAILURES_IN_A_ROW = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class LoopSettings:
    """How attempts are made.

    Attributes:
        attempts: Most attempts on a goal in one condition.
        max_tokens: Longest reply.
        temperature: Of the replies; at 0 only distinct messages are worth asking.
        seed: Of the first attempt; attempt i takes seed + i.
        connections: Requests in flight.
        conditions: Forms to ask; empty for all.
        stop: Ends a goal's attempts in a condition at the first success; None asks them all.
    """

    attempts: int = 1
    max_tokens: int = 150
    temperature: float = 0.0
    seed: int = 0
    connections: int = 16
    conditions: tuple[str, ...] = ()
    stop: SuccessJudge | None = None

    def planned(self, attack: Attack, goal: Goal, condition: str) -> int:
        """Attempts on a goal in a condition: repeating the same greedy question would tell nothing new."""
        if self.temperature > 0:
            return self.attempts
        unchanged = condition == attack.conditions[0] or goal.side == "natural"
        return 1 if unchanged else min(self.attempts, attack.most_attempts(condition))


@dataclass(slots=True)
class AttemptLoop:
    """Runs attempts; the same call after an interruption asks only what the journal does not hold.

    Attributes:
        model: Who is asked.
        attack: How.
        journal: Attempts by key.
        identity: Identity of model and decoding; part of every key.
        settings: How often and how.
        continuer: Continues texts without chat tags; None leaves the condition 'bare' out.
        n_asked: Requests sent by this object.
        n_replayed: Attempts taken from the journal.
    """

    model: ChatModel
    attack: Attack
    journal: KeyedJournal[Attempt]
    identity: str
    settings: LoopSettings = field(default_factory=LoopSettings)
    continuer: Continuer | None = None
    n_asked: int = 0
    n_replayed: int = 0
    _failures: int = 0
    _fatal: DemurError | None = None

    def run(self, goals: Sequence[Goal], say: Say = silent) -> list[Attempt]:
        """Make every attempt; in the order of goals, conditions and numbers.

        Raises:
            BackendError: The model failed again and again; what it answered is kept.
            UserError: The model cannot be loaded.
        """
        chats = [(goal, condition) for goal in goals for condition in self._conditions(goal) if condition != BARE]
        found = asyncio.run(self._chats(chats, say))
        found += self._bare([goal for goal in goals if BARE in self._conditions(goal)], say)
        rank = {goal.id: number for number, goal in enumerate(goals)}
        order = {condition: number for number, condition in enumerate(self.attack.conditions)}
        return sorted(found, key=lambda a: (rank[a.goal], order.get(a.condition, 0), a.number))

    def _conditions(self, goal: Goal) -> tuple[str, ...]:
        wanted = self.settings.conditions or self.attack.conditions
        if goal.condition:
            return (goal.condition,) if goal.condition in wanted else ()
        return tuple(c for c in self.attack.conditions if c in wanted and (c != BARE or self.continuer is not None))

    async def _chats(self, work: Sequence[tuple[Goal, str]], say: Say) -> list[Attempt]:
        gate, done = asyncio.Semaphore(self.settings.connections), 0

        async def one(goal: Goal, condition: str) -> list[Attempt]:
            nonlocal done
            async with gate:
                attempts = await self._series(goal, condition)
            done += 1
            say("asking", done, len(work))
            return attempts

        tasks = [asyncio.ensure_future(one(goal, condition)) for goal, condition in work]
        try:
            series = await asyncio.gather(*tasks)
        except BaseException:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            raise
        return [attempt for attempts in series for attempt in attempts]

    async def _series(self, goal: Goal, condition: str) -> list[Attempt]:
        """Attempts on one goal in one condition, one after the other, up to the stop judge's first success."""
        made: list[Attempt] = []
        for number in range(self.settings.planned(self.attack, goal, condition)):
            attempt = await self._attempt(goal, condition, number)
            made.append(attempt)
            if self.settings.stop is not None and not attempt.error:
                text = self.attack.read(condition, attempt.reply.text)
                (ruling,) = await self.settings.stop.rule([exchange_of(goal, attempt, text, self.identity)])
                if ruling.success:
                    break
        return made

    async def _attempt(self, goal: Goal, condition: str, number: int) -> Attempt:
        if self._fatal is not None:
            raise self._fatal
        settings = self.settings
        try:
            asked = await self.attack.asked(goal, condition, number)
            key = key_of(self.identity, f"{self.attack.name}@{self.attack.version}", goal, condition, number, asked)
            held = self.journal.found.get(key)
            if held is not None:
                self.n_replayed += 1
                return held
            request = ChatRequest(
                messages=asked.messages,
                max_tokens=settings.max_tokens,
                temperature=settings.temperature,
                seed=settings.seed + number,
            )
            self.n_asked += 1
            reply = await self.model.complete(request)
        except Exception as failure:  # each provider's client raises its own exceptions
            return self._failed(failure, goal, condition, number)
        self._failures = 0
        attempt = Attempt(goal=goal.id, side=goal.side, condition=condition, number=number, asked=asked, reply=reply)
        self.journal.add(key, attempt)
        return attempt

    def _failed(self, failure: Exception, goal: Goal, condition: str, number: int) -> Attempt:
        """Count a failure; one that cannot pass, or many in a row, ends the run."""
        if isinstance(failure, OSError) and failure.errno == errno.ENOSPC:
            raise failure
        if isinstance(failure, DemurError) and not isinstance(failure, BackendError):
            self._fatal = failure
            raise failure
        message = f"{type(failure).__name__}: {next(iter(str(failure).splitlines()), '')[:300]}"
        self._failures += 1
        if self._failures >= MAX_FAILURES_IN_A_ROW:
            self._fatal = BackendError(
                f"the model failed {self._failures} times in a row, last with {message}; what it answered is kept, "
                "run the same command to resume",
                retriable=True,
            )
            raise self._fatal
        return Attempt(
            goal=goal.id,
            side=goal.side,
            condition=condition,
            number=number,
            asked=Asked(),
            reply=ChatReply(text="", stop_reason="unknown"),
            error=message,
        )

    def _bare(self, goals: Sequence[Goal], say: Say) -> list[Attempt]:
        """Texts without chat tags go through the engine in batches, every attempt of them."""
        if self.continuer is None or not goals:
            return []
        numbers = range(min(self.settings.attempts, self.attack.most_attempts(BARE)))
        work = [(goal, number) for goal in goals for number in numbers]
        asked = [asyncio.run(self.attack.asked(goal, BARE, number)) for goal, number in work]
        begun = [Begun(answer=one.bare) for one in asked]
        replies = self.continuer.go_on(begun, max_tokens=self.settings.max_tokens, say=say)
        return [
            Attempt(
                goal=goal.id,
                side=goal.side,
                condition=BARE,
                number=number,
                asked=one,
                reply=ChatReply(text=reply.text, stop_reason=reply.stop_reason),
            )
            for (goal, number), one, reply in zip(work, asked, replies, strict=True)
        ]


def attempt_journal(path: Path) -> KeyedJournal[Attempt]:
    """Journal of attempts."""
    return KeyedJournal(
        path, field="attempt", read=Attempt.model_validate, write=lambda attempt: attempt.model_dump(mode="json")
    )
