"""Functions that build named strategies from their parts.

Each accepts the keyword arguments of ``HQDEStrategy``, and ``quorum``, ``privacy`` and
``secure_aggregation`` of ``Aggregation`` as well. With ``privacy`` the means of FedAvg weigh all
clients equally.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any, TypedDict, Unpack, overload

from hqde_fl.codec import Codec, EntropyCoded, ErrorFeedback, Identity, Quantized
from hqde_fl.errors import ConfigError
from hqde_fl.privacy.central import CentralDP
from hqde_fl.privacy.secagg import SecureAggregation
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
from hqde_fl.strategies.edges.edge_strategy import EdgeStrategy
from hqde_fl.strategies.edges.groups import Groups
from hqde_fl.strategies.edges.settings import EdgeSettings
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.optimizers import SGD, Adam, ServerOptimizer, Yogi
from hqde_fl.strategies.settings import Aggregation, Communication, Participation, Reporting


class PresetOptions(TypedDict, total=False):
    """Keyword arguments that every preset accepts."""

    quorum: int
    privacy: CentralDP
    secure_aggregation: SecureAggregation
    communication: Communication
    participation: Participation
    ensemble: Ensemble
    reporting: Reporting
    seed: int


def _compose(
    rule: Aggregator, server_optimizer: ServerOptimizer | None = None, **options: Any
) -> HQDEStrategy:
    """Build a strategy from a rule, a server optimiser (default ``SGD()``) and preset options."""
    names = ("quorum", "privacy", "secure_aggregation")
    own = {name: options.pop(name) for name in names if name in options}
    return HQDEStrategy(Aggregation(rule, server_optimizer or SGD(), **own), **options)


def _fedavg_mean(options: PresetOptions) -> Mean:
    """Return the mean of FedAvg; with differential privacy all clients count equally."""
    return Mean(weighted="privacy" not in options)


def fedavg(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return FedAvg: the mean of the updates, weighted by the numbers of examples; not robust."""
    return _compose(_fedavg_mean(options), **options)


