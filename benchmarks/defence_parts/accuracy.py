"""The filter and the rule without f against copies, flips, patience, sideways pushes, wrong labels.

In the quick loop, on seeds that no setting was chosen on.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from typing import Any

import numpy as np
import torch

from benchmarks.defence_parts.quick_loop import Setting, Trace, run
from benchmarks.reporting import check
from hqde_fl.rules import Aggregator, ByzantineFilter, Mean, Median, Robust
from hqde_fl.simulations.attacks.base import Attack
from hqde_fl.simulations.attacks.constant_direction import ConstantDirection
from hqde_fl.simulations.attacks.copycat import Copycat
from hqde_fl.simulations.attacks.sideways import Sideways

SEEDS = (301, 302, 303, 304, 305)
ALPHAS = (0.1, 0.5, 0.0)
RULES: dict[str, Aggregator] = {
    "filter": ByzantineFilter(),
    "robust": Robust(),
    "mean": Mean(),
    "median": Median(),
}
ATTACKS: dict[str, Attack | float | str] = {
    "none": "",
    "copies": Copycat(),
    "noisy copies": Copycat(0.2),
    "flip x1": 1.0,
    "flip x.5": 0.5,
    "constant": ConstantDirection(),
    "sideways": Sideways(noise=1.0),
    "labels": "labels",
}
Key = tuple[str, str, int, float, int]


def settings(quick: bool) -> list[Key]:
    """Return (rule, attack, f, alpha, n) of every row of the table."""
    ours, keys = ("filter", "robust"), []
    for alpha in ALPHAS:
        for rule in (*ours, "mean"):
            keys.append((rule, "none", 0, alpha, 10))
        for rule in ours:
            for attack in ("copies", "noisy copies", "flip x1", "flip x.5", "constant"):
                for f in (3,) if quick or "copies" in attack else (1, 3):
                    keys.append((rule, attack, f, alpha, 10))
            for n in () if quick else (4, 5, 20, 40):
                keys.append((rule, "none", 0, alpha, n))
    keys += [(rule, "sideways", 3, 0.0, 10) for rule in (*ours, "median")]
    keys += [(rule, "labels", 3, 0.1, 10) for rule in (*ours, "mean")]
    return keys


def trace(key: Key, seed: int) -> Trace:
    """Run one setting with one seed on one thread."""
    torch.set_num_threads(1)
    rule, attack, f, alpha, n = key
    return run(Setting(RULES[rule], ATTACKS[attack], f, n, alpha, seed))


def measure(quick: bool) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Run every setting on every seed; return rows and checks."""
    keys, seeds = settings(quick), SEEDS[:2] if quick else SEEDS
    jobs = [(key, seed) for key in keys for seed in seeds]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        traces = list(pool.map(trace, *zip(*jobs, strict=True), chunksize=2))
    of: dict[Key, list[Trace]] = {key: [] for key in keys}
    for (key, _), measured in zip(jobs, traces, strict=True):
        of[key].append(measured)
    rows = [_row(key, found) for key, found in of.items()]
    for row in rows:
        print(
            f"{row['rule']:8s}{row['attack']:14s} f={row['f']} n={row['n']:<3d}"
            f"alpha={row['alpha'] or 'iid'!s:5s} accuracy {row['accuracy']:.3f}"
            f" +- {row['interval']:.3f}"
            f"  recall {row['recall']:.2f}  precision {row['precision']:.2f}"
            f"  false {row['false']:.4f}  influence {row['influence']:.2f}"
            f"  displacement {row['displacement']:.2f}",
            flush=True,
        )
    return rows, _verdicts({_key(row): row for row in rows})


def _key(row: dict[str, Any]) -> Key:
    return row["rule"], row["attack"], row["f"], row["alpha"], row["n"]


def _row(key: Key, traces: list[Trace]) -> dict[str, Any]:
    """Return the means over seeds: accuracy of the last rounds with its 95 % interval, and others.

    Recall and precision are those from round 5 on, influence that from round 10 on, false the
    filtered part of all honest updates.
    """

    def total(number: Callable[[Trace], float]) -> float:
        return float(sum(number(t) for t in traces))

    accuracy = np.array([t.final() for t in traces])
    hits = total(lambda t: sum(t.hits[4:]))
    found = hits + total(lambda t: sum(t.false[4:]))
    faulty = total(lambda t: sum(t.faulty[4:]))
    quantile = {2: 12.71, 5: 2.776}[len(traces)]
    return {
        **dict(zip(("rule", "attack", "f", "alpha", "n"), key, strict=True)),
        "accuracy": float(accuracy.mean()),
        "interval": float(quantile * accuracy.std(ddof=1) / len(accuracy) ** 0.5),
        "recall": hits / faulty if faulty else 0.0,
        "precision": hits / found if found else 1.0,
        "false": total(lambda t: sum(t.false)) / total(lambda t: sum(t.honest)),
        "influence": float(np.mean([t.influence[9:] for t in traces])),
        "displacement": float(np.mean([t.displacement for t in traces])),
    }


def _verdicts(rows: dict[Key, dict[str, Any]]) -> list[dict[str, Any]]:
    """Return a check for each figure."""
    verdicts = []
    for (rule, attack, f, alpha, n), row in rows.items():
        if rule not in ("filter", "robust"):
            continue
        where = f"{rule}, {attack}, f={f}, n={n}, {f'Dirichlet {alpha}' if alpha else 'iid'}"
        clean = rows[rule, "none", 0, alpha, 10]["accuracy"]
        if attack == "none":
            verdicts.append(check(f"{where}: false positives", row["false"], 0.01, upper=True))
            if n == 10:
                least = rows["mean", "none", 0, alpha, 10]["accuracy"] - 0.005
                verdicts.append(check(f"{where}: accuracy, mean - .005", row["accuracy"], least))
        elif "copies" in attack:
            least = 0.92 if alpha == 0.5 else clean - 0.03
            verdicts.append(check(f"{where}: accuracy", row["accuracy"], least))
        elif "flip" in attack:
            verdicts.append(check(f"{where}: recall from round 5 on", row["recall"], 0.9))
            verdicts.append(check(f"{where}: precision", row["precision"], 0.95))
        elif attack == "constant":
            claim = f"{where}: influence from round 10 on, in fair shares"
            verdicts.append(check(claim, row["influence"], 0.5, upper=True))
        elif attack == "sideways":
            most = rows["median", attack, f, alpha, n]["displacement"]
            claim = f"{where}: displacement, the median's at most"
            verdicts.append(check(claim, row["displacement"], most, upper=True))
        elif attack == "labels":
            least = rows["mean", attack, f, alpha, n]["accuracy"] - 0.005
            verdicts.append(check(f"{where}: accuracy, mean - .005", row["accuracy"], least))
    return verdicts
