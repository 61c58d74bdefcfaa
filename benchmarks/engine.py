"""Flower's own simulation against the ray engine.

Every case runs in a new process for each engine in turn, with the same FedAvg of Flower and the
same clients: only the engine differs. Warm rounds exclude the first one. Start-up is the time from
the call that starts the engine to the end of the first round, imports included. The driver's memory
is the process's own, without the object store's shared memory.

    python benchmarks/engine.py --json engine.json [--quick]
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.engines.ray.private_ray import private_environment  # noqa: E402

CASES = {
    # name: (population, cohort, parameters, kind of client)
    "100 tiny clients": (100, 100, 1_000, "tiny"),
    "1000 tiny clients": (1000, 1000, 1_000, "tiny"),
    "20 clients x 40 MB": (20, 20, 10_000_000, "tiny"),
    "digits, 10 clients": (10, 10, 0, "digits"),
}
SCALING = {
    "population 100, cohort 100": (100, 100, 1_000, "tiny"),
    "population 100000, cohort 100": (100_000, 100, 1_000, "tiny"),
    "population 1000, cohort 10": (1000, 10, 1_000, "tiny"),
    "population 1000, cohort 1000": (1000, 1000, 1_000, "tiny"),
}


def tiny_app() -> Any:
    """Return a ClientApp that only adds one to every parameter, so that the engine's cost shows."""
    import numpy as np
    from flwr.app import Array, ArrayRecord, Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        received = message.content.array_records["arrays"]
        arrays = ArrayRecord()
        for name, array in received.items():
            arrays[name] = Array(array.numpy() + np.float32(1))
        content = RecordDict({"arrays": arrays, "metrics": MetricRecord({"num-examples": 1})})
        return Message(content, reply_to=message)

    return app


def digits_app() -> tuple[Any, Any]:
    """Return the ClientApp and the initial model of the quickstart experiment without faults."""
    from hqde_fl.clients.app import ensemble_app
    from hqde_fl.clients.initial_state import initial_state
    from hqde_fl.protocol.records import to_record
    from hqde_fl.seeding import Seeds
    from hqde_fl.simulations.experiment.experiment import Experiment

    demo = Experiment.load(ROOT / "experiments" / "quickstart.toml", ["faults=[]"])
    task = demo.load_task()
    app = ensemble_app(task, training=demo.parts.training, seed=demo.seed)
    return app, to_record(initial_state(task, 1, Seeds(demo.seed)))


def measure(engine: str, case: tuple[int, int, int, str], rounds: int) -> dict[str, float]:
    """Run ``stock`` or ``ray`` on a case in this process; return its seconds and megabytes."""
    started = time.monotonic()
    logging.getLogger("flwr").setLevel(logging.CRITICAL)
    population, cohort, parameters, kind = case
    import numpy as np
    from flwr.app import ArrayRecord, Context
    from flwr.serverapp import Grid, ServerApp
    from flwr.serverapp.strategy import FedAvg

    if engine == "ray":
        from hqde_fl.simulations.engines.ray.pool import prepare

        prepare()  # as ``run_experiment`` does
    if kind == "digits":
        client_app, arrays = digits_app()
    else:
        client_app, arrays = tiny_app(), ArrayRecord([np.zeros(parameters, np.float32)])
    times: list[float] = []
    memory = [memory_of_this_process()]
    done = threading.Event()

    def sample() -> None:
        while not done.wait(0.005):
            memory.append(memory_of_this_process())

    sampler = threading.Thread(target=sample, daemon=True)
    sampler.start()

    class Timed(FedAvg):
        """FedAvg that measures the duration of every round and requires every reply."""

        def configure_train(self, server_round, arrays, config, grid):
            self.began = time.monotonic()
            return super().configure_train(server_round, arrays, config, grid)

        def aggregate_train(self, server_round, replies):
            replies = list(replies)
            good = sum(reply.has_content() for reply in replies)
            if good != cohort:
                raise RuntimeError(f"{good} of {cohort} clients replied")
            result = super().aggregate_train(server_round, replies)
            times.append(time.monotonic() - self.began)
            if server_round == 1:
                times.append(time.monotonic() - started)
            return result

    def main(grid: Grid, context: Context) -> None:
        strategy = Timed(
            fraction_train=cohort / population,
            min_train_nodes=cohort,
            fraction_evaluate=0.0,
            min_available_nodes=population,
        )
        strategy.start(grid, arrays, num_rounds=rounds)

    if engine == "stock":
        from flwr.simulation import run_simulation

        server_app = ServerApp()
        server_app.main()(main)
        run_simulation(
            server_app,
            client_app,
            num_supernodes=population,
            backend_config={"client_resources": {"num_cpus": 1, "num_gpus": 0.0}},
        )
    else:
        from hqde_fl.simulations.engines.ray.grid import RayGrid

        main(RayGrid(client_app, population, {}), None)  # type: ignore[arg-type]
    done.set()
    sampler.join()
    if len(times) != rounds + 1:
        raise RuntimeError(f"{engine} finished {len(times)} of {rounds} rounds")
    return {
        "start": times[1],
        "round": statistics.median(times[2:]),
        "fastest": min(times[2:]),
        "driver": max(own for own, _ in memory) / 1e6,
        "mapped": max(mapped for _, mapped in memory) / 1e6,
    }


