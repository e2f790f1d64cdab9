"""A fitted RefusalPredictor as a signal: models behind an API can then be put under a policy too."""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np

from demur.classify.predictor import RefusalPredictor
from demur.classify.predictor_store import HEADER, load_predictor
from demur.core.chat import ChatRequest
from demur.core.signal import ANY, SignalScores, scores_from_probabilities

NAME = "predictor"


class PredictorSignal:
    """Probability that the predicted model refuses a request; one category, 'any'.

    It reads the last user turn only, as it was fitted.

    Args:
        predictor: Fitted.
        identity: What it is, for caches and policies.
    """

    name = NAME
    categories = (ANY,)

    def __init__(self, predictor: RefusalPredictor, *, identity: str) -> None:
        self.predictor, self.identity = predictor, identity

    async def score(self, requests: Sequence[ChatRequest], /) -> SignalScores:
        p = self.predictor.predict_proba([_last_user_turn(request) for request in requests])[:, 1]
        return scores_from_probabilities(self.categories, np.clip(p, 0.0, 1.0)[:, None])


def load_predictor_signal(folder: Path) -> PredictorSignal:
    """The predictor of a folder as a signal.

    Raises:
        BadInputError: No predictor there.
    """
    predictor, _ = load_predictor(folder)
    digest = sha256((folder / HEADER).read_bytes()).hexdigest()[:8]
    return PredictorSignal(predictor, identity=f"predictor:{digest}")


def _last_user_turn(request: ChatRequest) -> str:
    return next((m.text for m in reversed(request.messages) if m.role == "user"), "") or " "
