"""The quantum-inspired rules against classical rules, with and without attackers."""

from __future__ import annotations

import statistics
from typing import Any

from benchmarks.learning.data import have_fashion, setting
from benchmarks.learning.federation import ATTACKED, FAULTY, Attack, accuracy_after
from benchmarks.reporting import check
from hqde_fl.rules import (
    NNM,
    Adaptive,
    Aggregator,
    Chain,
    Entanglement,
    GeometricMedian,
    Mean,
    Median,
    Superposition,
    Voting,
)

ALONE: dict[str, Aggregator] = {
    "mean": Mean(weighted=True),
    "median": Median(),
    "geometric median": GeometricMedian(),
    "superposition": Superposition(),
    "entanglement": Entanglement(),
    "voting": Voting(),
    "voting on updates": Voting(votes="updates"),
    "adaptive": Adaptive(),
}
TWINS = {
    "superposition": "mean",
    "entanglement": "geometric median",
    "voting": "median",
    "voting on updates": "geometric median",
    "adaptive": "geometric median",
}
"""Quantum-inspired rule -> the classical rule to compare it with."""

ROUNDS = 30
DIRICHLET = {"name": "dirichlet", "alpha": 0.3}
DIVISIONS: tuple[dict[str, Any], ...] = (
    {"name": "iid"},
    {"name": "dirichlet", "alpha": 0.5},
    DIRICHLET,
)
MAX_GAP = 0.05

Row = dict[str, Any]


def contenders(quick: bool) -> dict[str, Aggregator]:
    """Return name -> every rule alone and, unless quick, after NNM."""
    if quick:
        return ALONE
    after = {
        f"nnm + {name}": Chain(NNM(f=FAULTY), rule if name != "mean" else Mean())
        for name, rule in ALONE.items()
    }
    return ALONE | after


def compare(quick: bool) -> list[Row]:
    """Print and return a row of accuracies, mean and deviation over seeds, for each contender."""
    names = ["digits", "fashion-mnist"] if have_fashion() and not quick else ["digits"]
    seeds = [0] if quick else [0, 1, 2]
    rows = []
    for data in names:
        settings = [setting(data, DIRICHLET, seed, ROUNDS) for seed in seeds]
        print(f"\n{settings[0].name}, {ROUNDS} rounds, accuracy over {len(seeds)} seeds")
        print(f"{'rule':28s}" + "".join(f"{attack:>22s}" for attack in ATTACKED))
        for name, rule in contenders(quick).items():
            row: Row = {"part": "rules", "data": data, "rule": name}
            for attack in ATTACKED:
                accuracies = [
                    accuracy_after(seeded, rule, attack, seed)
                    for seeded, seed in zip(settings, seeds, strict=True)
                ]
                row[attack] = statistics.mean(accuracies)
                row[f"{attack}, deviation"] = statistics.pstdev(accuracies)
            rows.append(row)
            cells = (f"{row[a]:.3f} +- {row[f'{a}, deviation']:.3f}" for a in ATTACKED)
            print(f"{name:28s}" + "".join(f"{cell:>22s}" for cell in cells), flush=True)
    return rows


def lost(rows: list[Row]) -> list[Row]:
    """Return rows with the accuracy by which each quantum-inspired rule is ahead of its twin.

    The twin is the classical rule in ``TWINS``; a lead is negative if the rule is behind.
    """
    leads = []
    for row in rows:
        prefix = "nnm + " if row["rule"].startswith("nnm + ") else ""
        twin = TWINS.get(row["rule"].removeprefix("nnm + "))
        if twin is None:
            continue
        (other,) = (r for r in rows if (r["data"], r["rule"]) == (row["data"], prefix + twin))
        for attack in ATTACKED:
            lead = row[attack] - other[attack]
            leads.append(
                {
                    "part": "twins",
                    "data": row["data"],
                    "rule": row["rule"],
                    "twin": other["rule"],
                    "attack": attack,
                    "ahead": lead,
                }
            )
    return leads


def sign_flip(quick: bool) -> list[Row]:
    """Print and return mean accuracies of entanglement and the mean, with and without sign-flip."""
    seeds = [0] if quick else [0, 1, 2]
    cases: tuple[tuple[str, Aggregator, Attack], ...] = (
        ("mean of all, clean", Mean(weighted=True), "clean"),
        ("mean of the 7 honest", Mean(weighted=True), "honest only"),
        ("mean, 3 sign-flip", Mean(weighted=True), "3 sign-flip"),
        ("entanglement, 3 sign-flip", Entanglement(), "3 sign-flip"),
    )
    rows = []
    print(f"\ndigits, {ROUNDS} rounds, accuracy over {len(seeds)} seeds")
    print(f"{'division':18s}" + "".join(f"{name:>28s}" for name, _, _ in cases))
    for division in DIVISIONS:
        row: Row = {"part": "sign-flip"}
        for name, rule, attack in cases:
            settings = [setting("digits", division, seed, ROUNDS) for seed in seeds]
            row["division"] = settings[0].name.removeprefix("digits, ")
            row[name] = statistics.mean(
                accuracy_after(seeded, rule, attack, seed)
                for seeded, seed in zip(settings, seeds, strict=True)
            )
        rows.append(row)
        cells = (f"{row[name]:.3f}" for name, _, _ in cases)
        print(f"{row['division']:18s}" + "".join(f"{cell:>28s}" for cell in cells), flush=True)
    return rows


def checks(flips: list[Row]) -> list[Row]:
    """Return a check of each row of ``sign_flip``: accuracy lost against the clean mean."""
    results = []
    for row in flips:
        lead = row["mean of all, clean"] - row["entanglement, 3 sign-flip"]
        claim = (
            f"Entanglement, 3 of 10 sign-flip, digits, {row['division']}: accuracy "
            "behind the clean mean"
        )
        results.append(check(claim, lead, MAX_GAP, upper=True))
    return results
