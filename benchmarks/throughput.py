"""Clients a second, training included: the engines, Flower's simulation, and a plain loop.

Every client trains one epoch on 50 images of 28 x 28 in batches of 32 with SGD, and the server
takes the mean. The loop is what one would write instead of a framework: two processes of torch,
each of which trains half of the clients and returns the sum of their weights. Each kind of run has
a process of its own; its first round of each size is left out. CPU seconds are those of the process
and all its descendants, the wall time also counts what a busy machine does meanwhile. fluke and pfl
are run where they are installed (the extra ``bench``). The last case is that of
``benchmarks/engine.py``: 1,000 clients of 1,000 numbers that do not train.

    python benchmarks/throughput.py --json throughput.json [--quick] [--model mlp] [--clients 100]
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
from itertools import count
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import engine as engine_benchmark  # noqa: E402
from benchmarks.reporting import check, conclude, machine  # noqa: E402
from benchmarks.rivals.simulators import SIMULATORS, installed, train_in  # noqa: E402

EXAMPLES, BATCH, LR = 50, 32, 0.05
ENGINES = ("plain", "inline", "ray", "flower")
NAMES = {"mlp": "MLP 784-128-10", "cnn": "CNN 16-32-128", "transformer": "transformer 28x32"}
ROUNDS = {"mlp": {10: 41, 100: 21, 1000: 7}, "cnn": {10: 11, 100: 6, 1000: 4}}
ROUNDS["transformer"] = ROUNDS["cnn"]
"""Rounds of a run by model and number of clients, of which the first is left out."""
COMPARED_ROUND = 4
"""The round whose models' losses are compared; Flower, fluke and pfl do no more, as they are slow.
"""
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
    from benchmarks.learning.drawn_examples import drawn_examples  # imports torch

    return drawn_examples((1, 28, 28), examples, client)


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
    """Measures rounds: wall seconds, and CPU seconds of this process and its descendants.

    Parameters
    ----------
    began : float
        Unix time from which the end of the first round of all is counted.
    """

    def __init__(self, began: float) -> None:
        self.runs: list[list[tuple[float, float]]] = []
        self.memory: list[float] = []
        self.first = 0.0
        self._began = began
        self._last: tuple[float, float] | None = None

    def restart(self) -> None:
        """Begin with the rounds of the next size."""
        self._last = None
        self.runs.append([])
        self.memory.append(0.0)

    def tick(self) -> None:
        """End a round; it began when the last one ended, if there was one."""
        wall, cpu, own = time.perf_counter(), cpu_seconds(), time.process_time()
        self.first = self.first or time.time() - self._began
        self.memory[-1] = max(self.memory[-1], own_memory())
        if self._last is not None:
            self.runs[-1].append((wall - self._last[0], cpu - self._last[1]))
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


Sizes = Sequence[tuple[int, int]]
"""Numbers of clients, and of rounds with them."""


def in_processes(kind: str, sizes: Sizes, clock: Clock) -> list[Any]:
    """Train in two processes without a framework; return the model of each size."""
    import torch
    from torch import multiprocessing

    context = multiprocessing.get_context("spawn")
    pipes, models = [], []
    for _ in range(2):
        ours, theirs = context.Pipe()
        context.Process(target=serve_half, args=(theirs, kind), daemon=True).start()
        pipes.append(ours)
    for size, rounds in sizes:
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
            if number + 1 == COMPARED_ROUND:
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
    """Run a Strategy on a Grid for some rounds; return the model of ``COMPARED_ROUND``."""
    aggregate, numbers, model = strategy.aggregate_train, count(1), new_model(kind)

    def aggregated(*args: Any) -> Any:
        result = aggregate(*args)
        clock.tick()
        if next(numbers) == COMPARED_ROUND:
            model.load_state_dict(result[0].to_torch_state_dict())
        return result

    clock.restart()
    strategy.aggregate_train = aggregated
    strategy.start(grid, arrays, num_rounds=rounds)
    return model


def on_engine(engine: str, kind: str, sizes: Sizes, clock: Clock) -> list[Any]:
    """Train on the engine ``inline`` or ``ray``; return the model of each size."""
    if engine == "ray":
        from hqde_fl.simulations.engines.ray.pool import prepare

        # as a run of an experiment does
        prepare(workers=sizes[0][0], modules=["hqde_fl.clients.app", "benchmarks.throughput"])
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

    torch.set_num_threads(1 if engine == "inline" else 2)  # of the server; clients have one
    task = Task(
        model=lambda: new_model(kind),
        partition=lambda client, _: TensorDataset(*images(client)),
        test=lambda: TensorDataset(*images(-1, 1000)),
        loss=nn.functional.cross_entropy,
    )
    app = ensemble_app(task, training=Training(batch_size=BATCH, lr=LR))
    arrays, models = to_record(new_model(kind).state_dict()), []
    for size, rounds in sizes:
        if engine == "ray":
            from hqde_fl.simulations.engines.ray.grid import RayGrid

            grid: Any = RayGrid(app, size, {})
        else:
            grid = InlineGrid(app, size, {})
        strategy = HQDEStrategy(participation=Participation(fraction_evaluate=0.0))
        models.append(on_grid(strategy, grid, arrays, rounds, clock, kind))
    return models


def on_flower(kind: str, sizes: Sizes, clock: Clock) -> list[Any]:
    """Train in Flower's own simulation; return the model of each size."""
    from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg
    from flwr.simulation import run_simulation

    client_app, server_app, models = ClientApp(), ServerApp(), list[Any]()
    most = max(size for size, _ in sizes)

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
        for size, rounds in sizes:
            strategy = FedAvg(
                fraction_train=size / most,
                min_train_nodes=size,
                fraction_evaluate=0.0,
                min_available_nodes=most,
            )
            arrays = ArrayRecord(new_model(kind).state_dict())
            models.append(on_grid(strategy, grid, arrays, rounds, clock, kind))

    resources: Any = {"client_resources": {"num_cpus": 1, "num_gpus": 0.0}}
    run_simulation(server_app, client_app, num_supernodes=most, backend_config=resources)
    return models


