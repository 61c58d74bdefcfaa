"""Clients a second, training included: the engines, Flower's simulation, and a plain loop.

Every client trains one epoch on 50 images of 28 x 28 in batches of 32 with SGD, and the server
takes the mean. The loop is what one would write instead of a framework: two processes of torch,
each of which trains half of the clients and returns the sum of their weights. Each kind of run has
a process of its own; its first round of each size is left out. CPU seconds are those of the process
and all its descendants, the wall time also counts what a busy machine does meanwhile.

    python benchmarks/throughput.py --json throughput.json [--quick]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

EXAMPLES, BATCH, LR = 50, 32, 0.05
ENGINES = ("plain", "inline", "ray", "flower")
NAMES = {"mlp": "MLP 784-128-10", "cnn": "CNN 16-32-128", "transformer": "transformer 28x32"}
OTHERS = ("fluke", "pfl")
"""Other simulators, by the names of their packages; this benchmark has no runs of them."""
LOSS_TOLERANCE = 0.05
"""Relative difference of the final losses: clients see their examples in another order."""


def new_model(kind: str) -> Any:
    """Return a new model with the same weights in every process."""
    import torch
    from torch import nn

    torch.manual_seed(0)
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(784, 128), nn.ReLU(), nn.Linear(128, 10))
    if kind == "transformer":  # a row of the image is a token
        return nn.Sequential(
            *(nn.Flatten(1, 2), nn.Linear(28, 32)),
            nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0, batch_first=True),
            *(nn.Flatten(), nn.Linear(896, 10)),
        )
    return nn.Sequential(
        *(nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
        *(nn.Flatten(), nn.Linear(1568, 128), nn.ReLU(), nn.Linear(128, 10)),
    )


@lru_cache(maxsize=2000)
def images(client: int, examples: int = EXAMPLES) -> tuple[Any, Any]:
    """Return a client's images and labels: one pattern for each label, and noise."""
    import torch

    patterns = torch.randn(10, 1, 28, 28, generator=torch.Generator().manual_seed(7))
    own = torch.Generator().manual_seed(100 + client)
    labels = torch.randint(10, (examples,), generator=own)
    return patterns[labels] + 2 * torch.randn(examples, 1, 28, 28, generator=own), labels


def test_loss(model: Any) -> float:
    """Return the loss of a model on examples that no client has."""
    import torch

    x, y = images(-1, 1000)
    with torch.no_grad():
        return float(torch.nn.functional.cross_entropy(model.eval()(x), y))


def train_client(model: Any, client: int, number: int) -> float:
    """Train a model in place as a client does, and return its mean loss."""
    import torch

    x, y = images(client)
    optimizer = torch.optim.SGD(model.parameters(), lr=LR)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(client * 1000 + number))
    total = 0.0
    model.train()
    for chosen in order.split(BATCH):
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(model(x[chosen]), y[chosen])
        loss.backward()
        optimizer.step()
        total += float(loss.detach()) * len(chosen)
    return total / len(x)


class Clock:
    """Measures rounds: wall seconds, and CPU seconds of this process and its descendants."""

    def __init__(self) -> None:
        self.rounds: list[tuple[float, float]] = []
        self.memory = 0.0
        self._last: tuple[float, float] | None = None

    def restart(self) -> None:
        """Forget when the last round ended."""
        self._last = None

    def tick(self) -> None:
        """End a round; it began when the last one ended, if there was one."""
        wall, cpu, own = time.perf_counter(), cpu_seconds(), time.process_time()
        self.memory = max(self.memory, own_memory())
        if self._last is not None:
            self.rounds.append((wall - self._last[0], cpu - self._last[1]))
        self._last = time.perf_counter(), cpu + time.process_time() - own


def cpu_seconds() -> float:
    """Return the CPU seconds that this process and its living descendants have taken."""
    import psutil

    total = 0.0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            times = process.cpu_times()
        except psutil.Error:
            continue
        total += times.user + times.system
    return total


def own_memory() -> float:
    """Return the MB that this process and its descendants use, without what they share."""
    import psutil

    total = 0
    own = psutil.Process()
    for process in (own, *own.children(recursive=True)):
        try:
            memory = process.memory_info()
        except psutil.Error:
            continue
        total += memory.rss - memory.shared
    return total / 1e6


