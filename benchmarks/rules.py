"""Time every rule, Flower's, byzfl's, and the least that has to be read from memory.

Implementations that are compared are timed in turns, many times, in one process, so that other load
on the machine affects all of them alike; the figures are medians of wall-clock seconds.

* *floor*: for rules on distances the Gram matrix over tiles in float64, by the faster of NumPy's
  and torch's BLAS, and one ``w @ X``; for coordinate-wise ones a single read, ``X.sum()``. The Gram
  matrix in float32 is printed beside it.
* *rows*: ours on separate buffers, as clients' updates arrive, beside *Flower*'s bare arithmetic.
* *whole*: ``HQDEStrategy.aggregate_train`` on messages, with all its screening, beside *Flower*'s.
* *byzfl*: where it is installed (``pip install --no-deps byzfl``: of what it wants only SciPy is
  needed), on the same (n, d) tensor.

    python benchmarks/rules.py --json rules.json [--quick]
"""

from __future__ import annotations

import argparse
import ctypes
import gc
import importlib.util
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import psutil  # noqa: E402
import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from benchmarks.rivals.byzfl import byzfl_rules  # noqa: E402
from benchmarks.rivals.flower import flower_runs  # noqa: E402
from hqde_fl import rules as ours  # noqa: E402
from hqde_fl.errors import BoundError  # noqa: E402
from hqde_fl.rules.executor import ThreadedExecutor  # noqa: E402
from hqde_fl.rules.gram import inner_products  # noqa: E402
from hqde_fl.updates import TILE_BYTES, Updates  # noqa: E402

SHAPES = [(n, d) for d in (10**5, 10**6) for n in (10, 50, 100)]
OTHERS = "\n## Other benchmarks\n"
"""Heading of the part of the page that is written by hand."""
Run = Callable[[], object]