def on_rival(simulator: str, kind: str, sizes: Sizes, clock: Clock) -> list[Any]:
    """Train in fluke or pfl; return the model of each size."""
    import torch

    torch.set_num_threads(1)
    models = []
    for size, rounds in sizes:
        data = [images(client) for client in range(size)]
        clock.restart()
        models.append(
            train_in(simulator, new_model(kind), data, (BATCH, LR, rounds), clock.tick).eval()
        )
    return models


def measure(engine: str, kind: str, sizes: Sizes) -> list[dict[str, float]]:
    """Run one kind of run in this process; return the figures of each size."""
    import psutil

    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    clock = Clock(psutil.Process().create_time())
    runs: dict[str, Callable[[], list[Any]]] = {
        "plain": lambda: in_processes(kind, sizes, clock),
        "flower": lambda: on_flower(kind, sizes, clock),
        **{name: lambda: on_rival(engine, kind, sizes, clock) for name in SIMULATORS},
    }
    models = runs.get(engine, lambda: on_engine(engine, kind, sizes, clock))()
    return [
        {
            "clients": size,
            "first": clock.first,
            "wall": statistics.median(wall for wall, _ in rounds),
            "cpu": statistics.median(cpu for _, cpu in rounds),
            "loss": test_loss(model),
            "memory": memory,
        }
        for (size, _), model, rounds, memory in zip(
            sizes, models, clock.runs, clock.memory, strict=True
        )
    ]


def in_process(engine: str, kind: str, sizes: Sizes) -> list[dict[str, float]]:
    """Return what ``measure`` does, in a new process."""
    from hqde_fl.simulations.engines.ray.private_ray import private_environment

    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH")))),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        "OMP_NUM_THREADS": "1",
        **private_environment(),
    }
    numbers = [f"{size}x{rounds}" for size, rounds in sizes]
    command = [sys.executable, __file__, "--measure", engine, kind, *numbers]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{engine}, {kind}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: list[dict[str, float]] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


Table = dict[tuple[str, str, int], dict[str, float]]
"""Model, engine and number of clients -> medians of the figures."""


