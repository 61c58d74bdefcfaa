from hqde_fl.simulations.report.conditions import conditions
from hqde_fl.simulations.report.scores import filtering_lines
from hqde_fl.simulations.report.strip_charts import strip_charts


def test_columns_with_the_same_runs_are_one_condition(robust):
    assert [c.title for c in conditions(robust)] == [
        "f=0",
        "sign-flip, f=1",
        "label-flip, f=1",
        "zero, f=1",
    ]


def test_a_strip_has_the_fractions_filtered_in_each_round(robust):
    (chart, *_) = strip_charts(robust, filtering_lines(robust))
    assert chart.strips[0].rounds == ((1, 1.0, 0.0), (2, 0.0, 0.0))
