import logging

import numpy as np
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.tasks import Adult, Femnist, load_task
from hqde_fl.simulations.tasks.predefined_users import PredefinedUsers

USERS = np.array(list("abacabadcc"))
OF = {user: np.flatnonzero(user == USERS).tolist() for user in "abcd"}


def test_each_client_is_one_user():
    for count in range(1, 5):
        parts = [part.tolist() for part in PredefinedUsers().split(USERS, count, 0)]
        assert all(part in OF.values() for part in parts)
        assert len({tuple(part) for part in parts}) == count
    drawn = {tuple(PredefinedUsers().split(USERS, 1, seed)[0]) for seed in range(20)}
    assert len(drawn) > 1


def test_all_users_are_dealt_in_groups():
    parts = PredefinedUsers(grouped=True).split(USERS, 3, 0)
    assert sorted(np.concatenate(parts).tolist()) == list(range(len(USERS)))
    groups = [set(USERS[part].tolist()) for part in parts]
    assert sorted(map(len, groups)) == [1, 1, 2]
    assert sum(map(len, groups)) == 4


def test_users_with_few_examples_and_those_left_over_are_left_out_and_said(caplog):
    caplog.set_level(logging.INFO, "flwr")
    parts = PredefinedUsers(min_examples=3).split(USERS, 2, 0)
    assert sorted(part.tolist() for part in parts) == sorted([OF["a"], OF["c"]])
    assert "leaves out 2 users with 3 examples" in caplog.text


@pytest.mark.parametrize(
    ("partitioner", "count", "message"),
    [
        (PredefinedUsers(), 5, "a user for each of 5 partitions, found 4 with at least 1 "),
        (PredefinedUsers(min_examples=3), 3, "each of 3 partitions, found 2 with at least 3 "),
    ],
)
def test_more_clients_than_users_are_refused(partitioner, count, message):
    with pytest.raises(ConfigError, match=message):
        partitioner.split(USERS, count, 0)


@pytest.mark.parametrize("wrong", [{"column": ""}, {"min_examples": 0}, {"seed": -1}])
def test_impossible_parameters_are_refused(wrong):
    with pytest.raises(ConfigError, match=rf"PredefinedUsers\.{next(iter(wrong))} must .* found"):
        PredefinedUsers(**wrong)


def test_a_built_in_task_is_divided_by_the_column():
    task = Femnist(data="synthetic", synthetic_examples=100)
    writers = task.table("train").columns["user"]
    parts = [
        len(task.build(PredefinedUsers(grouped=True), 0).partition(number, 3))
        for number in range(3)
    ]
    assert sum(parts) == 100
    biggest = max(np.unique(writers, return_counts=True)[1])
    assert len(task.build(PredefinedUsers(), 0).partition(0, 2)) <= biggest
    schools = Adult(data="synthetic", synthetic_examples=100).build(PredefinedUsers("education"), 0)
    assert 0 < len(schools.partition(0, 2)) < 50


def test_a_column_that_the_data_lack_is_named():
    table = {"name": "mnist", "data": "synthetic", "synthetic-examples": 40}
    task = load_task(table, {"name": "users"}, 2, 0)
    with pytest.raises(ConfigError, match="must have the column 'user', found label"):
        task.partition(0, 2)
    by_class = load_task(table, {"name": "users", "column": "label"}, 10, 0)
    assert len(by_class.partition(3, 10).tensors[1].unique()) == 1
