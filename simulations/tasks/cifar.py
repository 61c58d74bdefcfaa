"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009) from their binary or Python batches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal, final

import numpy as np
import torch
from torch import Tensor, nn

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import benchmark_models, synthetic
from hqde_fl.simulations.tasks.cifar_files import read_binary, read_python
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask, instructions
from hqde_fl.simulations.tasks.hugging_face import image_tensor, load_columns
from hqde_fl.simulations.tasks.models import Augmented
from hqde_fl.simulations.tasks.resnet import Norm, resnet18, resnet20

SHAPE = (3, 32, 32)
ORIGIN = "CIFAR is Krizhevsky's (2009), in the binary or the Python version."
URL = "https://www.cs.toronto.edu/~kriz"

Model = Literal[
    "resnet-20", "resnet-18", "byzfl-cnn", "fedavg-cnn", "fedopt-cnn", "lenet", "logistic"
]
NETWORKS: Mapping[str, Callable[[int, Norm], nn.Sequential]] = {
    "resnet-18": resnet18,
    "resnet-20": resnet20,
    "byzfl-cnn": lambda classes, _: benchmark_models.byzfl_cifar_cnn(classes),
    "fedavg-cnn": lambda classes, _: benchmark_models.fedavg_cnn(3, 32, classes),
    "fedopt-cnn": lambda classes, _: benchmark_models.fedopt_cnn(3, 32, classes),
    "lenet": lambda classes, _: benchmark_models.lenet(3, 32, classes),
    "logistic": lambda classes, _: benchmark_models.logistic_regression(3 * 32 * 32, classes),
}


