"""The strategies that can be audited, by name or as ``module:attribute``."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from pathlib import Path

from flwr.serverapp.strategy import (
    Bulyan,
    FedAvg,
    FedMedian,
    FedTrimmedAvg,
    Krum,
    MultiKrum,
    Strategy,
)

from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.simulations.experiment.own_modules import add_folders, import_attribute
from hqde_fl.strategies import presets
from hqde_fl.strategies.hqde import HQDEStrategy

Factory = Callable[[], Strategy]

NAMED: Mapping[str, Factory] = {
    "fedavg": presets.fedavg,
    "median": presets.median,
    "trimmed-mean": lambda: presets.trimmed_mean(f=1),
    "geometric-median": presets.geometric_median,
    "byzantine-filter": presets.byzantine_filter,
    "robust": presets.robust,
    "hierarchical": presets.hierarchical,
    "quantum-superposition": presets.quantum_superposition,
    "quantum-entanglement": presets.quantum_entanglement,
    "adaptive-quantum": presets.adaptive_quantum,
    "quantized": presets.quantized,
    "FedAvg": FedAvg,
    "FedMedian": FedMedian,
    "FedTrimmedAvg": FedTrimmedAvg,
    "Krum": lambda: Krum(num_malicious_nodes=1),
    "MultiKrum": lambda: MultiKrum(num_malicious_nodes=1, num_nodes_to_select=5),
    "Bulyan": lambda: Bulyan(num_malicious_nodes=1),
}
"""hqde-fl's presets, and Flower's strategies (capitalised) that expect one faulty client."""


def build_strategy(name: str) -> Strategy:
    """Build a new strategy.

    Parameters
    ----------
    name : str
        A key of ``NAMED``, or ``package.module:attribute`` of a Strategy (which is copied) or of a
        callable without arguments that returns one. The working directory is searched last.

    Raises
    ------
    ConfigError
        If there is no such strategy, or building it fails.
    """
    if ":" not in name:
        if name not in NAMED:
            raise UnknownNameError("strategy", name, [*NAMED, "package.module:attribute"])
        return NAMED[name]()
    add_folders([Path.cwd()])
    strategy = import_attribute("strategy", name)
    if not isinstance(strategy, Strategy):
        if not callable(strategy):
            raise ConfigError(f"{name!r} must be a Strategy or return one, found {strategy!r}")
        try:
            strategy = strategy()
        except TypeError as error:
            raise ConfigError(f"{name!r} cannot be called without arguments: {error}") from error
        except Exception as error:
            raise ConfigError(f"{name!r} raised {type(error).__name__}: {error}") from error
    if not isinstance(strategy, Strategy):
        raise ConfigError(f"{name!r} must return a Strategy, found {strategy!r}")
    return copy.deepcopy(strategy)


def is_hqde_strategy(strategy: Strategy) -> bool:
    """Return True if a strategy is hqde-fl's: it reads packed updates and names the culprit."""
    return isinstance(strategy, HQDEStrategy)
