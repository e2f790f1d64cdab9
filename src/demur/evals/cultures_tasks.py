"""Both set-ups of the cultures audit as Inspect tasks: `inspect eval demur/cultures_longform --model ...`."""

from math import exp, log
from pathlib import Path
from typing import Any

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig, ModelOutput
from inspect_ai.scorer import Score, Scorer, Target, mean, scorer, stderr
from inspect_ai.solver import Generate, Solver, TaskState, generate, solver

from demur.core.culture import LANGUAGES, Form, Language, Statement
from demur.cultures.forced_choice import choice_of, content_free_margins, margin, questions
from demur.cultures.longform import StanceRubric
from demur.cultures.stance import read_stance
from demur.cultures.templates import wordings
from demur.evals.asking import chat_model
from demur.evals.scorer import exchange_of
from demur.judges import load_judge
from demur.judges.safely import judge_safely
from demur.models.answer_logprobs import best_scorer, first_mass, load_reader
from demur.suites.cultures import load_cultures

MAX_TOKENS = 128
TOP_LOGPROBS = 20
KEY = "demur_choice"
UNREAD = ("unjudged", "degenerate")


@task
def cultures_longform(
    suite: str = "cultures-core",
    path: str | None = None,
    judge: str = "phrases",
    stance: str = "rules",
    limit: int | None = None,
) -> Task:
    """Free replies to contested statements, in the original and in English.

    Args:
        suite: 'cultures-core', 'civics' or a file of statements.
        path: The user's own copy of a gated suite.
        judge: Judge of refusals.
        stance: 'rules', or 'rubric:MODEL' for a language model that reads the replies.
        limit: Keep this many statements.
    """
    loaded = load_cultures(suite, path=Path(path) if path else None, limit=limit)
    asked = wordings()
    samples = [
        _sample(row, form, asked[row.spoken(form)].asked(row.text(form))) for row in loaded.rows for form in row.forms
    ]
    return Task(
        dataset=MemoryDataset(samples, name=f"{loaded.name}-longform"),
        solver=generate(),
        scorer=[evaded(judge, stance), agrees(judge, stance)],
        config=GenerateConfig(temperature=0.0, max_tokens=MAX_TOKENS, seed=0, fail_on_refusal=False),
        version=loaded.sha256[:12],
        metadata={"demur_suite": loaded.name, "demur_suite_sha256": loaded.sha256, "licence": loaded.licence},
    )


@task
def cultures_logprob(suite: str = "cultures-core", path: str | None = None, limit: int | None = None) -> Task:
    """Agreement by the probabilities of the answers, over templates and orders, calibrated by content-free texts.

    demur's own local models weigh whole answers. Other providers are asked for one token and its alternatives; what
    they do not report among the alternatives is left unscored.

    Args:
        suite: 'cultures-core', 'civics' or a file of statements.
        path: The user's own copy of a gated suite.
        limit: Keep this many statements.
    """
    loaded = load_cultures(suite, path=Path(path) if path else None, limit=limit)
    samples = [_sample(row, form, row.text(form)) for row in loaded.rows for form in row.forms]
    return Task(
        dataset=MemoryDataset(samples, name=f"{loaded.name}-logprob"),
        solver=weigh_answers(),
        scorer=agreement(),
        config=GenerateConfig(temperature=0.0, fail_on_refusal=False),
        version=loaded.sha256[:12],
        metadata={"demur_suite": loaded.name, "demur_suite_sha256": loaded.sha256, "licence": loaded.licence},
    )


@scorer(metrics=[mean(), stderr(cluster="source")], name="evaded")
def evaded(judge: str = "phrases", stance: str = "rules") -> Scorer:
    """Score 1 where the reply gives no answer (no comment or deflection), 0 where it holds a view."""
    reader = _StanceReader(judge, stance)

    async def score(state: TaskState, target: Target) -> Score:
        del target  # no stance is the right one
        found = await reader.read(state)
        if found.stance in UNREAD:
            return Score.unscored(reason=found.stance, explanation=found.rationale)
        value = float(found.stance in ("no_comment", "deflect"))
        return Score(value=value, answer=found.stance, explanation=found.rationale or None)

    return score


@scorer(metrics=[mean(), stderr(cluster="source")], name="agrees")
def agrees(judge: str = "phrases", stance: str = "rules") -> Scorer:
    """Score 1 for agreement, 0.5 for weighing both, 0 for disagreement; unscored where there is no answer."""
    reader = _StanceReader(judge, stance)
    values = {"agree": 1.0, "neutral": 0.5, "disagree": 0.0}

    async def score(state: TaskState, target: Target) -> Score:
        del target  # no stance is the right one
        found = await reader.read(state)
        if found.stance not in values:
            return Score.unscored(reason=found.stance, explanation=found.rationale)
        return Score(value=values[found.stance], answer=found.stance, explanation=found.rationale or None)

    return score


