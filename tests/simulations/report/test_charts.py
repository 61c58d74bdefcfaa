from hqde_fl.simulations.report.charts import line_chart
from hqde_fl.simulations.report.heat_colours import cell_colours, scale_colours


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
