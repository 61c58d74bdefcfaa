"""Memory of a round: models of 200 MB, cohorts of 10,000, and 40 GB of updates on less memory.

Each case runs in a process of its own, in which a thread samples the process's anonymous memory:
what it has allocated, without pages of files and of Ray's object store, which the system can drop
or shares. Clients add noise to every number of the model, so that only the round itself counts.

    python benchmarks/memory.py --json memory.json [--quick] [--large] [--only CASE ...]

``--large`` adds 1,000 clients of 40 MB under five rules: 40 GB on the disk of the temporary folder,
a few minutes for each rule. ``--clients`` sets another number of them; with fewer than 1,000 the
limit of memory is set to 0, so that their updates are kept in a file all the same.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

MB = 1e6
RULES = ("mean", "median", "krum", "geometric-median", "robust")
LARGE_CLIENTS, LARGE_NUMBERS = 1000, 10_000_000
MODEL_NUMBERS, MODEL_CLIENTS = 50_000_000, 8
COHORT_NUMBERS = 1000


class MemoryWatch:
    """Samples this process's anonymous memory every few milliseconds."""

    def __init__(self) -> None:
        self.peak = self.file_peak = 0
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()

    def _sample(self) -> None:
        while not self._done.wait(0.003):
            anonymous, pages = memory_of_this_process()
            self.peak, self.file_peak = max(self.peak, anonymous), max(self.file_peak, pages)

    def close(self) -> None:
        """End the thread."""
        self._done.set()
        self._thread.join()


def memory_of_this_process() -> tuple[int, int]:
    """Return the bytes of the process's anonymous memory, and of its mapped pages of files."""
    lines = Path("/proc/self/status").read_text().splitlines()
    sizes = {key: text.split() for key, _, text in (line.partition(":") for line in lines)}
    return int(sizes["RssAnon"][0]) * 1024, int(sizes["RssFile"][0]) * 1024


@contextmanager
def watched() -> Iterator[MemoryWatch]:
    """Sample the memory of the block."""
    watch = MemoryWatch()
    try:
        yield watch
    finally:
        watch.close()


