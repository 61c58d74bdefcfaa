"""Stops that are small federated runs on digits, in this process."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tour.stop import TourFigure, TourStop

Strategy = dict[str, Any]


def run(rounds: int = 8, strategy: Strategy | None = None, **tables: Any) -> Run:
    """Return a run of ten clients on digits, of which nothing stays on the disk."""
    clients = {"count": 10, "epochs": 2, "lr": 0.2, **tables.pop("clients", {})}
    document = {
        "name": "tour",
        "seed": 3,
        "rounds": rounds,
        "clients": clients,
        "strategy": strategy or {"rule": "mean"},
        "engine": {"name": "inline"},
        "checkpoint": {"every": 0},
        **tables,
    }
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        run_experiment(Experiment.parse(document), out, report=False)
        return Run.load(out)


def accuracy(of: Run) -> float:
    """Return a run's accuracy after the last round."""
    return float(of.rounds[-1]["server"]["accuracy"])


def independent_members() -> TourFigure:
    """Train three members that stay different, and let them vote."""
    voted = accuracy(run(clients={"members": 3, "mode": "independent"}))
    single = accuracy(run())
    text = f"three members vote with accuracy {voted:.3f}, one model has {single:.3f}"
    return TourFigure(voted, text)


def merged_members() -> TourFigure:
    """Train three members that become their mean after each round."""
    found = accuracy(run(clients={"members": 3, "mode": "fedavg"}))
    return TourFigure(found, f"members that are merged in each round: accuracy {found:.3f}")


def quantizer() -> TourFigure:
    """Let clients pack their updates with four to sixteen bits a number."""
    strategy = {"rule": "mean", "codec": "adaptive-quantizer"}
    plain, packed = run(rounds=4), run(rounds=4, strategy=strategy)
    up = [sum(line["bytes-up"] for line in of.rounds) for of in (plain, packed)]
    ratio = up[0] / up[1]
    difference = accuracy(packed) - accuracy(plain)
    text = f"{ratio:.1f} times fewer bytes from the clients, accuracy {difference:+.3f}"
    return TourFigure(ratio, text)


def byzantine_filter() -> TourFigure:
    """Let three of ten clients attack, with and without the filter."""
    faults = [{"name": "sign-flip", "count": 3, "scale": 4.0}]
    filtered = run(strategy={"rule": "byzantine-filter"}, faults=faults)
    open_ = run(faults=faults)
    found = accuracy(filtered)
    text = (
        f"accuracy {found:.3f} with the filter, {accuracy(open_):.3f} without; "
        f"{filtered.detection.caught} updates of attackers filtered"
    )
    return TourFigure(found, text)


def hierarchy() -> TourFigure:
    """Merge clients at two edges, and the edges at the root."""
    flat, edges = run(rounds=4), run(rounds=4, edges={"groups": 2})
    found, direct = accuracy(edges), accuracy(flat)
    return TourFigure(found, f"accuracy {found:.3f} through two edges, {direct:.3f} without")


def load_balancing() -> TourFigure:
    """Choose half of the clients in virtual time, at random and by what was measured of them."""
    clients = {"speed": {"name": "log-uniform", "seconds-per-example": 0.01, "ratio": 20}}
    seconds = []
    for selector in ("uniform", "adaptive"):
        strategy = {"rule": "mean", "selector": selector, "fraction-train": 0.5}
        of = run(rounds=10, strategy=strategy, clients=clients)
        seconds.append(float(of.rounds[-1]["virtual-time"]))
    ratio = seconds[0] / seconds[1]
    text = f"ten rounds take {seconds[1]:.0f} virtual seconds, {seconds[0]:.0f} at random"
    return TourFigure(ratio, text)


def secure_aggregation() -> TourFigure:
    """Add up updates under masks, in buckets of five."""
    strategy = {"rule": "median", "secure-aggregation": {"bucket": 5, "threshold": 4}}
    of = run(rounds=4, strategy=strategy)
    buckets = of.rounds[-1]["diagnostics"]["buckets"]
    text = f"the server saw {buckets} sums of five clients a round: accuracy {accuracy(of):.3f}"
    return TourFigure(buckets, text)


STOPS = (
    TourStop(
        "Independent members",
        "Clients train three models, which vote.",
        "ensembles.md",
        independent_members,
    ),
    TourStop(
        "Merged members",
        "Three models become their mean in each round.",
        "ensembles.md",
        merged_members,
    ),
    TourStop("AdaptiveQuantizer", "Clients pack 4 to 16 bits a number.", "codecs.md", quantizer),
    TourStop(
        "Byzantine fault tolerance",
        "Three of ten clients flip the sign of their updates.",
        "rules.md",
        byzantine_filter,
    ),
    TourStop("Hierarchy", "Edges merge clients, the root merges edges.", "edges.md", hierarchy),
    TourStop(
        "Load balancing",
        "A selector learns who is fast and who fails.",
        "selection.md",
        load_balancing,
    ),
    TourStop(
        "Secure aggregation",
        "Masks hide each update from the server, a robust rule still works.",
        "secure-aggregation.md",
        secure_aggregation,
    ),
)
