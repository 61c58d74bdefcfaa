"""The tables of docs/arena.md."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from statistics import fmean
from typing import Any

from benchmarks.arena_parts.results import (
    WITHIN,
    Condition,
    Regret,
    Table,
    best_of_group,
    means_of,
)
from hqde_fl.simulations.statistics.samples import Sample

PARTITIONS = ("alpha .1", "alpha .5", "iid")
FAILED = 0.2
"""Accuracy below the best one without attackers, from which a condition counts as lost by all."""
GROUPS = {
    "told f": lambda rule: rule.endswith("(f)"),
    "told 3": lambda rule: rule.endswith("(3)"),
    "told nothing": lambda rule: not rule.endswith(("(f)", "(3)")),
    "robust, byzantine-filter": lambda rule: rule in ("robust", "byzantine-filter"),
}
"""Groups of rules by what they are told."""


def rules_table(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return the table of rules in Markdown, the best worst case first."""
    lines = [
        "| rule | clean | mean | worst | at | mean regret | greatest | within .03 | best |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|",
    ]
    for row in rows:
        low, high = row["interval"]
        clean = "" if row["clean"] is None else f"{row['clean']:.3f}"
        lines.append(
            f"| {row['rule']} | {clean} | {row['mean']:.3f} | {row['worst']:.3f} "
            f"| {row['worst at']} | {row['mean regret']:.3f} [{low:.3f}, {high:.3f}] "
            f"| {row['greatest regret']:.3f} | {row['within .03']:.2f} | {row['best']:.2f} |"
        )
    return "\n".join(lines)


def far_from_best(
    table: Table, regret: Regret, rule: str, share: Callable[[Condition], float]
) -> str:
    """Return the conditions in which a rule is far from the best one, in Markdown.

    ``share`` returns the attackers' part of the influence on the model under a condition.
    """
    lines = [
        f"| condition | best rule | its accuracy | {rule} | regret | attackers' influence | fair |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    means = means_of(table)
    for condition, values in sorted(regret.items(), key=lambda item: -item[1][rule]):
        if values[rule] <= WITHIN:
            break
        accuracy = means[condition]
        best = max(accuracy, key=lambda name: accuracy[name])
        lines.append(
            f"| {', '.join(condition)} | {best} | {accuracy[best]:.3f} | {accuracy[rule]:.3f} "
            f"| {values[rule]:.3f} | {share(condition):.2f} | {int(condition[1]) / 10:.1f} |"
        )
    return "\n".join(lines)


def winners(table: Table) -> str:
    """Return who wins where: the best rule of each condition, and how many are as good."""
    lines = [
        "| attack | f | " + " | ".join(PARTITIONS) + " |",
        "|---|---:|" + "---|" * len(PARTITIONS),
    ]
    means = means_of(table)
    for attack, f in dict.fromkeys((attack, f) for attack, f, _ in means):
        cells = [_winner(means.get((attack, f, partition), {})) for partition in PARTITIONS]
        lines.append(f"| {attack} | {f} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _winner(accuracy: Mapping[str, float]) -> str:
    """Return the best rule, its accuracy, and the number of other rules within .01 of it."""
    if not accuracy:
        return ""
    best = max(accuracy, key=lambda rule: accuracy[rule])
    alike = sum(value >= accuracy[best] - 0.01 for value in accuracy.values()) - 1
    return f"{best} {accuracy[best]:.2f}" + (f" (+ {alike})" if alike else "")


def lost_by_all(table: Table) -> str:
    """Return the conditions in which every rule is far below what is reached without attackers."""
    means = means_of(table)
    clean = {p: max(rules.values()) for (_, f, p), rules in means.items() if f == "0"}
    lines = ["| condition | best rule | its accuracy | without attackers |", "|---|---|---:|---:|"]
    for condition, rules in means.items():
        best = max(rules, key=lambda rule: rules[rule])
        if condition[2] in clean and rules[best] < clean[condition[2]] - FAILED:
            lines.append(
                f"| {', '.join(condition)} | {best} | {rules[best]:.3f} "
                f"| {clean[condition[2]]:.3f} |"
            )
    return "\n".join(lines)


def assumptions(table: Table) -> str:
    """Return what it costs to be told less, and what each more attacker and uneven data cost."""
    told = [
        "| rules | " + " | ".join(PARTITIONS) + " | all | difference to all twelve |",
        "|---|" + "---:|" * (len(PARTITIONS) + 2),
    ]
    every = list(dict.fromkeys(rule for rules in table.values() for rule in rules))
    best = best_of_group(table, every)
    for name, belongs in GROUPS.items():
        own = best_of_group(table, filter(belongs, every))
        both = [condition for condition in own if condition in best]
        if both:
            told.append(f"| {name} | {_by_partition(own, both)} | {_difference(own, best, both)} |")
    told.append(f"| all twelve | {_by_partition(best, list(best))} | |")
    attackers = [
        "| attackers of ten | " + " | ".join(PARTITIONS) + " |",
        "|---:|" + "---:|" * len(PARTITIONS),
    ]
    for f in dict.fromkeys(f for _, f, _ in table):
        cells = _cells(best, [condition for condition in best if condition[1] == f])
        attackers.append(f"| {f} | {' | '.join(cells)} |")
    return "\n".join(
        [*told, "", "The best of all twelve, by the number of attackers:", "", *attackers]
    )


def _cells(
    values: Mapping[Condition, Mapping[int, float]], chosen: Sequence[Condition]
) -> list[str]:
    """Return the mean over some conditions for each partition."""
    means = {p: [fmean(values[c].values()) for c in chosen if c[2] == p] for p in PARTITIONS}
    return [f"{fmean(own):.3f}" if own else "" for own in means.values()]


def _by_partition(
    values: Mapping[Condition, Mapping[int, float]], chosen: Sequence[Condition]
) -> str:
    whole = fmean(fmean(values[condition].values()) for condition in chosen)
    return " | ".join([*_cells(values, chosen), f"{whole:.3f}"])


def _difference(
    own: Mapping[Condition, Mapping[int, float]],
    best: Mapping[Condition, Mapping[int, float]],
    chosen: Sequence[Condition],
) -> str:
    """Return the mean difference over some conditions, with Student's interval over the seeds."""
    seeds = sorted(set().union(*(own[condition] for condition in chosen)))
    sample = Sample(tuple(fmean(own[c][s] - best[c][s] for c in chosen) for s in seeds))
    text = f"{sample.mean:+.3f}"
    if sample.interval is not None:
        low, high = sample.interval
        text += f" [{low:+.3f}, {high:+.3f}]"
    return text