def measured(kinds: Sequence[str], sizes: Sequence[int], repeats: int, quick: bool) -> Table:
    """Run every engine in turn, ``repeats`` times; print what each run takes."""
    runs: dict[tuple[str, str, int], list[dict[str, float]]] = {}
    for _ in range(repeats):
        for kind in kinds:
            for engine in (*ENGINES, *installed()):
                slow = engine not in ENGINES or engine == "flower"
                rounds = [
                    (size, COMPARED_ROUND if slow else max(COMPARED_ROUND, number // (1 + quick)))
                    for size in sizes
                    for number in (ROUNDS[kind][size],)
                ]
                started = time.monotonic()
                for one in in_process(engine, kind, rounds):
                    runs.setdefault((kind, engine, int(one["clients"])), []).append(one)
                print(f"{kind}, {engine}: {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {
        key: {name: statistics.median(run[name] for run in done) for name in done[0]}
        for key, done in runs.items()
    }


def table_rows(table: Table) -> list[dict[str, Any]]:
    """Print the table, and return it as rows."""
    head = f"{'model':<16}{'clients':>8}  {'engine':<8}{'clients/s':>11}{'of plain':>9}"
    print(f"{head}{'CPU ms':>9}{'of plain':>9}{'loss':>8}{'MB':>7}{'start s':>9}\n{'-' * 94}")
    rows = []
    for (kind, engine, size), one in sorted(table.items(), key=lambda item: item[0][::2]):
        plain = table[kind, "plain", size]
        row = {
            "model": NAMES[kind],
            "clients": size,
            "engine": engine,
            "clients a second": size / one["wall"],
            "plain wall / its wall": plain["wall"] / one["wall"],
            "CPU ms a client": 1e3 * one["cpu"] / size,
            "plain CPU / its CPU": plain["cpu"] / one["cpu"],
            "loss": one["loss"],
            "peak MB of the run": one["memory"],
            "seconds to the first round's end": one["first"],
        }
        rows.append(row)
        print(
            f"{NAMES[kind]:<16}{size:>8}  {engine:<8}{row['clients a second']:>11.1f}"
            f"{row['plain wall / its wall']:>9.2f}{row['CPU ms a client']:>9.3f}"
            f"{row['plain CPU / its CPU']:>9.2f}{row['loss']:>8.3f}"
            f"{row['peak MB of the run']:>7.0f}{one['first']:>9.1f}"
        )
    for name in SIMULATORS:
        if name not in installed():
            rows.append({"engine": name, "note": "not installed"})
            print(f"{name}: not installed (the extra bench)")
    return rows


BOUNDS = {"mlp": (0.75, 12), "cnn": (0.92, 2)}
"""Model -> least of the plain loop's clients a second on ray, and times those of Flower."""


def checks_of(table: Table) -> list[dict[str, Any]]:
    """Return the checks of the figures."""
    checks = []
    keys = sorted({(kind, size) for kind, _, size in table})
    for kind, size in keys:
        own = {engine: one for (k, engine, n), one in table.items() if (k, n) == (kind, size)}
        name = f"{NAMES[kind]}, {size:,} clients"
        if size == 100:
            losses = [one["loss"] for one in own.values()]
            claim = f"{name}: spread of the losses after round {COMPARED_ROUND}"
            checks.append(check(claim, max(losses) / min(losses) - 1, LOSS_TOLERANCE, upper=True))
        if kind not in BOUNDS or size != 100:
            continue
        of_plain, of_flower = BOUNDS[kind]
        ray, plain = own["ray"], own["plain"]
        claim = f"{name}: ray / plain, clients a second"
        checks.append(check(claim, plain["wall"] / ray["wall"], of_plain))
        claim = f"{name}: plain / ray, CPU"
        checks.append(check(claim, plain["cpu"] / ray["cpu"], of_plain))
        claim = f"{name}: ray / Flower, clients a second"
        checks.append(check(claim, own["flower"]["wall"] / ray["wall"], of_flower))
        if (kind, 1000) in keys:
            thousand = table[kind, "ray", 1000]["wall"] / 1000
            claim = f"{NAMES[kind]}: ray, clients a second, 1,000 clients / 100"
            checks.append(check(claim, ray["wall"] / size / thousand, 0.9))
    firsts = [one["first"] for (_, engine, _), one in table.items() if engine == "ray"]
    checks.append(check("ray: seconds to the end of the first round", max(firsts), 6, upper=True))
    return checks


def without_training(rounds: int) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the row and the check of 1,000 tiny clients that do not train, on ray and Flower."""
    case = "1000 tiny clients"
    both = {name: engine_benchmark.in_process(name, case, rounds) for name in ("stock", "ray")}
    seconds = {name: both[name]["round"] for name in both}
    row = {"model": "1,000 numbers, no training", "clients": 1000, "seconds": seconds}
    print(f"{case}, no training: Flower {seconds['stock']:.3f} s, ray {seconds['ray']:.3f} s")
    claim = f"{case}, no training: ray / Flower, clients a second"
    return row, check(claim, seconds["stock"] / seconds["ray"], 60)


def main() -> int:
    """Run everything, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="no 1,000 clients, fewer rounds")
    parser.add_argument("--model", choices=tuple(NAMES), help="only this one")
    parser.add_argument("--clients", type=int, choices=(10, 100, 1000), help="only so many")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each kind, in turn")
    parser.add_argument("--measure", nargs="+", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        engine, kind, *sizes = options.measure
        from benchmarks import throughput  # workers find its functions by this name

        numbers = [(int(size), int(rounds)) for size, rounds in (one.split("x") for one in sizes)]
        print(json.dumps(throughput.measure(engine, kind, numbers)))
        return 0
    kinds = [options.model] if options.model else list(NAMES)
    sizes = [10, 100] if options.quick else [10, 100, 1000]
    sizes = [options.clients] if options.clients else sizes
    repeats = 1 if options.quick else options.repeats
    table = measured(kinds, sizes, repeats, options.quick)
    rows, checks = table_rows(table), checks_of(table)
    if options.model is None:
        row, verdict = without_training(4 if options.quick else 7)
        rows.append(row)
        checks.append(verdict)
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
