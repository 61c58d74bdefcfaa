"""Selection of a round's clients, and assignment of an ensemble's members to clients."""

from hqde_fl import catalogue
from hqde_fl.registry import Registry
from hqde_fl.selection.adaptive import AdaptiveSelector
from hqde_fl.selection.adaptive import AdaptiveSelector as Adaptive
from hqde_fl.selection.base import Candidates, Selection, Selector
from hqde_fl.selection.ensemble import Ensemble
from hqde_fl.selection.history import ClientHistory
from hqde_fl.selection.least_loaded import LeastLoaded
from hqde_fl.selection.oort import Oort
from hqde_fl.selection.poisson import Poisson
from hqde_fl.selection.power_of_choice import PowerOfChoice
from hqde_fl.selection.qubo import QUBO
from hqde_fl.selection.round_robin import RoundRobin
from hqde_fl.selection.uniform import Uniform

SELECTORS: Registry[Selector] = catalogue.SELECTORS

__all__ = [
    "QUBO",
    "SELECTORS",
    "Adaptive",
    "AdaptiveSelector",
    "Candidates",
    "ClientHistory",
    "Ensemble",
    "LeastLoaded",
    "Oort",
    "Poisson",
    "PowerOfChoice",
    "RoundRobin",
    "Selection",
    "Selector",
    "Uniform",
]
