"""hqde-fl: Byzantine-robust federated learning of ensembles, on Flower.

This is the front door: every public name can be imported from here, wherever it lives, and is
loaded when it is first asked for. ``import hqde_fl`` alone loads neither torch nor Flower nor Ray.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

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
    "Screening": "hqde_fl.wire",
    "from_record": "hqde_fl.wire",
    "to_record": "hqde_fl.wire",
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
    "Ensemble": "hqde_fl.selection",
    "Selector": "hqde_fl.selection",
    "Uniform": "hqde_fl.selection",
    "HQDEStrategy": "strategies.hqde",
    "Callback": "strategies.callbacks",
    "ClientRecord": "strategies.callbacks",
    "RoundRecord": "strategies.callbacks",
    "SGD": "strategies.optimizers",
    "Adam": "strategies.optimizers",
    "Yogi": "strategies.optimizers",
    "byzantine_filter": "strategies.presets",
    "fedadam": "strategies.presets",
    "fedavg": "strategies.presets",
    "fedyogi": "strategies.presets",
    "geometric_median": "strategies.presets",
    "median": "strategies.presets",
    "packing": "strategies.presets",
    "quantized": "strategies.presets",
    "robust": "strategies.presets",
    "trimmed_mean": "strategies.presets",
    "hierarchical": "strategies.presets",
    "quantum_superposition": "strategies.presets",
    "quantum_entanglement": "strategies.presets",
    "adaptive_quantum": "strategies.presets",
    "EnsembleClient": "clients.ensemble",
    "CodecMod": "clients.mods.codec",
    "DownlinkMod": "clients.mods.downlink",
    "Task": "clients.task",
    "Training": "clients.training",
    "ensemble_app": "clients.app",
    "Experiment": "simulations.config",
    "RunResult": "simulations.run",
    "run_experiment": "simulations.run",
    "EnsemblePredictor": "hqde_fl.quantum.prediction",
    "HQDESystem": "simulations.system",
    "create_hqde_system": "simulations.system",
    "RayGrid": "simulations.engines.ray_grid",
    "InlineGrid": "simulations.engines.inline",
    "Resources": "simulations.engines.resources",
}

__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    globals()[name] = value  # the next time it is found without asking here
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
