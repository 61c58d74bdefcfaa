"""FEMNIST of LEAF (Caldas et al. 2018): letters and digits by their writers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hqde_fl.errors import DataError
from hqde_fl.simulations.tasks import benchmark_models, synthetic
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask, instructions
from hqde_fl.simulations.tasks.hugging_face import image_tensor, load_columns
from hqde_fl.simulations.tasks.leaf_files import json_files, read_users, rows_of_part

CLASSES, SHAPE = 62, (1, 28, 28)
HUB_NAME = "flwrlabs/femnist"

Model = Literal["leaf-cnn", "fedopt-cnn", "logistic"]
NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "leaf-cnn": lambda: benchmark_models.fedavg_cnn(1, 28, CLASSES, hidden=2048),
    "fedopt-cnn": lambda: benchmark_models.fedopt_cnn(1, 28, CLASSES),
    "logistic": lambda: benchmark_models.logistic_regression(28 * 28, CLASSES),
}


@final
@dataclass(frozen=True)
class Femnist(FileTask):
    """FEMNIST (28x28 digits and letters, 62 classes) from LEAF's JSON files, with LEAF's CNN.

    The column ``user`` is the writer, for ``partition = "users"``. Where LEAF has not divided the
    files into ``train`` and ``test``, a random tenth of each writer's examples is the test set.

    Parameters
    ----------
    model : {"leaf-cnn", "fedopt-cnn", "logistic"}, default="leaf-cnn"
        ``leaf-cnn``: two 5x5 convolutions (32, 64) and 2,048 units (6,603,710 parameters);
        ``fedopt-cnn``: that of Reddi et al. 2021, two 3x3 convolutions (32, 64), 128 units, dropout
        (1,206,590); ``logistic``: logistic regression.
    """

    name = "femnist"
    classes = CLASSES
    folders = ("femnist/data", "femnist", "data")
    source = instructions(
        "FEMNIST is LEAF's (https://leaf.cmu.edu).",
        "git clone https://github.com/TalwalkarLab/leaf && cd leaf/data/femnist && "
        "./preprocess.sh -s niid --sf 1.0 -k 0 -t sample (in its folder data)",
    )

    model: Model = "leaf-cnn"

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("model", Model)

    def network(self) -> nn.Module:
        """Build a new network of the kind ``model``."""
        return NETWORKS[self.model]()

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return images scaled to [0, 1], where LEAF's paper is white (1)."""
        return inputs.to(torch.get_default_dtype()) / 255

    @classmethod
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless there are JSON files of both parts."""
        for part in ("train", "test"):
            files, divided = json_files(directory, part)
            if not files:
                raise cls.missing(f"{part}/*.json" if divided else "all_data/*.json", directory)

    @classmethod
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the images (n, 1, 28, 28) as bytes, the labels and the writers of a part.

        Raises ``DataError`` if a file does not hold such images and labels.
        """
        files, divided = json_files(directory, part)
        images, labels, writers = [], [], []
        for path in files:
            for user, inputs, targets in read_users(path):
                if inputs:
                    images.append(_pixels(inputs, path, user))
                    labels.append(_classes(targets, path, user))
                    writers += [user] * len(targets)
        if not images:
            raise DataError(f"{directory} must hold at least 1 example, found 0")
        pixels, users = np.concatenate(images), np.array(writers)
        return _table(pixels, np.concatenate(labels), users, None if divided else part)

    @classmethod
    def fetch(cls, part: Part) -> ExampleTable:
        """Return the images, labels and writers of the data set of Hugging Face."""
        columns = {"image": "image", "label": "character", "user": "writer_id"}
        values = load_columns(HUB_NAME, "train", columns)
        pixels = image_tensor(values["image"], SHAPE, HUB_NAME).numpy()
        return _table(pixels, np.asarray(values["label"]), np.asarray(values["user"], str), part)

    @classmethod
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return images of 62 patterns under noise, of writers of their own brightness."""
        return synthetic.images(cls.name, SHAPE, CLASSES, part, train, with_users=True)


def _table(
    pixels: NDArray[np.uint8], labels: NDArray[Any], users: NDArray[Any], part: Part | None
) -> ExampleTable:
    """Return a table of all rows, or of those of a part that nobody has divided yet."""
    rows = slice(None) if part is None else rows_of_part(users, part, shuffled=True)
    numbers = torch.from_numpy(labels[rows].astype(np.int64))
    return ExampleTable(torch.from_numpy(pixels[rows]), numbers, {"user": users[rows]})


def _pixels(inputs: list[Any], path: Path, user: str) -> NDArray[np.uint8]:
    """Return images (n, 1, 28, 28) as bytes of lists of 784 numbers in [0, 1]."""
    try:
        values = np.array(inputs, np.float64)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (len(inputs), 784) or not ((values >= 0) & (values <= 1)).all():
        raise DataError(f"{path}: each x of user {user!r} must be 784 numbers in [0, 1]")
    return np.rint(values * 255).astype(np.uint8).reshape(-1, *SHAPE)


def _classes(targets: list[Any], path: Path, user: str) -> NDArray[np.int64]:
    """Return the labels (n,) of a user."""
    if not all(type(y) is int and 0 <= y < CLASSES for y in targets):
        raise DataError(f"{path}: each y of user {user!r} must be a class from 0 to {CLASSES - 1}")
    return np.array(targets, np.int64)
