"""Compare the worst attack that a search finds for a rule with the fixed attacks, rule by rule.

Digits, 10 clients of which 2 attack, Dirichlet 0.5, 20 rounds; the search has some minutes on all
cores for each rule. It chooses on two seeds; the figures are those of five others. Fixed attacks
are those of the search's families with fixed parameters, *plain* those of them that do not search
through the rule themselves. A search goes on where it was interrupted, if `--out` is the same
directory.

    python benchmarks/attack_search.py --json attack_search.json [--quick] [--only krum median]
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from statistics import fmean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from benchmarks.reporting import check, conclude, machine  # noqa: E402
from hqde_fl.simulations.attack_search.command import summary  # noqa: E402
from hqde_fl.simulations.attack_search.search import SearchSettings, attack_search  # noqa: E402
from hqde_fl.simulations.attack_search.setting import searched_experiment  # noqa: E402

RULES = {
    "mean": "mean",
    "median": "median",
    "trimmed-mean": "trimmed-mean",
    "krum": "krum",
    "multi-krum": "multi-krum",
    "geometric-median": "geometric-median",
    "centered-clipping": "centered-clipping",
    "nnm + geometric-median": '{ name = "chain", rules = [{ name = "nnm", f = 2 }, '
    '{ name = "geometric-median" }] }',
    "byzantine-filter": "byzantine-filter",
    "robust": "robust",
}
ATTACKERS = 2
DROP, RULES_WITH_DROP = 0.05, 8
"""Metric below the worst fixed attack that a search is to find, for so many of the ten rules."""
ADAPTIVE = ("optimal-alie", "optimal-ipm", "evasive")
"""Fixed attacks that search themselves, through the rule, in every round."""
QUICK = ("median", "robust")


def searched(name: str, settings: SearchSettings, out: Path) -> dict[str, Any]:
    """Return a rule's row of the table."""
    experiment = searched_experiment(RULES[name], None, (), ATTACKERS)
    started = time.monotonic()
    outcome = attack_search(experiment, ATTACKERS, out, settings, jobs=os.cpu_count() or 1)
    difference, worst = outcome.difference, outcome.fixed[0]
    plain = next(each for each in outcome.fixed if not each.label.startswith(ADAPTIVE))
    assert difference is not None  # an accuracy is finite
    print(f"{name:<24}{fmean(outcome.clean):7.3f}{fmean(plain.held_out):9.3f}", end="")
    print(f"{fmean(worst.held_out):9.3f}", end="")
    print(f"{fmean(outcome.found.held_out):9.3f}{difference.mean:+9.3f}  {outcome.found.label}")
    print(
        f"    worst fixed: {worst.label}; " + "; ".join(summary(outcome, settings.held_out_seeds))
    )
    return {
        "rule": name,
        "clean": fmean(outcome.clean),
        "worst fixed": worst.label,
        "fixed": fmean(worst.held_out),
        "worst plain": plain.label,
        "plain": fmean(plain.held_out),
        "found": outcome.found.label,
        "left": fmean(outcome.found.held_out),
        "difference": difference.mean,
        "interval": difference.interval,
        "candidates": outcome.candidates,
        "failed": outcome.failed,
        "minutes": (time.monotonic() - started) / 60,
    }


def main() -> int:
    """Search for each rule, print the table, write the JSON file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", type=Path, help="where to write the figures")
    parser.add_argument("--quick", action="store_true", help="two rules, half a minute each")
    parser.add_argument("--minutes", type=float, default=15.0, help="of search for a rule")
    parser.add_argument("--budget", type=int, default=10_000, help="candidates for a rule, at most")
    parser.add_argument("--only", nargs="+", choices=RULES, help="only these rules")
    parser.add_argument("--out", type=Path, help="directory of the searches, to go on with them")
    options = parser.parse_args()
    logging.disable(logging.WARNING)
    settings = SearchSettings(budget=options.budget, minutes=options.minutes)
    if options.quick:
        settings = SearchSettings(12, 0.5, training_seeds=(1,), held_out_seeds=(11, 12))
    names = options.only or (QUICK if options.quick else tuple(RULES))
    print(f"{'rule':<24}{'clean':>7}{'plain':>9}{'fixed':>9}{'found':>9}{'':>9}  attack found")
    with ExitStack() as stack:
        out = options.out or Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rows = [searched(name, settings, out / name.replace(" ", "")) for name in names]
    dropped = sum(row["difference"] <= -DROP for row in rows)
    bound = min(RULES_WITH_DROP, round(RULES_WITH_DROP / len(RULES) * len(rows)))
    below_plain = sum(row["left"] - row["plain"] <= -DROP for row in rows)
    which = f"rules, of {len(rows)}, with an attack {DROP} worse than"
    checks = [
        check(f"{which} the worst fixed one", dropped, bound),
        check(f"{which} the worst fixed one that does not search itself", below_plain, bound),
    ]
    by_rule = {row["rule"]: row["clean"] - row["left"] for row in rows}
    if "robust" in by_rule and len(by_rule) > 1:
        least = min(loss for name, loss in by_rule.items() if name != "robust")
        checks.append(
            check("robust: loss under its worst attack", by_rule["robust"], least, upper=True)
        )
    return conclude(rows, checks, options.json, {**machine(), "quick": options.quick})


if __name__ == "__main__":
    sys.exit(main())
