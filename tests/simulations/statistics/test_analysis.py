import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.recording.comparison import ComparisonAxis
from hqde_fl.simulations.statistics.analysis import Analysis


def axis(name):
    return ComparisonAxis(name, (f"{name} 1", f"{name} 2"), (1, 2))


def test_settings_are_the_strings_under_their_names_and_lists_are_axes():
    analysis, axes = Analysis.take({"interval": "bootstrap", "metric": [1, 2], "rule": ["mean"]})
    assert analysis == Analysis(interval="bootstrap")
    assert axes == {"metric": [1, 2], "rule": ["mean"]}


@pytest.mark.parametrize(
    ("names", "compare", "expected"),
    [
        (("attack", "rule"), None, "rule"),
        (("f", "faults.0.count", "codec", "rule"), None, "codec"),
        (("attack", "f"), None, "attack"),
        (("attack", "rule"), "attack", "attack"),
    ],
)
def test_attacks_are_conditions_and_not_lines(names, compare, expected):
    assert Analysis(compare=compare).line_axis([axis(name) for name in names]).name == expected


def test_a_sweep_over_seeds_alone_compares_nothing():
    assert Analysis().line_axis([]) is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"interval": "normal"}, "unknown interval 'normal'"),
        ({"interval": 0.95}, r"\[sweep\] interval needs to be a string, found 0.95"),
        ({"compare": "rul"}, "unknown axis to compare 'rul': did you mean 'rule'"),
        ({"baseline": "rule 3"}, "unknown baseline of the sweep 'rule 3': did you mean 'rule"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        Analysis(**settings).line_axis([axis("rule")])