def in_processes(kind: str, sizes: Sequence[int], rounds: int, clock: Clock) -> list[Any]:
    """Train in two processes without a framework; return the final model of each size."""
    import torch
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    pipes, models = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=serve_half, args=(theirs, kind), daemon=True).start()
        pipes.append(ours)
    for size in sizes:
        state = new_model(kind).state_dict()
        clock.restart()
        for number in range(rounds):
            for half, pipe in enumerate(pipes):
                arrays = {name: value.numpy() for name, value in state.items()}
                pipe.send((arrays, range(half, size, 2), number))
            sums = [pipe.recv() for pipe in pipes]
            state = {
                name: torch.from_numpy((sums[0][name] + sums[1][name]) / size) for name in state
            }
            clock.tick()
        models.append(model := new_model(kind))
        model.load_state_dict(state)
    return models


def serve_half(pipe: Any, kind: str) -> None:
    """Train the clients that a pipe names, and answer with the sum of their weights."""
    import torch

    torch.set_num_threads(1)
    model = new_model(kind)
    while True:
        arrays, clients, number = pipe.recv()
        state = {name: torch.from_numpy(array) for name, array in arrays.items()}
        total = {name: torch.zeros_like(value) for name, value in state.items()}
        for client in clients:
            model.load_state_dict(state)
            train_client(model, client, number)
            for name, value in model.state_dict().items():
                total[name] += value
        pipe.send({name: value.numpy() for name, value in total.items()})


def on_grid(strategy: Any, grid: Any, arrays: Any, rounds: int, clock: Clock, kind: str) -> Any:
    """Run a Strategy on a Grid for some rounds; return the final model."""
    aggregate = strategy.aggregate_train

    def aggregated(*args: Any) -> Any:
        result = aggregate(*args)
        clock.tick()
        return result

    clock.restart()
    strategy.aggregate_train = aggregated
    result = strategy.start(grid, arrays, num_rounds=rounds)
    model = new_model(kind)
    model.load_state_dict(result.arrays.to_torch_state_dict())
    return model


def on_engine(engine: str, kind: str, sizes: Sequence[int], rounds: int, clock: Clock) -> list[Any]:
    """Train on the engine ``inline`` or ``ray``; return the final model of each size."""
    import torch
    from torch import nn
    from torch.utils.data import TensorDataset

    from hqde_fl import HQDEStrategy
    from hqde_fl.clients.app import ensemble_app
    from hqde_fl.clients.task import Task
    from hqde_fl.clients.training import Training
    from hqde_fl.protocol.records import to_record
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.strategies.settings import Participation

    torch.set_num_threads(1)
    task = Task(
        model=lambda: new_model(kind),
        partition=lambda client, _: TensorDataset(*images(client)),
        test=lambda: TensorDataset(*images(-1, 1000)),
        loss=nn.functional.cross_entropy,
    )
    app = ensemble_app(task, training=Training(batch_size=BATCH, lr=LR))
    arrays, models = to_record(new_model(kind).state_dict()), []
    for size in sizes:
        if engine == "ray":
            from hqde_fl.simulations.engines.ray.grid import RayGrid
            from hqde_fl.simulations.engines.ray.pool import prepare

            prepare()
            grid: Any = RayGrid(app, size, {})
        else:
            grid = InlineGrid(app, size, {})
        strategy = HQDEStrategy(participation=Participation(fraction_evaluate=0.0))
        models.append(on_grid(strategy, grid, arrays, rounds, clock, kind))
    return models


