"""Time every rule, Flower's, byzfl's, and the least that has to be read from memory.

Implementations that are compared are timed in turns, many times, in one process, so that other load
on the machine affects all of them alike; the figures are medians of wall-clock seconds.

* *floor*: what no implementation can do without. For rules on distances one Gram matrix in float32
  (``syrk``), of the whole matrix or tile by tile, whichever is faster; for coordinate-wise ones a
  single read, ``X.sum()``. *gram64*: NumPy's ``X @ X.T`` in float64.
* *rows*: ours on separate buffers, as clients' updates arrive, beside *Flower*'s bare arithmetic.
* *whole*: ``HQDEStrategy.aggregate_train`` on messages, with all its screening, beside *Flower*'s.
* *byzfl*: where it is installed (``pip install --no-deps byzfl``: of what it wants only SciPy is
  needed), on the same (n, d) tensor.

* *trained*: updates of clients that have trained a perceptron on few classes each (Dirichlet 0.1);
  all others are independent normal numbers.

With n = 1000 and d = 1e6 (``--quick``: 2e5) rules on distances and Gram matrices take turns; that
part needs 12 GB of memory.

    python benchmarks/rules.py --json rules.json [--quick] [--only PART ...]
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
from benchmarks.rule_parts.floors import floors  # noqa: E402
from benchmarks.rule_parts.trained import trained_updates  # noqa: E402
from hqde_fl import rules as ours  # noqa: E402
from hqde_fl.errors import BoundError  # noqa: E402
from hqde_fl.updates import Updates  # noqa: E402

SHAPES = [(n, d) for d in (10**5, 10**6) for n in (10, 50, 100)]
MANY = 1000
"""Clients of the large parts."""
PARTS = ("shapes", "thousand", "large", "trained", "memory")
"""What ``--only`` takes: all shapes up to n = 100, n = 1000 with d = 1e5, and as the text says."""
OTHERS = "\n## Secure aggregation\n"
"""Heading with which the part of the page begins that is written by hand."""
COLUMNS = """\
n updates of d numbers; an empty cell was not measured.

| column | seconds of |
|---|---|
| ours | the rule of hqde-fl on one (n, d) matrix |
| floor | what no implementation can do without: a Gram matrix in float32 for rules on distances, \
one read of the matrix for others |
| gram64 | NumPy's Gram matrix in float64, `X @ X.T` |
| byzfl | byzfl's rule on the same matrix |
| rows | ours on a buffer for each client, as updates arrive |
| Flower's arithmetic | Flower's rule on the same, without its messages |
| whole | `HQDEStrategy.aggregate_train` on messages, with all screening |
| Flower | Flower's `aggregate_train` on the same messages |
| peak extra / updates | not seconds: the most memory beyond the updates, as a part of theirs |

"(trained)": updates of clients that have trained; all others are independent normal numbers."""
"""Explanation of the table of seconds."""
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
TOGETHER = ("GeometricMedian", "MultiKrum", "NNM + GeometricMedian", "Krum", "ByzantineFilter")
TRAINED = " (trained)"
"""Ends the names of rules that are timed on trained updates."""


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
        if name in (*ON_DISTANCES, *BY_COORDINATE) and repeats > 1:
            runs |= floors(matrix, distances=name in ON_DISTANCES)
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
        rows.append(as_row(name, n, d, seconds, seconds["ours"]))
        print(line(rows[-1]), flush=True)
    return rows


def as_row(name: str, n: int, d: int, seconds: dict[str, float], own: float) -> dict[str, Any]:
    """Return a rule's row of the table, given the seconds of all that was timed beside it."""
    row: dict[str, Any] = {"rule": name, "n": n, "d": d, "ours": own}
    others = ("rows", "whole", "flower", "flower-bare", "byzfl", "gram64")
    row |= {key: seconds[key] for key in others if key in seconds}
    floor = [seconds[key] for key in ("read", "syrk32", "syrk32-tiles") if key in seconds]
    return row | ({"floor": min(floor)} if floor else {})


def time_together(
    matrix: Tensor, names: Iterable[str], repeats: int, of: str = ""
) -> list[dict[str, Any]]:
    """Time rules on distances and Gram matrices in turns, print and return a row for each rule.

    ``of`` says whose updates they are, in the rules' names.
    """
    n, d = matrix.shape
    updates, rules = Updates(matrix), every_rule(n)
    grams = floors(matrix, distances=True)
    if of:
        grams.pop("gram64", None)
    runs = grams | {
        name: always(lambda rule=rules[name]: ours.aggregate(rule, updates))  # type: ignore[misc]
        for name in names
    }
    seconds = interleaved(runs, repeats)
    timed = {key: seconds[key] for key in grams}
    rows = [as_row(f"{name}{of}", n, d, timed, seconds[name]) for name in names]
    for row in rows:
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
        f"{cell('floor')}{cell('gram64')}{cell('byzfl', 'ours')}{cell('rows')}"
        f"{cell('flower-bare', 'rows')}{cell('whole')}{cell('flower', 'whole')}"
    )


