"""Many experiments from one file: the product of everything its ``[sweep]`` table lists."""

from __future__ import annotations

from simulations.sweep.cells import Cell, Sweep
from simulations.sweep.grammar import Axis
from simulations.sweep.runner import Watch, run_sweep

__all__ = ["Axis", "Cell", "Sweep", "Watch", "run_sweep"]
