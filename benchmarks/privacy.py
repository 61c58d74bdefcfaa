"""Differential privacy: accountants, noise, what an attacker sees, and accuracy against epsilon.

``python benchmarks/privacy.py [--json FILE] [--quick]``

Needs the extras ``privacy`` and ``dp-sgd``; the accuracies need Fashion-MNIST (HQDE_FL_DATA). The
settings of the training were chosen with other seeds, in a loop of their own, at epsilon 8.
"""

from __future__ import annotations

import argparse
import logging
import math
import os
import sys
import tempfile
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from opacus.accountants.utils import get_noise_multiplier
from scipy import stats
from torch import nn
from torch.utils.data import TensorDataset

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.learning.data import DEVIATION, MEAN
from benchmarks.learning.distinguishing import HalfNoise, epsilon_bound, released, settings_for
from benchmarks.reporting import check, conclude, machine
from hqde_fl.clients.task import Task
from hqde_fl.privacy import NOISE_SOURCES, Accountant, Sampling
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks import FashionMnist
from hqde_fl.simulations.tasks.fashion_mnist import ENVIRONMENT

DELTA = 1e-5
DRAWS = {False: 100_000, True: 10_000}
"""Draws of the attack, and with --quick: too few of them to tell half the noise at epsilon 1."""
EPSILONS = (None, 8.0, 4.0, 2.0)
ROUNDS, FRACTION, IMAGES = 20, 0.1, 60_000
SEED = 1


@dataclass(frozen=True)
class Setting:
    """Settings of a federation's training with and without privacy.

    Parameters
    ----------
    clients : int
        The number of clients, among whom all images are divided.
    epochs : int
        Gradient steps of a client in a round, each on all of its images.
    clipping_norm : float
        The clipping norm.
    lr, momentum : float
        Those of the server, with privacy.
    """

    clients: int
    epochs: int
    clipping_norm: float
    lr: float
    momentum: float


SETTINGS = (
    Setting(100, 5, 0.2, 1.0, 0.0),
    Setting(1_000, 1, 0.2, 1.0, 0.9),
    Setting(10_000, 1, 0.2, 3.0, 0.9),
)
"""Without privacy: 5 steps, no clipping, server learning rate 1 and momentum .9."""


def accounting() -> Iterator[dict[str, Any]]:
    """Yield the noise multipliers of three accountants, and epsilon without sampling."""
    sampling = Sampling(True, 100.0, 1_000)
    multipliers = {
        name: Accountant(name, sampling, DELTA).multiplier(8.0, 100)  # type: ignore[arg-type]
        for name in ("rdp", "pld")
    }
    with warnings.catch_warnings(action="ignore"):
        multipliers["opacus"] = get_noise_multiplier(
            target_epsilon=8.0,
            target_delta=DELTA,
            sample_rate=FRACTION,
            steps=100,
            accountant="rdp",
            epsilon_tolerance=1e-4,
        )
    for name, value in multipliers.items():
        yield {"part": "multiplier", "accountant": name, "value": value}
    everybody = Accountant("pld", Sampling(True, 1_000.0, 1_000), DELTA)
    for rounds in (1, 10):
        for multiplier in (1.0, 5.0):
            closed = gaussian_epsilon(math.sqrt(rounds) / multiplier, DELTA)
            value = everybody.epsilon(multiplier, rounds)
            yield {"part": "q = 1", "value": value, "closed form": closed}


def moments(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the moments of every noise source, and the time that a million numbers take."""
    size, rng = 10**6, np.random.default_rng(SEED)
    for name in NOISE_SOURCES:
        source = NOISE_SOURCES.build({"name": name})
        began = time.process_time()
        noise = [source.add_noise(np.zeros(size), 1.0, 1.0, rng) for _ in range(1 if quick else 5)]
        seconds = (time.process_time() - began) / len(noise)
        values = np.concatenate(noise)
        yield {
            "part": "noise",
            "source": name,
            "numbers": len(values),
            "mean": float(values.mean()),
            "variance": float(values.var()),
            "kurtosis": float(stats.kurtosis(values)),
            "seconds": seconds,
        }


def attacks(quick: bool) -> Iterator[dict[str, Any]]:
    """Yield what an attacker can show of the central mechanism, and of one with half the noise."""
    draws = DRAWS[quick]
    for epsilon in (1.0, 4.0):
        for fraction, half in ((0.5, False), (1.0, False), (1.0, True)):
            privacy = settings_for(epsilon, fraction, DELTA)
            if half:
                privacy = replace(privacy, noise=HalfNoise(privacy.noise))
            began = time.process_time()
            present = released(privacy, fraction, draws, 2 * SEED, canary=True)
            absent = released(privacy, fraction, 10 * draws, 2 * SEED + 1, canary=False)
            yield {
                "part": "attack",
                "epsilon": epsilon,
                "sampling": fraction,
                "noise": 0.5 if half else 1.0,
                "draws": draws,
                "shown": epsilon_bound(present, absent, DELTA),
                "seconds": time.process_time() - began,
            }


@lru_cache(maxsize=2)
def images(part: str) -> TensorDataset:
    """Return all images of Fashion-MNIST, standardised, as rows."""
    task = FashionMnist().locate()
    data = task.examples(torch.arange(IMAGES)) if part == "train" else task.test()
    x, y = data.tensors
    return TensorDataset((x.flatten(1) - MEAN) / DEVIATION, y.long())


def portion(number: int, count: int) -> TensorDataset:
    """Return the images of a client: a random part, as large as all others."""
    order = Seeds(SEED).numpy("images").permutation(IMAGES)
    return TensorDataset(*images("train")[torch.from_numpy(order[number::count].copy())])


def task() -> Task:
    """Return logistic regression on Fashion-MNIST, 7,850 weights."""
    return Task(model=partial(nn.Linear, 784, 10), partition=portion, test=partial(images, "test"))


def utility(setting: Setting, epsilon: float | None) -> dict[str, Any]:
    """Return the test accuracy of a run of an experiment, and the accountant's figures."""
    private = epsilon is not None
    server = {
        "name": "sgd",
        "lr": setting.lr if private else 1.0,
        "momentum": setting.momentum if private else 0.9,
    }
    keys = {"target-epsilon": epsilon, "delta": DELTA, "clipping-norm": setting.clipping_norm}
    experiment = Experiment(
        seed=SEED,
        rounds=ROUNDS,
        task=task(),
        engine="inline",
        clients={
            "count": setting.clients,
            "epochs": setting.epochs if private else 5,
            "batch-size": IMAGES,
            "lr": 0.1,
        },
        strategy={
            "rule": "mean",
            "selector": {"name": "poisson", "fraction": FRACTION},
            "server-optimizer": server,
        },
        checkpoint={"every": 0},
        monitor={"enabled": False},
        **({"privacy": keys} if private else {}),
    )
    began = time.process_time()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_experiment(experiment, out, report=False)
        last = Run.load(out).rounds[-1]
    return {
        "part": "utility",
        "clients": setting.clients,
        "images each": IMAGES // setting.clients,
        "target": epsilon,
        "spent": last.get("epsilon") if private else None,
        "noise multiplier": last["diagnostics"].get("noise-multiplier"),
        "accuracy": last["server"]["accuracy"],
        "seconds": time.process_time() - began,
    }


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    cells = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in row.values())
    print("  ".join(f"{name} {cell}" for name, cell in zip(row, cells, strict=True)), flush=True)


