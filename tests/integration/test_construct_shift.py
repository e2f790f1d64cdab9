"""The shift of log-odds on held-out queries: zero for the same model, and where it must be for a trained one."""

from math import exp, log

import pytest
import torch

from demur.core.errors import BadInputError
from demur.jobs.construct_shift import ELSEWHERE, answer_scores, log_odds, preference_shift
from demur.models.merging import load_model, load_tokenizer
from demur.suites.constructive import ConstructiveRow
from demur.train.rows import encoder_of
from tests.engine_models import make_base

torch.set_num_threads(1)
ROWS = [
    ConstructiveRow(
        id=thing, query=f"Mix {thing}?", risk="none", intent="directive", category="x",
        guide=f"Stir the {thing} and wait.", refuse="No.", overcomply="Oh, yes, the sea, the sea!",
    )
    for thing in ("bread", "boat", "flour")
]  # fmt: skip


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return make_base(tmp_path_factory.mktemp("base"))


def test_log_odds_are_those_of_the_probability():
    for p in (0.001, 0.3, 0.999):
        assert log_odds(log(p)) == pytest.approx(log(p / (1 - p)))
    assert exp(-log_odds(0.0)) < 1e-9


def test_scores_in_one_padded_pass_are_those_of_each_reply_alone(base):
    model, tokenizer = load_model(base, dtype="float32"), load_tokenizer(base)
    encoder = encoder_of(tokenizer)
    found = answer_scores(model, tokenizer, ROWS)
    for at, row in enumerate(ROWS):
        for kind, text in (("guide", row.guide), ("refuse", row.refuse), (ELSEWHERE, ROWS[(at + 1) % 3].guide)):
            prompt, reply = encoder.prompt(row.query), [*encoder.reply(text), encoder.end]
            with torch.no_grad():
                logits = model.eval()(torch.tensor([[*prompt, *reply]])).logits[0].log_softmax(-1)
            mean = sum(float(logits[len(prompt) + i - 1, t]) for i, t in enumerate(reply)) / len(reply)
            assert found[at][kind] == pytest.approx(log_odds(mean), abs=1e-4)


def test_the_same_model_has_not_moved(base):
    model, tokenizer = load_model(base, dtype="float32"), load_tokenizer(base)
    assert all(one.shift == 0 and one.n == 3 for one in preference_shift(model, model, tokenizer, ROWS))
    with pytest.raises(BadInputError, match="two queries"):
        preference_shift(model, model, tokenizer, ROWS[:1])


def test_learning_to_guide_shows_as_a_shift_against_refusing(base):
    pytest.importorskip("peft")
    from demur.train.adapters import AdapterSettings, attach

    model, tokenizer = load_model(base, dtype="float32"), load_tokenizer(base)
    trained = attach(load_model(base, dtype="float32"), AdapterSettings(rank=4, alpha=8), seed=0)
    encoder = encoder_of(tokenizer)
    optimiser = torch.optim.Adam([p for p in trained.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(12):
        for row in ROWS[:2]:
            prompt, reply = encoder.prompt(row.query), [*encoder.reply(row.guide), encoder.end]
            logits = trained(torch.tensor([[*prompt, *reply]])).logits[0, len(prompt) - 1 : -1]
            torch.nn.functional.cross_entropy(logits, torch.tensor(reply)).backward()
        optimiser.step()
        optimiser.zero_grad()
    shifts = {one.against: one for one in preference_shift(model, trained, tokenizer, ROWS)}
    assert shifts["refuse"].shift > 0.5
    assert shifts["refuse"].standard_error > 0
