"""Attacks by colluding clients who know the honest updates; ``ATTACKS`` lists them by name."""

from __future__ import annotations

from hqde_fl.own_modules import display_name
from hqde_fl.registry import Registry
from hqde_fl.simulations import catalogue
from hqde_fl.simulations.attacks.alie import ALIE
from hqde_fl.simulations.attacks.base import Attack, AttackerKnowledge, Memory
from hqde_fl.simulations.attacks.constant_direction import ConstantDirection
from hqde_fl.simulations.attacks.copycat import Copycat
from hqde_fl.simulations.attacks.evasive import Evasive
from hqde_fl.simulations.attacks.fang import Fang
from hqde_fl.simulations.attacks.fed_sa import FedSA
from hqde_fl.simulations.attacks.ipm import IPM
from hqde_fl.simulations.attacks.mimic import Mimic
from hqde_fl.simulations.attacks.min_max import MinMax
from hqde_fl.simulations.attacks.min_sum import MinSum
from hqde_fl.simulations.attacks.optimal_alie import OptimalALIE
from hqde_fl.simulations.attacks.optimal_ipm import OptimalIPM
from hqde_fl.simulations.attacks.optimal_push import OptimalPush
from hqde_fl.simulations.attacks.poisoned_fl import PoisonedFL
from hqde_fl.simulations.attacks.sideways import Sideways

ATTACKS: Registry[Attack] = catalogue.ATTACKS


def attack_name(attack: Attack) -> str:
    """Return an attack's name in ``ATTACKS``, or the name of its class if it is not listed."""
    return display_name(ATTACKS.name_of(attack))


__all__ = [
    "ALIE",
    "ATTACKS",
    "IPM",
    "Attack",
    "AttackerKnowledge",
    "ConstantDirection",
    "Copycat",
    "Evasive",
    "Fang",
    "FedSA",
    "Memory",
    "Mimic",
    "MinMax",
    "MinSum",
    "OptimalALIE",
    "OptimalIPM",
    "OptimalPush",
    "PoisonedFL",
    "Sideways",
    "attack_name",
]
