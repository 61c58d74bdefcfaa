"""Named strategies, each a composition of parts.

Every preset takes the keyword arguments of ``HQDEStrategy`` as well.
"""

from __future__ import annotations

from typing import Any

from hqde_fl.codec import Codec, EntropyCoded, ErrorFeedback, Identity, Quantized
from hqde_fl.errors import ConfigError
from hqde_fl.rules import (
    Adaptive,
    Aggregator,
    ByzantineFilter,
    Entanglement,
    GeometricMedian,
    Mean,
    Median,
    Robust,
    Superposition,
    Tree,
    TrimmedMean,
)
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import Adam, Yogi


def fedavg(**options: Any) -> HQDEStrategy:
    """Weighted mean of the updates: the baseline, not robust."""
    return HQDEStrategy(Mean(weighted=True), **options)


def fedadam(lr: float = 0.01, **options: Any) -> HQDEStrategy:
    """FedAvg with Adam on the server."""
    return HQDEStrategy(Mean(weighted=True), server_optimizer=Adam(lr=lr), **options)


def fedyogi(lr: float = 0.01, **options: Any) -> HQDEStrategy:
    """FedAvg with Yogi on the server."""
    return HQDEStrategy(Mean(weighted=True), server_optimizer=Yogi(lr=lr), **options)


def median(**options: Any) -> HQDEStrategy:
    """Coordinate-wise median."""
    return HQDEStrategy(Median(), **options)


def trimmed_mean(f: int, **options: Any) -> HQDEStrategy:
    """Coordinate-wise mean without the f largest and smallest values."""
    return HQDEStrategy(TrimmedMean(f), **options)


def geometric_median(**options: Any) -> HQDEStrategy:
    """Geometric median of the updates."""
    return HQDEStrategy(GeometricMedian(), **options)


def byzantine_filter(fraction: float = 1 / 3, **options: Any) -> HQDEStrategy:
    """HQDE's filter: at most ``fraction`` dropped as outliers, geometric median of the rest."""
    return HQDEStrategy(ByzantineFilter(fraction=fraction), **options)


def robust(**options: Any) -> HQDEStrategy:
    """The default for somebody who does not know how many clients are faulty; see ``Robust``."""
    return HQDEStrategy(Robust(), **options)


def hierarchical(
    fanout: int = 4,
    leaf: Aggregator | None = None,
    root: Aggregator | None = None,
    **options: Any,
) -> HQDEStrategy:
    """A tree of ``ceil(log_fanout n)`` levels, clients dealt to the leaves at random each round.

    With robust rules at its nodes a tree tolerates fewer faulty clients than the same rule over all
    of them: see ``Tree.breakdown``, which the run's manifest states.

    Parameters
    ----------
    fanout : int
        Children of a node.
    leaf, root : Aggregator
        The rule of the lower nodes and of the topmost one; weighted means if not given, which
        together are FedAvg.
    **options : Any
        For ``HQDEStrategy``.
    """
    mean = Mean(weighted=True)
    return HQDEStrategy(Tree(leaf or mean, root or mean, fanout), **options)


def quantum_superposition(temperature: float = 0.25, **options: Any) -> HQDEStrategy:
    """Updates weighted by how far they agree with the others (Born rule); see ``Superposition``."""
    return HQDEStrategy(Superposition(temperature=temperature), **options)


def quantum_entanglement(**options: Any) -> HQDEStrategy:
    """Updates weighted by how they are coupled to the others; see ``Entanglement``."""
    return HQDEStrategy(Entanglement(), **options)


def adaptive_quantum(high: float = 0.5, low: float = 0.2, **options: Any) -> HQDEStrategy:
    """Entanglement, superposition or voting, by how uncertain the cohort is; see ``Adaptive``."""
    return HQDEStrategy(Adaptive(high=high, low=low), **options)


def quantized(bits: float = 4, rule: Aggregator | None = None, **options: Any) -> HQDEStrategy:
    """Any rule on packed updates of ``bits`` for each number, with error feedback.

    Packing is the clients' work: every training message asks for it by naming the codec in its
    config (``"codec"``, as JSON). Clients of ``ensemble_app`` do as they are asked, and so does any
    ClientApp with ``CodecMod()`` among its mods. Those without send full weights, which are as
    welcome. The same can be had from the other presets: ``byzantine_filter(codec=packing(4))``.

    Parameters
    ----------
    bits : float
        See ``packing``.
    rule : Aggregator
        How the updates are merged; plain FedAvg if not given.
    **options : Any
        For ``HQDEStrategy``.
    """
    return HQDEStrategy(rule, codec=packing(bits), **options)


def packing(bits: float) -> Codec:
    """The codec for a number of bits: what loses least accuracy at that size.

    Parameters
    ----------
    bits : float
        For each number. 32: exact. Whole numbers from 4 to 16: a quantiser. Less than 4: entropy
        coding, for any positive rate. All but the exact one with error feedback.
    """
    if bits == 32:
        return Identity()
    if 4 <= bits <= 16 and bits == int(bits):
        return ErrorFeedback(Quantized(int(bits), unbiased=False))
    if 0 < bits < 4:
        return ErrorFeedback(EntropyCoded(bits))
    raise ConfigError(f"bits must be in (0, 4), a whole number in 4..16, or 32, found {bits}")
