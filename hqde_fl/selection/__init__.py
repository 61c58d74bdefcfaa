"""Selection of a round's clients, and assignment of an ensemble's members to clients."""

from hqde_fl.selection.base import Selector
from hqde_fl.selection.ensemble import Ensemble
from hqde_fl.selection.uniform import Uniform

__all__ = ["Ensemble", "Selector", "Uniform"]
