"""The server's end: one Strategy, its parts and the named compositions of them."""

if __name__ != "hqde_fl.strategies":  # the same classes under two names would not be equal
    raise ImportError(
        "import hqde_fl.strategies: the folder strategies/ is a part of the package hqde_fl"
    )


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
