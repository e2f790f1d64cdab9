"""How far training moved a model from refusing or flattering to guiding: log-odds of reference answers it never saw.

The score of a reply is the log-odds of its mean log-probability a token, as in ORPO. Guiding replies to another query
are scored as well: a model that merely likes the tone of guidance likes those just as much.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import expm1, log, sqrt
from statistics import fmean, stdev
from typing import TYPE_CHECKING, Any

from demur.core.errors import BadInputError
from demur.suites.constructive import ConstructiveRow, load_constructive

if TYPE_CHECKING:
    from demur.train.rows import Encoder

ELSEWHERE = "guide of another query"
KINDS = ("guide", "refuse", "overcomply", ELSEWHERE)
Say = Callable[[str, int, int], None]
MAX_TOKENS = 512
_ROOM = 1e-12


@dataclass(frozen=True, slots=True)
class Shift:
    """How the log-odds of guiding over another answer moved.

    Attributes:
        against: The other answer.
        before: Mean log-odds ratio of the base, natural logarithm.
        after: Of the trained model.
        shift: Mean difference over queries.
        standard_error: Of that mean; None for a single query.
        preferred_before: Share of queries on which the base gives guiding the higher odds.
        preferred_after: Of the trained model.
        n: Queries.
    """

    against: str
    before: float
    after: float
    shift: float
    standard_error: float | None
    preferred_before: float
    preferred_after: float
    n: int


def preference_shift(
    base: Any,
    trained: Any,
    tokenizer: Any,
    rows: Sequence[ConstructiveRow] | None = None,
    *,
    say: Say = lambda *_: None,
) -> list[Shift]:
    """The shift on held-out queries, against each other kind of answer.

    Args:
        base: A transformers model.
        trained: The same after training, e.g. with an adapter attached.
        tokenizer: Of both.
        rows: Queries that were kept from training; the suite's test rows by default.
        say: Told stage, done, total.

    Raises:
        BadInputError: Fewer than two queries: there would be no reply of another one.
    """
    held = list(rows) if rows is not None else load_constructive("test")
    if len(held) < 2:
        raise BadInputError(f"preference shift: expected two queries or more, got {len(held)}; give it more rows")
    before, after = (
        answer_scores(model, tokenizer, held, say=lambda d, t, n=name: say(n, d, t))  # type: ignore[misc]
        for name, model in (("base", base), ("trained", trained))
    )
    return [_shift(kind, before, after) for kind in KINDS[1:]]


def answer_scores(
    model: Any,
    tokenizer: Any,
    rows: Sequence[ConstructiveRow],
    *,
    say: Callable[[int, int], None] = lambda *_: None,
) -> list[dict[str, float]]:
    """By row, the log-odds of each reference answer, and of the guiding answer to the next row's query.

    Raises:
        BadInputError: A query that leaves no room for a reply.
    """
    from demur.train.rows import encoder_of

    encoder = encoder_of(tokenizer, max_tokens=MAX_TOKENS)
    found = []
    for at, row in enumerate(rows):
        texts = (row.guide, row.refuse, row.overcomply, rows[(at + 1) % len(rows)].guide)
        means = _mean_logprobs(model, encoder, row, texts)
        found.append({kind: log_odds(mean) for kind, mean in zip(KINDS, means, strict=True)})
        say(at + 1, len(rows))
    return found


def log_odds(mean_logprob: float) -> float:
    """log(p / (1 - p)) of p = exp(mean log-probability a token); finite also where p is all but 1."""
    return mean_logprob - log(max(_ROOM, -expm1(min(mean_logprob, -_ROOM))))


def _mean_logprobs(model: Any, encoder: "Encoder", row: ConstructiveRow, texts: Sequence[str]) -> list[float]:
    """Mean log-probability a token of each reply, its end included, in one padded pass."""
    import torch

    prompt = encoder.prompt(row.query, origin=row.id)
    room = encoder.max_tokens - len(prompt)
    replies = [[*encoder.reply(text), encoder.end][:room] for text in texts]
    width = len(prompt) + max(map(len, replies))
    ids = torch.full((len(replies), width), encoder.end)
    mask = torch.zeros_like(ids)
    for i, reply in enumerate(replies):
        size = len(prompt) + len(reply)
        ids[i, :size], mask[i, :size] = torch.tensor([*prompt, *reply]), 1
    with torch.inference_mode():
        logits = model.eval()(
            input_ids=ids.to(model.device), attention_mask=mask.to(model.device), use_cache=False
        ).logits[:, len(prompt) - 1 : -1]
        wanted = ids[:, len(prompt) :].to(model.device)
        chosen = logits.gather(2, wanted[:, :, None])[:, :, 0].float() - logits.float().logsumexp(-1)
    return [float(chosen[i, : len(reply)].mean()) for i, reply in enumerate(replies)]


def _shift(kind: str, before: Sequence[dict[str, float]], after: Sequence[dict[str, float]]) -> Shift:
    old, new = ([one["guide"] - one[kind] for one in scores] for scores in (before, after))
    moved = [b - a for a, b in zip(old, new, strict=True)]
    return Shift(
        against=kind,
        before=fmean(old),
        after=fmean(new),
        shift=fmean(moved),
        standard_error=stdev(moved) / sqrt(len(moved)) if len(moved) > 1 else None,
        preferred_before=fmean(x > 0 for x in old),
        preferred_after=fmean(x > 0 for x in new),
        n=len(moved),
    )
