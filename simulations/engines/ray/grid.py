"""A Flower Grid on Ray whose cost depends on the cohort of a round, not on the population.

Content that several messages of a round have in common is put into Ray's object store once. Clients
run in batches in a pool of actors that stay alive between rounds and runs. Replies are handed on as
they finish, and the clients' states stay in the object store. If a worker dies, only the client
that killed it gets an error. Any Flower Strategy runs on this Grid unchanged.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import ray
from flwr.app import Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from hqde_fl.errors import ConfigError
from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.monitor.spans import add_record, add_span, is_recording
from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.protocol.replies import Replies
from hqde_fl.protocol.reply_block import BlockRow, RowMessage
from hqde_fl.simulations.console.interruption import ends_process
from hqde_fl.simulations.engines.base import LocalGrid
from hqde_fl.simulations.engines.monitored_call import monitored_round
from hqde_fl.simulations.engines.ray.dispatch import ClientCall, Counters, Dispatcher
from hqde_fl.simulations.engines.ray.node_samples import NodeSamples
from hqde_fl.simulations.engines.ray.packing import Packed, pack, unpack
from hqde_fl.simulations.engines.ray.pool import POOL, Pool, cluster, connect
from hqde_fl.simulations.engines.ray.private_ray import is_private
from hqde_fl.simulations.engines.ray.resources import Allocation, Resources
from hqde_fl.simulations.engines.ray.worker import App, Job, Outcome
from hqde_fl.simulations.engines.torch_settings import TorchSettings
from hqde_fl.simulations.experiment import import_path, own_modules

POLL_SECONDS = 0.05


@final
class RayGrid(LocalGrid):
    """Simulated clients on Ray.

    Parameters
    ----------
    client_app : ClientApp
        The app of every client; Ray must be able to pickle it (cloudpickle).
    partitions : int
        Number of clients.
    run_config : UserConfig
        The run's configuration, as the clients see it.
    seed : int
        Seed from which the node ids derive: they are the same in every run with it.
    resources : Sequence[Resources]
        Resources of a client, by groups of clients; one CPU each if empty. At most one group may
        leave ``partitions`` empty: it holds all clients that no other group names.
    address : str
        Address of the Ray cluster to join; ``RAY_ADDRESS`` or a new local Ray if empty. If this
        process is connected to a Ray, that one is used.
    runtime_env : Mapping[str, Any], optional
        Ray's runtime environment for workers on a joined cluster.
    pool : Pool
        The workers; by default those that this process keeps alive between runs.

    Raises
    ------
    ConfigError
        If no client fits on the cluster; the message lists the cluster's resources.
    RunError
        If the cluster cannot be joined.
    """

    def __init__(
        self,
        client_app: ClientApp,
        partitions: int,
        run_config: UserConfig,
        seed: int = 0,
        *,
        resources: Sequence[Resources] = (),
        address: str = "",
        runtime_env: dict[str, Any] | None = None,
        pool: Pool = POOL,
    ) -> None:
        super().__init__(partitions, seed)
        self.dashboard = connect(address, runtime_env)
        self._shares = _Allocations(resources, pool)
        private = is_private(address or os.environ.get("RAY_ADDRESS", "")) and len(cluster()) == 1
        self._private = private
        cache = self._cache.path if private else ""  # workers on other hosts would lack entries
        app = ray.put(App(client_app, dict(run_config), self._run.run_id, cache))
        self._dispatcher = Dispatcher(
            pool,
            app.hex(),
            [app, import_path.describe_path(), own_modules.added_folders()],
            changed=self._changed,
        )
        self._pending: dict[str, Message] = {}
        self._host_loads: dict[int, float] = {}

    @property
    def counters(self) -> Counters:
        """Numbers of dead workers, rerun clients, lost states and cancelled clients."""
        return self._dispatcher.counters

    def sample_hosts(self, monitor: PerformanceMonitor) -> Callable[[], None]:
        """Let a monitor record the nodes of a joined cluster; return a function that ends it.

        A Ray of this process is part of its process tree, which the monitor samples anyway.
        """
        if self._private:
            return lambda: None
        nodes = NodeSamples(monitor)
        monitor.add_source(nodes)
        return nodes.close

    def host_loads(self) -> Mapping[int, float]:
        """Return node id -> load of the machine on which its client ran last, in [0, 1]."""
        return self._host_loads

    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """Return the states of the clients of ``partitions``, by partition id.

        Clients without a state are left out, and those whose state was lost with a node of the
        cluster.
        """
        states = self._dispatcher.states
        nodes = {partition: self._nodes[partition] for partition in partitions}
        references = {part: states[node] for part, node in nodes.items() if node in states}
        try:
            fetched = dict(zip(references, ray.get(list(references.values())), strict=True))
        except ray.exceptions.RayError:  # one is lost: fetch the others one by one
            one_by_one = {part: _fetch(reference) for part, reference in references.items()}
            fetched = {part: packed for part, packed in one_by_one.items() if packed}
        return {part: unpack(packed) for part, packed in fetched.items()}

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Replace the states of the clients in ``contexts`` by copies of these, by partition id.

        The other clients keep theirs.
        """
        for partition, state in contexts.items():
            self._dispatcher.states[self._nodes[partition]] = ray.put(pack(state))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue the clients to which the messages go, and return the messages' new ids in order."""
        contents: dict[int, tuple[RecordDict, Any]] = {}
        calls, surroundings = [], (TorchSettings.current(), is_recording())
        for message in messages:
            key = self._number(message)
            content = message.content
            if id(content) not in contents:
                contents[id(content)] = (content, ray.put(pack(content)))
            calls.append(self._call(key, message, contents[id(content)][1], *surroundings))
            self._pending[key] = message
        self._dispatcher.submit(calls)
        return [call.key for call in calls]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """Return those replies to these messages that are there by now, each of them only once."""
        self._advance(timeout=0)
        return super().pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Replies:
        """Run the clients to which the messages go; return the replies, as they finish.

        Clients that have not finished after ``timeout`` seconds are cancelled and give no reply.
        """
        end = time.monotonic() + (float("inf") if timeout is None else timeout)
        return Replies(self._receive(set(self.push_messages(messages)), end))

    def _receive(self, keys: set[str], end: float) -> Iterator[Message]:
        try:
            while keys:
                for key in keys & self._replies.keys():
                    keys.remove(key)
                    yield self._replies.pop(key)
                left = end - time.monotonic()
                if not keys or left <= 0:
                    return
                self._advance(None if left == float("inf") else left)
        finally:  # the deadline, an interrupt, or a Strategy that stops reading
            if keys and not ends_process():  # if the process ends, Ray does too, or has already
                self._dispatcher.cancel()
                for key in keys:  # some may have replied meanwhile
                    self._pending.pop(key, None)
                    self._replies.pop(key, None)

    def _advance(self, timeout: float | None) -> None:
        outcomes = self._dispatcher.step(timeout)
        for call, outcome in outcomes:
            self._replies[call.key] = _reply(self._pending.pop(call.key), outcome)
            _record(call, outcome)
            self._call_seconds[call.job.node] = outcome.seconds
            self._host_loads[call.job.node] = outcome.host_load
        if not outcomes and timeout != 0 and not self._dispatcher.waiting:
            time.sleep(POLL_SECONDS)  # no worker fits at present: a node of the cluster may be gone

    def _call(
        self, key: str, message: Message, content: Any, settings: TorchSettings, monitored: bool
    ) -> ClientCall:
        node = message.metadata.dst_node_id
        partition = self._partitions[node]
        meta = message.metadata
        job = Job(
            node=node,
            partition=partition,
            partitions=len(self._nodes),
            metadata=(key, meta.message_type, meta.group_id, meta.created_at, meta.ttl),
            context=self._dispatcher.states.get(node),
            torch_settings=settings,
            monitored=monitored,
        )
        return ClientCall(key, job, content, self._shares.of(partition), time.time())


