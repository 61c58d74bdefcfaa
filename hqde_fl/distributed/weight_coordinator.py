"""The actors of a weight store: replicas that hold versions, and a coordinator that orders them.

A *replica* is an index from (key, version) to bytes in Ray's object store. It puts the bytes there
itself, so that they live as long as the replica does, whatever becomes of the process that sent
them; each replica has copies of its own, and Ray moves them to disk when memory is short.

The *coordinator* orders all writes, as Ray lets one actor of its name live at a time. It holds
nothing that the replicas do not: one that replaces a dead one reads the replicas first, completes
what its predecessor had begun, and fences it off with a higher epoch. A write is acknowledged when
every living replica has it. A dead replica is replaced, and filled from the others before it
answers; if all are gone, they are filled from the last checkpoint.
"""

from __future__ import annotations

import math
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayActorError, RayError, RayTaskError

from hqde_fl.distributed.weight_files import read_checkpoint, write_checkpoint
from hqde_fl.distributed.weight_replica import Replica
from hqde_fl.distributed.weight_versions import (
    Index,
    ReplicasLostError,
    StoreSettings,
    SupersededError,
    Version,
)
from hqde_fl.errors import ConfigError, RunError

NAMESPACE = "hqde-fl"
"""Ray's namespace of the actors."""

REPLACEMENTS = 8
"""Times that a replica is replaced in one operation before the operation fails."""


@dataclass
class _Slot:
    """A replica as the coordinator knows it; ``filled`` once it holds all versions."""

    actor: Any
    filled: bool = False


