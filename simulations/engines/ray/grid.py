"""A Flower Grid on Ray, whose cost follows the cohort and not the population.

What a round's messages share is put into Ray's object store once and read there by every worker;
clients run in batches in a pool of warm actors; replies are handed on as they finish; a client's
state stays in the object store between rounds. A worker that dies costs the client that killed it,
nobody else. Any Flower Strategy runs on it unchanged.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, final

import ray
from flwr.app import Error, Message, RecordDict, UserConfig
from flwr.clientapp import ClientApp

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.flower_internals import ErrorCode
from hqde_fl.simulations.console.interruption import ends_process
from hqde_fl.simulations.engines.base import LocalGrid
from hqde_fl.simulations.engines.ray.dispatch import Counters, Dispatcher, Task
from hqde_fl.simulations.engines.ray.packing import Packed, pack, unpack
from hqde_fl.simulations.engines.ray.pool import POOL, Pool, connect
from hqde_fl.simulations.engines.ray.resources import Resources, Share
from hqde_fl.simulations.engines.ray.worker import Done, Job
from hqde_fl.simulations.experiment import import_path

POLL_SECONDS = 0.05


@final
class RayGrid(LocalGrid):
    """Simulated clients on Ray.

    Parameters
    ----------
    client_app : ClientApp
        What every client runs; it must be picklable by Ray (cloudpickle).
    partitions : int
        The population. What a round costs depends on the clients it asks, not on this.
    run_config : UserConfig
        The run's configuration, as the clients see it.
    seed : int
        Node ids derive from it and the partition id: they are the same in every run.
    resources : Sequence[Resources]
        What a client is given, group by group; at most one group may leave ``partitions`` empty,
        and it takes all clients that no other group names. One CPU each if not given.
    address : str
        The Ray cluster to join; ``RAY_ADDRESS`` or a local Ray if empty. A Ray that this process is
        connected to already is used as it is.
    runtime_env : Mapping[str, Any], optional
        Ray's runtime environment for workers on a joined cluster.
    pool : Pool
        The workers; by default those that this process keeps warm between runs.

    Raises
    ------
    ConfigError
        If no client fits on the cluster: it says what the cluster has.
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
        self._shares = _Shares(resources, pool)
        app = ray.put((client_app, dict(run_config), self._run.run_id))
        self._dispatcher = Dispatcher(
            pool, app.hex(), [app, import_path.current()], changed=self._changed
        )
        self._asked: dict[str, Message] = {}

    @property
    def counters(self) -> Counters:
        """What happened underneath the rounds: deaths, reruns, lost states, cancellations."""
        return self._dispatcher.counters

    def contexts(self, partitions: Iterable[int]) -> dict[int, RecordDict]:
        """What clients remember between messages, fetched from the object store.

        What was lost with a node of the cluster is not there.
        """
        nodes = {self._nodes[each]: each for each in partitions}
        states = self._dispatcher.states
        held = {each: states[node] for node, each in nodes.items() if node in states}
        try:
            fetched = dict(zip(held, ray.get(list(held.values())), strict=True))
        except ray.exceptions.RayError:  # one of them is lost: which?
            fetched = {each: found for each, ref in held.items() if (found := _fetched(ref))}
        return {each: unpack(packed) for each, packed in fetched.items()}

    def set_contexts(self, contexts: Mapping[int, RecordDict]) -> None:
        """Have clients remember what they did when an earlier run of theirs ended."""
        for partition, state in contexts.items():
            self._dispatcher.states[self._nodes[partition]] = ray.put(pack(state))

    def push_messages(self, messages: Iterable[Message]) -> list[str]:
        """Queue clients; what they share is put into the object store once."""
        contents: dict[int, tuple[RecordDict, Any]] = {}
        tasks = []
        for message in messages:
            key = self._number(message)
            content = message.content
            if id(content) not in contents:
                contents[id(content)] = (content, ray.put(pack(content)))
            tasks.append(self._task(key, message, contents[id(content)][1]))
            self._asked[key] = message
        self._dispatcher.submit(tasks)
        return [task.key for task in tasks]

    def pull_messages(self, message_ids: Iterable[str]) -> list[Message]:
        """The replies that are there."""
        self._advance(timeout=0)
        return super().pull_messages(message_ids)

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Replies:
        """Run clients; their replies as they finish.

        Clients that have not finished when ``timeout`` seconds are over are cancelled.
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
        finally:  # the deadline, an interrupt, or a Strategy that has seen enough
            if keys and not ends_process():  # then Ray ends with it, and may have ended already
                self._dispatcher.cancel()
                for key in keys:
                    del self._asked[key]

    def _advance(self, timeout: float | None) -> None:
        outcomes = self._dispatcher.step(timeout)
        for task, done in outcomes:
            self._replies[task.key] = _reply(self._asked.pop(task.key), done)
        if not outcomes and timeout != 0 and not self._dispatcher.waiting:
            time.sleep(POLL_SECONDS)  # no worker fits at present: a node may have gone

    def _task(self, key: str, message: Message, content: Any) -> Task:
        node = message.metadata.dst_node_id
        partition = self._partitions[node]
        meta = message.metadata
        job = Job(
            node=node,
            partition=partition,
            partitions=len(self._nodes),
            metadata=(key, meta.message_type, meta.group_id, meta.created_at, meta.ttl),
            context=self._dispatcher.states.get(node),
        )
        return Task(key, job, content, self._shares.of(partition))


@final
class Replies:
    """The replies of a round, in the order in which they come; it can be walked once."""

    def __init__(self, replies: Iterator[Message]) -> None:
        self._replies = replies

    def __iter__(self) -> Iterator[Message]:
        return self._replies


class _Shares:
    """Which client is given what."""

    def __init__(self, resources: Sequence[Resources], pool: Pool) -> None:
        groups = list(resources) or [Resources()]
        rest = [group for group in groups if not group.partitions]
        if len(rest) > 1:
            raise ConfigError("engine.resources: only one group may leave partitions empty")
        named = [partition for group in groups for partition in group.members()]
        if len(named) != len(set(named)):
            raise ConfigError("engine.resources: a partition is in more than one group")
        groups = groups if rest else [*groups, Resources()]
        shares = pool.settle(groups)
        self._rest = next(s for s, g in zip(shares, groups, strict=True) if not g.partitions)
        self._named = {
            partition: share
            for share, group in zip(shares, groups, strict=True)
            for partition in group.members()
        }

    def of(self, partition: int) -> Share:
        """What a client is given."""
        return self._named.get(partition, self._rest)


def _fetched(reference: Any) -> Packed | None:
    try:
        return ray.get(reference)  # type: ignore[no-any-return]
    except ray.exceptions.RayError:
        return None


def _reply(asked: Message, done: Done) -> Message:
    if done.reply is None:
        crashed = done.seconds == 0.0
        code = ErrorCode.CLIENT_APP_CRASHED if crashed else ErrorCode.CLIENT_APP_RAISED_EXCEPTION
        return Message(Error(code, done.error), reply_to=asked)
    try:
        return Message(unpack(done.reply), reply_to=asked)
    except Exception as error:  # records that Flower itself will not have
        reason = f"malformed reply ({type(error).__name__}: {error})"
        return Message(Error(ErrorCode.CLIENT_APP_RAISED_EXCEPTION, reason), reply_to=asked)
