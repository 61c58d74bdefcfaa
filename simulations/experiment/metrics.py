"""Further metrics of a task, which an experiment names in ``[metrics]``."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from typing import Any

from hqde_fl.clients.task import Task, class_accuracy
from hqde_fl.errors import ConfigError
from hqde_fl.own_modules import import_attribute, is_own
from hqde_fl.simulations.experiment.sections import MetricsSection

BUILT_IN = {"class-accuracy": class_accuracy}
"""Metrics that a task has only if it is asked for them, by name."""


def metric_functions(names: Iterable[str]) -> dict[str, Callable[[Any, Any], Any]]:
    """Return metric -> function (outputs, targets) -> mean over the batch.

    Parameters
    ----------
    names : Iterable[str]
        ``class-accuracy``, or ``module:function`` or ``file.py:function``; a metric is named after
        its function.

    Raises
    ------
    ConfigError
        If a name cannot be imported, is no function, or two functions have the same name.
    """
    functions: dict[str, Callable[[Any, Any], Any]] = {}
    for name in names:
        if name in BUILT_IN:
            functions[name] = BUILT_IN[name]
            continue
        if not is_own(name):
            raise ConfigError(
                f"metrics.functions needs {', '.join(BUILT_IN)}, module:function or "
                f"FILE.py:function, found {name!r}"
            )
        function = import_attribute("metric", name)
        if not callable(function) or isinstance(function, type):
            raise ConfigError(
                f"metric {name!r} must be a function (outputs, targets) -> number, "
                f"found {type(function).__name__}"
            )
        key = name.rpartition(":")[2].replace("_", "-")
        if key in functions or key == "loss":
            raise ConfigError(f"metric {name!r}: there is a metric {key!r} already")
        functions[key] = function
    return functions


def with_metrics(task: Task, section: MetricsSection) -> Task:
    """Return a task with the metrics, the primary metric and the directions of ``[metrics]``."""
    if not (section.functions or section.primary or section.higher_is_better):
        return task
    functions = metric_functions(section.functions)
    if taken := sorted(functions.keys() & task.metrics.keys()):
        raise ConfigError(f"metrics.functions: the task has a metric {taken[0]!r} already")
    return dataclasses.replace(
        task,
        metrics={**task.metrics, **functions},
        primary=section.primary or task.primary,
        higher_is_better={**task.higher_is_better, **section.higher_is_better},
    )
