import asyncio

import numpy as np

from demur.core.chat import ChatRequest
from demur.core.exchange import Message
from demur.core.signal import scores_from_probabilities
from demur.data.score_cache import ScoreCache, request_key
from demur.jobs.signal import _scored
from demur.stats.ranking import auroc, auroc_interval


def request(text):
    return ChatRequest(messages=(Message(role="user", text=text),))


class Counting:
    """A signal that counts what it is asked."""

    name, identity, categories = "counting", "counting@1", ("any",)

    def __init__(self):
        self.asked = []

    async def score(self, requests):
        self.asked += [r.messages[-1].text for r in requests]
        return scores_from_probabilities(
            self.categories, np.array([[len(r.messages[-1].text) / 100] for r in requests])
        )


def test_what_was_scored_is_never_asked_again(tmp_path, monkeypatch):
    monkeypatch.setenv("DEMUR_CACHE", str(tmp_path))
    signal, prompts = Counting(), [request("a"), request("bb"), request("ccc")]
    first = asyncio.run(_scored(signal, prompts[:2], lambda *_: None))
    again = asyncio.run(_scored(signal, prompts, lambda *_: None))
    assert sorted(signal.asked) == ["a", "bb", "ccc"]
    assert np.allclose(again.p()[:, 0], [0.01, 0.02, 0.03])
    assert np.array_equal(again.logits[:2], first.logits)


def test_two_identities_never_share_scores(tmp_path):
    scores = scores_from_probabilities(("any",), np.array([[0.5]]))
    ScoreCache(tmp_path, identity="a", categories=("any",)).put([request("x")], scores)
    assert ScoreCache(tmp_path, identity="b", categories=("any",)).get([request("x")]) == [None]
    assert ScoreCache(tmp_path, identity="a", categories=("any",)).get([request("x")])[0] is not None


def test_a_request_is_known_by_every_turn_and_role():
    system = ChatRequest(messages=(Message(role="system", text="x"), Message(role="user", text="y")))
    assert len({request_key(request("xy")), request_key(request("x\x01user\x00y")), request_key(system)}) == 3
    assert request_key(request("\ud800")) != request_key(request("?"))


def test_auroc_counts_ties_half_and_matches_scikit_learn():
    assert auroc([1, 1], [True, False]) == 0.5
    assert auroc([1, 2], [True, True]) is None
    rng = np.random.default_rng(0)
    y = rng.random(300) < 0.4
    s = np.round(rng.normal(size=300) + y, 1)
    from sklearn.metrics import roc_auc_score

    assert abs(auroc(s, y) - roc_auc_score(y, s)) < 1e-12
    low, high = auroc_interval(s, y)
    assert low < auroc(s, y) < high
    assert 0.05 < high - low < 0.2