def checks(rows: list[dict[str, Any]], quick: bool) -> Iterator[dict[str, Any]]:
    """Yield the checks of the figures."""

    def of(part: str, **values: Any) -> list[dict[str, Any]]:
        found = [row for row in rows if row["part"] == part]
        return [row for row in found if all(row[key] == value for key, value in values.items())]

    z = {row["accountant"]: row["value"] for row in of("multiplier")}
    for name, expected in (("rdp", 0.994), ("pld", 0.936)):
        claim = f"{name}: noise multiplier {expected}, off by"
        yield check(claim, abs(z[name] - expected), 5e-4, upper=True)
    off = abs(z["opacus"] / z["rdp"] - 1)
    yield check("opacus' noise multiplier, relative difference", off, 0.01, upper=True)
    off = max(abs(row["value"] / row["closed form"] - 1) for row in of("q = 1"))
    yield check("q = 1: closed form, relative difference", off, 1e-6, upper=True)
    for row in of("noise"):
        name, n = row["source"], row["numbers"]
        for moment, error in (("mean", 1.0), ("variance", 2.0), ("kurtosis", 24.0)):
            off = abs(row[moment] - (moment == "variance")) / math.sqrt(error / n)
            yield check(f"{name}: {moment}, standard errors off", off, 5.0, upper=True)
    (secure,) = of("noise", source="secure-gaussian")
    yield check("a million secure numbers, CPU seconds", secure["seconds"], 2.0, upper=True)
    for row in of("attack"):
        drawn = f"sampling {row['sampling']:g}, {row['draws']} draws"
        claim = f"epsilon {row['epsilon']:g}, {drawn}: shown with "
        if row["noise"] == 1:
            yield check(claim + "all the noise", row["shown"], row["epsilon"], upper=True)
        elif not quick:
            yield check(claim + "half the noise", row["shown"], row["epsilon"], strict=True)
    for row in of("utility"):
        if row["target"] is not None:
            claim = f"{row['clients']} clients, epsilon {row['target']:g}: spent"
            yield check(claim, row["spent"], row["target"], upper=True)
    for clients in {row["clients"] for row in of("utility") if row["clients"] == 10_000}:
        (plain,) = of("utility", clients=clients, target=None)
        (private,) = of("utility", clients=clients, target=8.0)
        lost = plain["accuracy"] - private["accuracy"]
        yield check("10,000 clients, epsilon 8: accuracy lost", lost, 0.03, upper=True)


def main() -> int:
    """Measure, print, and write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true", help="fewer draws, two runs of training")
    arguments = parser.parse_args()
    logging.disable(logging.WARNING)
    rows: list[dict[str, Any]] = []

    def add(measured: Iterator[dict[str, Any]]) -> None:
        for row in measured:
            rows.append(row)
            show(row)

    add(accounting())
    add(moments(arguments.quick))
    add(attacks(arguments.quick))
    if os.environ.get(ENVIRONMENT):
        settings = SETTINGS[-1:] if arguments.quick else SETTINGS
        epsilons = EPSILONS[:2] if arguments.quick else EPSILONS
        add(utility(setting, epsilon) for setting in settings for epsilon in epsilons)
    else:
        print(f"{ENVIRONMENT} does not say where Fashion-MNIST is: accuracies are left out")
    return conclude(rows, checks(rows, arguments.quick), arguments.json, machine())


if __name__ == "__main__":
    raise SystemExit(main())