HEADER = (
    f"{'rule':28s}{'n':>5s}{'d':>8s}{'ours':>9s}{'/floor':>7s}{'floor':>9s}{'gram64':>9s}{'byzfl':>9s}"
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
    """Yield the checks of speed, memory and errors that the documentation promises.

    Figures that were not measured have none.
    """
    table = {(row["rule"], row["n"], row["d"]): row for row in rows}

    def most(rule: str, n: int, d: int, other: str, bound: float, name: str) -> Iterator[Any]:
        row = table.get((rule, n, d), {})
        if other in row:
            claim = f"{rule}, n={n}, d={d:.3g}: at most {bound:.1f} x {name}"
            yield check(claim, row["ours"] / row[other], bound, upper=True)

    def faster(
        rule: str, n: int, other: str, bound: float, name: str, own: str = "ours"
    ) -> Iterator[Any]:
        row = table.get((rule, n, 10**6), {})
        if other in row:
            claim = f"{rule}, n={n}, d=1e6: at least {bound:.0f} x faster than {name}"
            yield check(claim, row[other] / row[own], bound)

    gram64, syrk32 = "one float64 Gram matrix", "one float32 Gram matrix"
    for rule in ON_DISTANCES:
        yield from most(rule, 100, 10**6, "gram64", 1.5, gram64)
    for name, n, d in table:
        rule = name.removesuffix(TRAINED)
        if n == MANY and d > 10**5 and name != rule:
            yield from most(name, n, d, "floor", 1.2, syrk32)
        elif n == MANY and d > 10**5 and rule in ON_DISTANCES:
            yield from most(name, n, d, "gram64", 1.2, gram64)
        elif n == MANY and d > 10**5:
            ratio = table[name, n, d]["ours"] / table["GeometricMedian", n, d]["ours"]
            claim = f"{name}, n={n}, d={d:.3g}: at most 1.4 x GeometricMedian"
            yield check(claim, ratio, 1.4, upper=True)
    for rule, bound in (("GeometricMedian", 4.0), ("Krum", 2.0)):
        yield from faster(rule, 100, "byzfl", bound, "byzfl's")
    for rule in ("Krum", "MultiKrum", "Median", "TrimmedMean"):
        yield from faster(rule, 50, "flower-bare", 5.0, "Flower's arithmetic alone", "rows")
        bound = 8.0 if rule in BY_COORDINATE else 5.0
        yield from faster(rule, 50, "flower", bound, "Flower's aggregate_train", "whole")
    for rule in BY_COORDINATE:
        yield from faster(rule, 50, "byzfl", 5.0, "byzfl's")
    meamed, median = table.get(("Meamed", 50, 10**6)), table.get(("Median", 50, 10**6))
    if meamed and median and "flower" in median:
        claim = "Meamed, n=50, d=1e6: at least 5 x faster than Flower's FedMedian, which it refines"
        yield check(claim, median["flower"] / meamed["ours"], 5.0)
    for rule, peak in memory.items():
        claim = f"{rule}, n=100, d=1e6: peak extra memory at most 0.25 x updates"
        yield check(claim, peak, 0.25, upper=True)
    for row in rows:
        if (row["n"], row["d"]) == (MANY, 10**5):
            claim = f"{row['rule']}, n=1000, d=1e5: under 10 s"
            yield check(claim, row["ours"], 10.0, upper=True)
    for bounded in (ours.MDA(200), ours.Bulyan(250)):
        try:
            ours.aggregate(bounded, Updates(torch.zeros(1000, 10)))
            message = ""
        except BoundError as error:
            message = str(error)
        stated = "limit is" in message or "needs at least 1003" in message
        yield check(f"{bounded}, n=1000: an error that states the limit", float(stated), 1.0)


def page(about: dict[str, Any], rows: list[dict[str, Any]], verdicts: list[dict[str, Any]]) -> str:
    """Return the results as the Markdown page docs/benchmarks.md."""
    keys = ("ours", "floor", "gram64", "byzfl", "rows", "flower-bare", "whole", "flower")
    titles = "ours | floor | gram64 | byzfl | rows | Flower's arithmetic | whole | Flower"
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
        "[Speed](rules.md#speed) explains the figures that miss their bound; the engines' "
        "figures are in [Engines](engines.md), the codecs' in [Codecs](codecs.md), the "
        "selectors' in [Which clients train in a round](selection.md), the monitor's in "
        "[Monitoring](monitoring.md), those of QUBO in [Quantum-inspired aggregation](quantum.md), "
        "those of privacy in [Differential privacy](privacy.md).",
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
        COLUMNS,
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


def measure(part: str, quick: bool) -> list[dict[str, Any]]:
    """Return the rows of a part; none of ``memory``, which has no seconds."""
    rows: list[dict[str, Any]] = []
    if part == "shapes" and quick:
        rows += time_shape(50, 10**6, 2, ("Krum", "MultiKrum", *BY_COORDINATE), None)
        rows += time_shape(100, 10**6, 3, ON_DISTANCES, ("GeometricMedian", "Krum"))
    elif part == "shapes":
        for n, d in SHAPES:
            rows += time_shape(n, d, 7 if d < 10**6 else 5, None, None)
    elif part == "thousand":
        rows += time_shape(MANY, 10**5, 1 if quick else 3, None, ())
    d, repeats = (2 * 10**5, 1) if quick else (10**6, 3)
    if part == "large":
        matrix = torch.randn(MANY, d, generator=torch.Generator().manual_seed(MANY))
        rows += time_together(matrix, TOGETHER, repeats)
    elif part == "trained":
        rows += time_together(trained_updates(MANY, d), ("Krum",), repeats, TRAINED)
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument(
        "--quick", action="store_true", help="only the promised figures, with fewer repeats"
    )
    parser.add_argument("--markdown", type=Path, help="write the same as a page")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, metavar="PART")
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
    for part in options.only:
        started = time.monotonic()
        rows += measure(part, options.quick)
        print(f"-- {part}: {time.monotonic() - started:.0f} s", flush=True)
    memory: dict[str, float] = {}
    if "memory" in options.only:
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