def noisy_app() -> Any:
    """Return a ClientApp that adds small noise, its own in each round, to every number."""
    import numpy as np
    import torch
    from flwr.app import Context, Message, MetricRecord, RecordDict
    from flwr.clientapp import ClientApp

    from hqde_fl.protocol.records import to_record

    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        number = int(message.content["config"]["server-round"])
        rng = np.random.default_rng([number, int(context.node_config["partition-id"])])
        arrays = {}
        for name, array in message.content["arrays"].items():
            model = array.numpy()
            for part in np.array_split(model, max(1, model.size // 100_000)):
                part += rng.random(part.shape, np.float32) - np.float32(0.5)
            arrays[name] = torch.from_numpy(model)
        content = RecordDict(
            {"arrays": to_record(arrays), "metrics": MetricRecord({"num-examples": 1})}
        )
        return Message(content, reply_to=message)

    return app


def run_rounds(
    engine: str, rule: str, clients: int, numbers: int, rounds: int, memory: float = 0.5
) -> dict[str, Any]:
    """Run rounds of a model of one array; return the peak of memory and the seconds of a round."""
    import torch
    from flwr.serverapp import Grid

    from hqde_fl.catalogue import RULES as KNOWN_RULES
    from hqde_fl.distributed.auto_executor import AutoExecutor
    from hqde_fl.protocol.records import to_record
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.strategies.callbacks import Callback, RoundRecord
    from hqde_fl.strategies.hqde import HQDEStrategy
    from hqde_fl.strategies.settings import Aggregation, Participation, Reporting

    faulty = {"f": clients // 10} if rule == "krum" else {}
    table = {"name": rule, **faulty}
    grid: Grid
    if engine == "ray":
        from hqde_fl.simulations.engines.ray.grid import RayGrid

        grid = RayGrid(noisy_app(), clients, {})
    else:
        grid = InlineGrid(noisy_app(), clients, {})
    kept: list[int] = []
    ends = [time.monotonic()]

    class Recorder(Callback):
        """Notes when a round ended, and how many updates it had."""

        def on_round(self, record: RoundRecord, arrays: Any) -> None:
            kept.append(len(record.clients))
            ends.append(time.monotonic())

    strategy = HQDEStrategy(
        Aggregation(KNOWN_RULES.build(table), executor=AutoExecutor(memory)),
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting(callbacks=[Recorder()]),
    )
    before, _ = memory_of_this_process()
    with watched() as watch:
        strategy.start(grid, to_record({"weights": torch.zeros(numbers)}), rounds)
    if strategy.record.kept + sum(c.reason is not None for c in strategy.record.clients) != clients:
        raise RuntimeError(f"not all of {clients} clients replied")
    return {
        "start-mb": before / MB,
        "peak-mb": watch.peak / MB,
        "file-mb": watch.file_peak / MB,
        "round": statistics.median(b - a for a, b in pairwise(ends[1:]))
        if rounds > 1
        else ends[-1] - ends[0],
    }


def aggregate_cohort(clients: int, repeats: int = 5) -> dict[str, Any]:
    """Aggregate replies that are there already; return seconds and additional memory."""
    import torch

    from hqde_fl.protocol.records import to_record
    from hqde_fl.rules import Mean
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.strategies.hqde import HQDEStrategy
    from hqde_fl.strategies.settings import Aggregation, Participation

    from flwr.app import ConfigRecord  # isort: skip

    grid = InlineGrid(noisy_app(), clients, {})
    strategy = HQDEStrategy(
        Aggregation(Mean(weighted=True)), participation=Participation(fraction_evaluate=0.0)
    )
    arrays = to_record({"weights": torch.zeros(COHORT_NUMBERS)})
    seconds, peaks = [], []
    for number in range(1, repeats + 2):  # the first is not counted
        messages = strategy.configure_train(number, arrays, ConfigRecord(), grid)
        replies = list(grid.send_and_receive(messages))
        before, _ = memory_of_this_process()
        with watched() as watch:
            started = time.perf_counter()
            arrays, _ = strategy.aggregate_train(number, replies)
            seconds.append(time.perf_counter() - started)
        peaks.append(watch.peak - before)
    updates = clients * COHORT_NUMBERS * 4
    return {
        "seconds": statistics.median(seconds[1:]),
        "memory-mb": max(peaks[1:]) / MB,
        "first-memory-mb": peaks[0] / MB,
        "updates-mb": updates / MB,
    }


CASES: dict[str, list[Any]] = {
    "inline 8 x 200 MB": [run_rounds, "inline", "mean", MODEL_CLIENTS, MODEL_NUMBERS, 3],
    "ray 8 x 200 MB": [run_rounds, "ray", "mean", MODEL_CLIENTS, MODEL_NUMBERS, 3],
    "cohort 1000": [aggregate_cohort, 1000],
    "cohort 10000": [aggregate_cohort, 10_000],
}
LARGE = [f"large {rule}" for rule in RULES]


def large_cases(clients: int) -> dict[str, list[Any]]:
    """Return the cases with many large models by name."""
    memory = 0.5 if clients >= LARGE_CLIENTS else 0.0
    rest = [clients, LARGE_NUMBERS, 1, memory]
    return {f"large {rule}": [run_rounds, "inline", rule, *rest] for rule in RULES}


def in_process(name: str, clients: int) -> dict[str, Any]:
    """Return the figures of a case, in a new process."""
    environment = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "RAY_USAGE_STATS_ENABLED": "0",
        "FLWR_TELEMETRY_ENABLED": "0",
    }
    command = [sys.executable, __file__, "--measure", name, "--clients", str(clients)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{name}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    limit = [line for line in done.stderr.splitlines() if "not in memory" in line]
    return {**figures, "log": limit[0].split(":", 1)[1].strip() if limit else None}


def checks(figures: dict[str, dict[str, Any]], clients: int) -> list[dict[str, Any]]:
    """Return a check for each bound on the cases that were run."""
    results = []
    model = MODEL_NUMBERS * 4 / MB
    if case := figures.get("inline 8 x 200 MB"):
        ratio = case["peak-mb"] / (MODEL_CLIENTS * model)
        results.append(check("inline, 8 x 200 MB: peak / updates", ratio, 1.5, upper=True))
    if case := figures.get("ray 8 x 200 MB"):
        ratio = (case["peak-mb"] - case["start-mb"]) / model
        claim = "ray, 8 x 200 MB: driver's peak beyond its start / model"
        results.append(check(claim, ratio, 4, upper=True))
    if (many := figures.get("cohort 10000")) and (few := figures.get("cohort 1000")):
        ratio = many["seconds"] / few["seconds"]
        results.append(check("aggregate_train: cohort 10,000 / 1,000", ratio, 12, upper=True))
        ratio = many["memory-mb"] / many["updates-mb"]
        results.append(check("cohort 10,000: memory / updates", ratio, 3, upper=True))
    for rule in RULES:
        if case := figures.get(f"large {rule}"):
            claim = f"{clients} x 40 MB, {rule}: the driver's anonymous memory, GB"
            results.append(check(claim, case["peak-mb"] / 1000, 3, upper=True))
    return results


def main() -> int:
    """Run the cases, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="without Ray")
    parser.add_argument("--large", action="store_true", help="also 1,000 clients of 40 MB")
    parser.add_argument("--only", nargs="+", metavar="CASE", choices=[*CASES, *LARGE])
    parser.add_argument("--clients", type=int, default=LARGE_CLIENTS, help="with --large")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        function, *arguments = {**CASES, **large_cases(options.clients)}[options.measure]
        print(json.dumps(function(*arguments)))
        return 0
    names = options.only or [*CASES, *(LARGE if options.large else ())]
    if options.quick and not options.only:
        names = [name for name in names if not name.startswith("ray")]
    rows, figures = [], {}
    for name in names:
        needed = options.clients * LARGE_NUMBERS * 4
        if name in LARGE and shutil.disk_usage(tempfile.gettempdir()).free < 1.1 * needed:
            print(f"{name}: not run, the disk has no room for {needed / 1e9:.0f} GB", flush=True)
            continue
        figures[name] = in_process(name, options.clients)
        rows.append({"case": name, **figures[name]})
        numbers = {k: round(v, 4) for k, v in figures[name].items() if isinstance(v, float)}
        print(f"{name:<22} {numbers}", flush=True)
        if figures[name]["log"]:
            print(f"{'':<22} {figures[name]['log']}", flush=True)
    return conclude(rows, checks(figures, options.clients), options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
