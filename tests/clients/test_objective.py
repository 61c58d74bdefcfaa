from math import inf

import pytest
from torch.nn import Identity

from hqde_fl.clients.objective import Objective
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError


def divide(*_):
    return []


def task(**changed):
    return Task(model=Identity, partition=divide, test=divide, **changed)


@pytest.mark.parametrize(
    ("name", "higher"),
    [
        ("accuracy", True),
        ("member-accuracy", True),
        ("r2", True),
        ("f1-macro", True),
        ("glossiness", True),
        ("loss", False),
        ("member-nll", False),
        ("rmse", False),
        ("Mean_Squared_Error", False),
        ("attack-success", False),
        ("eval-loss", False),
    ],
)
def test_the_direction_of_a_metric_follows_from_its_name_unless_given(name, higher):
    assert Objective().higher_is_better(name) is higher
    assert Objective(directions={name: not higher}).higher_is_better(name) is not higher


@pytest.mark.parametrize(
    ("name", "bounds"),
    [
        ("accuracy", (0, 1)),
        ("validation/accuracy", (0, 1)),
        ("f1-macro", (0, 1)),
        ("attack-success", (0, 1)),
        ("attack-success-2", (0, 1)),
        ("accuracy-gap", (-inf, inf)),
        ("rmse", (0, inf)),
        ("rmse-gap", (-inf, inf)),
        ("loss", (-inf, inf)),
        ("r2", (-inf, inf)),
    ],
)
def test_the_bounds_of_a_metric_follow_from_its_name_where_they_are_certain(name, bounds):
    assert Objective().bounds(name) == bounds
    assert Objective(name).bounds() == bounds


def test_a_task_is_judged_by_its_accuracy_else_by_its_loss_unless_it_says_otherwise():
    assert task().objective == Objective("accuracy")
    assert task(metrics={"rmse": min}).objective == Objective("loss")
    chosen = task(metrics={"rmse": min}, primary="rmse").objective
    assert (chosen.primary, chosen.higher_is_better()) == ("rmse", False)
    assert chosen.badness(3.0) > chosen.badness(2.0)
    odd = task(metrics={"error": min}, primary="error", higher_is_better={"error": True})
    assert odd.objective.higher_is_better()
    assert odd.objective.badness(3.0) < odd.objective.badness(2.0)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"primary": 3}, "Task.primary must be a metric's name, found 3"),
        ({"higher_is_better": {"r2": "yes"}}, "must have True or False for 'r2', found 'yes'"),
    ],
)
def test_a_wrong_direction_is_refused(wrong, message):
    with pytest.raises(ConfigError, match=message):
        task(**wrong)