def memory_of_this_process() -> tuple[int, int]:
    """Return the process's own bytes, and its mapped bytes of shared memory (the object store)."""
    _, resident, shared, *_ = Path("/proc/self/statm").read_text().split()
    page = os.sysconf("SC_PAGE_SIZE")
    return (int(resident) - int(shared)) * page, int(shared) * page


def in_process(engine: str, name: str, rounds: int) -> dict[str, float]:
    """Return the figures of ``measure`` for an engine and the case ``name``, in a new process."""
    command = [sys.executable, __file__, "--measure", engine, name, str(rounds)]
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
        **private_environment(),  # for Flower's Ray; the ray engine sets its own
    }
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{engine}, {name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
    return figures


def median_of(runs: list[dict[str, float]]) -> dict[str, float]:
    """Return the median of each figure over the runs, by the figure's name."""
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def main() -> int:
    """Run every case on both engines, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="one repeat and fewer rounds")
    parser.add_argument("--measure", nargs=3, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        engine, name, rounds = options.measure
        print(json.dumps(measure(engine, {**CASES, **SCALING}[name], int(rounds))))
        return 0
    repeats, rounds = (1, 4) if options.quick else (3, 7)
    rows: list[dict[str, Any]] = []
    figures: dict[tuple[str, str], dict[str, float]] = {}
    head = f"{'case':<32}{'engine':<8}{'start s':>9}{'round s':>9}{'driver MB':>11}"
    print(head + f"{'start':>8}{'round':>8}{'driver':>8}\n{'-' * 93}")
    for name in CASES:
        runs: dict[str, list[dict[str, float]]] = {"stock": [], "ray": []}
        for _ in range(repeats):
            for engine, done in runs.items():
                done.append(in_process(engine, name, rounds))
        for engine, done in runs.items():
            figures[name, engine] = median_of(done)
            base = figures[name, "stock"]
            row = {"case": name, "engine": engine, **figures[name, engine]}
            row |= {f"{key} ratio": row[key] / base[key] for key in ("start", "round", "driver")}
            rows.append(row)
            print(
                f"{name:<32}{engine:<8}{row['start']:>9.2f}{row['round']:>9.3f}"
                f"{row['driver']:>11.0f}{row['start ratio']:>8.2f}{row['round ratio']:>8.3f}"
                f"{row['driver ratio']:>8.2f}",
                flush=True,
            )
    for name in SCALING:
        done = [in_process("ray", name, max(rounds, 8)) for _ in range(repeats)]
        figures[name, "ray"] = median_of(done)
        rows.append({"case": name, "engine": "ray", **figures[name, "ray"]})
        one = figures[name, "ray"]
        print(
            f"{name:<32}{'ray':<8}{one['start']:>9.2f}{one['round']:>9.3f}{one['driver']:>11.0f}",
            flush=True,
        )

    def ratio(name: str, key: str) -> float:
        return figures[name, "stock"][key] / figures[name, "ray"][key]

    tiny, large, digits = "1000 tiny clients", "20 clients x 40 MB", "digits, 10 clients"
    many = figures["population 100000, cohort 100", "ray"]["round"]
    few = figures["population 100, cohort 100", "ray"]["round"]
    checks = [
        check(f"{tiny}: stock / ray, warm round", ratio(tiny, "round"), 15),
        check(f"{large}: stock / ray, warm round", ratio(large, "round"), 2.5),
        check(f"{large}: ray / stock, driver memory", 1 / ratio(large, "driver"), 0.5, upper=True),
        check(f"{digits}: ray / stock, start", 1 / ratio(digits, "start"), 0.7, upper=True),
        check("cohort 100: population 100000 / 100, warm round", many / few, 1.3, upper=True),
    ]
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
