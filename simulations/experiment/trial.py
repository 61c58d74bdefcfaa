"""A trial of the user's own parts on a few random numbers, before anything starts.

A part that raises an exception, or returns what it must not, would end the run in its first round.
Parts of hqde-fl are not tried: their tests do that.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.user_code import description
from hqde_fl.codec import Codec
from hqde_fl.errors import ConfigError, HQDEError
from hqde_fl.own_modules import error_in, is_own
from hqde_fl.rules import Aggregator, Cohort, RoundContext, aggregate
from hqde_fl.selection import Candidates
from hqde_fl.simulations.attacks import Attack, AttackerKnowledge
from hqde_fl.simulations.checkpoint.store import TREE
from hqde_fl.simulations.experiment.faults import CLIENT, level_of
from hqde_fl.simulations.experiment.parts import Parts
from hqde_fl.simulations.experiment.sections import EdgesSection, StrategySection
from hqde_fl.strategies.choice import choose_nodes
from hqde_fl.updates import Updates

SIZE = 4096
"""Numbers in an update of the trial."""


def try_own_parts(
    parts: Parts,
    strategy: StrategySection,
    faults: Sequence[Mapping[str, Any]],
    edges: EdgesSection,
) -> None:
    """Raise ``ConfigError`` if a part of the user's own fails: the part, and what it did.

    Parameters
    ----------
    parts : Parts
        The parts of an experiment.
    strategy : StrategySection
        The table that they were built from, which names those of the user's own.
    faults : Sequence[Mapping[str, Any]]
        The tables of the faults.
    edges : EdgesSection
        The table of the edges.
    """
    of_server = (strategy.rule, strategy.server_optimizer, strategy.codec, strategy.downlink)
    of_edges = (edges.rule, edges.codec, edges.downlink)
    if not _own((of_server, strategy.selector, of_edges, faults)) and (
        "solver" not in strategy.selector
    ):
        return  # the updates of the trial take a while for a large cohort
    with reproducible(0):
        updates = 0.01 * torch.randn(max(parts.cohort, parts.merged), SIZE)
        if _own(strategy.rule) and not parts.rule.confidence_from:
            _try_rule(parts.rule, updates[: parts.merged])
        if parts.edges is not None:
            if _own(edges.rule) and not parts.edges.rule.confidence_from:
                _try_rule(parts.edges.rule, updates[: parts.cohort])
            if _own(edges.codec):
                _try_codec("codec", parts.edges.communication.codec, updates[0])
            if _own(edges.downlink):
                _try_codec("downlink", parts.edges.communication.downlink, updates[0])
        if _own(strategy.server_optimizer):
            with _trial("server optimizer", parts.aggregation.server_optimizer):
                step, _ = parts.aggregation.server_optimizer.step(updates[0], {})
                _require(step, (SIZE,))
        if _own(strategy.codec):
            _try_codec("codec", parts.communication.codec, updates[0])
        if _own(strategy.downlink):
            _try_codec("downlink", parts.communication.downlink, updates[0])
        if _own(strategy.selector) or "solver" in strategy.selector:  # its package may be missing
            with _trial("selector", parts.participation.selector):
                nodes = [*range(parts.clients)]
                if parts.edges is not None:
                    groups = parts.edges.settings.groups.clients(parts.clients)
                    nodes = max(groups, key=len)
                choice = choose_nodes(
                    parts.participation.selector,
                    nodes,
                    lambda node: node,
                    (),
                    Candidates((), 0),
                    {},
                    np.random.default_rng(0),
                )
                TREE.dump(dict(choice.state))  # what a checkpoint cannot keep, too
        of_clients = [table for table in faults if level_of(table) == CLIENT]
        for fault, table in zip(parts.faults.faults, of_clients, strict=True):
            attackers = min(fault.count, parts.cohort - 1)
            if _own(table) and isinstance(fault.fault, Attack) and attackers > 0:
                _try_attack(fault.fault, updates[attackers:], attackers)


def _try_rule(rule: Aggregator, updates: Tensor) -> None:
    with _trial("rule", rule):
        context = RoundContext(updates.mean(dim=0), (SIZE,))
        cohort = replace(Cohort.of(len(updates)), context=context)
        outcome = aggregate(rule, Updates(updates), cohort)
        _require(outcome.delta, (SIZE,))
        if not bool(outcome.delta.isfinite().all()):
            raise ConfigError("returned an update that is not finite, of updates that are")


def _try_codec(key: str, codec: Codec, update: Tensor) -> None:
    with _trial(key, codec):
        payload, _ = codec.encode(update, {}, np.random.default_rng(0))
        _require(codec.decode(payload, SIZE), (SIZE,))


def _try_attack(attack: Attack, honest: Tensor, attackers: int) -> None:
    with _trial("attack", attack):
        knowledge = AttackerKnowledge().completed(len(honest), attackers)
        memory = attack.learn(Updates(honest), knowledge)
        TREE.dump(memory)  # what a checkpoint cannot keep, too
        forged = attack.craft(honest, attackers, replace(knowledge, memory=memory))
        if not isinstance(forged, Tensor) or forged.ndim != 2:
            _require(forged, (SIZE,))
        else:
            _require(forged, (attackers, SIZE))


def _own(table: Any) -> bool:
    """Return True if a table names a part of the user's own, at any depth."""
    if isinstance(table, Mapping):
        return any(map(_own, table.values()))
    if isinstance(table, list | tuple):
        return any(map(_own, table))
    return is_own(table)


def _require(value: Any, shape: tuple[int, ...]) -> None:
    if not isinstance(value, Tensor) or value.shape != shape:
        raise ConfigError(f"must return a tensor {shape}, found {description(value)}")


@contextmanager
def _trial(kind: str, part: object) -> Iterator[None]:
    """Make a ``ConfigError`` that names the part of any exception in the block."""
    try:
        yield
    except HQDEError as error:
        raise ConfigError(f"{kind} {part}, tried on random numbers: {error}") from error
    except Exception as error:
        text = f"{kind} {part}, tried on random numbers, raised {error_in(error)}"
        raise ConfigError(text) from error