class _Allocations:
    """The resources of every client."""

    def __init__(self, resources: Sequence[Resources], pool: Pool) -> None:
        groups = list(resources) or [Resources()]
        rest = [group for group in groups if not group.partitions]
        if len(rest) > 1:
            raise ConfigError("engine.resources: only one group may leave partitions empty")
        named = [partition for group in groups for partition in group.members()]
        if len(named) != len(set(named)):
            raise ConfigError("engine.resources: a partition is in more than one group")
        groups = groups if rest else [*groups, Resources()]
        allocations = pool.allocate(groups)
        self._rest = next(s for s, g in zip(allocations, groups, strict=True) if not g.partitions)
        self._named = {
            partition: allocation
            for allocation, group in zip(allocations, groups, strict=True)
            for partition in group.members()
        }

    def of(self, partition: int) -> Allocation:
        """Return the resources of the client with this partition id."""
        return self._named.get(partition, self._rest)


def _fetch(reference: Any) -> Packed | None:
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayError:
        return None


def _record(call: ClientCall, outcome: Outcome) -> None:
    """Record when a client waited, ran, and its reply travelled, if a monitor asked for that."""
    if not outcome.records:
        return
    client, ended = call.job.partition, outcome.began + outcome.seconds
    number = monitored_round(call.job.metadata[2])
    add_span("wait", call.sent, outcome.began - call.sent, round=number, client=client)
    for record in outcome.records:
        add_record(record)
    add_span("transfer", ended, time.time() - ended, round=number, client=client)


def _reply(message: Message, outcome: Outcome) -> Message:
    """Return the reply to a message: the client's content, or an error."""
    if outcome.reply is None:
        crashed = outcome.seconds == 0.0
        code = ErrorCode.CLIENT_APP_CRASHED if crashed else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, outcome.error), reply_to=message)
    if isinstance(outcome.reply, BlockRow):
        return RowMessage(outcome.reply, message)
    try:
        return Message(unpack(outcome.reply), reply_to=message)
    except Exception as error:  # Flower refuses the records
        reason = f"malformed reply ({type(error).__name__}: {error})"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=message)
