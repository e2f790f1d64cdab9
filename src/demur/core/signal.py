"""How strongly a request calls for noncompliance, per category, before a word of reply exists."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from demur.core.chat import ChatRequest

Floats = NDArray[np.float64]
# Columns with names of their own: any category at all, for signals without categories, and answering.
ANY, RESPOND = "any", "respond"
# "posterior": among the control tokens alone; "full": over the whole vocabulary.
View = Literal["posterior", "full"]
# Softmax temperatures whose normaliser over the whole vocabulary is kept; 2 is the one the published code ends up with.
TEMPERATURES = (1.0, 1.5, 2.0)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SignalScores:
    """What a signal says about requests: everything any decision rule needs, so that no rule asks the model again.

    Attributes:
        categories: Taxonomy categories in column order; ('any',) for a signal without categories.
        logits: Logits of the category tokens, then of the respond token; (n_requests, n_categories + 1).
        log_total: Log of the sum of exp(logit / temperature) over the whole vocabulary, for each of `TEMPERATURES`;
            (n_requests, n_temperatures).
        top: Column of the most probable token of the whole vocabulary, -1 where that is no control token;
            (n_requests,).
    """

    categories: tuple[str, ...]
    logits: Floats
    log_total: Floats
    top: NDArray[np.int64]

    def __post_init__(self) -> None:
        n, width = self.logits.shape
        if width != len(self.categories) + 1 or self.log_total.shape != (n, len(TEMPERATURES)) or len(self.top) != n:
            raise ValueError(
                f"expected logits (n, {len(self.categories) + 1}), log_total (n, {len(TEMPERATURES)}) and top (n,); "
                f"got {self.logits.shape}, {self.log_total.shape} and {self.top.shape}"
            )
        if not np.isfinite(self.log_total).all() or np.isnan(self.logits).any():
            raise ValueError("expected finite scores, got nan or infinity")

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, rows: "slice | Sequence[int] | NDArray[np.int64] | NDArray[np.bool_]") -> "SignalScores":
        return SignalScores(
            categories=self.categories, logits=self.logits[rows], log_total=self.log_total[rows], top=self.top[rows]
        )

    def p(self, view: View = "posterior", *, temperature: float = 1.0) -> Floats:
        """Probability of each category's token, then of the respond token; (n_requests, n_categories + 1).

        Raises:
            ValueError: A full-vocabulary view at a temperature that was not recorded.
        """
        scaled = self.logits / temperature
        if view == "posterior":
            top = scaled.max(axis=1, keepdims=True)
            total = top + np.log(np.exp(scaled - top).sum(axis=1, keepdims=True))
        elif temperature in TEMPERATURES:
            total = self.log_total[:, [TEMPERATURES.index(temperature)]]
        else:
            raise ValueError(f"expected one of the recorded temperatures {TEMPERATURES}, got {temperature}")
        return np.asarray(np.minimum(np.exp(scaled - total), 1.0))

    @property
    def p_any(self) -> Floats:
        """Posterior probability that some category applies: 1 - that of the respond token; (n_requests,)."""
        return np.asarray(np.clip(self.p()[:, :-1].sum(axis=1), 0.0, 1.0))

    @property
    def mass(self) -> Floats:
        """Probability that the control tokens hold together over the whole vocabulary; (n_requests,)."""
        return np.asarray(np.minimum(self.p("full").sum(axis=1), 1.0))


def scores_from_probabilities(categories: Sequence[str], p: Floats) -> SignalScores:
    """Scores of a signal that has probabilities and no vocabulary; its mass is 1.

    Args:
        categories: Names of the columns.
        p: Probability of each category; (n_requests, n_categories), rows summing to at most 1.

    Raises:
        ValueError: A probability outside [0, 1], or a row that sums to more.
    """
    p = np.asarray(p, dtype=np.float64)
    rest = 1.0 - p.sum(axis=1, keepdims=True)
    if not (np.isfinite(p).all() and (p >= 0).all() and (rest > -1e-9).all()):
        raise ValueError("expected probabilities in [0, 1] with rows summing to at most 1")
    whole = np.log(np.clip(np.hstack([p, rest]), 1e-300, 1.0))
    totals = np.stack([np.log(np.exp(whole / t).sum(axis=1)) for t in TEMPERATURES], axis=1)
    return SignalScores(categories=tuple(categories), logits=whole, log_total=totals, top=whole.argmax(axis=1))


def stacked(parts: Sequence[SignalScores]) -> SignalScores:
    """Scores of several batches as one, in order."""
    return SignalScores(
        categories=parts[0].categories,
        logits=np.concatenate([part.logits for part in parts]),
        log_total=np.concatenate([part.log_total for part in parts]),
        top=np.concatenate([part.top for part in parts]),
    )


@runtime_checkable
class Signal(Protocol):
    """Anything that scores requests before they are answered: refusal tokens, predictors, guards, probes."""

    @property
    def name(self) -> str:
        """What kind of signal, e.g. 'refusal-tokens'."""
        ...

    @property
    def identity(self) -> str:
        """What exactly made the scores: the key of caches and policies."""
        ...

    @property
    def categories(self) -> tuple[str, ...]:
        """Columns of its scores."""
        ...

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        """Score requests, in order.

        Raises:
            BackendError: The model failed.
        """
        ...
