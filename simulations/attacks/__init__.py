"""Attacks by clients who collude and see the honest updates, one file each: ``ATTACKS``."""

from __future__ import annotations

from hqde_fl.catalogue import Catalogue
from simulations.attacks.alie import ALIE
from simulations.attacks.base import Attack, Memory, Scene
from simulations.attacks.fang import Fang
from simulations.attacks.ipm import IPM
from simulations.attacks.mimic import Mimic
from simulations.attacks.min_max import MinMax
from simulations.attacks.min_sum import MinSum
from simulations.attacks.optimal_alie import OptimalALIE
from simulations.attacks.optimal_ipm import OptimalIPM

ATTACKS: Catalogue[Attack] = Catalogue(
    "attack",
    Attack,  # type: ignore[type-abstract]
    {
        "alie": ALIE,
        "fang": Fang,
        "ipm": IPM,
        "mimic": Mimic,
        "min-max": MinMax,
        "min-sum": MinSum,
        "optimal-alie": OptimalALIE,
        "optimal-ipm": OptimalIPM,
    },
)


def attack_name(attack: Attack) -> str:
    """The name under which an attack is listed; of one that is not, the name of its class."""
    return next((name for name in ATTACKS if ATTACKS[name] is type(attack)), type(attack).__name__)


__all__ = [
    "ALIE",
    "ATTACKS",
    "IPM",
    "Attack",
    "Fang",
    "Memory",
    "Mimic",
    "MinMax",
    "MinSum",
    "OptimalALIE",
    "OptimalIPM",
    "Scene",
    "attack_name",
]
