"""Directions and the files they are kept in."""

import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("safetensors")

from demur.activations.direction import (
    RESIDUAL_CONVENTION,
    Direction,
    DirectionMap,
    load_direction,
    load_maps,
    save_direction,
    save_maps,
)
from demur.core.errors import BadInputError

MODEL = "tiny@1234"


def a_direction(seed=0, *, raw_norm=3.0, **fields):
    vector = np.random.default_rng(seed).normal(size=16)
    given = {"residual_index": 5, "span": "t_post[-1]", "model": MODEL, "name": "refusal", "method": "test"}
    vector = (vector / np.linalg.norm(vector)).astype(np.float32)
    return Direction(vector=vector, raw_norm=raw_norm, **{**given, "local_norm": 20.0, **fields})


def a_map():
    rng = np.random.default_rng(1)
    return DirectionMap(
        vectors=rng.normal(size=(2, 3, 16)).astype(np.float32),
        local_norms=rng.uniform(1, 9, size=(2, 3)).astype(np.float32),
        spans=("t_inst", "t_post[-1]"),
        layers=(0, 4, 9),
        model=MODEL,
        name="harm",
        method="difference_in_means",
    )


def test_negating_turns_everything_that_depends_on_the_sign():
    d = a_direction(threshold=0.5, polarity="refuses")
    states = np.random.default_rng(2).normal(size=(7, 16))
    np.testing.assert_allclose((-d).project(states), -d.project(states), rtol=1e-6)
    turned = -d
    assert (turned.threshold, turned.polarity) == (-0.5, "not: refuses")
    assert ((-turned).threshold, (-turned).polarity) == (0.5, "refuses")
    assert d.cosine(-d) == pytest.approx(-1.0)


def test_sums_are_sums_of_what_was_measured():
    a, b = a_direction(0, raw_norm=3.0), a_direction(1, raw_norm=0.5)
    np.testing.assert_allclose((a + b).raw, a.raw + b.raw, rtol=1e-5)
    np.testing.assert_allclose((a - b).raw, a.raw - b.raw, rtol=1e-5)
    assert (a + b).threshold is None
    with pytest.raises(ValueError, match="cancel out"):
        a - a
    with pytest.raises(ValueError, match="differ in residual_index: 5 and 6"):
        a + replace(b, residual_index=6)


def test_scaling_changes_the_raw_length_and_never_the_unit():
    d = a_direction()
    np.testing.assert_allclose(d.scaled(-2.0).raw, -2.0 * d.raw, rtol=1e-6)
    assert np.linalg.norm(d.scaled(0.1).vector) == pytest.approx(1.0)
    with pytest.raises(ValueError, match="scaled by 0"):
        d.scaled(0.0)


def test_strength_is_in_units_of_the_local_norm():
    assert np.linalg.norm(a_direction(local_norm=20.0).shift(0.5)) == pytest.approx(10.0)


def test_cosines_do_not_depend_on_the_length_of_states():
    d, states = a_direction(), np.random.default_rng(3).normal(size=(5, 16))
    np.testing.assert_allclose(d.cosines(states), d.cosines(100 * states))
    assert d.cosines(np.zeros((1, 16))) == 0.0
    assert d.cosines(d.raw) == pytest.approx(1.0)


@pytest.mark.parametrize("vector", [np.ones(4), np.full(4, np.nan), np.eye(4), np.zeros(4)])
def test_what_has_not_length_one_is_no_direction(vector):
    with pytest.raises(ValueError, match="of length 1"):
        replace(a_direction(), vector=vector.astype(np.float32))


@pytest.mark.parametrize("threshold", [None, 0.25])
def test_a_saved_direction_comes_back_whole(tmp_path, threshold):
    d = a_direction(threshold=threshold, data_hash="ab12", n_positive=7, n_negative=9, polarity="verweigert \u2713")
    save_direction(tmp_path / "d.safetensors", d)
    back = load_direction(tmp_path / "d.safetensors", for_model=MODEL, width=16)
    np.testing.assert_array_equal(back.vector, d.vector)
    for field in Direction.__dataclass_fields__:
        if field != "vector":
            assert getattr(back, field) == getattr(d, field)


def test_the_file_is_plain_safetensors_with_the_convention_in_it(tmp_path):
    from safetensors import safe_open

    save_direction(tmp_path / "d.safetensors", a_direction())
    with safe_open(tmp_path / "d.safetensors", framework="numpy") as file:
        assert json.loads(file.metadata()["demur"])["convention"] == RESIDUAL_CONVENTION
        assert file.get_tensor("vector").dtype == np.float32


def test_a_direction_is_refused_where_it_does_not_belong(tmp_path):
    path = tmp_path / "d.safetensors"
    save_direction(path, a_direction())
    with pytest.raises(BadInputError, match="found on tiny@1234, the model here is other@1"):
        load_direction(path, for_model="other@1")
    with pytest.raises(BadInputError, match=r"expected width 32, got \(16,\)"):
        load_direction(path, width=32)
    data = path.read_bytes().replace(b"before the final norm", b"after the final norms")
    path.write_bytes(data)
    with pytest.raises(BadInputError, match="convention: expected 'h\\^l = input of block l"):
        load_direction(path)


def test_a_file_that_is_no_direction_says_what_was_expected(tmp_path):
    import safetensors.numpy

    path = tmp_path / "d.safetensors"
    for data in (b"", b"\xff" * 64, b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "):
        path.write_bytes(data)
        with pytest.raises(BadInputError, match="expected"):
            load_direction(path)
    safetensors.numpy.save_file({"vector": np.zeros(3, np.float32)}, path)
    with pytest.raises(BadInputError, match="expected demur's record in the header"):
        load_direction(path)
    with pytest.raises(BadInputError, match="No such file"):
        load_direction(tmp_path / "none.safetensors")
    save_maps(path, {"harm": a_map()})
    with pytest.raises(BadInputError, match="expected a direction"):
        load_direction(path)


def test_maps_come_back_whole_and_give_directions(tmp_path):
    save_maps(tmp_path / "m.safetensors", {"harm": a_map(), "harm/violence": a_map()})
    back = load_maps(tmp_path / "m.safetensors", for_model=MODEL)
    assert set(back) == {"harm", "harm/violence"}
    np.testing.assert_array_equal(back["harm"].vectors, a_map().vectors)
    found = back["harm"].at("t_post[-1]", 4)
    np.testing.assert_allclose(found.raw, a_map().vectors[1, 1], rtol=1e-5)
    assert (found.residual_index, found.span) == (4, "t_post[-1]")
    assert found.local_norm == pytest.approx(float(a_map().local_norms[1, 1]))
    with pytest.raises(BadInputError, match="the model here is other"):
        load_maps(tmp_path / "m.safetensors", for_model="other")


def test_a_place_without_direction_is_named():
    with pytest.raises(BadInputError, match="no span 't_inst' at residual index 3"):
        a_map().at("t_inst", 3)
    empty = replace(a_map(), vectors=np.zeros((2, 3, 16), np.float32))
    with pytest.raises(BadInputError, match="at t_inst, residual index 0: the two sides coincide"):
        empty.at("t_inst", 0)
    with pytest.raises(ValueError, match=r"expected vectors \(2, 2, 'd'\)"):
        replace(a_map(), layers=(0, 1))
