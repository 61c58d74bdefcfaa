"""The server's end: one Strategy, its parts and the named compositions of them."""

from strategies.presets import (
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
