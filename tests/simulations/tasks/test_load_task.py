import itertools
import sys
import textwrap

import pytest

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.tasks import PARTITIONERS, TASKS, load_task

PARTITION = {"name": "iid"}
SOURCE = """
from hqde_fl.clients.task import Task

task = Task(model=lambda: None, partition=lambda i, n: None, test=lambda: None)
number = 3
calls = []

def make(partitions, seed, partition, width=1, **more):
    calls.append((partitions, seed, dict(partition), width, more))
    return task

def strict(partitions, seed, partition):
    return task

def lazy(**arguments):
    return None
"""
module_numbers = itertools.count()


@pytest.fixture
def module(tmp_path, monkeypatch):
    name = f"own_task_{next(module_numbers)}"
    (tmp_path / f"{name}.py").write_text(textwrap.dedent(SOURCE))
    (tmp_path / f"{name}_broken.py").write_text("import no_such_dependency")
    (tmp_path / f"{name}_wrong.py").write_text("raise ValueError('mine')")
    monkeypatch.syspath_prepend(tmp_path)
    return name


def load(name, **more):
    return load_task({"name": name, **more}, PARTITION, 4, 9)


def test_a_users_own_task_is_loaded(module):
    assert load(f"{module}:task") is sys.modules[module].task
    assert load(f"{module}:make", width=2, **{"a-b": 5}) is sys.modules[module].task
    assert sys.modules[module].calls == [(4, 9, PARTITION, 2, {"a_b": 5})]


@pytest.mark.parametrize(
    ("attribute", "more", "message"),
    [
        ("tsk", {}, "has no 'tsk'"),
        ("number", {}, "must be a Task or return one, found 3"),
        ("task", {"width": 2}, "is a Task and takes no width"),
        ("strict", {"width": 2}, "cannot be called with .*unexpected keyword argument 'width'"),
        ("make", {"seed": 2}, "gets seed from the run, not from its table"),
        ("lazy", {}, "must return a Task, found None"),
        ("", {}, "must read package.module:attribute"),
    ],
)
def test_an_attribute_that_is_no_task_is_refused(module, attribute, more, message):
    with pytest.raises(ConfigError, match=message):
        load(f"{module}:{attribute}", **more)


@pytest.mark.parametrize("name", ["no_such_module:task", "no_such.package.module:task"])
def test_a_module_that_does_not_exist_is_named(name):
    with pytest.raises(ConfigError, match=f"no module '{name.partition(':')[0]}'"):
        load(name)


@pytest.mark.parametrize("name", [":task", ".relative:task", "a b:task"])
def test_a_name_that_is_no_module_is_refused(name):
    with pytest.raises(ConfigError, match=r"must read package\.module:attribute"):
        load(name)


def test_errors_in_the_users_module_are_one_line(module):
    with pytest.raises(ConfigError, match=r"no_such_dependency.* \(.*_broken.py, line \d+\)$"):
        load(f"{module}_broken:task")
    with pytest.raises(ConfigError, match=r"raised ValueError: mine \(.*_wrong.py, line 1\)$"):
        load(f"{module}_wrong:task")


def test_built_in_tasks_are_loaded_by_name():
    task = load_task({"name": "digits", "hidden": 3}, {"name": "dirichlet", "alpha": 1}, 4, 9)
    assert isinstance(task, Task)
    assert len(task.partition(3, 4)) > 0
    for registry in (TASKS, PARTITIONERS):
        assert all(registry.summary(name).endswith(".") for name in registry)


@pytest.mark.parametrize(
    ("table", "partitioner", "count", "message"),
    [
        ({"name": "digit"}, PARTITION, 4, "unknown task 'digit': did you mean 'digits'"),
        ({"name": "digits", "hiden": 3}, PARTITION, 4, "did you mean 'hidden'"),
        ({"name": "digits"}, {"name": "dirichlet", "alpha": "x"}, 4, "dirichlet.alpha"),
        ({"name": "digits"}, PARTITION, 0, "at least 1 partition, found 0"),
        ({}, PARTITION, 4, "task needs a name"),
    ],
)
def test_impossible_tables_are_refused(table, partitioner, count, message):
    with pytest.raises(ConfigError, match=message):
        load_task(table, partitioner, count, 0)
