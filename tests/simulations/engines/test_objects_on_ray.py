"""Objects of a program reach Ray's workers: tasks and rules that no other process can import."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from threading import Lock
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

import hqde_fl
from hqde_fl import Callback, ConfigError, Median, Task

pytestmark = [pytest.mark.usefixtures("one_ray"), pytest.mark.xdist_group("ray")]

SETTINGS: dict[str, Any] = {"rounds": 2, "clients": {"count": 3}, "report": False}


def main_functions() -> dict[str, Any]:
    """Return what a notebook defines: the functions and classes of its module ``__main__``."""
    names: dict[str, Any] = {"__name__": "__main__", "nn": nn, "torch": torch}
    names |= {"TensorDataset": TensorDataset, "Task": Task, "Median": Median}
    names |= {"dataclass": dataclass}
    exec(
        "class Net(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.layer = nn.Linear(4, 2)\n"
        "    def forward(self, x):\n"
        "        return self.layer(x)\n"
        "def examples(number, count=1):\n"
        "    x = torch.randn(30, 4, generator=torch.Generator().manual_seed(number))\n"
        "    return TensorDataset(x, (x.sum(1) > 0).long())\n"
        "def make(partitions, seed, partition, scale):\n"
        "    return Task(Net, examples, lambda: examples(99), loss=lambda o, t:\n"
        "        scale * nn.functional.cross_entropy(o, t))\n"
        "@dataclass(frozen=True)\n"
        "class Middle(Median):\n"
        "    '''The median.'''\n",
        names,
    )
    return names


class Locked(Callback):
    """A callback that cannot be pickled, and need not be: only the server has it."""

    def __init__(self) -> None:
        self.lock, self.rounds = Lock(), 0

    def on_round(self, *_: Any) -> None:
        self.rounds += 1


def test_a_notebooks_task_and_rule_give_the_same_on_ray(tmp_path: Path) -> None:
    names, runs = main_functions(), {}
    for engine in ("inline", "ray"):
        callback = Locked()
        runs[engine] = hqde_fl.run(
            out=tmp_path / engine,
            engine=engine,
            task={"name": names["make"], "scale": 2.0},
            rule=names["Middle"](),
            callbacks=[callback],
            **SETTINGS,
        )
        assert callback.rounds == 3
    inline, on_ray = (runs[engine].path / "model.safetensors" for engine in ("inline", "ray"))
    assert inline.read_bytes() == on_ray.read_bytes()
    # the same name stands for another object in the next run
    again = {**SETTINGS, "task": {"name": names["make"], "scale": 2.0}, "engine": "ray"}
    names["make"].__globals__["Net"] = lambda: nn.Linear(4, 2, bias=False)
    other = hqde_fl.run(out=tmp_path / "other", **again)
    assert other.model().bias is None


def test_what_cannot_be_pickled_is_one_line(tmp_path: Path) -> None:
    lock = Lock()
    names = main_functions()

    def examples(number: int, count: int) -> Any:
        with lock:
            return names["examples"](number)

    task = Task(names["Net"], examples, lambda: examples(9, 1))
    with pytest.raises(ConfigError, match=r"'python:Task' cannot be sent .*lock.*engine inline"):
        hqde_fl.run(out=tmp_path / "run", engine="ray", task=task, **SETTINGS)
    assert not (tmp_path / "run").exists()
