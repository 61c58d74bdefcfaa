"""Compare all installed peers with ours, or write the vectors: ``python -m tests.conformance``."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import multiprocessing
import os
import sys
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.reporting import write_between_marks
from tests.conformance.comparison import OURS, UNEXPLAINED, Tally, compare_one
from tests.conformance.peers import installed_pairs
from tests.conformance.vector_files import write_all

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"


def table(tallies: list[Tally]) -> str:
    """Return the pairs as a Markdown table."""
    lines = ["| subject | peer | cases | agreed | disagreed, and why |", "|---|---|---:|---:|---|"]
    for tally in tallies:
        reasons = sorted(tally.reasons.items(), key=lambda item: -item[1])
        why = "; ".join(f"{count:,}: {reason}" for reason, count in reasons)
        lines.append(
            f"| {tally.subject} | {tally.peer} | {tally.cases:,} | {tally.agreed:,} | {why} |"
        )
    return "\n".join(lines) + "\n"


def as_json(tally: Tally) -> dict[str, Any]:
    """Return a tally with a minimal case for each reason."""
    minimal = {
        reason: {
            "index": index,
            "f": case.f,
            "parameter": case.parameter,
            "kind": case.kind,
            "dtype": case.rows.dtype.name,
            "rows": case.rows.tolist(),
        }
        for reason, (index, case) in tally.minimal.items()
    }
    return {
        "subject": tally.subject,
        "peer": tally.peer,
        "cases": tally.cases,
        "agreed": tally.agreed,
        "reasons": tally.reasons,
        "minimal": minimal,
    }


def main() -> int:
    """Return 1 if a disagreement is unexplained or ours departs from a paper."""
    parser = argparse.ArgumentParser(prog="python -m tests.conformance")
    parser.add_argument("--cases", type=int, default=10_000, help="cases of each pair")
    parser.add_argument("--only", default="", help="subjects and peers that contain this text")
    parser.add_argument("--json", type=Path, help="file for the counts and the minimal cases")
    parser.add_argument("--page", action="store_true", help="put the table into the page")
    parser.add_argument("--write-vectors", action="store_true", help="write them and end")
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    options = parser.parse_args()
    if options.write_vectors:
        write_all()
        return 0
    chosen = [
        index
        for index, pair in enumerate(installed_pairs())
        if options.only in f"{pair.subject} {pair.peer}"
    ]
    tallies = []
    with multiprocessing.get_context("spawn").Pool(options.processes) as pool:
        for tally in pool.imap(partial(compare_one, cases=options.cases), chosen):
            tallies.append(tally)
            print(table([tally]).splitlines()[-1], flush=True)
            if options.json:  # after each pair, so that what is done is kept
                rows = [as_json(tally) for tally in tallies]
                options.json.write_text(json.dumps({"pairs": rows}, indent=1) + "\n")
    peers = sorted({tally.peer.split()[0].split(".")[0] for tally in tallies})
    versions = ", ".join(f"{peer} {importlib.metadata.version(peer)}" for peer in peers)
    if options.page:
        lines = f"{len(tallies)} pairs; {versions}.\n\n{table(tallies)}"
        write_between_marks(PAGE, {"table": f"\n{lines}"})
    bad = sum(
        count
        for tally in tallies
        for reason, count in tally.reasons.items()
        if UNEXPLAINED in reason or OURS in reason
    )
    print(f"{len(tallies)} pairs ({versions}), {bad} cases unexplained or ours at fault")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
