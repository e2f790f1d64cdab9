"""Steering does on every architecture what it says: added, removed, cached, and baked into weights or refused."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("transformers")

from tests.decoders import BLOCKS, CONFIGS, FURTHER, VOCABULARY, WIDTH, random_prompts, tiny_decoder  # noqa: E402

from demur.activations.direction import Direction  # noqa: E402
from demur.activations.record import RecordOptions, record  # noqa: E402
from demur.core.errors import BadInputError  # noqa: E402
from demur.steer.hooks import AblateDirection, AddDirection, at, steered  # noqa: E402
from demur.steer.weights import divergence, orthogonalise  # noqa: E402

ALL = [*CONFIGS, *FURTHER]
# They normalise what they write, or mix experts after the last matrix.
HOOKS_ONLY = {"Gemma 2", "Gemma 3", "OLMo 2", "Mixtral"}
LAST = "t_post[-1]"


def direction(architecture, index):
    vector = np.random.default_rng(7).normal(size=WIDTH)
    return Direction(
        vector=(vector / np.linalg.norm(vector)).astype(np.float32),
        raw_norm=1.0,
        residual_index=index,
        span=LAST,
        model=architecture,
        name="refusal",
        method="random",
        local_norm=3.0,
    )


def states(subject, prompts, interventions):
    """States at the last token of each prompt, all layers, by the recorder; (n, layers, d)."""
    with steered(subject, interventions):
        # Padded on the left the recorder gives a mask, which says where a prompt ends.
        how = RecordOptions(share_prefix=False, padding="left")
        return record(subject, prompts, spans=(LAST,), options=how).values[:, 0]


@pytest.mark.parametrize("architecture", ALL)
def test_an_addition_is_what_it_says_and_changes_nothing_before_it(architecture):
    subject, prompts, d = tiny_decoder(architecture), random_prompts(3), direction(architecture, 2)
    plain, pushed = states(subject, prompts, []), states(subject, prompts, [AddDirection(d, 0.5)])
    assert np.array_equal(states(subject, prompts, [AddDirection(d, 0.0)]), plain)
    assert np.array_equal(pushed[:, :2], plain[:, :2])
    # The recorder's hooks come after steering's: it sees what the block is given.
    only_here = states(subject, prompts, [AddDirection(d, 0.5, at(positions=(-1,)))])
    assert np.allclose(only_here[:, 2] - plain[:, 2], d.shift(0.5), atol=1e-5)
    assert np.abs(pushed[:, 3] - plain[:, 3]).max() > 1e-3


@pytest.mark.parametrize("architecture", ALL)
def test_an_ablated_direction_is_nowhere_in_the_stream(architecture):
    subject, prompts, d = tiny_decoder(architecture), random_prompts(3), direction(architecture, 1)
    found = states(subject, prompts, [AblateDirection(d)])
    size = np.linalg.norm(found, axis=-1)
    assert float((np.abs(d.project(found)) / size).max()) < 1e-5
    assert found.shape[1] == BLOCKS + 1


@pytest.mark.parametrize("architecture", ALL)
def test_a_cache_changes_no_token(architecture):
    subject, d = tiny_decoder(architecture), direction(architecture, 1)
    ids = torch.randint(3, VOCABULARY, (2, 7), generator=torch.Generator().manual_seed(1))
    fixed = {"max_new_tokens": 6, "min_new_tokens": 6, "do_sample": False, "pad_token_id": 2}
    mask = torch.ones_like(ids)
    mask[1, :2] = 0
    for where in (at(), at(positions="prompt"), at(positions="last")):
        with steered(subject, [AddDirection(d, 2.0, where)]):
            cached, anew = (
                subject.model.generate(ids, attention_mask=mask, use_cache=cached, **fixed) for cached in (True, False)
            )
        assert torch.equal(cached, anew)


@pytest.mark.parametrize("architecture", ALL)
def test_weights_are_edited_exactly_or_not_at_all(architecture):
    subject, d = tiny_decoder(architecture), direction(architecture, 1)
    ids = torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(2))
    with torch.no_grad(), steered(subject, [AblateDirection(d)]):
        expected = subject.model(ids).logits
    before = {name: value.clone() for name, value in subject.model.state_dict().items()}
    if architecture in HOOKS_ONLY:
        with pytest.raises(BadInputError, match="can only be steered with hooks"):
            orthogonalise(subject, [d])
        assert all(torch.equal(value, before[name]) for name, value in subject.model.state_dict().items())
        return
    done = orthogonalise(subject, [d])
    with torch.no_grad():
        assert divergence(expected, done.subject.model(ids).logits) < 1e-6
