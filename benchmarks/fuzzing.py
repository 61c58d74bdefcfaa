"""Fuzz every reader of bytes from elsewhere, guided by the coverage of hqde-fl's own code.

Each target of ``tests/fuzzing/targets.py`` runs under Atheris (``pip install hqde-fl[fuzz]``) in a
process of its own, from its seeds and the inputs in ``tests/fuzzing/corpus``. Then every input that
was kept is read once more, and the memory that Python and NumPy hold at most is compared with the
bound: four times the input and 16 MiB. With ``--keep`` the smallest set of inputs that covers as
much replaces the corpus.

    python benchmarks/fuzzing.py --json fuzzing.json [--quick] [--minutes 60] [--only TARGET ...]
"""

from __future__ import annotations

import argparse
import importlib.util
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.audit.peak_memory import memory_bound  # noqa: E402
from tests.fuzzing.targets import CORPUS, TARGETS, kept_inputs, peak_memory  # noqa: E402

QUICK_SECONDS = 15.0
MAX_INPUT = 1 << 14
"""Bytes of an input, at most; for uploads the catalogue has the larger ones."""
MEMORY_MB = 4096
"""Memory of a fuzzing process, at most, with its imports: more is a crash."""
SLOW_SECONDS = 10
"""Seconds for one input, at most: more is a crash."""
PROCESS_SECONDS = 120.0
"""Time for which a process fuzzes: Atheris's own memory grows by .7 kB an execution or so."""


def main() -> int:
    """Fuzz the targets, print the table, and return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_SECONDS:g} s a target")
    parser.add_argument("--minutes", type=float, default=60.0, help="for all targets together")
    parser.add_argument(
        "--only", nargs="+", choices=TARGETS, default=list(TARGETS), metavar="TARGET"
    )
    parser.add_argument("--keep", action="store_true", help="replace the corpus by what was found")
    options = parser.parse_args()
    if importlib.util.find_spec("atheris") is None:
        parser.error("Atheris is missing: pip install hqde-fl[fuzz]")
    seconds = QUICK_SECONDS if options.quick else 60 * options.minutes / len(options.only)
    print(f"{'target':12} {'executions':>11} {'inputs':>7} {'covered':>8} {'crashes':>8} "
          f"{'peak KiB':>9}")  # fmt: skip
    rows = []
    for name in options.only:
        row = fuzz(name, seconds, options.keep)
        rows.append(row)
        print(f"{name:12} {row['executions']:11,} {row['inputs']:7} {row['covered']:8} "
              f"{row['crashes']:8} {row['peak-bytes'] / 1024:9.0f}", flush=True)  # fmt: skip
    checks = [
        check("crashes of all targets", sum(r["crashes"] for r in rows), 0, upper=True),
        check(
            "largest memory for one input / its bound (4 x its bytes + 16 MiB)",
            max(row["peak-ratio"] for row in rows), 1, upper=True,
        ),
    ]  # fmt: skip
    return conclude(rows, checks, options.json, machine())


def fuzz(name: str, seconds: float, keep: bool) -> dict[str, Any]:
    """Return the figures of one target."""
    target = TARGETS[name]
    with tempfile.TemporaryDirectory(prefix="fuzzing-") as folder:
        inputs, found, least = (Path(folder) / part for part in ("inputs", "found", "least"))
        for path in (inputs, found, least):
            path.mkdir()
        seeds = dict.fromkeys(target.seeds())
        for number, data in enumerate([*seeds, *kept_inputs(name)]):
            (inputs / str(number)).write_bytes(data)
        limits = [f"-max_len={MAX_INPUT}", f"-rss_limit_mb={MEMORY_MB}", f"-timeout={SLOW_SECONDS}"]
        executions, left = 0, seconds
        while left > 0 and not any(found.iterdir()):
            log = atheris(
                name, inputs, f"-artifact_prefix={found}/", "-print_final_stats=1",
                f"-max_total_time={min(left, PROCESS_SECONDS):g}", *limits,
            )  # fmt: skip
            executed = re.search(r"number_of_executed_units: *(\d+)", log)
            if executed is None and not any(found.iterdir()):
                raise RuntimeError(f"{name} was not fuzzed:\n{log[-3000:]}")
            executions += int(executed[1]) if executed else 0
            left -= PROCESS_SECONDS
        for path in found.iterdir():
            shutil.copy(path, ROOT / f"fuzzing-{name}-{path.name}")
            print(f"crash: fuzzing-{name}-{path.name}\n{log[-3000:]}", file=sys.stderr)
        if keep:
            atheris(name, least, str(inputs), "-merge=1", *limits)
            for path in least.iterdir():
                if path.read_bytes() in seeds:
                    path.unlink()
            shutil.rmtree(CORPUS / name, ignore_errors=True)
            shutil.copytree(least, CORPUS / name)
        contents = [path.read_bytes() for path in inputs.iterdir()]
        crashes = len(list(found.iterdir()))
    peaks = [] if crashes else [(peak_memory(target, data), len(data)) for data in contents]
    covered = re.findall(r"cov: (\d+)", log)
    return {
        "target": name,
        "seconds": seconds,
        "executions": executions,
        "inputs": len(contents),
        "covered": int(covered[-1]) if covered else 0,
        "crashes": crashes,
        "peak-bytes": max((peak for peak, _ in peaks), default=0),
        "peak-ratio": max((peak / memory_bound(size) for peak, size in peaks), default=0.0),
    }


def atheris(name: str, corpus: Path, *arguments: str) -> str:
    """Run a target under Atheris, and return what it prints."""
    program = corpus.parent / "program"
    words = [sys.executable, "-m", "tests.fuzzing.fuzz", str(program), name]
    program.write_text(f'#!/bin/sh\nexec {shlex.join(words)} "$@"\n')
    program.chmod(0o700)
    command = [str(program), str(corpus), *arguments]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False
    )
    return done.stdout.decode(errors="replace")


if __name__ == "__main__":
    sys.exit(main())
