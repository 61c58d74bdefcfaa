"""The candidates of an attack search: an attack, who carries it out, and in which rounds."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hqde_fl.simulations.attack_search.families import FAMILIES, AttackFamily, Trial

Who = Literal["drawn", "most-data", "least-data"]
"""The clients that attack: drawn by the seed, or those with most, or fewest, examples."""


@dataclass(frozen=True)
class Candidate:
    """An attack with the clients and the rounds in which they carry it out.

    Parameters
    ----------
    fault : Mapping[str, Any]
        The fault's name and parameters.
    who : str
        Which clients attack.
    when : Mapping[str, int]
        The keys ``start``, ``period`` and ``on`` of ``[[faults]]``; every round if empty.
    """

    fault: Mapping[str, Any]
    who: Who = "drawn"
    when: Mapping[str, int] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """The candidate as JSON, by which its results are found."""
        return json.dumps([self.fault, self.who, self.when], sort_keys=True)

    @property
    def label(self) -> str:
        """The candidate in words, for tables."""
        parameters = ", ".join(
            f"{key}={value['name'] if isinstance(value, Mapping) else value}"
            for key, value in self.fault.items()
            if key != "name"
        )
        text = f"{self.fault['name']}({parameters})" if parameters else str(self.fault["name"])
        if self.who != "drawn":
            text += f", clients with {self.who.replace('-', ' ')}"
        if "start" in self.when:
            text += f", from round {self.when['start']}"
        if "period" in self.when:
            text += f", {self.when['on']} of {self.when['period']} rounds"
        return text

    def faults(self, f: int, sizes: Sequence[int]) -> list[dict[str, Any]]:
        """Return the experiment's ``[[faults]]``.

        Parameters
        ----------
        f : int
            The number of attackers.
        sizes : Sequence[int]
            The number of examples of each client.
        """
        table = {**self.fault, **self.when}
        if self.who == "drawn":
            return [{**table, "count": f}]
        sign = -1 if self.who == "most-data" else 1
        order = sorted(range(len(sizes)), key=lambda client: (sign * sizes[client], client))
        return [{**table, "clients": sorted(order[:f])}]


def fixed_candidates(families: Sequence[AttackFamily] = FAMILIES) -> list[Candidate]:
    """Return the fixed attacks of the families that have one, in every round, by clients drawn."""
    return [
        Candidate({"name": family.name, **family.fixed})
        for family in families
        if family.fixed is not None
    ]


def suggested(trial: Trial, rounds: int, families: Sequence[AttackFamily] = FAMILIES) -> Candidate:
    """Return a candidate that a trial draws for a run of so many rounds."""
    by_name = {family.name: family for family in families}
    family = by_name[trial.suggest_categorical("family", tuple(by_name))]
    fault = family.suggest(trial)
    who = trial.suggest_categorical("who", get_args(Who))
    when: dict[str, int] = {}
    kind = trial.suggest_categorical("when", ("always", "late", "on-off"))
    if kind == "late" and rounds > 1:
        when["start"] = trial.suggest_int("start", 2, rounds)
    elif kind == "on-off":
        when["period"] = trial.suggest_int("period", 2, 6)
        when["on"] = min(trial.suggest_int("on", 1, 5), when["period"] - 1)
    return Candidate(fault, who, when)
