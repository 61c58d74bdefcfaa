"""Rounds on digits in virtual time, with a selector: for ``benchmarks/selection.py``."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from flwr.app import Context, Message, MetricRecord
from flwr.clientapp.typing import ClientAppCallable
from numpy.typing import NDArray

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import Mean
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Selector
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.simulations.heterogeneity.drop_out import RandomDropOut
from hqde_fl.simulations.heterogeneity.drop_out_grid import DropOutGrid
from hqde_fl.simulations.heterogeneity.speed import LogUniformSpeed, Speed
from hqde_fl.simulations.heterogeneity.virtual_time_grid import VirtualTimeGrid
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Participation, Reporting

RATIO, DROP_OUT, SECONDS = 10.0, 0.1, 0.01
TRAINING = {
    "epochs": 3,
    "batch-size": 32,
    "lr": 0.2,
    "partition": {"name": "dirichlet", "alpha": 0.5},
}
"""Table ``clients`` of experiments/demo.toml, without the number of clients."""

Lie = Callable[[int, MetricRecord], None]
"""(round, metrics of a reply): changes the metrics that an attacker sends."""


@dataclass(frozen=True)
class Attackers:
    """Clients that want to be chosen.

    Parameters
    ----------
    clients : frozenset[int]
        Their partition ids.
    lie : Callable[[int, MetricRecord], None]
        What they do with the metrics of their replies.
    at_once : bool
        True if they reply at once.
    """

    clients: frozenset[int]
    lie: Lie
    at_once: bool = False

    def mod(self, message: Message, context: Context, call: ClientAppCallable) -> Message:
        """Change the metrics of an attacker's reply."""
        reply = call(message, context)
        if context.node_config["partition-id"] in self.clients and reply.has_content():
            server_round = int(message.content.config_records["config"].get("server-round", 0))  # type: ignore[arg-type]
            for metrics in reply.content.metric_records.values():
                self.lie(server_round, metrics)
        return reply


@dataclass(frozen=True)
class Speeds(Speed):
    """Log-uniform speeds; attackers may take no time."""

    honest: LogUniformSpeed
    at_once: frozenset[int] = frozenset()

    def seconds(self, client: int, server_round: int, seeds: Seeds) -> float:
        """Return the seconds for one example in one epoch."""
        return 0.0 if client in self.at_once else self.honest.seconds(client, server_round, seeds)


@dataclass(eq=False)
class Course(Callback):
    """What a run shows: accuracies, virtual times, and how often each client was chosen."""

    clients: int
    accuracies: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    chosen: list[int] = field(default_factory=list)

    def on_round(self, record: RoundRecord, arrays: object) -> None:
        """Keep a round's figures."""
        self.accuracies.append(float(record.server["accuracy"]))
        self.times.append(record.virtual_time or 0.0)
        self.chosen += [client.partition for client in record.clients]

    @property
    def fair_shares(self) -> NDArray[np.float64]:
        """Fair shares of each client: its turns over those that are fair."""
        counts = np.bincount(self.chosen, minlength=self.clients)
        return np.asarray(counts / counts.mean(), dtype=np.float64)


def course(
    selector: Selector,
    clients: int,
    seed: int,
    rounds: int,
    target: float = math.inf,
    attackers: Attackers | None = None,
) -> Course:
    """Run rounds of the demo's setting, with speeds and drop-outs in virtual time.

    Parameters
    ----------
    selector : Selector
        Chooses the clients.
    clients : int
        Their number.
    seed : int
        The run's seed, of which the clients' data, speeds and drop-outs are made.
    rounds : int
        The number of rounds.
    target : float, optional
        Accuracy at which the run ends.
    attackers : Attackers, optional
        Clients that want to be chosen.
    """
    table = {"task": {"name": "digits"}, "clients": {"count": clients, **TRAINING}, "seed": seed}
    experiment = Experiment.from_json(json.dumps(table))
    task, seeds, parts = experiment.checked_task(), Seeds(seed), experiment.parts
    mods = [] if attackers is None else [attackers.mod]
    app = ensemble_app(task, training=parts.training, seed=seed, mods=mods)
    drop_out = RandomDropOut(DROP_OUT)
    hasty = attackers.clients if attackers is not None and attackers.at_once else frozenset()
    speed = Speeds(LogUniformSpeed(SECONDS, RATIO), frozenset(hasty))
    times = ClientTimes(speed, epochs=parts.training.epochs, seeds=seeds)
    inline = InlineGrid(app, clients, {}, seed)
    grid = VirtualTimeGrid(DropOutGrid(inline, drop_out, seeds), times, drop_out=drop_out)
    seen = Course(clients)
    strategy = HQDEStrategy(
        Aggregation(Mean(weighted=attackers is None)),
        participation=Participation(selector, fraction_evaluate=0.0, identify=True),
        reporting=Reporting((seen,)),
        seed=seed,
    )
    model = task.model()

    def accuracy(server_round: int, arrays: object) -> MetricRecord:
        model.load_state_dict(from_record(arrays))  # type: ignore[arg-type]
        return MetricRecord(evaluate([model], task.test(), task))  # type: ignore[arg-type]

    try:
        strategy.start(
            grid,
            to_record(initial_state(task, 1, seeds)),
            rounds,
            evaluate_fn=accuracy,
            should_stop=lambda server_round, result: seen.accuracies[-1] >= target,
        )
    finally:
        inline.close()
    return seen
