"""The page about the inside of a model: complete, safe with hostile text, and readable with any part missing."""

import re

import pytest
from tests.inside_findings import cliff, directions, guard, steering

from demur.core.direction_study import Numbers
from demur.core.errors import BadInputError
from demur.report.inside import InsideFindings, render_inside, write_inside
from demur.report.inside_maps import AUROC, COSINE, Scale, shown_token
from demur.report.inside_plots import Axis, Series, chart, floor_of, reach, round_numbers

HOSTILE = "</script><img src=x onerror=alert(1)>\u202e\u0000\ud800 {{ 7 * 7 }}\" onload='x'"
PARTS = {
    "directions": {"layers", "honesty", "plane", "maps", "attrition", "search"},
    "cliff": {"cliff", "heads", "ablation"},
    "steering": {"steering"},
    "guard": {"guard"},
}


@pytest.fixture(scope="module")
def whole():
    return render_inside(everything())


def everything(text=""):
    return InsideFindings(
        directions=directions(text=text), cliff=cliff(text=text), steering=(steering(text),), guard=guard(text=text)
    )


def only(part):
    found = everything()
    value = getattr(found, part)
    return InsideFindings(**{part: value})


def sections_of(page):
    return set(re.findall(r'<section id="([\w-]+)"', page))


@pytest.mark.parametrize("part", PARTS)
def test_a_study_with_one_part_shows_that_part_and_links_to_nothing_else(part):
    page = render_inside(only(part))
    assert sections_of(page) == PARTS[part] | {"overview", "made"}
    assert set(re.findall(r'href="#([\w-]+)"', page)) <= sections_of(page) | {"main"}


def test_all_parts_have_all_sections(whole):
    assert sections_of(whole) == set.union(*PARTS.values()) | {"overview", "made"}


def test_nothing_to_show_is_said():
    with pytest.raises(BadInputError, match="at least one"):
        render_inside(InsideFindings())


def test_text_of_strangers_stays_text_wherever_it_stands():
    page = render_inside(everything(HOSTILE))
    assert "<img" not in page
    assert "\u202e" not in page
    assert "[U+202E]" in page
    assert "{{ 7 * 7 }}" in page
    assert page.count("<script") == 2
    assert not re.search(r"<[^>]*\sonload=", re.sub(r'"[^"]*"', '""', page))


def test_the_page_loads_nothing_and_styles_nothing_inline(whole):
    assert not re.search(r'\b(?:src|href)="(?!#)', whole)
    assert ' style="' not in whole
    assert "@import" not in whole
    assert "url(" not in whole


def test_every_field_of_a_heat_map_holds_its_number():
    study = directions(layers=3)
    page = render_inside(InsideFindings(directions=study))
    for map_ in study.maps:
        for span, row in zip(map_.spans, map_.values, strict=True):
            for layer, value in zip(study.layers, row, strict=True):
                title = f"{span}, layer {layer}: "
                assert value is None or f'title="{title}{value:.3f}"'.replace("-0.", "\u22120.") in page


def test_every_prompt_of_the_plane_can_be_read_without_a_pointer():
    study = directions(n_points=20)
    page = render_inside(InsideFindings(directions=study))
    plane = page[page.index('id="plane"') :]
    assert plane.count('class="at prompt-mark"') == 20
    for point in study.points:
        assert f"<bdi>{point.prompt}</bdi>" in plane


def test_a_control_as_good_as_the_direction_is_marked_and_a_weaker_one_is_not(whole):
    rows = re.findall(r"<tr[^>]*>.*?</tr>", whole[whole.index('id="honesty"') :], re.DOTALL)
    words = next(row for row in rows if "TF-IDF" in row)
    length = next(row for row in rows if ">length<" in row)
    assert "as good" in words
    assert "as good" not in length


def test_that_no_candidate_survives_is_a_result():
    found = directions()
    empty = found.selection.model_copy(update={"chosen": None, "chosen_relative": None})
    page = render_inside(InsideFindings(directions=directions(selection=empty)))
    assert "No candidate survives" in page


@pytest.mark.parametrize("missing", ["selection", "honesty", "points", "curves", "maps", "categories", "saved"])
def test_directions_without_something_still_have_a_report(missing):
    page = render_inside(InsideFindings(directions=directions(**{missing: None if missing == "selection" else ()})))
    assert 'id="layers"' in page


@pytest.mark.parametrize("missing", ["groups", "curves", "controls", "probes", "heads", "head_map", "ablations"])
def test_a_cliff_without_something_still_has_a_report(missing):
    assert 'id="cliff"' in render_inside(InsideFindings(cliff=cliff(**{missing: ()})))


