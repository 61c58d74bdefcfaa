"""Federations with a backdoor: the data, the attacks, the defences, and one run."""

from __future__ import annotations

import json
import logging
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from hqde_fl.errors import ConfigError
from hqde_fl.rules import RULES
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment

CLIENTS, ATTACKERS = 10, (0, 1, 2)
ROOT_EXAMPLES = 100
"""Examples of the server, for rules that train on some."""

OURS = ("byzantine-filter", "robust", "adaptive", "entanglement", "superposition", "voting")
"""Rules of this project and of HQDE; all others are from papers."""

Table = dict[str, Any]


@dataclass(frozen=True, eq=False)
class Setting:
    """A task, its division among the clients, and the settings of the training.

    Parameters
    ----------
    name : str
        The name in the tables.
    task, partition, clients : Mapping[str, Any]
        Tables of an experiment.
    rounds : int
        Number of rounds.
    attacks : Mapping[str, Mapping[str, Any]]
        Name -> the table of a fault.
    """

    name: str
    task: Mapping[str, Any]
    partition: Mapping[str, Any]
    clients: Mapping[str, Any]
    rounds: int
    attacks: Mapping[str, Mapping[str, Any]]


def digits(alpha: float | None, rounds: int) -> Setting:
    """Return the handwritten digits: Dirichlet with a parameter, or iid if it is None."""
    patch = {"name": "backdoor", "target": 2, "size": 2}
    attacks: dict[str, Table] = {
        "model replacement": {"name": "model-replacement", "attackers": 3, "backdoor": patch},
        "projected": {"name": "projected-backdoor", "backdoor": patch},
        "Neurotoxin": {"name": "neurotoxin", "backdoor": patch | {"scale": 1.5}},
        "distributed": {"name": "distributed-backdoor", "target": 2, "size": 3, "parts": 3},
        "edge cases": {"name": "edge-cases", "target": 2},
    }
    partition = {"name": "iid"} if alpha is None else {"name": "dirichlet", "alpha": alpha}
    where = "iid" if alpha is None else f"Dirichlet {alpha:g}"
    return Setting(f"digits, {where}", {"name": "digits"}, partition, {"lr": 0.5}, rounds, attacks)


def fashion(rounds: int) -> Setting:
    """Return a twentieth of Fashion-MNIST, Dirichlet 0.5, with a perceptron."""
    patch = {"name": "backdoor", "target": 2, "size": 3, "fraction": 0.3}
    attacks: dict[str, Table] = {
        "model replacement": {"name": "model-replacement", "attackers": 3, "backdoor": patch},
        "projected": {"name": "projected-backdoor", "backdoor": patch},
        "Neurotoxin": {"name": "neurotoxin", "backdoor": patch | {"scale": 1.5}},
        "distributed": {"name": "distributed-backdoor", "target": 2, "size": 3, "parts": 3},
        "edge cases": {
            "name": "edge-cases",
            "source": 9,
            "target": 8,
            "scale": 1.5,
            "poisoned": 0.3,
        },
        "semantic": {  # a single shot near the end, as in the paper
            "name": "semantic-backdoor",
            "feature": "bright",
            "source": 8,
            "target": 5,
            "top": 0.3,
            "scale": 3.3,
            "poisoned": 0.3,
            "start": rounds,
        },
    }
    task = {"name": "fashion-mnist", "model": "mlp", "share": 0.05}
    partition = {"name": "dirichlet", "alpha": 0.5}
    return Setting("Fashion-MNIST, Dirichlet 0.5", task, partition, {"lr": 0.1}, rounds, attacks)


def defences() -> dict[str, Table]:
    """Return name -> table of every rule of the registry that can merge so many updates.

    A rule that needs f is told the right one, or the largest that so many clients allow.
    """
    found: dict[str, Table] = {}
    for name in RULES:
        needed = {key for key, default in RULES.parameters(name).items() if default is ...}
        if not needed <= {"f"}:
            continue  # a chain: below
        for f in range(len(ATTACKERS), 0, -1):
            table = {"name": name} | ({"f": f} if needed else {})
            rule = RULES.build(table)
            if not rule.is_preaggregation and not rule.confidence_from:
                if rule.minimum() > CLIENTS:
                    continue
                found[name if f == len(ATTACKERS) or not needed else f"{name} (f = {f})"] = table
            break
    nnm = [{"name": "nnm", "f": len(ATTACKERS)}, "geometric-median"]
    return found | {"nnm + geometric-median": {"name": "chain", "rules": nnm}}


def run(
    setting: Setting, rule: Table, attack: Mapping[str, Any] | None, seed: int
) -> tuple[float | None, float]:
    """Return the backdoor's success and the accuracy after the last round.

    The success is None without an attack. A rule that cannot be used here raises ``ConfigError``.
    """
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    built = RULES.build(rule)
    strategy: Table = {"rule": rule}
    if "reference" in built.needs:
        strategy["root-examples"] = ROOT_EXAMPLES
    experiment = Experiment.parse(
        {
            "name": "backdoor",
            "seed": seed,
            "rounds": setting.rounds,
            "task": dict(setting.task),
            "clients": {
                "count": CLIENTS,
                "partition": dict(setting.partition),
                **setting.clients,
            },
            "strategy": strategy,
            "faults": [] if attack is None else [{**attack, "clients": list(ATTACKERS)}],
            "engine": {"name": "inline"},
        }
    )
    with tempfile.TemporaryDirectory() as folder:
        run_experiment(experiment, Path(folder) / "run", report=False)
        lines = (Path(folder) / "run" / "rounds.jsonl").read_text().splitlines()
    last = json.loads(lines[-1])["server"]
    return last.get("attack-success"), last["accuracy"]


def try_run(
    setting: Setting, rule: Table, attack: Mapping[str, Any] | None, seed: int
) -> tuple[float | None, float] | str:
    """Return what ``run`` returns, or the reason for which the rule cannot be used."""
    try:
        return run(setting, rule, attack, seed)
    except ConfigError as error:
        return str(error)
