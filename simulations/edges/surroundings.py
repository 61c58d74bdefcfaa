"""The surroundings of the edges of an experiment: mods, hostile edges, attackers, links."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.message_fields import server_round
from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.downlink import DownlinkMod
from hqde_fl.clients.mods.entries import HeldEntriesMod, UnchangedEntriesMod
from hqde_fl.protocol.reply_matching import with_nodes
from hqde_fl.protocol.screening import Accepted
from hqde_fl.simulations.attacks.round_updates import RoundUpdates
from hqde_fl.simulations.edges.idle_edge import IdleEdgeMod
from hqde_fl.simulations.experiment.edges import Edges
from hqde_fl.simulations.experiment.parts import Parts
from hqde_fl.simulations.heterogeneity.message_bytes import SentBytes, array_bytes
from hqde_fl.strategies.edges.edge import Edge
from hqde_fl.strategies.edges.edge_grid import EdgeGrid, EdgeSurroundings
from hqde_fl.strategies.edges.group_grid import GroupGrid
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates.roles import Roles

ModelOf = Callable[[int], ModelState]
"""(member) -> the server's model, with what it sends in the present round."""


def edge_grid(
    grid: Grid, parts: Parts, model: ModelOf, cache: str, roles: Roles, *, real_nodes: bool = False
) -> EdgeGrid:
    """Return the edges of an experiment over a grid of its clients.

    Parameters
    ----------
    grid : Grid
        Reaches the clients.
    parts : Parts
        The parts of the experiment, which has edges.
    model : ModelOf
        (member) -> the server's model.
    cache : str
        Folder in which the edges keep entries that they need not be sent again; empty for none.
    roles : Roles
        The roles of the model's entries.
    real_nodes : bool
        True if the clients are real nodes, whose own configs may name their edges; simulated ones
        are dealt instead. By default False.
    """
    edges = parts.edges
    assert edges is not None
    clients = [len(group) for group in edges.settings.groups.clients(edges.clients)]
    seed = parts.seeds.root
    surroundings = EdgeSurroundings(
        mods=(
            HeldEntriesMod(),
            DownlinkMod(),
            UnchangedEntriesMod(),
            CodecMod(seed=edges.seeds.root),
            *edges.faults.mods(virtual_time=True),
            IdleEdgeMod(clients),
        ),
        group_grid=AttackedGroups(parts),
        link_seconds=_Links(edges, SentBytes(model)),
        node_config={CACHE_DIR: cache},
    )
    settings = edges.settings
    if not real_nodes:
        settings = replace(settings, groups=replace(settings.groups, by_node=False))
    return EdgeGrid(grid, settings, seed=seed, roles=roles, surroundings=surroundings)


@final
class AttackedGroups:
    """Puts the attackers among each edge's clients between the edge and its group.

    Attackers know the honest updates of their own group; in a group without any, those of the other
    groups in the same round.

    Parameters
    ----------
    parts : Parts
        The parts of the experiment.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._groups: list[tuple[GroupGrid, Edge]] = []

    def __call__(self, grid: Grid, edge: Edge) -> Grid:
        """Return the grid of an edge's group, on which the attackers among its clients collude."""
        if isinstance(grid, GroupGrid):
            self._groups.append((grid, edge))
        model = _model_of(edge)
        return self._parts.faults.add_attackers(
            grid,
            lambda member: (edge.settings.aggregation.rule, model(member).rule),
            lambda member: model(member).sent,
            edge.settings.communication.screening,
            lambda member: self._honest(member, edge),
        )

    def _honest(self, member: int, known: Edge) -> dict[int, Accepted]:
        """Return the honest updates of a member in all groups but that of one edge."""
        honest: dict[int, Accepted] = {}
        for grid, edge in self._groups:
            if edge is not known:
                honest |= self._honest_in(grid, edge, member)
        return honest

    def _honest_in(self, grid: GroupGrid, edge: Edge, member: int) -> dict[int, Accepted]:
        sent, replies = grid.exchanged
        if not sent:
            return {}
        listed = None if edge.settings.ensemble.members == 1 else member
        screening = edge.settings.communication.screening
        model = _model_of(edge)(member).sent
        reader = RoundUpdates.of(sent[0], model, self._parts.seeds, screening, listed)
        faulty = self._parts.faults.in_round(server_round(sent[0]))
        honest: dict[int, Accepted] = {}
        for node, reply in with_nodes(sent, replies):
            if node is None or reply.has_error() or grid.partition_of(node) in faulty:
                continue
            read = reader.read(reply)
            if isinstance(read, Accepted):  # relative to the model of its own group
                honest[grid.partition_of(node)] = replace(read, update=read.delta)
        return honest


def _model_of(edge: Edge) -> ModelOf:
    """Return (member) -> the model of an edge, with what it sends in the present round."""

    def model(member: int) -> ModelState:
        assert edge.strategy.state is not None
        return edge.strategy.state.models[member]

    return model


@final
class _Links:
    """Computes how long messages are on the way between server and edges."""

    def __init__(self, edges: Edges, download_bytes: Callable[[Message], int]) -> None:
        self._times, self._faults = edges.link_times, edges.faults
        self._download_bytes = download_bytes

    def __call__(self, edge: int, message: Message, reply: Message) -> float:
        number = server_round(message)
        connection = self._times.connection(edge, number)
        return (
            connection.download_seconds(self._download_bytes(message))
            + connection.upload_seconds(array_bytes(reply))
            + self._faults.delays(number).get(edge, 0.0)
        )


def sent_bytes(grid: Callable[[], EdgeGrid]) -> Callable[[Message], int]:
    """Return what computes the bytes of training messages from edges to their clients.

    ``grid`` returns the edges; it is called with the first message.
    """
    of_edge: dict[int, SentBytes] = {}

    def size(message: Message) -> int:
        edge = grid().edge_of(message.metadata.dst_node_id)
        if edge.number not in of_edge:
            of_edge[edge.number] = SentBytes(_model_of(edge))
        return of_edge[edge.number](message)

    return size