def fedadam(lr: float = 0.01, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return FedAvg with Adam, of learning rate ``lr``, as the server optimiser."""
    return _compose(_fedavg_mean(options), Adam(lr=lr), **options)


def fedyogi(lr: float = 0.01, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return FedAvg with Yogi, of learning rate ``lr``, as the server optimiser."""
    return _compose(_fedavg_mean(options), Yogi(lr=lr), **options)


def median(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy that takes the coordinate-wise median of the updates."""
    return _compose(Median(), **options)


def trimmed_mean(f: int, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy of coordinate-wise means without the f largest and f smallest values."""
    return _compose(TrimmedMean(f), **options)


def geometric_median(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy that takes the geometric median of the updates."""
    return _compose(GeometricMedian(), **options)


def byzantine_filter(fraction: float = 1 / 3, **options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy with HQDE's filter.

    It filters outliers, at most ``fraction`` of the updates, and takes the geometric median of the
    rest.
    """
    return _compose(ByzantineFilter(fraction=fraction), **options)


def robust(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy for an unknown number of faulty clients; see ``Robust``."""
    return _compose(Robust(), **options)


@overload
def hierarchical(
    fanout: int = 4,
    leaf: Aggregator | None = None,
    root: Aggregator | None = None,
    **options: Unpack[PresetOptions],
) -> HQDEStrategy: ...


@overload
def hierarchical(
    *,
    groups: int | str | Sequence[Collection[int]],
    edge_count: int = 0,
    edge_rounds: int = 1,
    edge_rule: Aggregator | None = None,
    root_rule: Aggregator | None = None,
    **options: Unpack[PresetOptions],
) -> EdgeStrategy: ...


def hierarchical(
    fanout: int = 4,
    leaf: Aggregator | None = None,
    root: Aggregator | None = None,
    *,
    groups: int | str | Sequence[Collection[int]] | None = None,
    edge_count: int = 0,
    edge_rounds: int = 1,
    edge_rule: Aggregator | None = None,
    root_rule: Aggregator | None = None,
    **options: Unpack[PresetOptions],
) -> HQDEStrategy | EdgeStrategy:
    """Return a strategy that merges in a tree, or one whose clients belong to edges.

    Without ``groups``: a tree of ``ceil(log_fanout n)`` levels, to whose leaves the clients are
    assigned at random in each round. With robust rules at its nodes a tree tolerates fewer faulty
    clients than the same rule over all of them: see ``Tree.breakdown``, which the run's manifest
    states.

    With ``groups``: each edge runs ``edge_rounds`` rounds among its own clients, then the root
    merges the edges' models (HierFAVG, Liu et al., 2020, arXiv:1905.06641).

    Parameters
    ----------
    fanout : int
        Most children of a node of the tree, >= 2, by default 4.
    leaf, root : Aggregator, optional
        The rule of the lower nodes of the tree and of the topmost one; by default weighted means,
        which together are FedAvg.
    groups : int, str or Sequence of Collection of int, optional
        The number of edges, among which clients are dealt by their partition ids, the partition
        ids of each edge's clients, or ``"node"``: each client's node config names its edge, as
        ``edge-id``, which the client sends when it is asked for its identity (``query.identity``).
    edge_count : int
        The number of edges, if ``groups`` is ``"node"``.
    edge_rounds : int
        Rounds of an edge among its clients, >= 1, by default 1.
    edge_rule, root_rule : Aggregator, optional
        The rule of the edges and of the root; by default weighted means, which together are FedAvg
        where ``edge_rounds`` is 1.
    **options : PresetOptions
        ``quorum``, at the root, and keyword arguments of ``HQDEStrategy``: with edges,
        ``communication`` and ``participation`` are about their clients.
    """
    mean = _fedavg_mean(options)
    of_edges = {
        "edge_count": edge_count != 0,
        "edge_rounds": edge_rounds != 1,
        "edge_rule": edge_rule,
        "root_rule": root_rule,
    }
    of_trees = {"fanout": fanout != 4, "leaf": leaf, "root": root}
    others, wanted = (of_edges, "needs") if groups is None else (of_trees, "is without")
    if excess := [name for name, value in others.items() if value]:
        found = "none" if groups is None else groups
        raise ConfigError(f"hierarchical.{excess[0]} {wanted} groups, found {found}")
    if groups is None:
        return _compose(Tree(leaf or mean, root or mean, fanout), **options)
    edges = EdgeSettings(
        Groups.of(groups, edge_count),
        edge_rounds,
        Aggregation(edge_rule or mean),
        options.get("communication", Communication()),
        options.get("participation", Participation()),
        options.get("ensemble", Ensemble()),
    )
    least = max((root_rule or mean).minimum(), options.get("quorum", 0))
    if edges.groups.edges < least:
        raise ConfigError(
            f"hierarchical.root_rule and quorum need groups >= {least}, "
            f"found {edges.groups.edges} edges"
        )
    options["communication"] = edges.root_communication(Identity(), Identity())
    options["participation"], options["ensemble"] = edges.root_participation, edges.root_ensemble
    strategy = _compose(root_rule or mean, **options)
    return EdgeStrategy(strategy, edges, options.get("seed", 0))


def quantum_superposition(
    temperature: float = 0.25, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Return a strategy that weights updates by their agreement; see ``Superposition``."""
    return _compose(Superposition(temperature=temperature), **options)


def quantum_entanglement(**options: Unpack[PresetOptions]) -> HQDEStrategy:
    """Return a strategy that weights updates by their coupling; see ``Entanglement``."""
    return _compose(Entanglement(), **options)


def adaptive_quantum(
    high: float = 0.5, low: float = 0.2, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Return a strategy that picks a rule by the entropy of the cohort; see ``Adaptive``."""
    return _compose(Adaptive(high=high, low=low), **options)


def quantized(
    bits: float = 4, rule: Aggregator | None = None, **options: Unpack[PresetOptions]
) -> HQDEStrategy:
    """Return a strategy whose clients pack their updates, with error feedback.

    Every training message names the codec in its config (``"codec"``, as JSON). Clients of
    ``ensemble_app`` pack by it, and so does any ClientApp with ``CodecMod()`` among its mods;
    others send full weights, which are accepted as well. Other presets pack with
    ``byzantine_filter(communication=Communication(packing(4)))``.

    Parameters
    ----------
    bits : float
        Bits for each number of an update, by default 4; see ``packing``.
    rule : Aggregator, optional
        How the updates are merged; by default FedAvg.
    **options : PresetOptions
        ``quorum`` and keyword arguments of ``HQDEStrategy``; the codec of ``communication`` is
        replaced.
    """
    communication = options.get("communication", Communication())
    options["communication"] = replace(communication, codec=packing(bits))
    return _compose(rule or _fedavg_mean(options), **options)


def packing(bits: float) -> Codec:
    """Return the codec that loses least accuracy at a number of bits.

    Parameters
    ----------
    bits : float
        Bits for each number of an update. 32: exact. Whole numbers from 4 to 16: a quantiser. Less
        than 4: entropy coding, at any positive rate. All but the exact one have error feedback.

    Raises
    ------
    ConfigError
        For any other number of bits, such as 4.5, 20 or 0.
    """
    if bits == 32:
        return Identity()
    if 4 <= bits <= 16 and bits == int(bits):
        return ErrorFeedback(Quantized(int(bits), unbiased=False))
    if 0 < bits < 4:
        return ErrorFeedback(EntropyCoded(bits))
    raise ConfigError(f"bits must be in (0, 4), a whole number in 4..16, or 32, found {bits}")
