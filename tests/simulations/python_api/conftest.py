"""A task, a rule and a callback as notebooks define them: no other process can import them."""

from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl import Callback, Median, Task

QUICK = {"rounds": 2, "clients": {"count": 4}, "engine": "inline"}
"""Settings of an experiment that takes a moment."""

SHORT = {**QUICK, "report": False}
"""Arguments of a run that takes a moment."""


def examples(count, seed):
    x = torch.randn(count, 4, generator=torch.Generator().manual_seed(seed))
    return TensorDataset(x, (x.sum(1) > 0).long())


def local_task(bias=True):
    """Return a task whose parts are functions inside of a function."""
    return Task(
        model=lambda: nn.Linear(4, 2, bias=bias),
        partition=lambda number, count: examples(30, number),
        test=lambda: examples(50, 99),
    )


def local_rule():
    """Return a rule whose class is defined inside of a function."""

    @dataclass(frozen=True)
    class Middle(Median):
        """The median, under another name."""

    return Middle()


class Collected(Callback):
    """Collects what it receives; it cannot be pickled."""

    def __init__(self):
        self.rounds, self.stopped, self.path = [], None, None
        self.generator = (n for n in ())

    def on_run(self, path, experiment):
        self.path = path

    def on_round(self, record, arrays):
        self.rounds.append(record.round)

    def on_stop(self, error):
        self.stopped = error


@pytest.fixture
def there(tmp_path, monkeypatch):
    """Return an empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
