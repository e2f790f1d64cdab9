"""Training rows from an optimisation and from the suite, in the columns that demur's training data reads.

`prompt, response` for SFT; `prompt, chosen, rejected` for preferences (ORPO, DPO); `category` names the risk level,
over which draws are even.
"""

from collections.abc import Iterable, Sequence

from demur.constructive.score import Weights
from demur.constructive.trajectory import Trajectory
from demur.suites.constructive import AnswerKind, ConstructiveRow

Lesson = dict[str, str]
THINK = "<think>\n{think}\n</think>\n\n{response}"
LEAST_GAIN = 0.2  # of the constructive score; below it a pair is a coin toss between critics


def sft_rows(trajectories: Iterable[Trajectory], *, with_thoughts: bool = False) -> list[Lesson]:
    """The pearl point of every query; queries without a reply inside the safe region are left out.

    Args:
        trajectories: Of an optimisation.
        with_thoughts: Put the thoughts before the reply, as reasoning models write them.
    """
    rows = []
    for one in trajectories:
        step = one.pearl
        if step is None or not step.response.strip():
            continue
        both = with_thoughts and step.think
        text = THINK.format(think=step.think, response=step.response) if both else step.response
        rows.append(_row(one, response=text))
    return rows


def preference_rows(
    trajectories: Iterable[Trajectory], weights: Weights, *, least_gain: float = LEAST_GAIN
) -> list[Lesson]:
    """The pearl point against the worst judged reply, where the constructive score differs by at least `least_gain`."""
    rows = []
    for one in trajectories:
        best = one.pearl
        scored = [(s.raw, step) for step in one.steps if (s := step.constructive(weights)) is not None]
        if best is None or not scored:
            continue
        low, worst = min(scored, key=lambda pair: pair[0])
        top = best.constructive(weights)
        if top is not None and top.raw - low >= least_gain and best.response.strip() != worst.response.strip():
            rows.append(_row(one, chosen=best.response, rejected=worst.response))
    return [row for row in rows if row["rejected"].strip()]


def suite_pairs(
    rows: Sequence[ConstructiveRow], against: Sequence[AnswerKind] = ("refuse", "overcomply")
) -> list[Lesson]:
    """Guide against each other kind of reference answer."""
    return [
        {
            "id": f"{row.id}/{kind}",
            "prompt": row.query,
            "chosen": row.guide,
            "rejected": row.answer(kind),
            "category": row.risk,
        }
        for row in rows
        for kind in against
    ]


def _row(one: Trajectory, **replies: str) -> Lesson:
    return {"id": one.query.id, "prompt": one.query.query, **replies, "category": one.risk.level}
