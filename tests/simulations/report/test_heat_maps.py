import pytest

from hqde_fl.simulations.report.heat_maps import detection_maps, metric_maps


def test_metric_maps_show_the_first_axis_by_each_of_the_others(robust):
    assert [(m.title, len(m.lines), m.columns) for m in metric_maps(robust)] == [
        ("rule by attack, f=0", 3, ("any attack",)),
        ("rule by attack, f=1", 3, ("sign-flip", "label-flip", "zero")),
        ("rule by f, worst over the rest", 3, ("f=0", "f=1")),
    ]
    (cell, *_) = metric_maps(robust)[1].cells[0]
    assert cell.value == pytest.approx(0.7)
    assert cell.deviation == 0


def test_detection_maps_show_f1_precision_and_recall(robust):
    f1, precision, recall = detection_maps(robust)
    assert [heat.cells[0][0].value for heat in (f1, precision, recall)] == [
        pytest.approx(2 / 3),
        1.0,
        0.5,
    ]


def test_every_heat_map_has_a_file_name_of_its_own(labelled):
    comparison = labelled("a, b", "a b", "A B", "a b 2", "long " * 80)
    first, *others, _ = (heat.file_name for heat in metric_maps(comparison))
    assert first == "rule-by-attack-a-b"
    assert others[:3] == [f"{first}-2", "rule-by-attack-A-B-3", f"{first}-2-2"]
    assert len(others[3]) <= 60


def test_equal_conditions_become_one_column_named_after_their_axis(swept):
    comparison = swept(
        "rule = ['mean', 'median']\nattack = ['none', 'zero']\nf = [0]\n"
        "partition = [{ label = 'a', name = 'iid' }, { label = 'b', name = 'iid' }]\n"
    )
    columns = {heat.title: heat.columns for heat in metric_maps(comparison)}
    assert columns["rule by partition, worst over the rest"] == ("any partition",)
    assert columns["rule by attack, f=0, a"] == ("any attack",)
