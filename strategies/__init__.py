"""The server's end: one Strategy, its parts and the named compositions of them."""

if __name__ != "hqde_fl.strategies":  # the same classes under two names would not be equal
    raise ImportError(
        "import hqde_fl.strategies: the folder strategies/ is a part of the package hqde_fl"
    )


from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hqde_fl.strategies.presets import (
        adaptive_quantum,
        byzantine_filter,
        fedadam,
        fedavg,
        fedyogi,
        geometric_median,
        hierarchical,
        median,
        quantized,
        quantum_entanglement,
        quantum_superposition,
        robust,
        trimmed_mean,
    )

__all__ = [
    "adaptive_quantum",
    "byzantine_filter",
    "fedadam",
    "fedavg",
    "fedyogi",
    "geometric_median",
    "hierarchical",
    "median",
    "quantized",
    "quantum_entanglement",
    "quantum_superposition",
    "robust",
    "trimmed_mean",
]


def __getattr__(name: str) -> Any:
    """Return a preset, loaded when it is first asked for: other modules here are light."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module("hqde_fl.strategies.presets"), name)
