"""MNIST (LeCun et al. 1998) from the four IDX files in a directory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from hqde_fl.simulations.tasks.file_task import instructions
from hqde_fl.simulations.tasks.idx_images import IdxImages, Model


@final
@dataclass(frozen=True)
class Mnist(IdxImages):
    """MNIST (28x28 handwritten digits, 10 classes) from a directory of IDX files, with byzfl's CNN.

    byzfl standardises by mean = 0.1307 and std = 0.3081.

    Parameters
    ----------
    model : str, default="byzfl-cnn"
        byzfl's CNN, or one of the models of ``fashion-mnist``.
    """

    name = "mnist"
    folders = ("mnist",)
    source = instructions(
        "The four .gz files are MNIST (LeCun et al. 1998).",
        "curl --remote-name-all --output-dir DIR https://ossci-datasets.s3.amazonaws.com/mnist/"
        "{train,t10k}-{images-idx3,labels-idx1}-ubyte.gz",
    )
    hub_name = "ylecun/mnist"

    model: Model = "byzfl-cnn"