@dataclass(frozen=True)
class Cifar(FileTask):
    """A task of the CIFAR family.

    Parameters
    ----------
    model : str, default="resnet-20"
        ``resnet-20`` and ``resnet-18``: those of He et al. 2016 for 32x32 images; ``byzfl-cnn``:
        three 5x5 convolutions (20, 100, 200), 512 and 256 units; ``fedavg-cnn``: two 5x5
        convolutions (32, 64), 512 units; ``fedopt-cnn``: two 3x3 convolutions (32, 64), 128 units,
        dropout; ``lenet``: that of Flower's tutorials, two 5x5 convolutions (6, 16), 120 and 84
        units; ``logistic``: logistic regression.
    norm : {"group", "batch"}, default="group"
        The normalisation of a ResNet.
    standardise : bool, default=True
        Subtract each channel's mean over CIFAR-10's (-100's) training images, and divide by its
        standard deviation; else the values are in [0, 1].
    augment : bool, default=False
        Shift training images by up to 4 pixels and mirror them at random.
    """

    mean: ClassVar[tuple[float, float, float]]
    std: ClassVar[tuple[float, float, float]]
    hub_name: ClassVar[str]
    label_name: ClassVar[str]
    """The column of the labels on the Hugging Face Hub."""
    label_key: ClassVar[str]
    """The entry of the labels in a Python batch."""
    batches: ClassVar[Mapping[Part, tuple[str, ...]]]
    """The files of a part, in their order; the binary ones end in ``.bin``."""
    label_bytes: ClassVar[int]

    model: Model = "resnet-20"
    norm: Norm = "group"
    standardise: bool = True
    augment: bool = False

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("model", Model)
        self.require_known("norm", Norm)
        if self.norm == "batch" and not self.model.startswith("resnet"):
            raise ConfigError(
                f"{type(self).__name__}.norm = 'batch' needs a ResNet, found model {self.model!r}"
            )
        if self.augment and self.model == "logistic":
            raise ConfigError(f"{type(self).__name__}.augment needs a CNN, found model 'logistic'")

    @final
    def network(self) -> nn.Module:
        """Build a new network of the kind ``model``, as an ``Augmented`` with ``augment``."""
        model = NETWORKS[self.model](self.classes, self.norm)
        return Augmented(model, 0.0) if self.augment else model

    @final
    def prepare(self, inputs: Tensor) -> Tensor:
        """Return images scaled to [0, 1], and standardised by channel unless told not to."""
        values = inputs.to(torch.get_default_dtype()) / 255
        if not self.standardise:
            return values
        mean, std = (torch.tensor(numbers).view(3, 1, 1) for numbers in (self.mean, self.std))
        return (values - mean.to(values)) / std.to(values)

    @classmethod
    @final
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless all batches are there, binary or of Python."""
        for name in (name for names in cls.batches.values() for name in names):
            cls._find(directory, name)

    @classmethod
    @final
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the images (n, 3, 32, 32) as bytes and the labels (n,) of a part.

        Raises ``DataError`` if a batch is missing, damaged, or has a label that is no class.
        """
        images, labels = [], []
        for name in cls.batches[part]:
            path = cls._find(directory, name)
            pixels, numbers = (
                read_binary(path, cls.label_bytes)
                if path.suffix == ".bin"
                else read_python(path, cls.label_key)
            )
            if not (numbers >= 0).all() or not (numbers < cls.classes).all():
                raise DataError(
                    f"{path} must hold labels from 0 to {cls.classes - 1}, found "
                    f"{numbers.min()} to {numbers.max()}"
                )
            images.append(pixels)
            labels.append(numbers)
        return ExampleTable(
            torch.from_numpy(np.concatenate(images)), torch.from_numpy(np.concatenate(labels))
        )

    @classmethod
    @final
    def fetch(cls, part: Part) -> ExampleTable:
        """Return the images and labels of the data set of Hugging Face."""
        columns = load_columns(cls.hub_name, part, {"image": "img", "label": cls.label_name})
        images = image_tensor(columns["image"], SHAPE, cls.hub_name)
        return ExampleTable(images, torch.as_tensor(columns["label"]).long())

    @classmethod
    @final
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return images of as many patterns as there are classes, under noise."""
        return synthetic.images(cls.name, SHAPE, cls.classes, part, train)

    @classmethod
    def _find(cls, directory: Path, name: str) -> Path:
        for path in (directory / f"{name}.bin", directory / name):
            if path.is_file():
                return path
        raise cls.missing(f"{name} or {name}.bin", directory)


@final
@dataclass(frozen=True)
class Cifar10(Cifar):
    """CIFAR-10 (32x32 colour images, 10 classes) from its batches, with a ResNet-20."""

    name = "cifar-10"
    classes = 10
    folders = (
        "cifar-10/cifar-10-batches-bin",
        "cifar-10/cifar-10-batches-py",
        "cifar-10",
        "cifar-10-batches-bin",
        "cifar-10-batches-py",
    )
    source = instructions(ORIGIN, f"curl {URL}/cifar-10-binary.tar.gz | tar -xz -C DIR")
    mean = (0.4914, 0.4822, 0.4465)
    std = (0.2470, 0.2435, 0.2616)
    hub_name, label_name, label_key, label_bytes = "uoft-cs/cifar10", "label", "labels", 1
    batches: ClassVar[Mapping[Part, tuple[str, ...]]] = {
        "train": tuple(f"data_batch_{number}" for number in range(1, 6)),
        "test": ("test_batch",),
    }


@final
@dataclass(frozen=True)
class Cifar100(Cifar):
    """CIFAR-100 (32x32 colour images, 100 fine classes) from its batches, with a ResNet-20."""

    name = "cifar-100"
    classes = 100
    folders = (
        "cifar-100/cifar-100-binary",
        "cifar-100/cifar-100-python",
        "cifar-100",
        "cifar-100-binary",
        "cifar-100-python",
    )
    source = instructions(ORIGIN, f"curl {URL}/cifar-100-binary.tar.gz | tar -xz -C DIR")
    mean = (0.5071, 0.4865, 0.4409)
    std = (0.2673, 0.2564, 0.2762)
    hub_name, label_name = "uoft-cs/cifar100", "fine_label"
    label_key, label_bytes = "fine_labels", 2
    batches: ClassVar[Mapping[Part, tuple[str, ...]]] = {"train": ("train",), "test": ("test",)}
