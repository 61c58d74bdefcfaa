"""Secure aggregation in buckets: accuracy under attack, bytes and seconds, drop-outs.

``python benchmarks/secagg.py [--json FILE] [--quick] [--only utility cost drop-outs]``

*Utility*: 100 clients on Fashion-MNIST (``HQDE_FL_DATA``; with ``--quick``, or without the data,
on digits), of which 20 flip the sign of a four times longer update. Their clients clip it, as those
of a stock ``SecureAggregationMod`` do; ``unclipped`` attackers put it into the sum as it is, which
they can, so that the server's own clipping is all that bounds their buckets.
*Cost*: a model of d numbers whose training takes no time: bytes and seconds of a round, against the
same round without secure aggregation. *Drop-outs*: buckets that have a sum if clients drop out
after they have shared their keys.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from flwr.app import Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.reporting import check, conclude, machine
from hqde_fl.clients.mods.secure_aggregation import SecureAggregationMod, unanswered
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.privacy.secure_sums.fixed_point import FixedPoint, rotate
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.protocol.secure_messages import QUERIES
from hqde_fl.rules import Mean
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks.file_task import ENVIRONMENT
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Participation, Reporting

CLIENTS, ATTACKERS = 100, 20
SCALE = 4.0
"""Length of the attackers' update, which has the opposite sign, over that of an honest one."""

RULES: Mapping[str, dict[str, Any]] = {
    "mean": {"name": "mean"},
    "median": {"name": "median"},
    "trimmed mean": {"name": "trimmed-mean"},
    "geometric median": {"name": "geometric-median"},
    "robust": {"name": "robust", "directions": False},
}
"""The rules; ``robust`` without its memory of clients, which buckets do not have."""

BUCKETS = (3, 5, 10)
UTILITY_SHARE, UPLOAD_BOUND = 0.95, 2.0


