"""Rounds with models of 1, 2.5 and 5 GB: seconds, and the memory of each side.

Two rounds with one client on each engine, in a process of its own. The peaks are the processes' own
memory, sampled: *server* is the process that aggregates, *client* the largest of the others, *all*
the largest sum, with shared memory. A run that is refused before anything starts counts as well if
one line says why.

    python benchmarks/big_models.py --json big.json [--quick] [--only ENGINE ...] [--gb 1 2.5]
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.recording.recorded_run import read_lines  # noqa: E402

ENGINES = ("inline", "ray", "flower")
SIZES = (1.0, 2.5, 5.0)
GB = 1e9
EXPERIMENT = """
seed = 5
rounds = 2
task = {{ name = "benchmarks.big_model_parts.task:task", numbers = {numbers} }}
clients = {{ count = 1, lr = 0.5, steps = 1 }}
strategy = {{ rule = "mean" }}
engine = {{ name = "{engine}" }}
checkpoint = {{ every = 0 }}
"""


@dataclass
class Peaks:
    """The largest memory in bytes seen so far."""

    server: float = 0
    client: float = 0
    together: float = 0

    def sample(self, main: psutil.Process) -> None:
        """Look at the processes below ``main``."""
        others, own, total = [0.0], 0.0, 0.0
        for process in (main, *main.children(recursive=True)):
            with suppress(psutil.Error, FileNotFoundError, ProcessLookupError):
                lines = Path(f"/proc/{process.pid}/smaps_rollup").read_text().splitlines()
                kib = {line.split(":")[0]: line.split()[1] for line in lines[1:]}
                used = 1024.0 * int(kib["Anonymous"])
                total += 1024.0 * int(kib["Pss"])
                serves = process.pid == main.pid or "flwr-serverapp" in " ".join(process.cmdline())
                if serves:
                    own = max(own, used)
                else:
                    others.append(used)
        self.server, self.client = max(self.server, own), max(self.client, *others)
        self.together = max(self.together, total)


def run(engine: str, gigabytes: float) -> dict[str, Any]:
    """Return the figures of one run."""
    with tempfile.TemporaryDirectory(prefix="big-models-") as folder:
        path, out = Path(folder) / "big.toml", Path(folder) / "run"
        path.write_text(EXPERIMENT.format(numbers=int(gigabytes * GB / 4), engine=engine))
        started, peaks = time.monotonic(), Peaks()
        with (Path(folder) / "log").open("w+") as log:
            process = psutil.Popen(
                [sys.executable, "-m", "hqde_fl.simulations.console.entry", "run", str(path),
                 "--out", str(out)],
                cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
            )  # fmt: skip
            while process.poll() is None:
                with suppress(psutil.Error):
                    peaks.sample(process)
                time.sleep(0.1)
            log.seek(0)
            said = log.read().strip().splitlines()
        lines = read_lines(out / "rounds.jsonl")
    return {
        "engine": engine,
        "gigabytes": gigabytes,
        "status": process.returncode,
        "rounds": max(len(lines) - 1, 0),
        "kept": [line["kept"] for line in lines[1:]],
        "seconds": time.monotonic() - started,
        "round-seconds": lines[-1]["seconds"] if len(lines) > 1 else None,
        "server-gigabytes": peaks.server / GB,
        "client-gigabytes": peaks.client / GB,
        "all-gigabytes": peaks.together / GB,
        "last-line": said[-1] if said else "",
    }


def main() -> int:
    """Run the benchmark, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="1 GB only")
    parser.add_argument("--only", nargs="+", choices=ENGINES, default=ENGINES, metavar="ENGINE")
    parser.add_argument("--gb", nargs="+", type=float, default=SIZES, help="sizes in gigabytes")
    options = parser.parse_args()
    print(f"{'engine':8} {'GB':>5} {'rounds':>6} {'s a round':>9} {'server':>7} {'client':>7} "
          f"{'all':>6}  (GB)")  # fmt: skip
    rows, checks = [], []
    for gigabytes in options.gb[:1] if options.quick else options.gb:
        for engine in options.only:
            row = run(engine, gigabytes)
            rows.append(row)
            print(f"{engine:8} {gigabytes:5} {row['rounds']:6} {row['round-seconds'] or 0:9.1f} "
                  f"{row['server-gigabytes']:7.1f} {row['client-gigabytes']:7.1f} "
                  f"{row['all-gigabytes']:6.1f}  {row['last-line'][:100]}", flush=True)  # fmt: skip
            worked = row["status"] == 0 and row["kept"] == [1, 1]
            refused = row["rounds"] == 0 and row["last-line"].startswith("error: ")
            claim = f"{engine}, {gigabytes} GB: works, or is refused by one line"
            checks.append(check(claim, float(worked or refused), 1))
    return conclude(rows, checks, options.json, machine())


if __name__ == "__main__":
    sys.exit(main())
