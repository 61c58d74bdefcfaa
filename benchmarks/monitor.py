"""The cost of the monitor, and whether the phases of a round add up to its time.

CPU seconds are those of a run's whole process tree, Ray included: every run is a process of its
own, whose descendants are counted when they end. Runs with and without the monitor take turns. The
monitor's own CPU seconds are those of its thread and of its end, measured in the runs with it.

    python benchmarks/monitor.py --json monitor.json [--quick]
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402

ENGINES = ("inline", "ray", "flower")
PR_SET_CHILD_SUBREAPER = 36
CHILD_PROCESSES = 30
"""Processes in the tree of the idle program, about as many as those of a Ray with 16 workers."""


def run_experiment(engine: str, out: str, monitored: bool, rounds: int) -> None:
    """Run the quickstart with longer training on an engine, in this process."""
    import hqde_fl

    hqde_fl.run(
        ROOT / "experiments" / "quickstart.toml",
        engine=engine,
        out=out,
        rounds=rounds,
        report=False,
        clients={"epochs": 10},
        strategy={"fraction-evaluate": 0.5},
        monitor={"enabled": monitored},
    )


def own_cpu_seconds() -> dict[str, float]:
    """Return the CPU seconds that monitors of this process take from now on, as a run adds them."""
    from hqde_fl.monitor.performance_monitor import PerformanceMonitor

    spent = {"thread": 0.0, "end": 0.0}
    run, stop = PerformanceMonitor._run, PerformanceMonitor.stop

    def measured_run(self: PerformanceMonitor) -> None:
        began = time.thread_time()
        run(self)
        spent["thread"] += time.thread_time() - began

    def measured_stop(self: PerformanceMonitor, reason: str = "finished") -> None:
        began = time.thread_time()
        stop(self, reason)
        spent["end"] += time.thread_time() - began

    PerformanceMonitor._run = measured_run  # type: ignore[method-assign]
    PerformanceMonitor.stop = measured_stop  # type: ignore[method-assign]
    return spent


def cpu_seconds(*arguments: str) -> float:
    """Call this file with arguments in a new process; return the CPU seconds of its tree."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:  # orphans become our children
        raise OSError(ctypes.get_errno(), "prctl")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = subprocess.Popen([sys.executable, __file__, *arguments], cwd=ROOT)
    status = process.wait()
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    if status:
        raise RuntimeError(f"{arguments}: exit status {status}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def idle_program(seconds: float) -> dict[str, float]:
    """Return the monitor's cost in a program that sleeps, with other processes in its tree."""
    from hqde_fl.monitor.performance_monitor import PerformanceMonitor

    sleep = [sys.executable, "-S", "-c", "import sys; sys.stdin.read()"]
    others = [subprocess.Popen(sleep, stdin=subprocess.PIPE) for _ in range(CHILD_PROCESSES)]
    with tempfile.TemporaryDirectory() as directory:
        began = time.perf_counter()
        monitor = PerformanceMonitor(directory).start()
        start = time.perf_counter() - began
        time.sleep(2.5)  # imports are over
        began, used = time.perf_counter(), time.process_time()
        time.sleep(seconds)
        used, took = time.process_time() - used, time.perf_counter() - began
        monitor.stop()
    for process in others:
        process.communicate()
    return {"start-seconds": start, "share-of-a-core": used / took}


def inactive_span_seconds(repeats: int = 200_000) -> float:
    """Return the CPU time that a span costs when nothing is recorded."""
    from hqde_fl.monitor.spans import span

    def empty() -> float:
        began = time.thread_time()
        for _ in range(repeats):
            pass
        return time.thread_time() - began

    def spans() -> float:
        began = time.thread_time()
        for _ in range(repeats):
            with span("work", round=1):
                pass
        return time.thread_time() - began

    return min(spans() - empty() for _ in range(5)) / repeats


def phase_shares(directory: Path) -> list[float]:
    """Return, for each round of a run, the part of its time that its phases account for."""
    from hqde_fl.monitor.schema import FILE, Span, read_records

    whole: dict[int, float] = {}
    phases: dict[int, float] = {}
    for record in read_records(directory / FILE):
        if isinstance(record, Span) and record.round is not None and record.client is None:
            sums = {"round": phases, None: whole}.get(record.parent)
            if sums is not None:
                sums[record.round] = sums.get(record.round, 0.0) + record.seconds
    return [phases[number] / seconds for number, seconds in whole.items()]


def measured(arguments: argparse.Namespace) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Return the rows and the checks."""
    quick, rows, checks = arguments.quick, [], []
    starts, shares = [], []
    for _ in range(1 if quick else 3):
        command = [sys.executable, __file__, "--idle", "5" if quick else "30"]
        done = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True)
        cost = json.loads(done.stdout)
        starts.append(cost["start-seconds"])
        shares.append(cost["share-of-a-core"])
    span = inactive_span_seconds()
    rows.append(
        {
            "case": f"idle program with {CHILD_PROCESSES} processes, 1 Hz",
            "start-ms": max(starts) * 1e3,
            "cpu-percent": max(shares) * 100,
            "inactive-span-us": span * 1e6,
        }
    )
    print(rows[-1], flush=True)
    checks += [
        check("CPU of a core at 1 Hz, percent", max(shares) * 100, 1.0, upper=True),
        check("milliseconds that the start takes", max(starts) * 1e3, 10.0, upper=True),
        check("microseconds of a span that nobody records", span * 1e6, 1.0, upper=True),
    ]
    for engine in ENGINES[:2] if quick else ENGINES:
        pairs = 2 if quick else 10 if engine != "flower" else 3
        rounds = 5 if quick else 20
        off, on, own, parts = [], [], [], []
        with tempfile.TemporaryDirectory() as folder:
            for number in range(pairs):
                for monitored in (True, False) if number % 2 else (False, True):
                    out = f"{folder}/{number}-{monitored}"
                    seconds = cpu_seconds("--run", engine, out, str(monitored), str(rounds))
                    (on if monitored else off).append(seconds)
                parts += phase_shares(Path(f"{folder}/{number}-True"))
                if (cost := Path(f"{folder}/{number}-True.json")).exists():
                    own.append(sum(json.loads(cost.read_text()).values()))
        ratios = [with_it / without for with_it, without in zip(on, off, strict=True)]
        rows.append(
            {
                "case": f"quickstart, {rounds} rounds, engine {engine}",
                "pairs": pairs,
                "cpu-seconds-off": statistics.mean(off),
                "cpu-seconds-on": statistics.mean(on),
                "ratios": ratios,
                "own-cpu-seconds": statistics.mean(own) if own else None,
                "standard-error": statistics.stdev(ratios) / pairs**0.5,
                "rounds": len(parts),
                "least-share-of-phases": min(parts),
                "median-share-of-phases": statistics.median(parts),
            }
        )
        print(rows[-1], flush=True)
        if engine != "flower":  # a claim about ten pairs
            ratio, share = statistics.median(ratios), statistics.mean(own) / statistics.mean(off)
            checks += [
                check(f"CPU seconds with it to those without, {engine}", ratio, 1.02, upper=True),
                check(f"its own CPU seconds to all, {engine}", share, 0.02, upper=True),
            ]
        checks += [
            check(f"least share of a round in its phases, {engine}", min(parts), 0.95),
            check(
                f"largest share of a round in its phases, {engine}", max(parts), 1.05, upper=True
            ),
        ]
    return rows, checks


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--run", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--idle", type=float, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.run:
        engine, out, monitored, rounds = arguments.run
        spent = own_cpu_seconds()
        run_experiment(engine, out, monitored == "True", int(rounds))
        if engine != "flower":  # its monitor is in another process
            Path(f"{out}.json").write_text(json.dumps(spent))
        return 0
    if arguments.idle:
        print(json.dumps(idle_program(arguments.idle)))
        return 0
    rows, checks = measured(arguments)
    return conclude(rows, checks, arguments.json, machine())


if __name__ == "__main__":
    sys.exit(main())
