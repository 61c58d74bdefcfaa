import pytest

from hqde_fl.simulations.report.charts import interval_chart, line_chart, shared_limits
from hqde_fl.simulations.report.heat_colours import ColourScale, cell_colours, scale_colours
from hqde_fl.simulations.report.number_text import (
    deviation_text,
    interval_text,
    metric_text,
    signed,
)


def test_heat_maps_share_one_colour_scale():
    assert cell_colours(-1.0) == cell_colours(0.0)
    assert cell_colours(0.0)[1] == "#ffffff"
    assert cell_colours(1.0)[1] == "#111418"
    assert len(set(scale_colours())) == 11


def test_a_chart_is_the_same_every_time_and_its_text_is_text():
    series = {"a": [(0, 0.5), (1, None), (2, 0.7)]}
    first = line_chart(series, "x < y & z")
    assert first == line_chart(series, "x < y & z")
    assert ">round</text>" in first
    assert 'aria-label="x ( y and z"' in first


@pytest.mark.parametrize(
    ("values", "higher", "expected"),
    [
        ([0.2, 0.9], True, ColourScale(0.0, 1.0)),
        ([0.2, 0.9], False, ColourScale(0.2, 0.9, False)),
        ([1.0, 3.0], False, ColourScale(1.0, 3.0, False)),
        ([-1.0, 3.0], True, ColourScale(-1.0, 3.0)),
        ([0.1, 100.0], False, ColourScale(0.1, 100.0, False, True)),
        ([], False, ColourScale(0.0, 1.0, False)),
    ],
)
def test_a_colour_scale_reaches_from_the_worst_to_the_best_value(values, higher, expected):
    scale = ColourScale.of(values, higher)
    assert scale == expected
    assert (scale.position(scale.worst), scale.position(scale.best)) == (0.0, 1.0)
    for place in (0.0, 0.25, 1.0):
        assert scale.position(scale.value(place)) == pytest.approx(place)


def test_equal_ratios_are_equal_distances_on_a_logarithmic_scale():
    assert ColourScale(0.1, 1000.0, False, True).position(10.0) == pytest.approx(0.5)


def test_axes_end_where_the_data_ends():
    assert shared_limits([]) is None
    assert shared_limits([0.1, 0.95]) == pytest.approx((0.066, 0.984))
    assert shared_limits([0.0, 1.0]) == (0.0, 1.0)
    assert shared_limits([2.0, 4.0]) == pytest.approx((1.92, 4.08))
    assert shared_limits([2.0, 4.0], [1.5, 3.0]) == pytest.approx((1.42, 4.08))
    assert shared_limits([2.0, 4.0], [-9.0, 4.5]) == pytest.approx((0.0, 4.58))  # cut at 0
    assert shared_limits([0.5, 0.6], [0.1, 1.7]) == pytest.approx((0.396, 0.704))
    assert shared_limits([1.0, 10.0], [-1.0, 20.0], log=True)[1] == pytest.approx(21.93, rel=1e-3)
    low, high = shared_limits([0.1, 100.0], log=True)
    assert 0.07 < low < 0.1
    assert 100 < high < 140
    chart = line_chart({"a": [(0, 0.5), (30, 0.7)]}, "ends")
    assert ">30</text>" in chart or ">28</text>" in chart
    assert ">32</text>" not in chart


def test_metrics_of_any_size_keep_significant_digits():
    assert [metric_text(value) for value in (0.5, 0, 12.3456, 0.00012, 12345.678, -0.00012)] == [
        "0.500",
        "0.000",
        "12.346",
        "0.00012",
        "1.235e+04",
        "\N{MINUS SIGN}0.00012",
    ]
    assert [signed(value) for value in (0.1, -0.1, 0.0, -0.0, None)] == [
        "+0.100",
        "\N{MINUS SIGN}0.100",
        "+0.000",
        "+0.000",
        "\N{EN DASH}",
    ]
    assert interval_text((-0.1, 0.25)) == "[\N{MINUS SIGN}0.100, 0.250]"
    assert interval_text(None) == ""


@pytest.mark.filterwarnings("error:Glyph")
def test_labels_with_any_characters_stand_beside_intervals():
    chart = interval_chart(
        {"$\\bad$": (1.5, 1.0, 2.0), "\u65e5\u672c": (2.0, 2.0, 2.0)}, "ranks", "mean rank"
    )
    assert "$\\bad$</text>" in chart
    assert ">mean rank</text>" in chart
    assert "#0000" not in chart


def test_a_logarithmic_axis_is_labelled_with_numbers():
    chart = line_chart({"a": [(0, 1.0), (1, 100000.0)]}, "loss", log=True)
    assert ">100000</text>" in chart
    assert "mathdefault" not in chart


def test_a_deviation_has_the_decimals_of_its_value():
    assert deviation_text(0.0039, 0.92, 2) == "0.00"
    assert deviation_text(0.0039, 0.0004, 2) == "0.0039"