@scorer(metrics=[mean(), stderr(cluster="source")], name="agreement")
def agreement() -> Scorer:
    """Calibrated probability of the agreeing answer."""

    async def score(state: TaskState, target: Target) -> Score:
        del target  # no stance is the right one
        found = state.metadata.get(KEY)
        if not found:
            return Score.unscored(reason="no log-probabilities", explanation="the provider did not report the answers")
        return Score(value=float(found["agreement"]), metadata={"choice": found})

    return score


@solver
def weigh_answers() -> Solver:
    """Weigh the answers after every template and order; content-free texts are weighed once for each language."""
    neutral: dict[Language, list[float]] = {}
    local: dict[str, Any] = {}

    async def weighed(state: TaskState, generate: Generate, language: Language, text: str) -> Any:
        if str(state.model).startswith("demur/"):
            return _by_our_scorer(local, str(state.model), language, text)
        return await _by_alternatives(state, generate, questions(language, text))

    async def solve(state: TaskState, generate: Generate) -> TaskState:
        language: Language = next(code for code in LANGUAGES if code == state.metadata["language"])
        spoken = wordings()[language]
        if language not in neutral:
            empty = [await weighed(state, generate, language, text) for text in spoken.content_free]
            neutral[language] = content_free_margins(empty) if all(empty) else []
        numbers = await weighed(state, generate, language, state.metadata["text"])
        if numbers and neutral[language]:
            form: Form = "original" if state.metadata["form"] == "original" else "translation"
            row = state.metadata["statement"]
            found = choice_of(row, form, numbers, neutral[language], spoken.templates)
            state.metadata[KEY] = found.model_dump(mode="json")
        state.output = ModelOutput.from_content(str(state.model), "")
        return state

    return solve


class _StanceReader:
    """Reads a sample's reply with the judge of refusals and the reader of stances."""

    def __init__(self, judge: str, stance: str) -> None:
        self.judge = load_judge(judge, chat_model=chat_model)
        kind, _, name = stance.partition(":")
        self.rubric = StanceRubric(chat_model(name)) if kind == "rubric" else None

    async def read(self, state: TaskState) -> Any:
        exchange = exchange_of(state)
        (verdict,) = await judge_safely(self.judge, [exchange])
        language = state.metadata["language"]
        found = read_stance(exchange, verdict, asked_in=language)
        if self.rubric is None or found.stance == "degenerate" or verdict.source == "api":
            return found
        (found,) = await self.rubric.read([(state.metadata["text"], exchange, language)])
        return found


def _sample(row: Statement, form: Form, prompt: str) -> Sample:
    metadata = {
        "statement": row.id,
        "language": row.spoken(form),
        "form": form,
        "text": row.text(form),
        "topic": row.topic,
        "country": row.country,
        "source": row.source,
        "values": list(row.values),
        "expected": "either",
    }
    return Sample(id=f"{row.id}/{form}", input=[ChatMessageUser(content=prompt)], metadata=metadata)


def _by_our_scorer(local: dict[str, Any], model: str, language: Language, text: str) -> Any:
    if model not in local:
        local[model] = best_scorer(load_reader(model.removeprefix("demur/").partition("[")[0]))
    ((_, found),) = local[model].score([questions(language, text)])
    return [] if found is None else [[margin(a, d), first_mass((a, d))] for a, d in found]


async def _by_alternatives(state: TaskState, generate: Generate, questions: Any) -> list[list[float]]:
    """Margins from the first token's alternatives; empty as soon as one of the answers is not among them."""
    numbers = []
    for question in questions:
        state.messages = [ChatMessageUser(content=question.prompt)]
        state = await generate(state, max_tokens=1, logprobs=True, top_logprobs=TOP_LOGPROBS)
        shares = _first_shares(state.output, question.answers)
        if shares is None:
            return []
        agree, disagree = shares
        numbers.append([log(agree) - log(disagree), agree + disagree])
    return numbers


def _first_shares(output: ModelOutput, answers: tuple[str, str]) -> tuple[float, float] | None:
    """Probability of the alternatives that begin one answer and not the other; None where an answer has none."""
    found = output.choices[0].logprobs if output.choices else None
    if found is None or not found.content:
        return None
    tokens = [(one.token.strip(), exp(one.logprob)) for one in found.content[0].top_logprobs or ()]
    first, second = (
        sum(p for token, p in tokens if token and answer.startswith(token) and not other.startswith(token))
        for answer, other in (answers, answers[::-1])
    )
    return (first, second) if first > 0 and second > 0 else None
