"""Decisions on rows of an engine's logits, and what they change in them; torch tensors on any device."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from demur.control.decision import decide
from demur.core.policy import Policy
from demur.core.signal import TEMPERATURES, SignalScores

Columns = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class ControlColumns:
    """The control tokens of a model, in column order.

    Attributes:
        categories: Columns of the decline tokens.
        ids: Their ids, the respond token's last.
    """

    categories: tuple[str, ...]
    ids: tuple[int, ...]


@dataclass(frozen=True, slots=True, eq=False)
class RowOrder:
    """What decides about one row.

    Attributes:
        policy: The request's policy; None where it could not be found, which declines.
        floor: A policy whose declines hold beside it.
        trusted: False where the prompt is not what the decision is defined on, which declines.
    """

    policy: Policy | None
    floor: Policy | None = None
    trusted: bool = True


def read_scores(rows: Any, columns: ControlColumns) -> tuple[SignalScores, NDArray[np.bool_]]:
    """Scores of rows of logits over the whole vocabulary, and which rows could be read.

    Args:
        rows: Logits; (n_rows, n_vocabulary).
        columns: The control tokens.

    Returns:
        Scores, zeros for rows that are not numbers, and whether each row is; (n_rows,).
    """
    import torch

    rows = rows.to(torch.float64)
    ids = torch.tensor(columns.ids, device=rows.device)
    logits = rows[:, ids].cpu().numpy()
    totals = torch.stack([torch.logsumexp(rows / t, dim=1) for t in TEMPERATURES], dim=1).cpu().numpy()
    best = rows.argmax(dim=1).cpu().numpy()
    top = np.array([columns.ids.index(i) if i in columns.ids else -1 for i in best.tolist()], dtype=np.int64)
    readable = np.isfinite(totals).all(axis=1) & ~np.isnan(logits).any(axis=1) & np.isfinite(logits).any(axis=1)
    safe = np.where(readable[:, None], logits, 0.0)
    scores = SignalScores(
        categories=columns.categories, logits=safe, log_total=np.where(readable[:, None], totals, 9.0), top=top
    )
    return scores, readable


def decided(orders: Sequence[RowOrder], scores: SignalScores, readable: NDArray[np.bool_]) -> Columns:
    """Column of the control token to force in each row; -1 = none.

    A row that cannot be read or trusted is declined, unless its policy declines nothing at all.
    """
    found = np.empty(len(orders), dtype=np.int64)
    for policy in {id(o.policy): o.policy for o in orders}.values():
        here = np.flatnonzero([o.policy is policy for o in orders])
        found[here] = _closed(policy, scores[here]) if policy is None else decide(policy, scores[here]).token
    for row, order in enumerate(orders):
        one = scores[row : row + 1]
        if not (order.trusted and readable[row]):
            found[row] = _closed(order.policy, one)[0]
        respond = len(scores.categories)
        if order.floor is not None and found[row] in (-1, respond):
            floor = decide(order.floor, one) if order.trusted and readable[row] else None
            stricter = _closed(order.floor, one)[0] if floor is None else floor.token[0]
            found[row] = stricter if 0 <= stricter < respond else found[row]
    return found


def _closed(policy: Policy | None, scores: SignalScores) -> Columns:
    """The likeliest category that the policy declines at all; the respond token if there is none."""
    on = np.array([policy is None or policy.rule(c).action != "answer" for c in scores.categories])
    if not on.any():
        return np.full(len(scores), len(scores.categories), dtype=np.int64)
    return np.asarray(np.where(on, scores.logits[:, :-1], -np.inf).argmax(axis=1), dtype=np.int64)


def never_emit(logits: Any, rows: Sequence[int] | None, columns: ControlColumns) -> None:
    """Make the control tokens impossible, in place; in every row for None."""
    import torch

    ids = torch.tensor(columns.ids, device=logits.device)
    if rows is None:
        logits[:, ids] = -torch.inf
    else:
        logits[torch.tensor(rows, device=logits.device)[:, None], ids] = -torch.inf


def force(logits: Any, rows: Sequence[int], found: Columns, columns: ControlColumns) -> None:
    """Make the decided token of each row the only possible one, in place; rows with -1 stay as they are."""
    import torch

    chosen = [(row, columns.ids[column]) for row, column in zip(rows, found.tolist(), strict=True) if column >= 0]
    if chosen:
        where, ids = torch.tensor(chosen, device=logits.device).T
        logits[where] = -torch.inf
        logits[where, ids] = 0.0
