"""Rows of control tokens learnt on a frozen model: six vectors on cached states, seconds once these exist.

New rows start far from where they must end and the rest of the vocabulary does not move, so they need 10 to 100 times
the learning rate of a trunk; at 1e-4 they never collect any probability (method sheet, section 7).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from demur.core.exchange import Frozen

LEARNING_RATE = 1e-2


class RowSettings(Frozen):
    """How control-token rows are learnt.

    Attributes:
        learning_rate: Peak, decaying linearly.
        epochs: Passes over the cached states.
        batch_rows: Prompts in a step.
        weight_decay: Of the rows, towards where they began.
    """

    learning_rate: float = LEARNING_RATE
    epochs: int = 6
    batch_rows: int = 64
    weight_decay: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class FittedRows:
    """Learnt rows, (n_tokens, d_model), the loss of each step, and the control tokens' mean mass afterwards."""

    rows: Any
    losses: tuple[float, ...]
    mass: float


def fit_rows(
    states: Any,
    columns: Sequence[int],
    start: Any,
    table: Any,
    *,
    settings: RowSettings,
    seed: int,
    longest: float | None = None,
) -> FittedRows:
    """Learn the rows by cross-entropy over the whole vocabulary plus the rows.

    Args:
        states: Final state at each prompt's last position; (n_prompts, d_model).
        columns: Control token that should follow; (n_prompts,).
        start: Rows to begin with; (n_tokens, d_model).
        table: Output rows of the ordinary vocabulary; (n_vocabulary, d_model).
        settings: Learning rate and so on.
        seed: Of the order of prompts.
        longest: Longest a row may become; None = any length.
    """
    import torch

    rows = torch.nn.Parameter(start.clone().float())
    targets = torch.tensor(list(columns), dtype=torch.long)
    with torch.no_grad():  # the frozen vocabulary's share of the softmax, once
        ordinary = torch.cat([torch.logsumexp(part @ table.T, dim=1) for part in states.split(256)])
    optimiser = torch.optim.AdamW([rows], lr=settings.learning_rate, weight_decay=settings.weight_decay)
    order = torch.Generator().manual_seed(seed)
    n_steps = settings.epochs * -(-len(states) // settings.batch_rows)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.02, total_iters=n_steps)
    losses = []
    for _ in range(settings.epochs):
        for batch in torch.randperm(len(states), generator=order).split(settings.batch_rows):
            loss = _loss(states[batch] @ rows.T, ordinary[batch], targets[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
            if longest is not None:
                with torch.no_grad():
                    rows.mul_((longest / rows.norm(dim=1, keepdim=True)).clamp(max=1.0))
            losses.append(loss.item())
    with torch.no_grad():
        own = torch.logsumexp(states @ rows.T, dim=1)
        mass = float(torch.exp(own - torch.logaddexp(own, ordinary)).mean())
    return FittedRows(rows=rows.detach(), losses=tuple(losses), mass=mass)


def _loss(logits: Any, ordinary: Any, targets: Any) -> Any:
    import torch

    total = torch.logaddexp(torch.logsumexp(logits, dim=1), ordinary)
    return (total - logits.gather(1, targets[:, None])[:, 0]).mean()