def on_flower(kind: str, sizes: Sequence[int], rounds: int, clock: Clock) -> list[Any]:
    """Train in Flower's own simulation; return the final model of each size."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app, models = ClientApp(), ServerApp(), list[Any]()

    @client_app.train()
    def train(message: Message, context: Context) -> Message:
        import torch

        torch.set_num_threads(1)
        content: Any = message.content
        client: Any = context.node_config["partition-id"]
        model = new_model(kind)
        model.load_state_dict(content["arrays"].to_torch_state_dict())
        loss = train_client(model, client, content["config"]["server-round"] - 1)
        metrics = MetricRecord({"num-examples": EXAMPLES, "train-loss": loss})
        arrays = ArrayRecord(model.state_dict())
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    @server_app.main()
    def main(grid: Grid, _: Context) -> None:
        for size in sizes:
            strategy = FedAvg(
                fraction_train=size / max(sizes),
                min_train_nodes=size,
                fraction_evaluate=0.0,
                min_available_nodes=max(sizes),
            )
            arrays = ArrayRecord(new_model(kind).state_dict())
            models.append(on_grid(strategy, grid, arrays, rounds, clock, kind))

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=max(sizes), backend_config=resources)
    return models


def measure(engine: str, kind: str, sizes: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """Run one kind of run in this process; return the figures of each size."""
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    clock = Clock()
    runs: dict[str, Callable[[], list[Any]]] = {
        "plain": lambda: in_processes(kind, sizes, rounds, clock),
        "flower": lambda: on_flower(kind, sizes, rounds, clock),
    }
    models = runs.get(engine, lambda: on_engine(engine, kind, sizes, rounds, clock))()
    figures = []
    for place, (size, model) in enumerate(zip(sizes, models, strict=True)):
        warm = clock.rounds[place * (rounds - 1) : (place + 1) * (rounds - 1)]
        figures.append(
            {
                "clients": size,
                "wall": statistics.median(wall for wall, _ in warm),
                "cpu": statistics.median(cpu for _, cpu in warm),
                "loss": test_loss(model),
                "memory": clock.memory,
            }
        )
    return figures


def in_process(engine: str, kind: str, sizes: Sequence[int], rounds: int) -> list[dict[str, float]]:
    """Return what ``measure`` does, in a new process."""
    from hqde_fl.simulations.engines.ray.private_ray import private_environment

    numbers = [str(rounds), *map(str, sizes)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        **private_environment(),
    }
    command = [sys.executable, __file__, "--measure", engine, kind, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{engine}, {kind}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: list[dict[str, float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def main() -> int:
    """Run everything, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="no 1,000 clients, fewer rounds")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        engine, kind, rounds, *sizes = options.measure
        from benchmarks import throughput  # workers find its functions by this name

        found = throughput.measure(engine, kind, [int(size) for size in sizes], int(rounds))
        print(json.dumps(found))
        return 0
    repeats, rounds, sizes = (1, 5, [10, 100]) if options.quick else (3, 6, [10, 100, 1000])
    runs: dict[tuple[str, str], list[list[dict[str, float]]]] = {}
    for _ in range(repeats):
        for kind in NAMES:
            for engine in ENGINES:
                figures = in_process(engine, kind, sizes, rounds)
                runs.setdefault((kind, engine), []).append(figures)
    table: dict[tuple[str, str, int], dict[str, float]] = {}
    for (kind, engine), done in runs.items():
        for place, size in enumerate(sizes):
            table[kind, engine, size] = {
                key: statistics.median(run[place][key] for run in done)
                for key in ("wall", "cpu", "loss", "memory")
            }
    head = f"{'model':<16}{'clients':>8}  {'engine':<8}{'clients/s':>11}{'CPU ms':>9}"
    print(f"{head}{'of plain':>10}{'loss':>8}{'MB':>7}\n{'-' * 77}")
    rows = []
    for kind, name in NAMES.items():
        for size in sizes:
            for engine in ENGINES:
                one = table[kind, engine, size]
                row = {
                    "model": name,
                    "clients": size,
                    "engine": engine,
                    "clients a second": size / one["wall"],
                    "CPU ms a client": 1e3 * one["cpu"] / size,
                    "plain CPU / its CPU": table[kind, "plain", size]["cpu"] / one["cpu"],
                    "loss": one["loss"],
                    "peak MB of the run": one["memory"],
                }
                rows.append(row)
                print(
                    f"{name:<16}{size:>8}  {engine:<8}{row['clients a second']:>11.1f}"
                    f"{row['CPU ms a client']:>9.3f}{row['plain CPU / its CPU']:>10.2f}"
                    f"{row['loss']:>8.3f}{row['peak MB of the run']:>7.0f}"
                )

    def ratio(kind: str, above: str, below: str, key: str, size: int = 100) -> float:
        return table[kind, above, size][key] / table[kind, below, size][key]

    checks = []
    bounds = {"mlp": (0.75, 12), "cnn": (0.92, 2)}
    for kind, name in NAMES.items():
        losses = [table[kind, engine, 100]["loss"] for engine in ENGINES]
        spread = max(losses) / min(losses) - 1
        claim = f"{name}, 100 clients: spread of the final losses"
        checks.append(check(claim, spread, LOSS_TOLERANCE, upper=True))
    for kind, (of_plain, of_flower) in bounds.items():
        name = NAMES[kind]
        claim = f"{name}, 100 clients: ray / plain, clients a second"
        checks.append(check(claim, ratio(kind, "plain", "ray", "wall"), of_plain))
        claim = f"{name}, 100 clients: plain / ray, CPU"
        checks.append(check(claim, ratio(kind, "plain", "ray", "cpu"), of_plain))
        claim = f"{name}, 100 clients: Flower / ray, wall"
        checks.append(check(claim, ratio(kind, "flower", "ray", "wall"), of_flower))
        if 1000 in sizes:
            hundred, thousand = (table[kind, "ray", size]["cpu"] / size for size in (100, 1000))
            claim = f"{name}: ray, CPU a client, 1,000 clients / 100"
            checks.append(check(claim, thousand / hundred, 1.1, upper=True))
    print(f"not run, as this benchmark knows nothing of them: {', '.join(OTHERS)}")
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
