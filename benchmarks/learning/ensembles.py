"""One model against five, with the same number of client updates per member.

Members are independent: a client's update of one does not depend on the others. If all clients
train all members, each is therefore the model of a run with one member
(tests/simulations/test_members.py); the figures of "one model" are means over the five.
"""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.learning.data import CLIENTS, Setting, have_fashion, setting
from benchmarks.learning.rules import DIRICHLET, ROUNDS
from benchmarks.reporting import check
from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.evaluation import evaluate_batches
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.selection.ensemble import Assignment
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation

MEMBERS = 5
MIN_DISAGREEMENT = 0.01
COLUMNS = ("accuracy", "nll", "ece", "disagreement")
ASSIGNMENTS: tuple[Assignment, ...] = ("all", "round-robin")

Row = dict[str, Any]


def trained(where: Setting, assignment: Assignment, seed: int) -> dict[str, float]:
    """Train an ensemble with an assignment of members and return its scores on the test set.

    With round-robin each client trains one member a round, so five times the rounds give a member
    the same number of client updates.
    """
    app = ensemble_app(where.task, members=MEMBERS, training=where.training, seed=seed)
    strategy = HQDEStrategy(
        participation=Participation(
            fraction_evaluate=0.0, min_available_nodes=CLIENTS, identify=True
        ),
        ensemble=Ensemble(MEMBERS, assignment),
        seed=seed,
    )
    start = to_record(initial_state(where.task, MEMBERS, Seeds(seed)))
    rounds = where.rounds if assignment == "all" else where.rounds * MEMBERS
    result = strategy.start(InlineGrid(app, CLIENTS, {}, seed), start, rounds)
    models = []
    for state in split_members(from_record(result.arrays), MEMBERS):
        models.append(where.task.model())
        models[-1].load_state_dict(state)
    test = iterate_batches(where.task.test(), 500, models[0])
    return evaluate_batches(models, test, where.task, calibrated=True)


def compare(quick: bool) -> list[Row]:
    """Print and return two rows for each data set and assignment: of one model, and of five."""
    names = ["digits", "fashion-mnist"] if have_fashion() else ["digits"]
    seeds = [0] if quick else [0, 1, 2]
    rows = []
    print(
        f"\nensembles, Dirichlet 0.3, {ROUNDS * CLIENTS} client updates a member, "
        f"means over {len(seeds)} seeds"
    )
    head = f"{'data':16s}{'assignment':>12s}{'members':>8s}"
    print(head + "".join(f"{name:>14s}" for name in COLUMNS))
    for data in names:
        for assignment in ASSIGNMENTS:
            runs = [
                trained(setting(data, DIRICHLET, seed, ROUNDS), assignment, seed) for seed in seeds
            ]
            means = {name: statistics.mean(run[name] for run in runs) for name in runs[0]}
            about = {"part": "ensembles", "data": data, "assignment": assignment}
            one = {name: means[f"member-{name}"] for name in ("accuracy", "nll", "ece")}
            five = {name: means[name] for name in COLUMNS}
            for row in (about | {"members": 1} | one, about | {"members": MEMBERS} | five):
                rows.append(row)
                cells = (f"{row[name]:14.4f}" if name in row else "" for name in COLUMNS)
                print(
                    f"{data:16s}{assignment:>12s}{row['members']:8d}" + "".join(cells), flush=True
                )
    return rows


def checks(rows: list[Row]) -> list[Row]:
    """Return checks of each pair of rows: NLL, accuracy and disagreement of five members."""
    results = []
    for one, five in zip(rows[::2], rows[1::2], strict=True):
        ensemble = f"{MEMBERS} members, {five['assignment']}, {five['data']}"
        nll = f"{ensemble}: NLL below that of one"
        accuracy = f"{ensemble}: accuracy no worse than that of one"
        disagreement = f"{ensemble}: disagreement of the members above"
        results += [
            check(nll, five["nll"], one["nll"], upper=True, strict=True),
            check(accuracy, five["accuracy"], one["accuracy"]),
            check(disagreement, five["disagreement"], MIN_DISAGREEMENT, strict=True),
        ]
    return results
