"""The edges' states in a checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from hqde_fl.simulations.attacks.attack_grid import AttackGrid
from hqde_fl.simulations.engines.ray.packing import pack, unpack
from hqde_fl.strategies.edges.edge_grid import EdgeGrid, EdgeState

SERVER, CONTEXT, ATTACK = "server", "context", "attack"
"""Keys of an edge's state: that of its strategy, that of its mods, its attackers' memory."""


def edge_states(grid: EdgeGrid) -> tuple[Mapping[str, Any], ...]:
    """Return the state of each edge, and of the attackers among its clients, for a checkpoint."""
    return tuple(
        {
            SERVER: state.server,
            CONTEXT: pack(state.context),
            ATTACK: group.memory if isinstance(group, AttackGrid) else {},
        }
        for state, group in zip(grid.states(), grid.group_grids, strict=True)
    )


def restore_edges(grid: EdgeGrid, states: Sequence[Mapping[str, Any]]) -> None:
    """Give each edge the state in a checkpoint."""
    grid.restore([EdgeState(state[SERVER], unpack(state[CONTEXT])) for state in states])
    for state, group in zip(states, grid.group_grids, strict=True):
        if isinstance(group, AttackGrid):
            group.memory = state[ATTACK]
