"""Sweeps: many experiments from one file, the product of the lists in its ``[sweep]`` table."""

from __future__ import annotations

from hqde_fl.simulations.sweep.cells import Cell, Sweep
from hqde_fl.simulations.sweep.runner import Watch, run_sweep
from hqde_fl.simulations.sweep.sweep_table import Axis

__all__ = ["Axis", "Cell", "Sweep", "Watch", "run_sweep"]