@dataclass(eq=False)
class Coordinator:
    """An actor that orders the writes of a store and keeps its replicas complete.

    Parameters
    ----------
    name : str
        The store's name.
    settings : StoreSettings
        Its settings.
    new : bool
        True if the store may not exist yet. False: that no replica holds anything is a loss.
    """

    name: str
    settings: StoreSettings
    new: bool
    _slots: list[_Slot] = field(default_factory=list)
    _index: Index = field(default_factory=dict)
    _epoch: int = 0
    _writes: int = 0

    def write(self, key: str, token: str, value: Any, expected: int | None) -> tuple[bool, int]:
        """Write the next version of a key.

        Parameters
        ----------
        key : str
            The key.
        token : str
            Identifies the write if it is tried again.
        value : NDArray
            Its bytes.
        expected : int or None
            The version that must be the latest (0: none), or nothing is written; None for any.

        Returns
        -------
        tuple[bool, int]
            True and the new version, or False and the latest one, which was not expected.
        """
        self._recover()
        versions = self._index.get(key, {})
        latest = max(versions, default=0)
        for known in reversed(versions.values()):
            if known.token == token:
                return True, known.version
        if expected is not None and expected != latest:
            return False, latest
        checksum = zlib.crc32(value)
        version = Version(key, latest + 1, token, value.nbytes, checksum, time.time())
        own = ray.put(value)  # the sender may die
        self._index.setdefault(key, {})[version.version] = version
        self._on_all(lambda actor: actor.write.remote(self._epoch, version, own))
        if self._index.get(key, {}).get(version.version) != version:
            raise ReplicasLostError(f"weight store {self.name!r}: all replicas died at once")
        self._evict()
        self._writes += 1
        every = self.settings.checkpoint_every
        if self.settings.directory and every and self._writes % every == 0:
            self.checkpoint()
        return True, version.version

    def look_up(
        self, key: str, version: int | None, count: bool = True
    ) -> tuple[Version | None, list[Any]]:
        """Return a version as every replica has it, and a reference to its bytes.

        See ``Replica.look_up``. Unlike a read of some replicas, this comes after all writes that
        were begun before it.
        """
        self._recover()
        self._on_all(lambda actor: actor.check.remote(self._epoch))
        for slot in self._slots:
            try:
                _, found, references = ray.get(slot.actor.look_up.remote(key, version, count=count))
                return found, references
            except RayActorError:
                slot.filled = False
        raise ReplicasLostError(f"weight store {self.name!r}: all replicas died at once")

    def repair(self) -> int:
        """Replace dead replicas and fill them; return the number of replicas."""
        self._recover()
        self._on_all(lambda actor: actor.check.remote(self._epoch))
        return len(self._slots)

    def keys(self) -> dict[str, list[int]]:
        """Return the versions of each key, in order."""
        self._recover()
        return {key: sorted(versions) for key, versions in sorted(self._index.items()) if versions}

    def accesses(self) -> list[tuple[Version, int, float | None]]:
        """Return each version, the number of its reads and the time of the last, None if never."""
        self.repair()
        counted: dict[tuple[str, int], tuple[int, float]] = {}
        for slot in self._slots:
            for place, (reads, last) in ray.get(slot.actor.accesses.remote()).items():
                before = counted.get(place, (0, 0.0))
                counted[place] = max(reads, before[0]), max(last, before[1])
        described = []
        for key, versions in sorted(self._index.items()):
            for number, version in sorted(versions.items()):
                reads, read = counted.get((key, number), (0, None))
                described.append((version, reads, read))
        return described

    def evict(self) -> None:
        """Evict what is too old or too much now; every write does so too."""
        self._recover()
        self._evict()

    def checkpoint(self) -> str:
        """Write all versions to the store's directory, and return it."""
        self._recover()
        if not self.settings.directory:
            raise ConfigError(f"weight store {self.name!r} has no directory for checkpoints")
        write_checkpoint(Path(self.settings.directory), self._versions(), self._content)
        return self.settings.directory

    def end(self) -> None:
        """End the replicas and this actor."""
        for number in range(self.settings.replicas):
            actor = _existing(replica_name(self.name, number))
            if actor is not None:
                ray.kill(actor)
        ray.actor.exit_actor()  # type: ignore[no-untyped-call]

    def _versions(self) -> list[Version]:
        return [version for versions in self._index.values() for version in versions.values()]

    def _content(self, version: Version) -> bytes:
        for slot in self._slots:
            try:
                (reference,) = ray.get(slot.actor.values.remote([version]))
                return bytes(ray.get(reference))
            except RayError:
                continue
        raise RunError(f"weight store {self.name!r}: no replica has {version}")

    def _evict(self) -> None:
        """Remove the versions that are too old, and the oldest while there are too many bytes."""
        settings = self.settings
        bounds = settings.max_age, settings.max_bytes, settings.max_versions or math.inf
        if all(map(math.isinf, bounds)):
            return
        versions = self._versions()
        latest = {(key, max(numbers)) for key, numbers in self._index.items() if numbers}
        old = [v for v in versions if (v.key, v.version) not in latest]
        old.sort(key=lambda v: (v.created, v.key, v.version))
        total = sum(version.bytes for version in versions)
        now, evicted = time.time(), []
        for version in old:
            too_old = now - version.created >= settings.max_age
            kept = len(self._index[version.key])
            too_many = 0 < settings.max_versions < kept
            if too_old or too_many or total > settings.max_bytes:
                evicted.append(version)
                total -= version.bytes
                del self._index[version.key][version.version]
        if evicted:
            self._on_all(lambda actor: actor.evict.remote(self._epoch, evicted))

    def _recover(self) -> None:
        """Take over the store: fence off other coordinators, read and complete the replicas."""
        if self._epoch:
            return
        self._slots = [_Slot(self._replica(n)) for n in range(self.settings.replicas)]
        epoch = 1 + max((state[0] for state in self._ask(None) if state), default=0)
        index: Index = {}
        for slot, state in zip(self._slots, self._ask(epoch), strict=True):
            slot.filled = state is not None and state[1]
            if state is not None and state[1]:
                for key, versions in state[2].items():
                    index.setdefault(key, {}).update(versions)
        self._epoch, self._index = epoch, index
        try:
            if not any(slot.filled for slot in self._slots):
                self._restore()
            complete = {v for versions in index.values() for v in versions.values()}
            for number, slot in enumerate(self._slots):
                if slot.filled and set(self._held(slot)) != complete:
                    self._fill(number)
            self._on_all(lambda actor: actor.check.remote(self._epoch))
        except BaseException:
            self._epoch = 0
            raise

    def _ask(self, epoch: int | None) -> list[Any]:
        """Return each replica's epoch, whether it is filled, and index; None for a dead one."""
        states: list[Any] = []
        for reference in [slot.actor.fence.remote(epoch) for slot in self._slots]:
            try:
                states.append(ray.get(reference))
            except RayActorError:
                states.append(None)
        return states

    def _restore(self) -> None:
        """Fill the replicas from the last checkpoint, or as empty ones."""
        restored = []
        if self.settings.directory:
            restored = read_checkpoint(Path(self.settings.directory))
        elif not self.new:
            raise RunError(
                f"weight store {self.name!r} is lost: all its replicas died, and it has no "
                "directory for checkpoints"
            )
        for version, _ in restored:
            self._index.setdefault(version.key, {})[version.version] = version
        values = [ray.put(np.frombuffer(content, np.uint8)) for _, content in restored]
        versions = [version for version, _ in restored]
        for number in range(len(self._slots)):
            self._fill(number, dict(zip(versions, values, strict=True)))

    def _replica(self, number: int) -> Any:
        """Return the replica of a slot, which is started if there is none."""
        return get_or_start(Replica, replica_name(self.name, number), self.settings, spread=True)

    def _held(self, slot: _Slot) -> list[Version]:
        try:
            _, filled, index = ray.get(slot.actor.fence.remote(self._epoch))
        except RayActorError:
            return []
        return [v for versions in index.values() for v in versions.values()] if filled else []

    def _fill(self, number: int, values: Mapping[Version, Any] | None = None) -> None:
        """Make the replica of a slot complete; replace it if it is dead.

        Parameters
        ----------
        number : int
            The slot.
        values : Mapping[Version, ObjectRef], optional
            The bytes of all versions; taken from the other replicas if not given.
        """
        slot = self._slots[number]
        slot.filled = False
        for attempt in range(REPLACEMENTS):
            try:
                held = set(self._held(slot))
                missing = [version for version in self._versions() if version not in held]
                sources = self._sources(missing, number) if values is None else values
                found = [sources[version] for version in missing]
                ray.get(slot.actor.fill.remote(self._epoch, missing, found))
                self._share_accesses(slot)
                slot.filled = True
                return
            except RayActorError:
                ray.kill(slot.actor)  # it may only be out of reach: then it must not come back
                time.sleep(0.05 * attempt)  # until Ray has freed the name
                slot.actor = self._replica(number)
            except RayTaskError as error:
                if not isinstance(error.cause, RayError):
                    self._epoch = 0  # read the replicas again
                    raise
                # a replica died that it was filled from
        raise RunError(f"weight store {self.name!r}: replica {number} died {REPLACEMENTS} times")

    def _sources(self, versions: Sequence[Version], but: int) -> dict[Version, Any]:
        """Return references to the bytes of versions in other replicas that are filled."""
        found: dict[Version, Any] = {}
        for number, slot in enumerate(self._slots):
            if number == but or not slot.filled:
                continue
            held = set(self._held(slot))
            wanted = [v for v in versions if v in held and v not in found]
            try:
                references = ray.get(slot.actor.values.remote(wanted))
            except RayActorError:
                slot.filled = False
                continue
            found.update(zip(wanted, references, strict=True))
        if len(found) < len(versions):
            self._epoch = 0  # read the replicas again
            raise ReplicasLostError(f"weight store {self.name!r}: all replicas died at once")
        return found

    def _share_accesses(self, slot: _Slot) -> None:
        """Tell a new replica what the others have counted.

        A read is counted by more than half of the replicas, and not by the same ones each time.
        """
        for other in self._slots:
            if other is not slot and other.filled:
                try:
                    accesses = ray.get(other.actor.accesses.remote())
                except RayActorError:
                    continue
                ray.get(slot.actor.adopt_accesses.remote(accesses))

    def _on_all(self, call: Callable[[Any], Any]) -> None:
        """Make a call on every replica; replace and fill those that are dead.

        A replica that is filled afterwards has the effect of the call too, as it is filled by the
        index that this coordinator holds.
        """
        calls = [call(slot.actor) for slot in self._slots]
        for slot, reference in zip(self._slots, calls, strict=True):
            try:
                slot.filled = slot.filled and ray.get(reference) is not False
            except RayActorError:
                slot.filled = False
            except SupersededError:
                self._epoch = 0  # read the replicas again
                raise
        if not any(slot.filled for slot in self._slots):
            self._epoch, self._index, self.new = 0, {}, False
            self._recover()  # from the last checkpoint
        for number, slot in enumerate(self._slots):
            if not slot.filled:
                self._fill(number)


def replica_name(store: str, number: int) -> str:
    """Return the name of a replica's actor."""
    return f"{store}/replica-{number}"


def coordinator_name(store: str) -> str:
    """Return the name of the coordinator's actor."""
    return f"{store}/coordinator"


def get_or_start(cls: type, name: str, *arguments: Any, spread: bool = False) -> Any:
    """Return the living actor of a name; one is started if there is none.

    It is detached: it outlives the process that starts it, and ends when it is killed.
    """
    remote: Any = ray.remote(cls)
    return remote.options(
        name=name,
        namespace=NAMESPACE,
        lifetime="detached",
        get_if_exists=True,
        num_cpus=0,
        max_restarts=0,
        scheduling_strategy="SPREAD" if spread else "DEFAULT",
    ).remote(*arguments)


def _existing(name: str) -> Any:
    """Return the actor of a name; None if there is none."""
    try:
        return ray.get_actor(name, namespace=NAMESPACE)
    except ValueError:
        return None
