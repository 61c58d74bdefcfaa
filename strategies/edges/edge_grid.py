"""A Grid whose nodes are edges, each with a group of the nodes of another Grid."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from logging import WARNING
from typing import final

from flwr.app import Context, Message, MessageType, RecordDict, UserConfigValue
from flwr.clientapp.typing import Mod
from flwr.serverapp import Grid

from hqde_fl.errors import BoundError
from hqde_fl.protocol.flower_internals import NodeInfo, log, set_message_id
from hqde_fl.protocol.grid_protocols import KeepsVirtualTime
from hqde_fl.protocol.reply_matching import ReplyMatcher
from hqde_fl.protocol.wrapped_grid import WrappedGrid
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.edges.edge import Edge, Exchange, failed
from hqde_fl.strategies.edges.edge_mods import EdgeCall
from hqde_fl.strategies.edges.group_grid import GroupGrid
from hqde_fl.strategies.edges.settings import EdgeSettings
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.state import ServerState
from hqde_fl.updates.roles import Roles

FIRST_NODE = 2
"""The node id of edge 0; the others follow."""

LinkSeconds = Callable[[int, Message, Message], float]
"""(edge, message, reply) -> virtual seconds that both are on the way between root and edge."""


def _no_time(edge: int, message: Message, reply: Message) -> float:
    return 0.0


def _unchanged(grid: Grid, edge: Edge) -> Grid:
    return grid


@final
@dataclass(frozen=True, eq=False)
class EdgeSurroundings:
    """The surroundings of each edge: its mods, its link, and the Grid of its group.

    Parameters
    ----------
    mods : Sequence[Mod]
        Flower mods between root and edge, the outermost first; each edge has a context of its own.
    group_grid : Callable[[Grid, Edge], Grid]
        Returns what stands between an edge and the Grid of its group; by default nothing.
    link_seconds : LinkSeconds
        Virtual seconds on the way between root and edge; by default none.
    node_config : Mapping[str, UserConfigValue]
        Further entries of the edges' node configs.
    """

    mods: Sequence[Mod] = ()
    group_grid: Callable[[Grid, Edge], Grid] = _unchanged
    link_seconds: LinkSeconds = _no_time
    node_config: Mapping[str, UserConfigValue] = field(default_factory=dict)


@final
@dataclass(frozen=True, eq=False)
class EdgeState:
    """State that an edge carries from one message of the root to the next.

    Parameters
    ----------
    server : ServerState or None
        State of its strategy; None before its first round.
    context : RecordDict
        State of its mods, as a client's.
    """

    server: ServerState | None
    context: RecordDict


@final
class EdgeGrid(WrappedGrid):
    """A Grid on which the root's strategy runs, as it would over clients.

    All edges run their rounds in lockstep: the messages of all groups go out at once, so that the
    wrapped Grid has all clients of a round to spread over its workers. The last error of an edge is
    its reply; it does not end the run.

    It is a ``KnowsPartitions``: the partition id of an edge is its number. It keeps the clients'
    contexts if the wrapped Grid does, and virtual time: an edge takes the sum of its rounds, and
    the time of its link.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the clients.
    settings : EdgeSettings
        Settings of the edges.
    seed : int
        The run's seed.
    roles : Roles, optional
        The roles of the model's entries.
    surroundings : EdgeSurroundings, optional
        What stands around each edge.
    """

    def __init__(
        self,
        grid: Grid,
        settings: EdgeSettings,
        *,
        seed: int = 0,
        roles: Roles | None = None,
        surroundings: EdgeSurroundings | None = None,
    ) -> None:
        super().__init__(grid, same_nodes=False)
        self.partition_of = self._number
        self._settings = settings
        self._around = surroundings or EdgeSurroundings()
        count = settings.groups.edges
        self.edges = [Edge(number, settings, seed, roles) for number in range(count)]
        self._views = [GroupGrid(grid) for _ in range(count)]
        self.group_grids = [
            self._around.group_grid(view, edge)
            for view, edge in zip(self._views, self.edges, strict=True)
        ]
        self._contexts = [self._context(number) for number in range(count)]
        by_node = settings.groups.by_node
        self._roster, self._edge_of_node = Roster(count if by_node else 0), dict[int, int]()
        self.without_edge: dict[int, str] = {}
        """Connected nodes that belong to no edge, and why."""
        self._replies: dict[str, Message] = {}
        self._sent = 0
        self.own_seconds: dict[int, float] = {}
        """Seconds that each edge itself took for the last training messages, to merge above all."""
        self._seconds: dict[int, float] = {}
        self._deadline = float("inf")
        self._keeps_time = isinstance(grid, KeepsVirtualTime)
        if self._keeps_time:
            self.reply_times, self.round_time = self._reply_times, self._round_time

    # --- what the root's strategy asks for --------------------------------------------------------

    def get_node_ids(self) -> list[int]:
        """Return the edges' node ids."""
        return [FIRST_NODE + edge.number for edge in self.edges]

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterable[Message]:
        """Let edges answer messages, and return their replies.

        The ``timeout`` is for virtual time: replies that come later are not returned. In real time
        each round of an edge has the deadline of the edges' ``communication``.
        """
        sent = list(messages)
        training = bool(sent) and sent[0].metadata.message_type == MessageType.TRAIN
        if training:
            self.own_seconds = {}
            for edge in self.edges:
                edge.records = []
        calls = [self._called(message) for message in sent]
        self._run([call for call in calls if call.reply is None])
        replies = {call.edge: call.finish() for call in calls}
        if not training or not self._keeps_time:
            return [*replies.values()]
        self._deadline = float("inf") if timeout is None else timeout
        self._seconds = {}
        for call in calls:
            link = self._around.link_seconds(call.edge, call.message, replies[call.edge])
            self._seconds[FIRST_NODE + call.edge] = call.seconds + link
        return [
            reply
            for edge, reply in replies.items()
            if self._seconds[FIRST_NODE + edge] <= self._deadline
        ]

    # --- what recordings and checkpoints ask for --------------------------------------------------

    @property
    def records(self) -> list[list[RoundRecord]]:
        """The records of each edge's rounds that answered the last training messages."""
        return [edge.records for edge in self.edges]

    def edge_of(self, node: int) -> Edge:
        """Return the edge of a client's node, which has been asked something before."""
        return self.edges[self._edge_of_node[node]]

    def states(self) -> list[EdgeState]:
        """Return the state of each edge; later rounds do not change it."""
        return [
            EdgeState(edge.strategy.state, RecordDict(dict(context.state)))
            for edge, context in zip(self.edges, self._contexts, strict=True)
        ]

    def restore(self, states: Sequence[EdgeState]) -> None:
        """Give each edge the state with which an earlier run ended."""
        for edge, context, state in zip(self.edges, self._contexts, states, strict=True):
            server = state.server
            edge.strategy.state = None if server is None else server.without_holdings()
            context.state = RecordDict(dict(state.context))

    # --- rounds in lockstep -----------------------------------------------------------------------

    def _called(self, message: Message) -> EdgeCall:
        """Return the call of a message's edge, which has passed the mods on its way in."""
        self._sent += 1
        set_message_id(message, f"edge-{self._sent}")
        number = self._number(message.metadata.dst_node_id)
        return EdgeCall.begin(number, message, self._contexts[number], self._around.mods)

    def _run(self, calls: Sequence[EdgeCall]) -> None:
        """Run the rounds of these calls until each has its reply."""
        if calls:
            self._find_clients()
        running: dict[int, tuple[EdgeCall, Exchange]] = {}
        outgoing: dict[int, list[Message]] = {}
        for call in calls:
            running[call.edge] = call, self._exchange(call)
            self._advance(running, outgoing, call.edge, None)
        while running:
            limit = self._settings.communication.deadline
            sent = [message for edge in running for message in outgoing[edge]]
            received = list(self._grid.send_and_receive(sent, timeout=limit)) if sent else []
            by_edge = self._by_edge(sent, received)
            for edge in running:
                self._views[edge].hand_over(outgoing[edge], by_edge.get(edge, []), limit)
            for edge in list(running):
                if self._keeps_time:
                    running[edge][0].seconds += self._views[edge].round_time()
                passed = self.group_grids[edge].send_and_receive(outgoing[edge], timeout=limit)
                self._advance(running, outgoing, edge, list(passed))

    def _exchange(self, call: EdgeCall) -> Exchange:
        edge, grid = self.edges[call.edge], self.group_grids[call.edge]
        kind = call.inner.metadata.message_type
        if kind == MessageType.TRAIN:
            return edge.train(call.inner, grid)
        if kind == MessageType.EVALUATE:
            return edge.evaluate(call.inner, grid)
        return _refuse(call.inner, kind)

    def _advance(
        self,
        running: dict[int, tuple[EdgeCall, Exchange]],
        outgoing: dict[int, list[Message]],
        edge: int,
        replies: Sequence[Message] | None,
    ) -> None:
        """Let an edge go on until its next messages, which go to ``outgoing``, or its reply."""
        call, exchange = running[edge]
        started = time.perf_counter()
        try:
            outgoing[edge] = next(exchange) if replies is None else exchange.send(replies)
        except StopIteration as stop:
            call.reply = stop.value
            del running[edge]
        except BoundError as error:  # its group is too small for its rule
            call.reply = failed(call.inner, f"edge {edge}: {error}")
            del running[edge]
        spent = time.perf_counter() - started
        self.own_seconds[edge] = self.own_seconds.get(edge, 0.0) + spent

    def _by_edge(
        self, sent: Sequence[Message], replies: Iterable[Message]
    ) -> dict[int, list[Message]]:
        matcher, by_edge = ReplyMatcher(sent), dict[int, list[Message]]()
        for reply in replies:
            node = matcher.source(reply)
            if node is None:
                source = reply.metadata.src_node_id
                log(WARNING, "dropped a reply signed by node %d to a message never sent", source)
            else:
                by_edge.setdefault(self._edge_of_node[node], []).append(reply)
        return by_edge

    def _find_clients(self) -> None:
        """Tell each edge which of its nodes are connected.

        A node keeps its edge for the run. One that belongs to none takes no part.
        """
        participation = self._settings.participation
        nodes = self._roster.wait(
            self._grid,
            participation.min_available_nodes,
            participation.wait_for_nodes,
            identify=self._settings.communication.deadline,
        )
        connected: list[dict[int, int]] = [{} for _ in self.edges]
        warned, self.without_edge = self.without_edge, {}
        for node in nodes:
            if node not in self._edge_of_node:
                edge = self._new_edge(node, [*map(len, connected)])
                if isinstance(edge, str):
                    self.without_edge[node] = edge
                    if warned.get(node) != edge:
                        log(WARNING, "node %d belongs to no edge: %s", node, edge)
                    continue
                self._edge_of_node[node] = edge
            connected[self._edge_of_node[node]][node] = self._roster.identity(node)
        for view, clients in zip(self._views, connected, strict=True):
            view.set_clients(clients)

    def _new_edge(self, node: int, sizes: list[int]) -> int | str:
        """Return the edge of a new node, given the groups' sizes, or why it belongs to none.

        A node whose partition is not known joins the smallest group, if clients are dealt.
        """
        groups, partition = self._settings.groups, self._roster.partition(node)
        if groups.by_node:
            return self._roster.edge(node)
        if partition is not None:
            edge = groups.edge_of(partition)
            return f"no list of edges.groups has client {partition}" if edge is None else edge
        return "its partition id is not known" if groups.lists else sizes.index(min(sizes))

    def _context(self, number: int) -> Context:
        return Context(
            run_id=0,
            node_id=FIRST_NODE + number,
            node_config={
                **self._around.node_config,
                "partition-id": number,
                "num-partitions": self._settings.groups.edges,
            },
            state=RecordDict(),
            run_config={},
        )

    # --- the rest of a Grid -----------------------------------------------------------------------

    def get_nodes(self) -> Iterable[NodeInfo]:
        """Return nothing: edges are no nodes of Flower."""
        return []

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Let edges answer messages; return the messages' ids, for ``pull_messages``."""
        sent = list(messages)
        for reply in self.send_and_receive(sent):
            self._replies[reply.metadata.reply_to_message_id] = reply
        return [message.metadata.message_id for message in sent]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return the replies to the messages with these ids, each of them only once."""
        return [self._replies.pop(key) for key in message_ids if key in self._replies]

    def _number(self, node: int) -> int:
        """Return the number of the edge with a node id."""
        return node - FIRST_NODE

    def _reply_times(self) -> Mapping[int, float]:
        return self._seconds

    def _round_time(self) -> float:
        return min(max(self._seconds.values(), default=0.0), self._deadline)


def _refuse(message: Message, kind: str) -> Exchange:
    """Return the error reply to a message of a kind that edges do not answer."""
    yield from ()
    return failed(message, f"an edge answers training and evaluation, found {kind[:40]!r}")
