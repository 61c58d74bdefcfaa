"""``create_hqde_system`` against training in one place: batches, learning rates, server momentum.

Both train the same model on the same loader, with the same optimiser and for as many epochs. Each
row is one way to divide the work among 2 to 16 workers: its mean accuracy and expected calibration
error (ECE) on the test set over the seeds, and the steps that a worker takes in an epoch. All rules
and codecs are the defaults; engine inline, one thread.

* digits: 1,438 training images, a perceptron 64-64-10, batches of 32;
* Fashion-MNIST, if HQDE_FL_DATA names the directory of its files: 3,000 training and 10,000 test
  images, a perceptron 784-64-10, batches of 32.

    python benchmarks/front.py --json front.json [--quick] [--data digits] [--epochs 30]
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from logging import ERROR, getLogger
from pathlib import Path
from statistics import mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch import nn  # noqa: E402
from torch.utils.data import DataLoader, TensorDataset  # noqa: E402

from benchmarks.learning.data import fashion, have_fashion  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl import Seeds, create_hqde_system  # noqa: E402
from hqde_fl.clients.reproducibility import reproducible  # noqa: E402
from hqde_fl.clients.task import Task  # noqa: E402
from hqde_fl.clients.training import Training, train  # noqa: E402
from hqde_fl.prediction import calibration_error  # noqa: E402
from hqde_fl.simulations.tasks import Digits  # noqa: E402
from hqde_fl.simulations.tasks.models import mlp  # noqa: E402

BATCH, LR = 32, 1e-3
WORKERS = (2, 4, 8, 16)
MAX_BEHIND, MAX_ECE = 0.015, 0.1
Row = dict[str, Any]


@dataclass(frozen=True)
class Variant:
    """A way to divide the work among the workers.

    Parameters
    ----------
    training : Mapping
        Keys of the training configuration.
    momentum : bool, default=False
        Keep the default server optimiser, else the server adds updates as they are.
    exponent : float, default=0
        The learning rate is multiplied by n to this power.
    """

    training: Mapping[str, str]
    momentum: bool = False
    exponent: float = 0.0


PLAIN = {"scaling_rule": "none"}
VARIANTS = {
    "split, server momentum (the default)": Variant({}, momentum=True),
    "split, as HQDE": Variant(PLAIN),
    "split, learning rate x sqrt(n)": Variant(PLAIN, exponent=0.5),
    "whole, x sqrt(n), server momentum": Variant({"batch_assignment": "whole"}, momentum=True),
    "whole, learning rate x n": Variant(PLAIN | {"batch_assignment": "whole"}, exponent=1.0),
    "whole, learning rate as it is": Variant(PLAIN | {"batch_assignment": "whole"}),
}


@dataclass(frozen=True)
class Problem:
    """A data set with a model.

    Parameters
    ----------
    name : str
        Name of the data set.
    model : Callable
        Builds the model.
    data, test : TensorDataset
        Examples for training and for the test.
    """

    name: str
    model: Callable[[], nn.Module]
    data: TensorDataset
    test: TensorDataset

    @classmethod
    def of(cls, name: str) -> Problem:
        """Build the problem of ``digits`` or ``fashion-mnist``."""
        if name == "digits":
            task = Digits()
            data = task.examples(torch.arange(len(task.labels())))
            return cls(name, partial(mlp, 64, 64, 10), data, task.test())
        return cls(name, partial(mlp, 784, 64, 10), fashion("train", 3000), fashion("test", 10_000))


def one_place(problem: Problem, epochs: int, seed: int) -> tuple[float, float]:
    """Return accuracy and ECE of a model that is trained in one place."""
    with reproducible(Seeds(seed).integer("member", 0)):
        model = problem.model()
    task = Task(model=problem.model, partition=lambda i, n: problem.data, test=lambda: problem.test)
    training = Training(epochs=epochs, batch_size=BATCH, optimizer="adamw", lr=LR)
    train(model, problem.data, task, training, torch.Generator().manual_seed(seed))
    x, y = problem.test.tensors
    with torch.no_grad():
        probability = model.eval()(x).softmax(dim=1)
    accuracy = float((probability.argmax(dim=1) == y).double().mean())
    return accuracy, float(calibration_error(probability, y))


def divided(
    problem: Problem, variant: Variant, workers: int, epochs: int, seed: int
) -> tuple[float, float]:
    """Return accuracy and ECE of a system that is trained by some workers."""
    rate = LR * workers**variant.exponent
    with create_hqde_system(
        problem.model,
        num_workers=workers,
        aggregation_config=None if variant.momentum else {"server_optimizer": "sgd"},
        training_config={"learning_rate": rate, **variant.training},
        seed=seed,
        engine="inline",
        show_progress=False,
    ) as system:
        system.train(DataLoader(problem.data, BATCH), epochs)
        values = system.evaluate(DataLoader(problem.test, 1000))
    return values["accuracy"], values["ece"]


def measure(problem: Problem, epochs: int, quick: bool) -> list[Row]:
    """Print and return a row for one place, and for each variant and number of workers."""
    seeds = range(2 if quick else 5)
    counts = WORKERS[1::2] if quick else WORKERS
    print(f"\n{problem.name}, {epochs} epochs, {len(seeds)} seeds: accuracy, its minimum; ECE")
    examples = len(problem.data)

    def row(name: str, workers: int, batch: int, results: list[tuple[float, float]]) -> Row:
        accuracies, errors = zip(*results, strict=True)
        found: Row = {
            "data": problem.name,
            "epochs": epochs,
            "variant": name,
            "workers": workers,
            "steps": math.ceil(math.ceil(examples / workers) / batch),
            "accuracy": mean(accuracies),
            "least accuracy": min(accuracies),
            "ece": mean(errors),
        }
        print(
            f"{name:38s}{workers:4d} workers{found['steps']:5d} steps{found['accuracy']:8.3f}"
            f"{found['least accuracy']:7.3f}{found['ece']:7.3f}",
            flush=True,
        )
        return found

    rows = [row("one place", 1, BATCH, [one_place(problem, epochs, seed) for seed in seeds])]
    for name, variant in VARIANTS.items():
        for n in counts:
            results = [divided(problem, variant, n, epochs, seed) for seed in seeds]
            batch = BATCH if "batch_assignment" in variant.training else BATCH // n
            rows.append(row(name, n, batch, results))
    return rows


def checks(rows: list[Row]) -> list[Row]:
    """Return the checks of the default for one data set, given its rows."""
    place, default = rows[0], next(iter(VARIANTS))
    results = []
    for row in rows:
        if row["variant"] == default:
            what = f"{row['data']}, {row['workers']} workers"
            behind = place["accuracy"] - row["accuracy"]
            results += [
                check(f"{what}: accuracy behind one place", behind, MAX_BEHIND, upper=True),
                check(f"{what}: ECE", row["ece"], MAX_ECE, upper=True, strict=True),
            ]
    return results


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="two seeds, 4 and 16 workers")
    parser.add_argument("--data", choices=("digits", "fashion-mnist"), help="only this data set")
    parser.add_argument("--epochs", type=int, default=10, help="epochs (default: 10)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    getLogger("flwr").setLevel(ERROR)
    about = machine()
    names = [options.data] if options.data else ["digits", "fashion-mnist"]
    if "fashion-mnist" in names and not have_fashion():
        print("HQDE_FL_DATA does not say where Fashion-MNIST is: it is left out")
        names.remove("fashion-mnist")
    rows: list[Row] = []
    results: list[Row] = []
    for name in names:
        found = measure(Problem.of(name), options.epochs, options.quick)
        rows, results = rows + found, results + checks(found)
    return conclude(rows, results, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
