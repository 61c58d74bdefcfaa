"""The number of faulty clients that an experiment's tree or edges bear, beside the flat rules'."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self, final

from hqde_fl.own_modules import display_name
from hqde_fl.rules import RULES, Aggregator
from hqde_fl.rules.tree import Tree
from hqde_fl.simulations.experiment.parts import Parts


@final
@dataclass(frozen=True)
class HierarchyBound:
    """Bounds of a hierarchy: whatever so many faulty clients send, the model stays bounded.

    An attacker who owns an edge owns its vote, so for edges there are two bounds: that of faulty
    clients while no edge is hostile, and that of hostile edges.

    Parameters
    ----------
    kind : str
        ``tree`` or ``edges``.
    clients : int
        Clients of a round.
    levels : int
        Levels of nodes above them.
    breakdown : int
        Faulty clients that it bears, wherever they are, without hostile edges.
    edges, hostile_edges : int or None
        Number of edges, and hostile ones that the server's rule bears; None for a tree.
    flat : Mapping[str, int]
        Each of its rules -> faulty clients that the rule bears over all clients at once.
    """

    kind: str
    clients: int
    levels: int
    breakdown: int
    edges: int | None
    hostile_edges: int | None
    flat: Mapping[str, int]

    @classmethod
    def of(cls, parts: Parts) -> Self | None:
        """Return the bounds of an experiment's hierarchy; None if it has none."""
        n, rule = parts.sampled, parts.rule
        if (edges := parts.edges) is not None:
            hostile = rule.breakdown(edges.count)
            breaking = sorted(edges.rule.breakdown(_least(parts, m)) + 1 for m in edges.sampled)
            flat = _flat((edges.rule, rule), n)
            borne = sum(breaking[: hostile + 1]) - 1
            return cls("edges", n, 2, borne, edges.count, hostile, flat)
        if isinstance(rule, Tree):
            flat = _flat((rule.leaf, rule.root), n)
            return cls("tree", n, rule.levels(n), rule.breakdown(n), None, None, flat)
        return None

    def to_table(self) -> dict[str, Any]:
        """Return the bounds as the manifest has them."""
        table = {
            "kind": self.kind,
            "clients": self.clients,
            "levels": self.levels,
            "breakdown": self.breakdown,
            "edges": self.edges,
            "hostile-edges": self.hostile_edges,
            "flat-breakdown": dict(self.flat),
        }
        return {key: value for key, value in table.items() if value is not None}


def bound_text(table: Mapping[str, Any]) -> str:
    """Return the bounds of a manifest in one sentence."""
    clients, borne = table["clients"], table["breakdown"]
    what = f"a tree of {table['levels']} levels"
    others = ""
    if table["kind"] == "edges":
        what = f"{table['edges']} edges"
        hostile = table["hostile-edges"]
        others = f" or, with honest clients, {hostile} hostile edge{'s' * (hostile != 1)}"
    flat = " and ".join(f"{rule} {bears}" for rule, bears in table["flat-breakdown"].items())
    bear = "bear" if table["kind"] == "edges" else "bears"
    return (
        f"{what} over {clients} clients {bear} {borne} faulty one{'s' * (borne != 1)}{others}; "
        f"flat, over all clients at once: {flat}"
    )


def _least(parts: Parts, clients: int) -> int:
    """Return the least number of clients that train a member, of those of a group."""
    return parts.ensemble.min_cohort(clients)


def _flat(rules: tuple[Aggregator, ...], n: int) -> dict[str, int]:
    return {_label(rule): rule.breakdown(n) for rule in rules}


def _label(rule: Aggregator) -> str:
    name, f = display_name(RULES.name_of(rule)), rule.expected_faulty
    return name if f is None else f"{name} (f={f})"
