"""Cost of a fresh model for every message, in percent of a client's time.

A client of 200 examples trains an MLP 784-128-10 for one epoch in batches of 32 with SGD, on one
thread, and replies. It does so with a copy of the modules for every message (``FreshModel``), and
with one model that it keeps and loads the weights into. The two take turns, in an order that
alternates; the figure is the median of the pairs' differences over the median time of the kept
model. *evaluate* measures a message that evaluates the same examples, for information.

    python benchmarks/fresh_model.py --json fresh_model.json [--quick]
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import TensorDataset

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.clients.ensemble import EnsembleClient  # noqa: E402
from hqde_fl.clients.initial_state import initial_state  # noqa: E402
from hqde_fl.clients.task import Task  # noqa: E402
from hqde_fl.clients.training import Training  # noqa: E402
from hqde_fl.protocol.flower_internals import TaskIdentity  # noqa: E402
from hqde_fl.protocol.records import to_record  # noqa: E402
from hqde_fl.seeding import Seeds  # noqa: E402

EXAMPLES, WARM_UP = 200, 20
MAX_PERCENT = 5.0


def network() -> nn.Module:
    """Return an MLP 784-128-10."""
    return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))


def examples(*_: int) -> TensorDataset:
    """Return random images of ten classes."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(EXAMPLES, 1, 28, 28, generator=generator)
    return TensorDataset(x, torch.arange(EXAMPLES) % 10)


@dataclass
class KeptModel:
    """A model that takes the weights of every message, and keeps everything else."""

    model: nn.Module
    optimizer: Optimizer

    def load(self, state: Mapping[str, Tensor]) -> nn.Module:
        """Return the model with the values of a state dict."""
        self.model.load_state_dict(state)
        return self.model

    def load_to_train(self, state: Mapping[str, Tensor]) -> tuple[nn.Module, Optimizer]:
        """Return the model with the values of a state dict, and its optimiser."""
        return self.load(state), self.optimizer


def clients(task: Task, training: Training) -> dict[str, EnsembleClient]:
    """Return a client with fresh models, and one with a kept model."""
    fresh, kept = (EnsembleClient(task, training=training) for _ in range(2))
    model = network()
    kept._models[0] = KeptModel(model, training.new_optimizer(model))  # type: ignore[assignment]
    return {"fresh": fresh, "kept": kept}


def measure(calls: Mapping[str, Callable[[], Any]], pairs: int) -> dict[str, Any]:
    """Return the median milliseconds of two calls, and the overhead of the first in percent."""
    names = tuple(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for number in range(-WARM_UP, pairs):
        for name in names if number % 2 else reversed(names):
            start = time.perf_counter()
            calls[name]()
            if number >= 0:
                times[name].append(1e3 * (time.perf_counter() - start))
    first, second = names
    differences = [a - b for a, b in zip(times[first], times[second], strict=True)]
    milliseconds = {name: statistics.median(times[name]) for name in names}
    overhead = statistics.median(differences)
    return {
        **{f"milliseconds-{name}": value for name, value in milliseconds.items()},
        "overhead-milliseconds": overhead,
        "overhead-percent": 100 * overhead / milliseconds[second],
    }


def main() -> int:
    """Measure training and evaluation, and check the cost in training."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, metavar="FILE")
    parser.add_argument("--quick", action="store_true", help="200 pairs instead of 2000")
    options = parser.parse_args()
    torch.set_num_threads(1)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = 0, 0, 1
    task = Task(network, examples, examples)
    both = clients(task, Training(batch_size=32, epochs=1, threads=1, device="cpu"))
    record = to_record(initial_state(task, 1, Seeds(0)))
    context = Context(0, 1, {"partition-id": 0, "num-partitions": 1}, RecordDict(), {})

    def message(kind: str) -> Message:
        content = RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 1})})
        return Message(content, 1, kind)

    rows = []
    for kind in ("train", "evaluate"):
        calls = {
            name: lambda client=client, kind=kind: getattr(client, kind)(message(kind), context)
            for name, client in both.items()
        }
        row = {"message": kind, **measure(calls, 200 if options.quick else 2000)}
        rows.append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else v for k, v in row.items()))
    claim = f"% of the time of a client that trains {EXAMPLES} examples, for a fresh model"
    checks = [check(claim, rows[0]["overhead-percent"], MAX_PERCENT, upper=True)]
    return conclude(rows, checks, options.json, {**machine(), "quick": options.quick})


if __name__ == "__main__":
    raise SystemExit(main())
