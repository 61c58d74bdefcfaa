"""Measure the defences: what they cost, and in further parts what they hold against attacks.

Every part is a module of ``benchmarks/defence_parts`` with a function ``measure(quick)`` that
prints its table and returns its rows and its checks.

    python benchmarks/defences.py --json defences.json [--quick] [--only cost ...]
"""

from __future__ import annotations

import argparse
import importlib
import pkgutil
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks import defence_parts  # noqa: E402
from benchmarks.reporting import conclude, machine  # noqa: E402

SHARED = {"quick_loop"}
"""Modules that the parts use."""

PARTS = sorted({module.name for module in pkgutil.iter_modules(defence_parts.__path__)} - SHARED)
"""Names of the parts."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--json", type=Path, help="write machine, rows and checks to this file")
    parser.add_argument("--quick", action="store_true", help="fewer repeats, seeds and rounds")
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS, help="these parts alone")
    options = parser.parse_args()
    about = machine() | {"quick": options.quick}
    print(", ".join(f"{key}: {value}" for key, value in about.items()), flush=True)
    rows: list[dict[str, Any]] = []
    verdicts: list[dict[str, Any]] = []
    for name in options.only:
        print(f"\n{name}", flush=True)
        part = importlib.import_module(f"benchmarks.defence_parts.{name}")
        own_rows, own_verdicts = part.measure(options.quick)
        rows += [{"part": name, **row} for row in own_rows]
        verdicts += own_verdicts
    return conclude(rows, verdicts, options.json, about)


if __name__ == "__main__":
    sys.exit(main())
