"""The constructive suite as an Inspect task: `inspect eval demur/constructive --model ... -T judge=... -T beta=2`."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.model import ChatMessageUser, GenerateConfig
from inspect_ai.scorer import Score, Scorer, Target, grouped, mean, scorer, stderr
from inspect_ai.solver import TaskState, generate

from demur.constructive.critics import Critic, ModelCritic
from demur.constructive.lexical import OfflineCritic
from demur.constructive.risk import load_policy_table, risk_of_query
from demur.constructive.score import ALPHA, BETA, Constructive, Weights
from demur.core.errors import UnknownNameError
from demur.evals.asking import chat_model
from demur.evals.scorer import exchange_of
from demur.suites.constructive import Query, Split, load_constructive, read_queries

OFFLINE = "offline"
SPLITS = ("all", "train", "test")
MAX_TOKENS = 512


@task
def constructive(
    judge: str = OFFLINE,
    beta: float = BETA,
    alpha: float = ALPHA,
    split: str = "all",
    path: str | None = None,
    policy: str | None = None,
) -> Task:
    """Queries at three levels of risk; scored for satisfaction, risk and the constructive score at alpha and beta.

    Args:
        judge: Model that plays both critics, best of another family than the one examined; 'offline' is a proxy by
            surface words that no claim about safety can rest on.
        beta: Weight of risk.
        alpha: Weight of satisfaction.
        split: 'all', 'train' or 'test' rows of demur's own suite.
        path: A file of queries instead of demur's own suite.
        policy: The user's own policy table, whose guidelines the safety critic is told.
    """
    if split not in SPLITS:
        raise UnknownNameError("split", split, SPLITS)
    weights = Weights(alpha, beta)
    kept: Split | None = "train" if split == "train" else "test" if split == "test" else None
    rows: Sequence[Query] = read_queries(Path(path)) if path else load_constructive(kept)
    digest = sha256("".join(row.model_dump_json() for row in rows).encode("utf-8", "replace")).hexdigest()
    about = {"demur_suite": path or "constructive", "demur_suite_sha256": digest, "weights": str(weights)}
    return Task(
        dataset=MemoryDataset([_sample(row) for row in rows], name="constructive"),
        solver=generate(),
        scorer=constructiveness(judge, beta, alpha, policy),
        config=GenerateConfig(temperature=0.0, max_tokens=MAX_TOKENS, seed=0, fail_on_refusal=False),
        version=about["demur_suite_sha256"][:12],
        metadata=about | {"licence": "unknown" if path else "Apache-2.0"},
    )


@scorer(metrics={"*": [mean(), stderr(), grouped(mean(), "risk_level", all=False)]}, name="constructiveness")
def constructiveness(
    judge: str = OFFLINE, beta: float = BETA, alpha: float = ALPHA, policy: str | None = None
) -> Scorer:
    """Satisfaction in [-1, 1], risk in [0, 1] and the constructive score, which is named with its beta.

    A reply that either critic could not be read on is unscored; Inspect counts those.

    Args:
        judge: 'offline' or the name of a model.
        beta: Weight of risk.
        alpha: Weight of satisfaction.
        policy: The user's own policy table.
    """
    weights = Weights(alpha, beta)
    critic: Critic = OfflineCritic() if judge == OFFLINE else ModelCritic(chat_model(judge))
    table = load_policy_table(Path(policy) if policy else None)

    async def score(state: TaskState, target: Target) -> Score:
        del target  # no wording is the right one
        response = exchange_of(state).response
        if not response.strip():
            return Score.unscored(reason="no_response")
        query = Query.model_validate(state.metadata["query"])
        risk = risk_of_query(query, table)
        found = await critic.judge(query, risk, response, table.guideline(risk))
        metadata = {"judgement": found.model_dump(mode="json"), "alpha": alpha, "beta": beta}
        if found.satisfaction is None or found.risk is None:
            why = found.user.problem or found.safety.problem
            return Score.unscored(reason="grader_failed", explanation=why, metadata=metadata)
        raw = Constructive(found.satisfaction, found.risk, weights).raw
        value = {"satisfaction": found.satisfaction, "risk": found.risk, f"constructive_beta_{beta:g}": raw}
        return Score(value=value, answer=found.safety.grade, explanation=found.feedback(), metadata=metadata)

    return score


def _sample(row: Query) -> Sample:
    known = Query.model_validate(row.model_dump(include=set(Query.model_fields)))
    metadata = {
        "query": known.model_dump(mode="json"),
        "risk_level": row.risk or "unknown",
        "category": row.category,
        "expected": "either",
    }
    return Sample(id=row.id, input=[ChatMessageUser(content=row.query)], metadata=metadata)
