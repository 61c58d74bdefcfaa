"""Adult, the census income data of UCI (Becker and Kohavi 1996), from its two CSV files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import synthetic
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask, instructions
from hqde_fl.simulations.tasks.hugging_face import load_columns
from hqde_fl.simulations.tasks.tabular import (
    Columns,
    Model,
    network,
    numbers_of,
    one_hot,
    read_csv,
    rows_of_part,
    standardised,
    to_tensor,
)

NUMBERS = ("age", "fnlwgt", "education-num", "capital-gain", "capital-loss", "hours-per-week")
HEAVY_TAILED = ("fnlwgt", "capital-gain", "capital-loss")
"""Columns of which the logarithm of 1 + value is taken."""
CATEGORIES: Mapping[str, tuple[str, ...]] = {
    name: tuple(values.split())
    for name, values in {
        "workclass": "Private Self-emp-not-inc Self-emp-inc Federal-gov Local-gov State-gov "
        "Without-pay Never-worked",
        "education": "Bachelors Some-college 11th HS-grad Prof-school Assoc-acdm Assoc-voc 9th "
        "7th-8th 12th Masters 1st-4th 10th Doctorate 5th-6th Preschool",
        "marital-status": "Married-civ-spouse Divorced Never-married Separated Widowed "
        "Married-spouse-absent Married-AF-spouse",
        "occupation": "Tech-support Craft-repair Other-service Sales Exec-managerial "
        "Prof-specialty Handlers-cleaners Machine-op-inspct Adm-clerical Farming-fishing "
        "Transport-moving Priv-house-serv Protective-serv Armed-Forces",
        "relationship": "Wife Own-child Husband Not-in-family Other-relative Unmarried",
        "race": "White Asian-Pac-Islander Amer-Indian-Eskimo Other Black",
        "sex": "Female Male",
        "native-country": "United-States Cambodia England Puerto-Rico Canada Germany "
        "Outlying-US(Guam-USVI-etc) India Japan Greece South China Cuba Iran Honduras "
        "Philippines Italy Poland Jamaica Vietnam Mexico Portugal Ireland France "
        "Dominican-Republic Laos Ecuador Taiwan Haiti Columbia Hungary Guatemala Nicaragua "
        "Scotland Thailand Yugoslavia El-Salvador Trinadad&Tobago Peru Hong Holand-Netherlands",
    }.items()
}
"""Column -> its values as UCI spells them; ``?`` is an unknown one."""
ORDER = [
    "age",
    "workclass",
    "fnlwgt",
    "education",
    "education-num",
    "marital-status",
    "occupation",
    "relationship",
    "race",
    "sex",
    "capital-gain",
    "capital-loss",
    "hours-per-week",
    "native-country",
    "income",
]
INCOMES = ("<=50K", ">50K")
FILES: Mapping[Part, str] = {"train": "adult.data", "test": "adult.test"}
HUB_NAME = "scikit-learn/adult-census-income"
INPUTS = len(NUMBERS) + sum(map(len, CATEGORIES.values()))


@final
@dataclass(frozen=True)
class Adult(FileTask):
    """Adult (incomes above 50,000 dollars from 14 properties, 2 classes) with a perceptron.

    Numbers are standardised by the training examples (after log(1 + x) for ``fnlwgt`` and capital),
    categories become one of 99 zeros and ones. Each column of categories, such as ``education`` or
    ``occupation``, can divide the data: ``partition = { name = "users", column = "education" }``.

    Parameters
    ----------
    model : {"mlp", "logistic"}, default="mlp"
        A perceptron with one hidden layer, or logistic regression.
    hidden : int, default=64
        Number of hidden units of the perceptron, >= 1.
    """

    name = "adult"
    classes = 2
    folders = ("adult",)
    source = instructions(
        "Adult is UCI's (https://archive.ics.uci.edu/dataset/2/adult).",
        "curl -LO https://archive.ics.uci.edu/static/public/2/adult.zip && unzip adult.zip -d DIR",
    )

    model: Model = "mlp"
    hidden: int = 64

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("model", Model)
        if self.hidden < 1:
            raise ConfigError(f"Adult.hidden must be >= 1, found {self.hidden}")

    def network(self) -> nn.Module:
        """Build a new model of 105 inputs."""
        return network(self.model, INPUTS, self.hidden, self.classes)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return rows (n, 105) in torch's default dtype."""
        return inputs.to(torch.get_default_dtype())

    @classmethod
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless both files are there."""
        for file in FILES.values():
            if not (directory / file).is_file():
                raise cls.missing(file, directory)

    @classmethod
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the rows of a part, standardised by the training file.

        Raises ``DataError`` if a file has other columns or values.
        """
        train = _read(directory / FILES["train"], "train")
        if part == "train":
            return _table(train, train, str(directory / FILES["train"]))
        return _table(_read(directory / FILES[part], part), train, str(directory / FILES[part]))

    @classmethod
    def fetch(cls, part: Part) -> ExampleTable:
        """Return the rows of the data set of Hugging Face, of which a random fifth is for tests."""
        names = {name: name.replace("-", ".") for name in ORDER}
        columns = {
            name: np.asarray(values)
            for name, values in load_columns(HUB_NAME, "train", names).items()
        }
        train, rows = (
            _rows(columns, rows_of_part(len(columns["income"]), wanted))
            for wanted in (True, part == "train")
        )
        return _table(rows, train, HUB_NAME)

    @classmethod
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return random rows, whose class is a noisy function of all columns."""
        return _table(_generated(part, train), _generated("train", train), cls.name)


def _read(path: Path, part: Part) -> Columns:
    """Read the file of a part; that of the test examples begins with a line of its own."""
    return read_csv(path, ORDER, skip_rows=int(part == "test"))


def _rows(columns: Columns, rows: NDArray[np.int64]) -> Columns:
    return {name: values[rows] for name, values in columns.items()}


def _table(columns: Columns, train: Columns, origin: str) -> ExampleTable:
    """Return rows (n, 105), the classes, and the columns of categories."""
    incomes = np.char.rstrip(columns["income"].astype(str), ".")
    if strange := sorted({*incomes.tolist()} - {*INCOMES}):
        raise DataError(
            f"{origin} must hold {' or '.join(INCOMES)} in column 'income', found {strange[0]!r}"
        )
    numbers = [numbers_of(rows, NUMBERS, origin) for rows in (columns, train)]
    heavy = [NUMBERS.index(name) for name in HEAVY_TAILED]
    for values in numbers:
        values[:, heavy] = np.log1p(np.maximum(values[:, heavy], 0))
    inputs = to_tensor(standardised(*numbers), one_hot(columns, CATEGORIES, origin))
    labels = torch.from_numpy((incomes == INCOMES[1]).astype(np.int64))
    return ExampleTable(inputs, labels, {name: columns[name].astype(str) for name in CATEGORIES})


def _generated(part: Part, train: int) -> Columns:
    sizes = tuple(map(len, CATEGORIES.values()))
    numeric, codes, labels = synthetic.rows("adult", len(NUMBERS), sizes, 2, part, train)
    columns: Columns = {
        name: np.rint(100 * np.exp(values)) for name, values in zip(NUMBERS, numeric.T, strict=True)
    }
    for (name, known), column in zip(CATEGORIES.items(), codes, strict=True):
        columns[name] = np.array(known)[column]
    return columns | {"income": np.array(INCOMES)[labels]}
