import pytest

from hqde_fl.simulations.experiment.display_names import (
    attack_label,
    axis_labels,
    component_label,
    faults_label,
)

FLIP = {"name": "sign-flip", "count": 3, "scale": 4.0}


@pytest.mark.parametrize(
    ("table", "label"),
    [
        ({"name": "median"}, "median"),
        ({"name": "mean", "weighted": True}, "mean (weighted)"),
        ({"name": "trimmed-mean", "f": 3}, "trimmed-mean (f=3)"),
        ({"f": 3, "name": "x", "y": False, "z": 1e-7}, "x (f=3, y=false, z=1e-07)"),
        (
            {"name": "chain", "rules": [{"name": "nnm", "f": 2}, {"name": "median"}]},
            "chain (rules=[nnm (f=2), median])",
        ),
    ],
)
def test_components(table, label):
    assert component_label(table) == label


def test_faults():
    assert faults_label([]) == "no faults"
    assert faults_label([FLIP | {"count": 0}]) == "no faults"
    assert faults_label([FLIP]) == "3 sign-flip (scale=4)"
    assert faults_label([{"name": "zero", "fraction": 0.2}]) == "20% zero"
    named = {"name": "zero", "clients": [3, 5]}
    assert faults_label([named, named | {"clients": []}]) == "2 zero (clients=[3, 5])"
    assert attack_label([FLIP, named], brief=True) == "sign-flip + zero"
    assert attack_label([{"name": "ipm", "epsilon": 2.0}, "alie"]) == "ipm (epsilon=2) + alie"
    assert attack_label([]) == "no faults"
    assert faults_label([FLIP, {"name": "crash", "count": 1}], brief=True) == (
        "3 sign-flip + 1 crash"
    )


def test_labels_of_an_axis_are_brief_where_that_tells_them_apart():
    assert axis_labels("faults", [[], [FLIP]]) == ["no faults", "3 sign-flip"]
    assert axis_labels("faults", [[FLIP], [FLIP | {"scale": 2.0}]]) == [
        "3 sign-flip (scale=4)",
        "3 sign-flip (scale=2)",
    ]
    named = [{"name": "zero", "clients": [client]} for client in (1, 2)]
    assert axis_labels("attack", named) == ["zero (clients=[1])", "zero (clients=[2])"]
    assert axis_labels("strategy.rule", ["median", {"name": "mean"}]) == ["median", "mean"]
    assert axis_labels("clients.partition.alpha", [0.1, 1]) == ["alpha=0.1", "alpha=1"]
    assert axis_labels("seed", [1, 1]) == ["seed=1 #1", "seed=1 #2"]
