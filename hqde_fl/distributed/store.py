"""Versioned weights in Ray's object store, which survive the death of the processes that hold them.

::

    store = DistributedWeightStore("my-run", directory="weights")
    version = store.put("global", model.state_dict())
    ...
    DistributedWeightStore.open("my-run").latest("global").weights    # in any process of that Ray

``weight_coordinator`` describes the actors behind it.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Self, final
from uuid import uuid4

import numpy as np
import ray
from ray.exceptions import (
    ObjectLostError,
    OwnerDiedError,
    RayActorError,
    RayError,
)
from torch import Tensor

from hqde_fl.distributed.ray_tasks import fetch, require_ray
from hqde_fl.distributed.weight_coordinator import (
    NAMESPACE,
    Coordinator,
    coordinator_name,
    get_or_start,
    replica_name,
)
from hqde_fl.distributed.weight_versions import (
    ReplicasLostError,
    StoreSettings,
    SupersededError,
    Version,
)
from hqde_fl.errors import ConfigError, HQDEError, RunError
from hqde_fl.updates.weights_bytes import weights_from_bytes, weights_to_bytes

RETRY_SECONDS = 60.0
"""Time for which an operation is tried again while actors die."""


class VersionConflictError(HQDEError, RuntimeError):
    """A compare-and-set found another latest version than it expected.

    Parameters
    ----------
    key : str
        The key.
    expected, latest : int
        The version that was expected, and the latest one; 0 for none.
    """

    def __init__(self, key: str, expected: int, latest: int) -> None:
        self.key, self.expected, self.latest = key, expected, latest
        super().__init__(f"weights {key!r}: expected version {expected}, found {latest}")

    def __reduce__(self) -> tuple[type[VersionConflictError], tuple[str, int, int]]:
        return type(self), (self.key, self.expected, self.latest)


class NoSuchVersionError(HQDEError, KeyError):
    """A key or a version that the store does not have: never written, or evicted."""

    def __str__(self) -> str:
        return str(self.args[0])


@dataclass(frozen=True, eq=False)
class StoredWeights:
    """One version of the weights under a key.

    Parameters
    ----------
    key : str
        The key.
    version : int
        Its number, from 1.
    created : float
        When it was written, in Unix seconds.
    weights : dict[str, Tensor]
        The entries by name.
    facts : dict[str, Any]
        What was stored about it, such as the round.
    """

    key: str
    version: int
    created: float
    weights: dict[str, Tensor]
    facts: dict[str, Any]


@dataclass(frozen=True)
class Access:
    """Statistics of one version.

    Parameters
    ----------
    key : str
        The key.
    version : int
        The version.
    bytes : int
        Its size.
    created : float
        When it was written, in Unix seconds.
    reads : int
        How often it was read.
    last_read : float or None
        When it was read last, in Unix seconds; None if never.
    """

    key: str
    version: int
    bytes: int
    created: float
    reads: int
    last_read: float | None


@final
class DistributedWeightStore:
    """Versioned weights behind replicated actors, shared by all processes of one Ray.

    A write is acknowledged when every living replica holds it, and a read compares more than half
    of the replicas. So any replica may be killed at any time: the others hold all that was
    acknowledged, and a new one is filled from them. If all are gone, they are filled from the last
    checkpoint in ``directory``; with ``checkpoint_every=1``, the default, that is every write.

    The actors outlive the process that made the store, until ``close``, or until their Ray ends.

    Parameters
    ----------
    name : str
        The store's name in its Ray. If there is a store of that name, this is another handle of it,
        and its settings are those that it was made with.
    replicas : int
        Actors that hold the versions, >= 1; by default 3. Each holds all of them.
    max_age : float
        Seconds after which a version is evicted, unless it is the latest of its key.
    max_bytes : float
        Bytes of all versions, at most: the oldest are evicted, but never the latest of a key.
    max_versions : int
        Versions of a key that are kept, at most: the latest; 0, the default, for all.
    directory : str
        Folder of the checkpoints, on the node of the cluster where the coordinator runs, or shared
        by all; empty for none.
    checkpoint_every : int
        Writes between two checkpoints, >= 0; 0 for none but those that ``checkpoint`` makes.
    """

    def __init__(self, name: str = "default", **settings: Any) -> None:
        self._connect(name, StoreSettings(**settings), new=True)

    @classmethod
    def open(cls, name: str = "default") -> Self:
        """Return a handle of a store that exists, in this or any other process of its Ray.

        Raises
        ------
        RunError
            If there is no store of that name.
        """
        require_ray("a weight store")
        store = cls.__new__(cls)
        for number in range(StoreSettings().replicas):
            try:
                actor = ray.get_actor(replica_name(name, number), namespace=NAMESPACE)
                settings: Any = ray.get(actor.settings.remote())
            except (ValueError, RayActorError):
                continue
            store._connect(name, settings, new=False)
            return store
        raise RunError(f"there is no weight store {name!r} in this Ray")

    def _connect(self, name: str, settings: StoreSettings, *, new: bool) -> None:
        require_ray("a weight store")
        self.name, self.settings = name, settings
        self._new, self._closed = new, False
        self._coordinator: Any = None
        self._replicas: dict[int, Any] = {}
        self.settings = self._first_settings()
        self._call("repair")
        self._new = False
        self.settings = self._first_settings()

    def put(
        self,
        key: str,
        weights: Mapping[str, Tensor],
        *,
        expected: int | None = None,
        facts: Mapping[str, str | int] | None = None,
    ) -> int:
        """Store weights as the next version of a key, and return its number.

        Parameters
        ----------
        key : str
            The key.
        weights : Mapping[str, Tensor]
            The entries by name, of any dtype.
        expected : int, optional
            The version that must be the latest one, 0 for none: compare-and-set.
        facts : Mapping[str, str or int], optional
            What to store about them.

        Raises
        ------
        ConfigError
            If there is anything else among the weights or the facts.
        VersionConflictError
            If the latest version is not the expected one; nothing is stored then.
        """
        for name, entry in weights.items():
            if not isinstance(entry, Tensor):
                raise ConfigError(
                    f"weights {key!r} must be tensors by name, found {entry!r:.40} for {name!r}"
                )
        for name, fact in (facts or {}).items():
            if not isinstance(fact, str | int):
                raise ConfigError(
                    f"facts of weights {key!r} must be strings or ints, "
                    f"found {fact!r:.40} for {name!r}"
                )
        content = np.frombuffer(weights_to_bytes(weights, facts), np.uint8)
        reference = ray.put(content)
        written, version = self._call("write", key, uuid4().hex, reference, expected)
        if not written:
            raise VersionConflictError(key, expected or 0, version)
        return int(version)

    def compare_and_set(self, key: str, weights: Mapping[str, Tensor], expected: int) -> int:
        """Store weights if the latest version is ``expected`` (0: none), and return the new number.

        Raises
        ------
        VersionConflictError
            If it is not.
        """
        return self.put(key, weights, expected=expected)

    def latest(self, key: str) -> StoredWeights:
        """Return the latest version of a key; raise ``NoSuchVersionError`` if there is none."""
        return self.get(key)

    def get(self, key: str, version: int | None = None) -> StoredWeights:
        """Return a version of a key, by default the latest.

        Raises
        ------
        NoSuchVersionError
            If there is none: it was never written, or evicted.
        """
        end = time.monotonic() + RETRY_SECONDS
        while True:
            found, references = self._look_up(key, version)
            if found is None:
                which = "no version" if version is None else f"no version {version}"
                kept = self._call("keys").get(key, [])
                raise NoSuchVersionError(f"weights {key!r} have {which}, found {kept}")
            for reference in references:
                try:
                    content = bytes(ray.get(reference))
                except (ObjectLostError, OwnerDiedError):
                    continue  # that replica has died since
                state, facts = weights_from_bytes(content)
                return StoredWeights(key, found.version, found.created, state, facts)
            if time.monotonic() > end:
                raise RunError(f"weight store {self.name!r}: replicas die faster than it reads")

    def versions(self, key: str) -> list[int]:
        """Return the numbers of the versions of a key that are kept, in order."""
        return list(self._call("keys").get(key, []))

    def keys(self) -> list[str]:
        """Return all keys, sorted."""
        return list(self._call("keys"))

    def statistics(self) -> list[Access]:
        """Return the statistics of every version that is kept, by key and version."""
        return [
            Access(v.key, v.version, v.bytes, v.created, reads, last)
            for v, reads, last in self._call("accesses")
        ]

    def evict(self) -> None:
        """Evict what is too old or too much now; every write does so too."""
        self._call("evict")

    def checkpoint(self) -> str:
        """Write all versions to the store's directory, and return the directory."""
        return str(self._call("checkpoint"))

    def repair(self) -> None:
        """Replace dead replicas now; every write does so too."""
        self._call("repair")

    def close(self) -> None:
        """End the store's actors; what they hold is lost, the checkpoints stay."""
        self._closed = True
        with suppress(RayError):
            ray.get(self._get_coordinator().end.remote())

    def _look_up(self, key: str, version: int | None) -> tuple[Version | None, list[Any]]:
        """Return a version's description and references to its bytes, by more than half.

        Where replicas differ, a write is going on, or too few answer, the coordinator is asked.
        """
        self._require_open()
        calls = {}
        for number in range(self.settings.replicas):
            if (actor := self._replica(number)) is not None:
                calls[actor.look_up.remote(key, version)] = number
        answers: list[tuple[Version | None, list[Any]]] = []
        dead, waiting = len(calls) < self.settings.replicas, list(calls)
        while waiting and len(answers) < self.settings.quorum:
            (ready,), waiting = ray.wait(waiting, num_returns=1)
            try:
                filled, found, references = ray.get(ready)
            except RayActorError:
                dead = True
                self._replicas.pop(calls[ready], None)
                continue
            if filled:
                answers.append((found, references))
        if dead:
            self._start_repair()
        first = answers[0][0] if answers else None
        agree = len(answers) >= self.settings.quorum and all(a[0] == first for a in answers)
        if agree:
            return first, [reference for _, references in answers for reference in references]
        found, references = self._call("look_up", key, version, not answers)
        return found, references

    def _require_open(self) -> None:
        """Raise ``RunError`` if this handle has closed the store."""
        if self._closed:
            raise RunError(f"weight store {self.name!r} is closed")

    def _replica(self, number: int) -> Any:
        """Return the living replica of a slot; None if there is none at present."""
        if number not in self._replicas:
            try:
                name = replica_name(self.name, number)
                self._replicas[number] = ray.get_actor(name, namespace=NAMESPACE)
            except ValueError:
                return None
        return self._replicas[number]

    def _start_repair(self) -> None:
        """Ask the coordinator to replace dead replicas, without waiting for it."""
        self._get_coordinator().repair.remote()

    def _get_coordinator(self) -> Any:
        if self._coordinator is None:
            name = coordinator_name(self.name)
            arguments = self.name, self.settings, self._new
            self._coordinator = get_or_start(Coordinator, name, *arguments)
        return self._coordinator

    def _first_settings(self) -> StoreSettings:
        for number in range(self.settings.replicas):
            if (actor := self._replica(number)) is not None:
                try:
                    described: Any = ray.get(actor.settings.remote())
                    return StoreSettings(**asdict(described))
                except RayActorError:
                    self._replicas.pop(number)
        return self.settings

    def _call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the coordinator returns, which is replaced if it is dead."""
        self._require_open()
        end = time.monotonic() + RETRY_SECONDS
        while True:
            try:
                return fetch(getattr(self._get_coordinator(), method).remote(*arguments))
            except (SupersededError, ReplicasLostError):
                failed = None
            except RunError as error:
                if not isinstance(error.__cause__, RayActorError):
                    raise
                failed = error
            if time.monotonic() > end:
                raise RunError(f"weight store {self.name!r} does not answer") from failed
            self._coordinator = None
            time.sleep(0.02)  # until Ray has freed the name