def every_rule(n: int) -> dict[str, ours.Aggregator]:
    """Return name -> one rule of each kind, mostly with f = n // 5 of n clients faulty."""
    f, few = n // 5, min(n // 5, 10)
    return {
        "Mean": ours.Mean(),
        "Median": ours.Median(),
        "TrimmedMean": ours.TrimmedMean(f),
        "Meamed": ours.Meamed(f),
        "GeometricMedian": ours.GeometricMedian(),
        "Krum": ours.Krum(f),
        "MultiKrum": ours.MultiKrum(f),
        "Bulyan": ours.Bulyan((n - 3) // 4 if n < 13 else f),
        "CenteredClipping": ours.CenteredClipping(),
        "MDA": ours.MDA(few),
        "MoNNA": ours.MoNNA(f),
        "CAF": ours.CAF(f),
        "DnC": ours.DnC(f),
        "SignGuard": ours.SignGuard(),
        "ByzantineFilter": ours.ByzantineFilter(),
        "NNM + GeometricMedian": ours.Chain(ours.NNM(f), ours.GeometricMedian()),
        "NNM + Median": ours.Chain(ours.NNM(f), ours.Median()),
        "ARC + NNM + Krum": ours.Chain(ours.ARC(f), ours.NNM(f), ours.Krum(f)),
        "Clipping + Median": ours.Chain(ours.Clipping(1.0), ours.Median()),
        "Bucketing + GeometricMedian": ours.Chain(ours.Bucketing(2), ours.GeometricMedian()),
        "Tree of medians": ours.Tree(ours.Median(), ours.Median(), 4),
    }


ON_DISTANCES = ("Krum", "MultiKrum", "GeometricMedian", "CenteredClipping", "NNM + GeometricMedian")
BY_COORDINATE = ("Median", "TrimmedMean", "Meamed")


def interleaved(runs: dict[str, Callable[[], Run]], repeats: int) -> dict[str, float]:
    """Return name -> median seconds of a run; each value of ``runs`` prepares one, untimed."""
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    for turn in range(repeats + (repeats > 1)):
        for name, prepare in runs.items():
            run = prepare()
            start = time.perf_counter()
            run()
            if turn or repeats == 1:  # the first of several is a warm-up
                seconds[name].append(time.perf_counter() - start)
            del run
    return {name: statistics.median(values) for name, values in seconds.items()}


def always(run: Run) -> Callable[[], Run]:
    return lambda: run


def floors(matrix: Tensor) -> dict[str, Callable[[], Run]]:
    """Return name -> preparation of an operation on the updates that a rule cannot do without."""
    updates, tiles = Updates(matrix), ThreadedExecutor()
    n, d = matrix.shape
    weights = torch.full((1, n), 1 / n)
    step = max(256, TILE_BYTES // (8 * n))

    def by_torch() -> Tensor:
        gram = torch.zeros(n, n, dtype=torch.float64)
        for start in range(0, d, step):
            tile = matrix[:, start : start + step].to(torch.float64)
            gram.addmm_(tile, tile.T)
        return gram

    return {
        "gram64-numpy": always(lambda: tiles.reduce(lambda t: inner_products(t.double()), updates)),
        "gram64-torch": always(by_torch),
        "gram32": always(lambda: matrix @ matrix.T),
        "sum": always(lambda: weights @ matrix),
        "read": always(matrix.sum),
    }


def time_shape(
    n: int, d: int, repeats: int, only: Iterable[str] | None, rivals: Iterable[str] | None
) -> list[dict[str, Any]]:
    """Time the rules on random (n, d) updates, print and return a row for each.

    ``only`` names the rules to time, None means all. ``rivals`` names the rules of byzfl to time
    beside them; only None means all of byzfl's and Flower's.
    """
    matrix = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    updates = Updates(matrix)
    flower = flower_runs(matrix) if n <= 100 and rivals is None else {}
    byzfl = byzfl_rules(n, d) if n <= 100 else {}
    byzfl = {k: v for k, v in byzfl.items() if rivals is None or k in rivals}
    rows = []
    for name, rule in every_rule(n).items():
        if only is not None and name not in only:
            continue
        runs: dict[str, Callable[[], Run]] = {
            "ours": always(lambda rule=rule: ours.aggregate(rule, updates))  # type: ignore[misc]
        }
        if name in ON_DISTANCES and repeats > 1:
            runs |= {k: v for k, v in floors(matrix).items() if k != "read"}
        elif name in BY_COORDINATE and repeats > 1:
            runs["read"] = floors(matrix)["read"]
        if name in flower:
            rows_apart = Updates(list(matrix.clone()))
            runs |= flower[name]
            runs["rows"] = always(
                lambda rule=rule, apart=rows_apart: ours.aggregate(rule, apart)  # type: ignore[misc]
            )
        if name in byzfl:
            theirs = byzfl[name]
            runs["byzfl"] = lambda theirs=theirs: lambda: theirs(matrix)  # type: ignore[misc]
        seconds = interleaved(runs, repeats)
        row: dict[str, Any] = {"rule": name, "n": n, "d": d, "ours": seconds["ours"]}
        row |= {
            k: seconds[k]
            for k in ("rows", "whole", "flower", "flower-bare", "byzfl")
            if k in seconds
        }
        if "gram32" in seconds:
            gram = min(seconds["gram64-numpy"], seconds["gram64-torch"])
            row["floor"] = gram + seconds["sum"]
            row["floor-float32"] = seconds["gram32"] + seconds["sum"]
        elif "read" in seconds:
            row["floor"] = seconds["read"]
        rows.append(row)
        print(line(row), flush=True)
    return rows


def line(row: dict[str, Any]) -> str:
    """Return a row as one line of the printed table, with blanks for figures that it lacks."""

    def cell(key: str, over: str = "") -> str:
        if key not in row:
            return " " * (17 if over else 9)
        return f"{row[key]:9.4f}" + (f" {row[key] / row[over]:6.1f}x" if over else "")

    floor = f"{row['ours'] / row['floor']:7.2f}" if "floor" in row else " " * 7
    return (
        f"{row['rule']:28s}{row['n']:5d}{row['d']:8d}{row['ours']:9.4f}{floor}"
        f"{cell('floor')}{cell('floor-float32')}{cell('byzfl', 'ours')}{cell('rows')}"
        f"{cell('flower-bare', 'rows')}{cell('whole')}{cell('flower', 'whole')}"
    )


HEADER = (
    f"{'rule':28s}{'n':>5s}{'d':>8s}{'ours':>9s}{'/floor':>7s}{'floor':>9s}{'f32':>9s}{'byzfl':>9s}"
    f"{'':8s}{'rows':>9s}{'Flower':>9s}{'':8s}{'whole':>9s}{'Flower':>9s}"
)


def measure_memory(n: int, d: int, only: list[str]) -> dict[str, float]:
    """Return name -> peak additional bytes of a rule, as a multiple of the updates' bytes.

    Only the rules in ``only`` are measured, all if it is empty.
    """
    process = psutil.Process()
    matrix = torch.randn(n, d, generator=torch.Generator().manual_seed(n))
    peaks = {}
    for name, rule in every_rule(n).items():
        if only and name not in only:
            continue
        ours.aggregate(rule, Updates(matrix[:, :20_000]))  # loads libraries and starts threads
        gc.collect()
        if sys.platform == "linux":
            ctypes.CDLL(None).malloc_trim(0)  # else allocations in free memory would not show
        before, peak, done = process.memory_info().rss, [0], threading.Event()

        def sample(peak: list[int] = peak, done: threading.Event = done) -> None:
            while not done.wait(0.001):
                peak[0] = max(peak[0], process.memory_info().rss)

        sampler = threading.Thread(target=sample)
        sampler.start()
        ours.aggregate(rule, Updates(matrix))
        done.set()
        sampler.join()
        peaks[name] = (max(peak[0], process.memory_info().rss) - before) / (4 * n * d)
    return peaks


def checks(rows: list[dict[str, Any]], memory: dict[str, float]) -> Iterator[dict[str, Any]]:
    """Yield the checks of speed, memory and errors that the documentation promises."""
    table = {(row["rule"], row["n"], row["d"]): row for row in rows}

    def ratio(
        claim: str, rule: str, n: int, other: str, bound: float, own: str = "ours"
    ) -> Iterator[dict[str, Any]]:
        row = table[rule, n, 10**6]
        if other in row:
            yield check(claim, row[other] / row[own], bound)

    for rule in ON_DISTANCES:
        row = table[rule, 100, 10**6]
        claim = f"{rule}, n=100, d=1e6: at most 1.5 x its floor"
        yield check(claim, row["ours"] / row["floor"], 1.5, upper=True)
    for rule, bound in (("GeometricMedian", 4.0), ("Krum", 2.0)):
        claim = f"{rule}, n=100, d=1e6: at least {bound:.0f} x faster than byzfl's"
        yield from ratio(claim, rule, 100, "byzfl", bound)
    for rule in ("Krum", "MultiKrum", "Median", "TrimmedMean"):
        claim = f"{rule}, n=50, d=1e6: at least 5 x faster than Flower's"
        yield from ratio(f"{claim}, arithmetic alone", rule, 50, "flower-bare", 5.0, "rows")
        yield from ratio(f"{claim}, aggregate_train whole", rule, 50, "flower", 5.0, "whole")
    for rule in ("Median", "TrimmedMean"):
        claim = f"{rule}, n=50, d=1e6, aggregate_train whole: at least 8 x faster than Flower's"
        yield from ratio(claim, rule, 50, "flower", 8.0, "whole")
    for rule in BY_COORDINATE:
        claim = f"{rule}, n=50, d=1e6: at least 5 x faster than byzfl's"
        yield from ratio(claim, rule, 50, "byzfl", 5.0)
    meamed, median = table["Meamed", 50, 10**6], table["Median", 50, 10**6]
    claim = "Meamed, n=50, d=1e6: at least 5 x faster than Flower's FedMedian, which it refines"
    yield check(claim, median["flower"] / meamed["ours"], 5.0)
    for rule, peak in memory.items():
        claim = f"{rule}, n=100, d=1e6: peak extra memory at most 0.25 x updates"
        yield check(claim, peak, 0.25, upper=True)
    for row in rows:
        if row["n"] == 1000:
            claim = f"{row['rule']}, n=1000, d=1e5: under 10 s"
            yield check(claim, row["ours"], 10.0, upper=True)
    for rule in (ours.MDA(200), ours.Bulyan(250)):
        try:
            ours.aggregate(rule, Updates(torch.zeros(1000, 10)))
            message = ""
        except BoundError as error:
            message = str(error)
        stated = "limit is" in message or "needs at least 1003" in message
        yield check(f"{rule}, n=1000: an error that states the limit", float(stated), 1.0)


def page(about: dict[str, Any], rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> str:
    """Return the results as the Markdown page docs/benchmarks.md."""
    keys = ("ours", "floor", "floor-float32", "byzfl", "rows", "flower-bare", "whole", "flower")
    titles = "ours | floor | f32 floor | byzfl | rows | Flower's arithmetic | whole | Flower"
    lines = [
        "# Benchmarks",
        "",
        "Made by `python benchmarks/rules.py "
        + ("--quick " if about["quick"] else "")
        + "--markdown docs/benchmarks.md` on: "
        + ", ".join(f"{key} {value}" for key, value in about.items())
        + ".",
        "",
        *(part.replace("\n", " ") for part in (__doc__ or "").split("\n\n")[1:2]),
        "",
        "[rules.md](rules.md#speed) explains the figures that miss their bound; the engines' "
        "figures are in [engines.md](engines.md), the codecs' in [codecs.md](codecs.md), the "
        "selectors' in [selection.md](selection.md), the monitor's in "
        "[monitoring.md](monitoring.md), those of QUBO in [quantum.md](quantum.md), those of "
        "privacy in [privacy.md](privacy.md).",
        "",
        "## Claims",
        "",
        "| claim | found | bound | holds |",
        "|---|---:|---:|---|",
        *(
            f"| {v['claim']} | {v['value']:.4g} | {v['bound']} "
            f"| {'yes' if v['holds'] else '**no**'} |"
            for v in verdicts
        ),
        "",
        "## Seconds",
        "",
        f"| rule | n | d | {titles} | peak extra / updates |",
        "|---|---:|---:" + "|---:" * 9 + "|",
    ]
    for row in rows:
        cells = [f"{row[key]:.4f}" if key in row else "" for key in keys]
        extra = f"{row['peak-extra']:.2f}" if "peak-extra" in row else ""
        start = f"| {row['rule']} | {row['n']} | {row['d']} | "
        lines.append(start + " | ".join(cells) + f" | {extra} |")
    return "\n".join(lines) + "\n"


def others(path: Path) -> str:
    """Return the part of an earlier page about other benchmarks, which is kept."""
    _, heading, text = (path.read_text() if path.exists() else "").partition(OTHERS)
    return heading + text


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument(
        "--quick", action="store_true", help="only the promised figures, with fewer repeats"
    )
    parser.add_argument("--markdown", type=Path, help="write the same as a page")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory is not None:
        print(json.dumps(measure_memory(100, 10**6, json.loads(options.memory))))
        return 0
    byzfl = importlib.util.find_spec("byzfl") is not None
    about = machine() | {"byzfl": byzfl, "quick": options.quick}
    print(", ".join(f"{key}: {value}" for key, value in about.items()))
    if not byzfl:
        print("byzfl is not installed (pip install --no-deps byzfl): its columns are left out")
    print("seconds, medians; x: times as long as ours\n" + HEADER, flush=True)
    rows: list[dict[str, Any]] = []
    if options.quick:
        rows += time_shape(50, 10**6, 2, ("Krum", "MultiKrum", *BY_COORDINATE), None)
        rows += time_shape(100, 10**6, 3, ON_DISTANCES, ("GeometricMedian", "Krum"))
        rows += time_shape(1000, 10**5, 1, None, ())
    else:
        for n, d in SHAPES:
            rows += time_shape(n, d, 7 if d < 10**6 else 5, None, None)
        rows += time_shape(1000, 10**5, 3, None, ())
    some = [*ON_DISTANCES, *BY_COORDINATE, "Bulyan", "ByzantineFilter"] if options.quick else []
    command = [sys.executable, __file__, "--memory", json.dumps(some)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    memory = json.loads(output.splitlines()[-1])
    verdicts = list(checks(rows, memory))
    for row in rows:
        if (row["n"], row["d"]) == (100, 10**6) and row["rule"] in memory:
            row["peak-extra"] = memory[row["rule"]]
    status = conclude(rows, verdicts, options.json, about)
    if options.markdown:
        options.markdown.write_text(page(about, rows, verdicts) + others(options.markdown))
    return status


if __name__ == "__main__":
    sys.exit(main())
