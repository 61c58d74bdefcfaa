"""Named strategies, each a composition of parts.

Every preset accepts ``quorum`` of ``Aggregation`` and the keyword arguments of ``HQDEStrategy`` as
well.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict, Unpack

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
from hqde_fl.selection import Ensemble
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam, ServerOptimizer, Yogi
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting


class PresetOptions(TypedDict, total=False):
    """Keyword arguments that every preset accepts."""

    quorum: int
    communication: Communication
    participation: Participation
    ensemble: Ensemble
    reporting: Reporting
    seed: int


def _compose(
    rule: Aggregator, server_optimizer: ServerOptimizer | None = None, **options: Any
) -> HQDEStrategy:
    """Build a strategy from a rule, a server optimiser and a preset's options."""
    quorum = options.pop("quorum", 0)
    return HQDEStrategy(Aggregation(rule, server_optimizer or SGD(), quorum), **options)


def fedavg(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Weighted mean of the updates: the baseline, not robust."""
    return _compose(Mean(weighted=True), **options)


def fedadam(lr: float = 0.01, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """FedAvg with Adam on the server."""
    return _compose(Mean(weighted=True), Adam(lr=lr), **options)


def fedyogi(lr: float = 0.01, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """FedAvg with Yogi on the server."""
    return _compose(Mean(weighted=True), Yogi(lr=lr), **options)


def median(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Coordinate-wise median."""
    return _compose(Median(), **options)


def trimmed_mean(f: int, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Coordinate-wise mean without the f largest and smallest values."""
    return _compose(TrimmedMean(f), **options)


def geometric_median(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Geometric median of the updates."""
    return _compose(GeometricMedian(), **options)


def byzantine_filter(fraction: float = 1 / 3, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """HQDE's filter: at most ``fraction`` dropped as outliers, geometric median of the rest."""
    return _compose(ByzantineFilter(fraction=fraction), **options)


def robust(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """The default for somebody who does not know how many clients are faulty; see ``Robust``."""
    return _compose(Robust(), **options)


def hierarchical(
    fanout: int = 4,
    leaf: Aggregator | None = None,
    root: Aggregator | None = None,
    **options: Unpack[PresetOptions],
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
        ``quorum``, and keyword arguments of ``HQDEStrategy``.
    """
    mean = Mean(weighted=True)
    return _compose(Tree(leaf or mean, root or mean, fanout), **options)


def quantum_superposition(
    temperature: float = 0.25, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Updates weighted by how far they agree with the others (Born rule); see ``Superposition``."""
    return _compose(Superposition(temperature=temperature), **options)


def quantum_entanglement(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Updates weighted by how they are coupled to the others; see ``Entanglement``."""
    return _compose(Entanglement(), **options)


def adaptive_quantum(
    high: float = 0.5, low: float = 0.2, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Entanglement, superposition or voting, by how uncertain the cohort is; see ``Adaptive``."""
    return _compose(Adaptive(high=high, low=low), **options)


def quantized(
    bits: float = 4, rule: Aggregator | None = None, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Any rule on packed updates of ``bits`` for each number, with error feedback.

    Packing is the clients' work: every training message asks for it by naming the codec in its
    config (``"codec"``, as JSON). Clients of ``ensemble_app`` do as they are asked, and so does any
    ClientApp with ``CodecMod()`` among its mods. Those without send full weights, which are as
    welcome. The same can be had from the other presets:
    ``byzantine_filter(communication=Communication(packing(4)))``.

    Parameters
    ----------
    bits : float
        See ``packing``.
    rule : Aggregator
        How the updates are merged; plain FedAvg if not given.
    **options : Any
        ``quorum``, and keyword arguments of ``HQDEStrategy``.
    """
    communication = options.get("communication", Communication())
    options["communication"] = replace(communication, codec=packing(bits))
    return _compose(rule or Mean(weighted=True), **options)


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