def experiment_of(
    data: str, rule: str, bucket: int, faults: int, norm: float, rounds: int
) -> Experiment:
    """Return an experiment; with bucket 0 it has no secure aggregation."""
    table = dict(RULES[rule])
    updates = CLIENTS // bucket if bucket else CLIENTS
    if rule == "trimmed mean":  # as many as can be trimmed, at most the attackers
        table["f"] = min(ATTACKERS, (updates - 1) // 2)
    task: Any = "digits"
    batch = 4 if data == "digits" else 20  # a client has 14 of the digits, and 120 of the images
    if data == "fashion":
        task = {"name": "fashion-mnist", "model": "mlp", "share": 0.2}
    secure = {"bucket": bucket, "threshold": bucket // 2 + 2, "clipping-norm": norm}
    return Experiment.parse(
        {
            "name": "secagg",
            "seed": 1,
            "rounds": rounds,
            "task": task,
            "clients": {"count": CLIENTS, "epochs": 2, "batch-size": batch, "lr": 0.1},
            "strategy": {"rule": table, "secure-aggregation": secure if bucket else {}},
            "faults": [{"name": "sign-flip", "count": faults, "scale": SCALE}] if faults else [],
            "engine": {"name": "inline"},
            "metrics": {"every": rounds},
            "checkpoint": {"every": 0},
            "monitor": {"enabled": False},
        }
    )


def run(experiment: Experiment) -> dict[str, float]:
    """Return accuracy, bytes up and the part of updates that were clipped."""
    with tempfile.TemporaryDirectory() as folder:
        result = run_experiment(experiment, Path(folder) / "run", report=False)
        lines = (Path(folder) / "run" / "rounds.jsonl").read_text().splitlines()
    rounds = [json.loads(line) for line in lines[1:]]
    return {
        "accuracy": float(result.final["accuracy"] or 0.0),
        "bytes-up": statistics.median(line["bytes-up"] for line in rounds),
        "clipped": statistics.mean(line["diagnostics"].get("clipped", 0.0) for line in rounds),
    }


@contextmanager
def unclipped(norm: float) -> Iterator[None]:
    """Let updates that are longer than the norm into the sum as they are.

    Honest clients' updates are shorter: the norm is set so.
    """
    honest = FixedPoint.encode

    def encode(
        self: FixedPoint, update: np.ndarray, rotation: int, rng: np.random.Generator
    ) -> tuple[np.ndarray, bool]:
        if np.linalg.norm(update) <= norm:
            return honest(self, update, rotation, rng)
        half = self.levels / 2
        numbers = rotate(update, rotation) * (half / self.bound(update.size)) + half
        return np.rint(numbers).astype(np.int64).astype(np.uint32), False

    with patch.object(FixedPoint, "encode", encode):
        yield


def median_norm(data: str) -> float:
    """Return the typical norm of an honest update of the first round, as a clipping norm."""
    experiment = experiment_of(data, "mean", 0, 0, 1.0, 1)
    norms: list[float] = []

    from hqde_fl.strategies.round import aggregation

    original = aggregation.received_columns

    def measured(updates: Any) -> Any:
        columns = original(updates)
        whole = columns.tile(0, columns.shape[1])
        norms.extend(whole.double().norm(dim=1).tolist())
        return columns

    with patch.object(aggregation, "received_columns", measured):
        run(experiment)
    return statistics.median(norms)


def utility(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the accuracies of all rules with and without buckets, and the checks."""
    data = "fashion" if os.environ.get(ENVIRONMENT) and not quick else "digits"
    rounds, norm = (20 if quick else 40), median_norm(data)
    buckets = (5,) if quick else BUCKETS
    clean = run(experiment_of(data, "mean", 0, 0, norm, rounds))
    print(f"{data}, {rounds} rounds, clipping norm {norm:.2f}")
    print(f"plain mean without attackers: {clean['accuracy']:.3f}")
    rows = [{"data": data, "rule": "mean", "bucket": 0, "attackers": 0, **clean}]
    heads = "".join(f"{f'of {bucket}':>8}" for bucket in buckets)
    print(f"\n{'rule':<18}{'plain':>8}{heads}{'unclipped':>12}")
    for rule in RULES:
        line = []
        for bucket in (0, *buckets):
            found = run(experiment_of(data, rule, bucket, ATTACKERS, norm, rounds))
            rows.append({"data": data, "rule": rule, "bucket": bucket, "attackers": 20, **found})
            line.append(found["accuracy"])
        with unclipped(norm):
            found = run(experiment_of(data, rule, 5, ATTACKERS, norm, rounds))
        rows.append({"data": data, "rule": rule, "bucket": 5, "attackers": "unclipped", **found})
        shown = "".join(f"{accuracy:>8.3f}" for accuracy in line)
        print(f"{rule:<18}{shown}{found['accuracy']:>12.3f}", flush=True)
    fives = [r for r in rows if r["bucket"] == 5 and r["attackers"] == 20]
    best = max(fives, key=lambda row: row["accuracy"])
    claim = f"{data}: {best['rule']}, buckets of 5, 20 attackers of 100, over the clean plain mean"
    upload = best["bytes-up"] / clean["bytes-up"]
    checks = [check("upload with buckets of 5 over plain", upload, UPLOAD_BOUND, upper=True)]
    if data == "fashion":  # a client's 14 digits say little: the claim is about Fashion-MNIST
        checks.append(check(claim, best["accuracy"] / clean["accuracy"], UTILITY_SHARE))
    return rows, checks


class Recorder(Callback):
    """Keeps the records of a run."""

    def __init__(self) -> None:
        self.rounds: list[Any] = []

    def on_round(self, record: Any, arrays: Any) -> None:
        """Keep a record."""
        self.rounds.append(record)


def idle_app(secure: SecureAggregation | None, gone: frozenset[int] = frozenset()) -> ClientApp:
    """Return an app that adds the same to every weight; clients in ``gone`` raise in training."""
    app = ClientApp(mods=[SecureAggregationMod(secure)] if secure else [])

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if int(context.node_config["partition-id"]) in gone:
            raise RuntimeError("gone")
        state = from_record(message.content["arrays"])
        moved = {name: tensor + 1e-3 for name, tensor in state.items()}
        content = {"arrays": to_record(moved), "metrics": MetricRecord({"num-examples": 1})}
        return Message(RecordDict(content), reply_to=message)

    for action in QUERIES:
        app.query(action)(unanswered)
    return app


def one_round(
    clients: int, size: int, secure: SecureAggregation | None, gone: frozenset[int] = frozenset()
) -> tuple[float, Any]:
    """Return the seconds of a round, and its record."""
    recorder = Recorder()
    strategy = HQDEStrategy(
        Aggregation(Mean(), secure_aggregation=secure),
        participation=Participation(
            fraction_evaluate=0, min_available_nodes=clients, identify=True
        ),
        reporting=Reporting((recorder,)),
    )
    arrays = to_record({"w": torch.zeros(size)})
    grid = InlineGrid(idle_app(secure, gone), clients, {}, seed=1)
    began = time.monotonic()
    strategy.start(grid, arrays, 1)
    return time.monotonic() - began, recorder.rounds[-1]


def cost(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return bytes and seconds of a round with and without buckets of 5."""
    rows, checks = [], []
    secure = SecureAggregation(5, 4)
    print(f"\n{'clients':>8}{'numbers':>10}{'up':>8}{'seconds':>9}{'plain s':>9}{'s a client':>12}")
    for clients in (10, 50) if quick else (10, 50, 100):
        for size in (100_000,) if quick else (100_000, 1_000_000):
            times: dict[bool, list[float]] = {True: [], False: []}
            records = {}
            for _ in range(1 if quick else 3):
                for is_secure in times:
                    seconds, record = one_round(clients, size, secure if is_secure else None)
                    times[is_secure].append(seconds)
                    records[is_secure] = record
            upload = records[True].bytes_up / records[False].bytes_up
            masked, plain = (statistics.median(times[key]) for key in (True, False))
            rows.append(
                {
                    "clients": clients,
                    "numbers": size,
                    "upload-ratio": upload,
                    "download-ratio": records[True].bytes_down / records[False].bytes_down,
                    "seconds": masked,
                    "plain-seconds": plain,
                }
            )
            print(
                f"{clients:>8}{size:>10,}{upload:>8.2f}{masked:>9.2f}{plain:>9.2f}"
                f"{(masked - plain) / clients:>12.3f}",
                flush=True,
            )
    worst = max(row["upload-ratio"] for row in rows)
    checks.append(check("upload over plain, worst of all sizes", worst, UPLOAD_BOUND, upper=True))
    return rows, checks


def drop_outs(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the part of buckets that have a sum, by the part of clients that drop out."""
    rows, clients = [], 50 if quick else 100
    rng = np.random.default_rng(1)
    print(f"\n{'dropped out':>12}{'threshold':>11}{'buckets with a sum':>20}{'updates kept':>14}")
    for part in (0.0, 0.1, 0.2, 0.3):
        for threshold in (3, 4):
            gone = frozenset(rng.permutation(clients)[: round(part * clients)].tolist())
            _, record = one_round(clients, 1000, SecureAggregation(5, threshold), gone)
            found = record.diagnostics
            kept = 1 - found["void-buckets"] / found["buckets"]
            rows.append(
                {
                    "dropped-out": part,
                    "threshold": threshold,
                    "buckets-kept": kept,
                    "updates-kept": record.kept / (clients - len(gone)),
                }
            )
            print(f"{part:>12.0%}{threshold:>11}{kept:>20.0%}{rows[-1]['updates-kept']:>14.0%}")
    whole = [row["updates-kept"] for row in rows if row["dropped-out"] == 0]
    return rows, [check("updates kept if nobody drops out", min(whole), 1.0)]


PARTS = {"utility": utility, "cost": cost, "drop-outs": drop_outs}


def main() -> int:
    """Run everything, print the tables, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="digits, fewer sizes")
    parser.add_argument("--only", nargs="+", choices=tuple(PARTS), default=tuple(PARTS))
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    torch.set_num_threads(1)
    rows, checks = [], []
    for name in options.only:
        found, own = PARTS[name](options.quick)
        rows += [{"part": name, **row} for row in found]
        checks += own
    return conclude(rows, checks, options.json, machine() | {"quick": options.quick})


if __name__ == "__main__":
    sys.exit(main())
