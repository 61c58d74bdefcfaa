"""Covertype, the forest cover types of UCI (Blackard 1998), from its CSV file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import synthetic
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask, instructions
from hqde_fl.simulations.tasks.tabular import (
    Model,
    network,
    numbers_of,
    read_csv,
    rows_of_part,
    standardised,
    to_tensor,
)

NUMBERS, AREAS, SOILS = 10, 4, 40
INPUTS = NUMBERS + AREAS + SOILS
ORDER = [*map(str, range(1, INPUTS + 1)), "cover-type"]
"""The file's columns: numbers, area and soil type as zeros and ones, and the class from 1 to 7."""
FILE = "covtype.data.gz"


@final
@dataclass(frozen=True)
class Covertype(FileTask):
    """Covertype (forest types from 54 properties of a place, 7 classes) with a perceptron.

    The ten numbers are standardised by the training examples. A random fifth is the test set, the
    same for every run. The column ``wilderness-area`` (1 to 4) can divide the data, by
    ``partition = { name = "users", column = "wilderness-area" }``.

    Parameters
    ----------
    model : {"mlp", "logistic"}, default="mlp"
        A perceptron with one hidden layer, or logistic regression.
    hidden : int, default=64
        Number of hidden units of the perceptron, >= 1.
    """

    name = "covertype"
    classes = 7
    folders = ("covertype",)
    source = instructions(
        "Covertype is UCI's (https://archive.ics.uci.edu/dataset/31/covertype).",
        "curl -LO https://archive.ics.uci.edu/static/public/31/covertype.zip && "
        "unzip covertype.zip -d DIR",
        alternative=False,
    )

    model: Model = "mlp"
    hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("model", Model)
        if self.data == "hugging-face":
            raise ConfigError("Covertype.data must be files or synthetic, found 'hugging-face'")
        if self.hidden < 1:
            raise ConfigError(f"Covertype.hidden must be >= 1, found {self.hidden}")

    def network(self) -> nn.Module:
        """Build a new model of 54 inputs."""
        return network(self.model, INPUTS, self.hidden, self.classes)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return rows (n, 54) in torch's default dtype."""
        return inputs.to(torch.get_default_dtype())

    @classmethod
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless the file is there, gzipped or not."""
        _find(directory)

    @classmethod
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the rows of a part; ``DataError`` if the file has other columns or values."""
        path = _find(directory)
        columns = read_csv(path, ORDER)
        values = numbers_of(columns, ORDER, str(path))
        cover = values[:, -1].astype(np.int64)
        if not ((cover >= 1) & (cover <= cls.classes)).all():
            raise DataError(
                f"{path} must hold classes from 1 to {cls.classes} in its last column, "
                f"found {cover.min()} to {cover.max()}"
            )
        train, rows = (rows_of_part(len(cover), wanted) for wanted in (True, part == "train"))
        return _table(values[rows, :-1], cover[rows] - 1, values[train, :NUMBERS])

    @classmethod
    def fetch(cls, part: Part) -> ExampleTable:
        """Raise ``ConfigError``: there is no such data set with these columns."""
        raise ConfigError("Covertype.data must be files or synthetic, found 'hugging-face'")

    @classmethod
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return random rows, whose class is a noisy function of all columns."""
        values, labels = _generated(part, train)
        return _table(values, labels, _generated("train", train)[0][:, :NUMBERS])


def _find(directory: Path) -> Path:
    for path in (directory / FILE, directory / FILE.removesuffix(".gz")):
        if path.is_file():
            return path
    raise Covertype.missing(FILE, directory)


def _table(
    values: NDArray[np.float64], labels: NDArray[Any], train: NDArray[np.float64]
) -> ExampleTable:
    """Return rows (n, 54) with standardised numbers, the classes, and the wilderness areas."""
    marks = values[:, NUMBERS:].astype(np.float32)
    inputs = to_tensor(standardised(values[:, :NUMBERS], train), marks)
    areas = marks[:, :AREAS].argmax(axis=1) + 1
    return ExampleTable(inputs, torch.from_numpy(labels), {"wilderness-area": areas})


def _generated(part: Part, train: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Return rows (n, 54) and classes (n,) as the file has them."""
    numeric, codes, labels = synthetic.rows("covertype", NUMBERS, (AREAS, SOILS), 7, part, train)
    marks = [np.eye(size)[column] for size, column in zip((AREAS, SOILS), codes, strict=True)]
    return np.concatenate([np.rint(1000 + 100 * numeric), *marks], axis=1), labels
