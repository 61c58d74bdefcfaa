"""One model against five, trained by a federation for as many client updates per member."""

from __future__ import annotations

import statistics
from typing import Any

import torch

from benchmarks.learning.data import CLIENTS, Setting, have_fashion, setting
from benchmarks.learning.rules import DIRICHLET, ROUNDS
from clients.app import ensemble_app
from clients.batches import batches
from clients.evaluation import evaluate_batches
from clients.members import initial_state, split
from hqde_fl.rules import Mean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.wire import from_record, to_record
from simulations.engines.inline import InlineGrid
from strategies.hqde import HQDEStrategy

MEMBERS = 5
DIVERSE = 0.01
SHOWN = ("accuracy", "nll", "ece", "member-accuracy", "member-nll", "member-ece", "disagreement")

Row = dict[str, Any]


def trained(where: Setting, members: int, seed: int) -> dict[str, float]:
    """How good an ensemble is of which every client trains every member in every round."""
    app = ensemble_app(where.task, members=members, training=where.training, seed=seed)
    strategy = HQDEStrategy(
        Mean(weighted=True),
        ensemble=Ensemble(members=members),
        seed=seed,
        identify=True,
        fraction_evaluate=0.0,
        min_available_nodes=CLIENTS,
    )
    start = to_record(initial_state(where.task, members, Seeds(seed)))
    result = strategy.start(InlineGrid(app, CLIENTS, {}, seed), start, where.rounds)
    models = []
    for state in split(from_record(result.arrays), members):
        models.append(where.task.model())
        models[-1].load_state_dict(state)
    test = batches(where.task.test(), 500, torch.device("cpu"))
    return evaluate_batches(models, test, where.task, calibrated=True)


def compare(quick: bool) -> list[Row]:
    """One row for each data set and number of members, means over the seeds."""
    names = ["digits", "fashion-mnist"] if have_fashion() else ["digits"]
    seeds = [0] if quick else [0, 1, 2]
    rows = []
    print(f"\nensembles, Dirichlet 0.3, {ROUNDS} rounds, means over {len(seeds)} seeds")
    print(f"{'data':16s}{'members':>8s}" + "".join(f"{name:>16s}" for name in SHOWN))
    for data in names:
        for members in (1, MEMBERS):
            found = [
                trained(setting(data, DIRICHLET, seed, ROUNDS), members, seed) for seed in seeds
            ]
            row: Row = {"part": "ensembles", "data": data, "members": members}
            row |= {name: statistics.mean(each[name] for each in found) for name in found[0]}
            rows.append(row)
            cells = (f"{row[name]:16.4f}" if name in row else f"{'':>16s}" for name in SHOWN)
            print(f"{data:16s}{members:8d}" + "".join(cells), flush=True)
    return rows


def checks(rows: list[Row]) -> list[Row]:
    """What five members are meant to be better at."""
    found = []
    for data in dict.fromkeys(row["data"] for row in rows):
        one, five = (row for row in rows if row["data"] == data)
        for claim, value, bound, holds in (
            ("NLL below that of one", five["nll"], one["nll"], five["nll"] < one["nll"]),
            (
                "accuracy no worse than that of one",
                five["accuracy"],
                one["accuracy"],
                five["accuracy"] >= one["accuracy"],
            ),
            (
                "disagreement of the members above",
                five["disagreement"],
                DIVERSE,
                five["disagreement"] > DIVERSE,
            ),
        ):
            found.append(
                {
                    "claim": f"{MEMBERS} members, {data}: {claim}",
                    "value": round(value, 4),
                    "bound": round(bound, 4),
                    "holds": holds,
                }
            )
    return found
