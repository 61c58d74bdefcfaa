"""Run byzfl's default benchmark, or a part of it, in byzfl.

``python -m benchmarks.byzfl_parts.in_byzfl JSON``, an object with the arguments of ``main``.

byzfl's own ``run_benchmark`` runs what its own ``default_config`` says, on the CPU, and goes on
where it was interrupted. Two packages that it imports are replaced: torchvision by a reader of
MNIST's files, which standardises the images as byzfl's transform does, and seaborn, which only
draws. Its results are in FOLDER/results.
"""

from __future__ import annotations

import copy
import json
import os
import sys
import types
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hqde_fl.simulations.tasks.mnist import Mnist

DATA = ""
"""The folder of MNIST's files; processes that byzfl forks have it, too."""


class MnistFiles:
    """MNIST as byzfl asks torchvision for it, with standardised images.

    Parameters
    ----------
    root, download, transform : Any
        Not used.
    train : bool
        The training examples; else those of the test.
    """

    def __init__(self, root: str, train: bool, download: bool, transform: Any) -> None:
        task = Mnist(data_dir=DATA, mean=0.1307, std=0.3081).locate()
        table = task.table("train" if train else "test")
        self.images, self.targets = task.prepare(table.inputs), table.labels

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        """Return an image and its label."""
        return self.images[index], int(self.targets[index])


def _replace_packages() -> None:
    """Put modules with what byzfl uses of torchvision and seaborn where it imports them."""
    torchvision, seaborn = types.ModuleType("torchvision"), types.ModuleType("seaborn")
    transforms: Any = types.ModuleType("torchvision.transforms")
    for name in ("Compose", "ToTensor", "Normalize", "RandomHorizontalFlip", "RandomCrop"):
        setattr(transforms, name, lambda *_, **__: None)
    datasets: Any = types.ModuleType("torchvision.datasets")
    datasets.MNIST = MnistFiles
    torchvision.datasets, torchvision.transforms = datasets, transforms  # type: ignore[attr-defined]
    for module in (torchvision, transforms, datasets, seaborn):
        sys.modules[module.__name__] = module


def main(
    folder: str,
    data: str,
    model: str,
    seeds: int,
    jobs: int,
    aggregators: Sequence[str],
    gammas: Sequence[float],
) -> None:
    """Write byzfl's default configuration with a few changes into a folder, and run it there."""
    global DATA
    DATA = str(Path(data).resolve())
    _replace_packages()
    from byzfl.benchmark.benchmark import default_config, run_benchmark

    torch.set_num_threads(1)
    config = copy.deepcopy(default_config)
    benchmark = config["benchmark_config"]
    benchmark |= {"device": "cpu", "nb_training_seeds": seeds}
    benchmark["data_distribution"][0]["distribution_parameter"] = list(gammas)
    config["model"]["name"] = model
    config["aggregator"] = [one for one in config["aggregator"] if one["name"] in aggregators]
    Path(folder).mkdir(parents=True, exist_ok=True)
    os.chdir(folder)
    Path("config.json").write_text(json.dumps(config))
    run_benchmark(jobs)


if __name__ == "__main__":
    main(**json.loads(sys.argv[1]))
