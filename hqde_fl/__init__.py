"""hqde-fl: Byzantine-robust federated learning of ensembles, on Flower.

Every public name can be imported from here; its module is loaded when the name is first used.
``import hqde_fl`` alone loads neither torch nor Flower nor Ray.
"""

from importlib import import_module
from pathlib import Path
from typing import Any

# The folders strategies/, clients/ and simulations/ beside this one are part of this package: here
# they are links. A Flower App Bundle and a checkout without links find them by this path.
_HERE = Path(__file__).resolve().parent
if not (_HERE / "strategies").is_dir():
    __path__.append(str(_HERE.parent))

__version__ = "0.2.0"

# Public name -> module. Their types are in __init__.pyi; a test holds the two together.
_HOMES = {
    "ConfigError": "hqde_fl.errors",
    "UnknownNameError": "hqde_fl.errors",
    "DataError": "hqde_fl.errors",
    "BoundError": "hqde_fl.errors",
    "CohortError": "hqde_fl.errors",
    "CodecError": "hqde_fl.errors",
    "HQDEError": "hqde_fl.errors",
    "RunError": "hqde_fl.errors",
    "AdaptiveQuantizer": "hqde_fl.codec",
    "Codec": "hqde_fl.codec",
    "EntropyCoded": "hqde_fl.codec",
    "ErrorFeedback": "hqde_fl.codec",
    "Identity": "hqde_fl.codec",
    "Quantized": "hqde_fl.codec",
    "Rotated": "hqde_fl.codec",
    "TopK": "hqde_fl.codec",
    "Seeds": "hqde_fl.seeding",
    "Updates": "hqde_fl.updates",
    "Roles": "hqde_fl.updates.roles",
    "roles_of": "hqde_fl.updates.roles",
    "Screening": "hqde_fl.protocol.screening",
    "from_record": "hqde_fl.protocol.records",
    "to_record": "hqde_fl.protocol.records",
    "Aggregate": "hqde_fl.rules",
    "Aggregator": "hqde_fl.rules",
    "ByzantineFilter": "hqde_fl.rules",
    "Chain": "hqde_fl.rules",
    "Cohort": "hqde_fl.rules",
    "GeometricMedian": "hqde_fl.rules",
    "Mean": "hqde_fl.rules",
    "Median": "hqde_fl.rules",
    "Robust": "hqde_fl.rules",
    "Rule": "hqde_fl.rules",
    "TrimmedMean": "hqde_fl.rules",
    "aggregate": "hqde_fl.rules",
    "ARC": "hqde_fl.rules",
    "Adaptive": "hqde_fl.rules",
    "Bucketing": "hqde_fl.rules",
    "Bulyan": "hqde_fl.rules",
    "CAF": "hqde_fl.rules",
    "CenteredClipping": "hqde_fl.rules",
    "Clipping": "hqde_fl.rules",
    "DnC": "hqde_fl.rules",
    "Entanglement": "hqde_fl.rules",
    "Krum": "hqde_fl.rules",
    "MDA": "hqde_fl.rules",
    "Meamed": "hqde_fl.rules",
    "MoNNA": "hqde_fl.rules",
    "MultiKrum": "hqde_fl.rules",
    "NNM": "hqde_fl.rules",
    "SignGuard": "hqde_fl.rules",
    "Superposition": "hqde_fl.rules",
    "Tree": "hqde_fl.rules",
    "Voting": "hqde_fl.rules",
    "FLAME": "hqde_fl.rules",
    "FLDetector": "hqde_fl.rules",
    "FLTrust": "hqde_fl.rules",
    "FedRDF": "hqde_fl.rules",
    "FoolsGold": "hqde_fl.rules",
    "LASA": "hqde_fl.rules",
    "NormalisedMean": "hqde_fl.rules",
    "RoundContext": "hqde_fl.rules",
    "SMEA": "hqde_fl.rules",
    "DistributedWeightStore": "hqde_fl.distributed.store",
    "MapReduce": "hqde_fl.distributed.mapreduce",
    "Ensemble": "hqde_fl.selection",
    "Candidates": "hqde_fl.selection",
    "ClientHistory": "hqde_fl.selection",
    "Selection": "hqde_fl.selection",
    "Selector": "hqde_fl.selection",
    "QUBO": "hqde_fl.selection.qubo",
    "Uniform": "hqde_fl.selection",
    "Poisson": "hqde_fl.selection.poisson",
    "AdaptiveClipping": "hqde_fl.privacy.central",
    "CentralDP": "hqde_fl.privacy.central",
    "NoiseSource": "hqde_fl.privacy.noise_source",
    "SecureAggregation": "hqde_fl.privacy.secagg",
    "SecureGaussian": "hqde_fl.privacy.secure_gaussian",
    "SeededGaussian": "hqde_fl.privacy.noise_source",
    "PerformanceMonitor": "hqde_fl.monitor.performance_monitor",
    "record_training_metric": "hqde_fl.monitor.spans",
    "span": "hqde_fl.monitor.spans",
    "HQDEStrategy": "hqde_fl.strategies.hqde",
    "Aggregation": "hqde_fl.strategies.settings",
    "Communication": "hqde_fl.strategies.settings",
    "Participation": "hqde_fl.strategies.settings",
    "Reporting": "hqde_fl.strategies.settings",
    "MonitorCallback": "hqde_fl.strategies.monitoring",
    "Callback": "hqde_fl.strategies.callbacks",
    "ClientRecord": "hqde_fl.strategies.callbacks",
    "RoundRecord": "hqde_fl.strategies.callbacks",
    "SGD": "hqde_fl.strategies.optimizers",
    "Adam": "hqde_fl.strategies.optimizers",
    "Yogi": "hqde_fl.strategies.optimizers",
    "byzantine_filter": "hqde_fl.strategies.presets",
    "fedadam": "hqde_fl.strategies.presets",
    "fedavg": "hqde_fl.strategies.presets",
    "fedyogi": "hqde_fl.strategies.presets",
    "geometric_median": "hqde_fl.strategies.presets",
    "median": "hqde_fl.strategies.presets",
    "packing": "hqde_fl.strategies.presets",
    "quantized": "hqde_fl.strategies.presets",
    "robust": "hqde_fl.strategies.presets",
    "trimmed_mean": "hqde_fl.strategies.presets",
    "hierarchical": "hqde_fl.strategies.presets",
    "quantum_superposition": "hqde_fl.strategies.presets",
    "quantum_entanglement": "hqde_fl.strategies.presets",
    "adaptive_quantum": "hqde_fl.strategies.presets",
    "EnsembleClient": "hqde_fl.clients.ensemble",
    "CodecMod": "hqde_fl.clients.mods.codec",
    "DownlinkMod": "hqde_fl.clients.mods.downlink",
    "SecureAggregationMod": "hqde_fl.clients.mods.secure_aggregation",
    "Task": "hqde_fl.clients.task",
    "Training": "hqde_fl.clients.training",
    "ensemble_app": "hqde_fl.clients.app",
    "Experiment": "hqde_fl.simulations.experiment.experiment",
    "run": "hqde_fl.simulations.python_api.calls",
    "sweep": "hqde_fl.simulations.python_api.calls",
    "RunResult": "hqde_fl.simulations.python_api.run_result",
    "SweepResult": "hqde_fl.simulations.python_api.sweep_result",
    "run_experiment": "hqde_fl.simulations.run",
    "EnsemblePredictor": "hqde_fl.prediction",
    "HQDESystem": "hqde_fl.simulations.system.hqde_system",
    "create_hqde_system": "hqde_fl.simulations.system.create_system",
    "RayGrid": "hqde_fl.simulations.engines.ray.grid",
    "InlineGrid": "hqde_fl.simulations.engines.inline",
    "Resources": "hqde_fl.simulations.engines.ray.resources",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # later lookups do not come here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
