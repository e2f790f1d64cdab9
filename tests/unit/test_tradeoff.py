"""The trade-off plot: means over seeds with honest intervals, every recipe told apart, any name safe."""

import xml.etree.ElementTree as ET

import pytest

from demur.core.errors import BadInputError
from demur.report.tradeoff import Arm, mean_over_seeds, places, tradeoff_svg, tradeoff_table


def arm(recipe="LoRA", fraction=1.0, seed=0, declined=0.5, answered=0.8, ability=0.99):
    return Arm(recipe=recipe, fraction=fraction, seed=seed, declined=declined, answered=answered, ability=ability)


def test_the_interval_over_three_seeds_is_students():
    mean = mean_over_seeds([0.4, 0.5, 0.6])
    assert mean.at == pytest.approx(0.5)
    assert mean.high - mean.at == pytest.approx(4.302653 * 0.1 / 3**0.5, abs=1e-5)


def test_one_seed_claims_no_interval():
    mean = mean_over_seeds([0.4])
    assert mean.low == mean.at == mean.high
    assert "[" not in tradeoff_table([arm()]).splitlines()[-1]


def test_seeds_of_an_arm_become_one_place():
    found = places([arm(seed=0), arm(seed=1), arm(fraction=0.1)])
    assert [(p.recipe, p.fraction, p.declined.n) for p in found] == [("LoRA", 1.0, 2), ("LoRA", 0.1, 1)]


def test_the_plot_is_wellformed_and_names_every_recipe_whatever_it_is_called():
    names = ["base", "full <b>", "LoRA & mix", *(f"r{i}" for i in range(6))]
    svg = tradeoff_svg([arm(recipe=name, seed=s, declined=0.1 * s) for name in names for s in range(3)])
    texts = [element.text for element in ET.fromstring(svg).iter() if element.text]
    assert all(name in texts for name in names)


def test_figures_outside_the_plot_stay_on_its_edge():
    svg = tradeoff_svg([arm(seed=0, declined=0.0, answered=0.0), arm(seed=1, declined=1.0, answered=1.0)])
    assert "nan" not in svg
    ET.fromstring(svg)


def test_no_arms_make_no_plot():
    with pytest.raises(BadInputError, match="at least one"):
        tradeoff_svg([])
