"""Mistakes in a user's task: each is one line that names the part, and the user's file and line."""

from __future__ import annotations

import textwrap
from dataclasses import dataclass
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hqde_fl.simulations.console.command_line import app

SOUND = """\
import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

from hqde_fl.clients.task import Task


def examples(number=0, count=1, size=40):
    x = torch.randn(size, 8, generator=torch.Generator().manual_seed(number))
    return TensorDataset(x, torch.arange(size) % 3)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(8, 4), nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.first(x).relu())


class Examples(Dataset):
    def __init__(self, number=0, count=1):
        self.data = examples(number, count)

    def __len__(self):
        return len(self.data)

    def __getitem__(self, index):
        return self.data[index]
"""
START = SOUND.count("\n")


@dataclass(frozen=True)
class Mistake:
    """Code after ``SOUND`` with a mistake, and what the line of the error has to say.

    Parameters
    ----------
    code : str
        The code; ``task`` is what the experiment names.
    says : tuple[str, ...]
        Parts of the line.
    at : str
        The function and its file's line, counted from the first line of ``code``.
    rc : int
        The exit status: 1 if the mistake can only show during the run.
    """

    code: str
    says: tuple[str, ...]
    at: int | None
    rc: int = 2


MISTAKES = {
    "layers that do not fit": Mistake(
        """
        def model():
            return nn.Sequential(nn.Linear(64, 4), nn.ReLU(), nn.Linear(4, 3))

        task = Task(model, examples, examples)
        """,
        ("the model (Sequential)", "layer '0' (Linear)", "mat1 and mat2", "inputs (32, 8) float32"),
        None,
    ),
    "layers of an own module that do not fit": Mistake(
        """
        class Wrong(Net):
            def forward(self, x):
                return self.last(x)

        task = Task(Wrong, examples, examples)
        """,
        ("the model (Wrong)", "mat1 and mat2", "inputs (32, 8) float32", "in forward"),
        3,
    ),
    "misspelt attribute": Mistake(
        """
        class Wrong(Net):
            def forward(self, x):
                return self.lasst(self.first(x))

        task = Task(Wrong, examples, examples)
        """,
        ("the model (Wrong)", "no attribute 'lasst'", "in forward"),
        3,
    ),
    "metric that returns a list": Mistake(
        """
        def correct(outputs, targets):
            return (outputs.argmax(1) == targets).tolist()

        task = Task(Net, examples, examples, metrics={"correct": correct})
        """,
        ("metric 'correct' must return one number", "found a list", "correct:"),
        1,
    ),
    "metric that returns a vector": Mistake(
        """
        def correct(outputs, targets):
            return (outputs.argmax(1) == targets).float()

        task = Task(Net, examples, examples, metrics={"correct": correct})
        """,
        ("metric 'correct' must return one number", "(32,) float32", "take the mean"),
        1,
    ),
    "metric that returns nothing": Mistake(
        """
        def f1(outputs, targets):
            (outputs.argmax(1) == targets).float().mean()

        task = Task(Net, examples, examples, metrics={"f1": f1})
        """,
        ("metric 'f1' must return one number", "found None", "does the function return"),
        1,
    ),
    "metric that fails": Mistake(
        """
        def f1(outputs, targets):
            return outputs.argmax(1).numpy() @ targets.double().numpy()[:3]

        task = Task(Net, examples, examples, metrics={"f1": f1})
        """,
        ("metric 'f1' raised ValueError", "outputs (32, 3) float32", "in f1"),
        2,
    ),
    "metrics as a list": Mistake(
        """
        def error(outputs, targets):
            return 0.0

        task = Task(Net, examples, examples, metrics=[error])
        """,
        ("Task.metrics must map names to functions", "found a list"),
        4,
    ),
    "loss with swapped arguments": Mistake(
        """
        def loss(targets, outputs):
            return functional.cross_entropy(outputs, targets)

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss raised", "outputs (32, 3) float32 and targets (32,) int64", "in loss"),
        2,
    ),
    "labels as floats": Mistake(
        """
        def floats(*_):
            x, y = examples().tensors
            return TensorDataset(x, y.float())

        task = Task(Net, floats, floats, loss=nn.CrossEntropyLoss())
        """,
        ("cross entropy", "whole numbers", "targets (32,) of float32"),
        None,
    ),
    "class out of range": Mistake(
        """
        def many(*_):
            x, y = examples().tensors
            return TensorDataset(x, y + 1)

        task = Task(Net, many, many)
        """,
        ("the loss", "outputs (32, 3) float32"),
        None,
    ),
    "model without return": Mistake(
        """
        def model():
            net = Net()

        task = Task(model, examples, examples)
        """,
        ("Task.model must return a torch module", "found None", "model:"),
        1,
    ),
    "model that returns a class": Mistake(
        """
        def model():
            return Net

        task = Task(model, examples, examples)
        """,
        ("Task.model must return a torch module", "Net()", "model:"),
        1,
    ),
    "module instead of a function": Mistake(
        "task = Task(Net(), examples, examples)",
        ("Task.model must be a class or function", "found a model (Net)"),
        1,
    ),
    "data set instead of a function": Mistake(
        "task = Task(Net, examples, examples())",
        ("Task.test must be a function", "TensorDataset"),
        1,
    ),
    "partition without return": Mistake(
        """
        def part(number, count):
            examples(number, count)

        task = Task(Net, part, examples)
        """,
        ("client 0", "Task.partition", "found None", "part:"),
        1,
    ),
    "partition that returns all parts": Mistake(
        """
        def part(number, count):
            return [examples(index) for index in range(count)]

        task = Task(Net, part, examples)
        """,
        ("client 0", "Task.partition", "one client", "a list of data sets", "part:"),
        1,
    ),
    "partition that returns tensors": Mistake(
        """
        def part(number, count):
            return examples(number).tensors

        task = Task(Net, part, examples)
        """,
        ("client 0", "Task.partition", "TensorDataset(x, y)", "part:"),
        1,
    ),
    "partition with one parameter": Mistake(
        """
        def part(number):
            return examples(number)

        task = Task(Net, part, examples)
        """,
        ("client 0", "Task.partition raised TypeError", "takes 1 positional argument", "part:"),
        1,
    ),
    "partition that fails": Mistake(
        """
        PARTS = [examples(0)]

        def part(number, count):
            return PARTS[number + 1]

        task = Task(Net, part, examples)
        """,
        ("client 0", "Task.partition raised IndexError", "in part"),
        4,
    ),
    "data set that fails at an index": Mistake(
        """
        class Torn(Examples):
            def __getitem__(self, index):
                if index == 37:
                    raise OSError("cannot read image")
                return self.data[index]

        task = Task(Net, Torn, examples)
        """,
        ("client 0", "the data set", "OSError: cannot read image", "index 37"),
        4,
    ),
    "data set that fails in one client only": Mistake(
        """
        class Torn(Examples):
            def __init__(self, number, count):
                super().__init__(number, count)
                self.number = number

            def __getitem__(self, index):
                return self.data[index] if self.number == 0 else self.data[index + 100]

        task = Task(Net, Torn, examples)
        """,
        (
            "of 3 replies due 2 failed",
            "client 1: the data set",
            "IndexError",
            "in __getitem__, index",
        ),
        7,
        rc=1,
    ),
    "test without return": Mistake(
        """
        def test():
            examples()

        task = Task(Net, examples, test)
        """,
        ("test set", "Task.test", "found None", "test:"),
        1,
    ),
    "collate that does not fit": Mistake(
        """
        def collate(batch):
            x, y, z = zip(*batch)
            return torch.stack(x), torch.stack(y)

        task = Task(Net, examples, examples, collate=collate)
        """,
        ("collate", "ValueError: not enough values", "in collate"),
        2,
    ),
    "forward that lacks a parameter": Mistake(
        """
        class Wrong(Net):
            def forward(self):
                return self.last(self.first(x))

        task = Task(Wrong, examples, examples)
        """,
        ("Wrong.forward() needs 0 inputs, found 1",),
        None,
    ),
    "forward without return": Mistake(
        """
        class Wrong(Net):
            def forward(self, x):
                self.last(self.first(x))

        task = Task(Wrong, examples, examples)
        """,
        ("the model (Wrong)", "returned None", "forward:"),
        2,
    ),
    "loss that returns a vector": Mistake(
        """
        def loss(outputs, targets):
            return functional.cross_entropy(outputs, targets, reduction="none")

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss must return one number", "(32,) float32", "take the mean", "loss:"),
        1,
    ),
    "loss that returns a float": Mistake(
        """
        def loss(outputs, targets):
            return functional.cross_entropy(outputs, targets).item()

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss must return a tensor", ".item()", "loss:"),
        1,
    ),
    "loss without return": Mistake(
        """
        def loss(outputs, targets):
            functional.cross_entropy(outputs, targets)

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss must return a tensor", "found None", "loss:"),
        1,
    ),
    "loss that does not depend on the model": Mistake(
        """
        def loss(outputs, targets):
            return (outputs.argmax(1) != targets).float().mean()

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss has no gradient", "argmax", "loss:"),
        1,
    ),
    "loss class instead of its object": Mistake(
        "task = Task(Net, examples, examples, loss=nn.CrossEntropyLoss)",
        ("Task.loss", "found the class CrossEntropyLoss: give CrossEntropyLoss()"),
        1,
    ),
    "loss that is NaN": Mistake(
        """
        def loss(outputs, targets):
            return functional.cross_entropy(outputs, targets) * torch.log(torch.tensor(-1.0))

        task = Task(Net, examples, examples, loss=loss)
        """,
        ("the loss of the initial model is nan", "test set", "loss:"),
        1,
    ),
    "import error in the module": Mistake(
        """
        from torch.nn import Lineer

        task = Task(Net, examples, examples)
        """,
        ("cannot import name 'Lineer'",),
        1,
    ),
    "misspelt parameter of Task": Mistake(
        "task = Task(Net, examples, examples, metric={})",
        ("unexpected keyword argument 'metric'",),
        1,
    ),
    "function that returns no task": Mistake(
        """
        def task(partitions, seed, partition):
            Task(Net, examples, examples)
        """,
        ("must return a Task", "found None", "task:"),
        1,
    ),
    "function that fails": Mistake(
        """
        def task(partitions, seed, partition):
            return Task(Net, examples[0], examples)
        """,
        ("TypeError", "in task"),
        2,
    ),
    "no examples": Mistake(
        "task = Task(Net, lambda number, count: examples(size=0), examples)",
        ("Task.partition", "no examples", "3 clients"),
        None,
    ),
    "no test examples": Mistake(
        "task = Task(Net, examples, lambda: examples(size=0))",
        ("Task.test", "at least 1 example"),
        None,
    ),
    "labels that are words": Mistake(
        """
        class Words(Examples):
            def __getitem__(self, index):
                return self.data[index][0], "cat"

        task = Task(Net, Words, Words)
        """,
        ("the loss", "targets ('cat', 'cat', 'cat', ...)"),
        None,
    ),
    "inputs that are integers": Mistake(
        """
        def integers(*_):
            x, y = examples().tensors
            return TensorDataset(x.long(), y)

        task = Task(Net, integers, integers)
        """,
        ("the model (Net)", "inputs (32, 8) int64", "in forward"),
        None,
    ),
    "float64 from NumPy": Mistake(
        """
        class Arrays(Examples):
            def __getitem__(self, index):
                x, y = self.data[index]
                return x.numpy().astype(np.float64), y

        task = Task(Net, Arrays, Arrays)
        """,
        ("the model (Net)", "inputs (32, 8) float64", "in forward"),
        None,
    ),
    "examples of different lengths": Mistake(
        """
        class Ragged(Examples):
            def __getitem__(self, index):
                x, y = self.data[index]
                return x[: 1 + index % 3], y

        task = Task(Net, Ragged, Ragged)
        """,
        ("collate", "examples of one shape"),
        None,
    ),
    "loader instead of a data set": Mistake(
        """
        def part(number, count):
            return DataLoader(examples(number), 8)

        task = Task(Net, part, examples)
        """,
        ("client 0", "DataLoader"),
        None,
    ),
    "iterable data set": Mistake(
        """
        class Stream(IterableDataset):
            def __init__(self, number, count):
                self.data = examples(number)

            def __iter__(self):
                return iter(self.data)

        task = Task(Net, Stream, examples)
        """,
        ("client 0", "map-style"),
        None,
    ),
    "a shape that only training has": Mistake(
        """
        class Wrong(Net):
            def forward(self, x):
                x = self.first(x)
                return self.last(x[:, :2] if self.training else x)

        task = Task(Wrong, examples, examples)
        """,
        ("client 0", "the model (Wrong)", "in forward"),
        4,
    ),
    "frozen model": Mistake(
        """
        def model():
            return Net().requires_grad_(False)

        task = Task(model, examples, examples)
        """,
        ("requires_grad",),
        None,
    ),
    "in-place change that autograd refuses": Mistake(
        """
        class Wrong(Net):
            def forward(self, x):
                hidden = self.first(x).sigmoid()
                hidden += 1
                hidden *= hidden
                return self.last(hidden)

        task = Task(Wrong, examples, examples)
        """,
        ("client 0", "the gradient of the loss raised RuntimeError", "inplace"),
        None,
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_one_line_that_says_what_to_mend(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistake = MISTAKES[name]
    module = f"mistake_{list(MISTAKES).index(name)}"
    code = textwrap.dedent(mistake.code).lstrip("\n")
    (tmp_path / f"{module}.py").write_text(SOUND + code)
    file = tmp_path / "study.toml"
    file.write_text(
        f'rounds = 1\nclients.count = 3\nstrategy.quorum = 2\nengine.name = "inline"\n'
        f'task.name = "{module}:task"\n'
    )
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out")])
    lines = done.stderr.splitlines()
    assert done.exit_code == mistake.rc, done.output
    line = lines[-1]
    assert len(lines) == 1
    assert line.startswith("error: ")
    assert not [part for part in mistake.says if part not in line]
    if mistake.at is not None:
        assert f"{module}.py, line {START + mistake.at}" in line
    assert (tmp_path / "out").exists() == (mistake.rc == 1)