def test_a_border_is_not_called_a_cliff():
    page = render_inside(InsideFindings(cliff=cliff(kind="boundary", groups=(), truncation=(), selection=None)))
    assert "The refusal cliff" not in page
    assert "no cliff to declare" in page


def test_random_draws_are_one_line_with_their_range(whole):
    table = whole[whole.index('class="ablations"') : whole.index("Every draw")]
    assert table.count("random heads</bdi>") == 1
    assert "10 draws of 2 heads" in table


def test_random_directions_stand_in_the_chart_and_in_the_table(whole):
    part = whole[whole.index('id="steering"') :]
    assert "random directions: declined, of prompts to decline" in part
    assert "7 draws" in part


def test_what_must_be_read_first_stands_first(whole):
    assert whole.index("are in no bucket") < whole.index('id="layers"')
    assert "<b>Refusal cliff.</b>" in whole


def test_a_report_is_written_whole(tmp_path):
    write_inside(tmp_path / "new" / "report.html", only("steering"))
    assert (tmp_path / "new" / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


@pytest.mark.parametrize(
    ("scale", "value", "shade"),
    [
        (AUROC, 0.5, "level"), (AUROC, 1.0, "up9"), (AUROC, 0.0, "down9"), (COSINE, -1.0, "down9"),
        (COSINE, 0.02, "level"), (Scale(reach=2.0), 9.0, "up9"), (Scale(reach=0.0), 0.0, "level"),
    ],
)  # fmt: skip
def test_shades_grow_with_the_distance_from_the_middle(scale, value, shade):
    assert scale.shade(value) == shade


@pytest.mark.parametrize(
    ("value", "text"), [(0.934, ".93"), (1.0, "1.00"), (-0.12, "\u2212.12"), (0.001, "0"), (-0.001, "0")]
)
def test_numbers_of_a_field_are_brief(value, text):
    assert AUROC.text(value) == text


def test_white_space_of_tokens_is_seen():
    assert shown_token("\n a") == "↵␣a"


@pytest.mark.parametrize(("low", "high"), [(0, 1), (0, 30), (-40, 8), (-0.17, 0.23), (3, 3), (0, 1e-9)])
def test_ticks_are_few_and_lie_within_their_axis(low, high):
    ticks = round_numbers(low, high)
    assert 1 <= len(ticks) <= 9
    assert all(low - 1e-9 <= t <= high + 1e-9 for t in ticks)


@pytest.mark.parametrize("last", [1, 2, 3, 30, 80])
def test_layers_have_whole_ticks_and_none_twice(last):
    ticks = Axis(ends=(0.0, float(last)), title="layer", is_whole=True).ticks()
    assert ticks == sorted({round(t) for t in ticks})


@pytest.mark.parametrize("values", [(), (None,), (0.0,), (-0.3, 0.2), (5.0, 7.0), (-4.0, -2.0)])
def test_an_axis_reaches_over_all_values_and_zero(values):
    low, high = reach(values)
    known = [v for v in values if v is not None]
    assert low <= min([0.0, *known]) + 1e-9
    assert high >= max([0.0, *known]) - 1e-9
    assert low < high


def test_an_axis_of_aurocs_shows_guessing():
    assert floor_of([0.9, None]) == (0.5, 1.0)
    assert floor_of([0.33])[0] == 0.3


def drawn(values: Numbers, **changes):
    axis = Axis(ends=(0.0, 1.0), title="y")
    series = Series(name="a", style="first", values=values, **changes)
    return chart("t", range(len(values)), [series], across=Axis(ends=(0.0, 4.0), title="x"), upright=axis)


def test_a_line_is_interrupted_where_there_is_no_number():
    found = drawn((0.1, 0.2, None, 0.3, 0.4))
    assert [stroke.count(",") for stroke in found.lines[0].strokes] == [2, 2]
    assert found.rows[2][1] == ("\u2013",)


def test_a_band_needs_both_edges():
    found = drawn((0.1, 0.2, 0.3, 0.4, 0.5), low=(0.0, 0.1, None, 0.2, 0.3), high=(0.2, 0.3, 0.4, 0.5, 0.6))
    assert len(found.lines[0].bands) == 2


def test_marks_never_leave_the_plot():
    found = drawn((-3.0, 0.5, 7.0))
    assert [dot.y for dot in found.lines[0].dots] == [100.0, 50.0, 0.0]
