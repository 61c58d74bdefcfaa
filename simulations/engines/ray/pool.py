"""Connect this process to a Ray, and keep its workers alive between runs."""

from __future__ import annotations

import os
import threading
import time
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import AuthenticationError, RayError

import hqde_fl
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.console.interruption import sigterm_kept
from hqde_fl.simulations.engines.ray.access import asks_for_token
from hqde_fl.simulations.engines.ray.private_ray import (
    files_folder,
    is_private,
    private_ray,
    read_environment,
    remove_files,
)
from hqde_fl.simulations.engines.ray.resources import (
    Allocation,
    Resources,
    allocate,
    listed,
)
from hqde_fl.simulations.engines.ray.starter import Starter
from hqde_fl.simulations.experiment import import_path

_CONNECTING = threading.Lock()
_starting: list[threading.Event] = []
"""Events that are set when a start of Ray that ``prepare`` began has succeeded or failed."""
_announced: list[str] = []
"""Dashboard address of a Ray that ``prepare`` started, until ``connect`` returns it."""

KILL_ROUNDS = 5
"""Maximum number of passes over Ray's processes to kill them."""

REFRESH_SECONDS = 2.0
"""Time between two readings of the cluster's resources while more workers are wanted than fit."""

BOOT_FAILURES = 3
"""Number of workers that fail to start in a row after which a run ends."""


def connect(address: str = "", runtime_env: Mapping[str, Any] | None = None) -> str:
    """Connect this process to a Ray, unless it is connected to one already.

    With an address, here or in the environment's ``RAY_ADDRESS``, the cluster there is joined and
    the package ``hqde_fl`` is sent to it. Otherwise a local Ray is started that ends with this
    process and that no other user and no other host can use.

    Parameters
    ----------
    address : str
        Address of a cluster such as ``"10.0.0.1:6379"``, or ``"auto"``; empty for a local Ray.
    runtime_env : Mapping[str, Any], optional
        Ray's runtime environment for the workers of a cluster; the package is added to it.

    Returns
    -------
    str
        The address of Ray's dashboard; empty if there is none, or if Ray was connected already. If
        ``prepare`` has connected it, the first call afterwards returns the address.

    Raises
    ------
    RunError
        If the cluster cannot be joined.
    """
    with _CONNECTING:
        if not ray.is_initialized():
            return _connect(address, runtime_env)
        return _announced.pop() if _announced else ""


def _connect(address: str, runtime_env: Mapping[str, Any] | None) -> str:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    address = address or os.environ.get("RAY_ADDRESS", "")
    options: dict[str, Any] = {"logging_level": "error", "log_to_driver": False}
    environment = dict(runtime_env or {})
    private = is_private(address)
    if private:
        # "local", because ray.init would otherwise join a Ray that another user runs on this host
        options |= {"address": "local", "include_dashboard": False}
    else:
        environment["py_modules"] = [*environment.get("py_modules", []), _package_folder()]
        options["address"] = address
        read_environment()  # the user may have set a token for it after Ray was imported
    try:
        with (
            sigterm_kept(),
            warnings.catch_warnings(),
            private_ray() if private else nullcontext(),
        ):  # the warning announces a change of Ray that has no effect here
            warnings.simplefilter("ignore", FutureWarning)
            return str(ray.init(runtime_env=environment or None, **options).dashboard_url or "")
    except RunError:
        raise
    except Exception as error:  # Ray raises exceptions of many types, and plain ones
        if private:
            logs = f" (its logs are below {files_folder()})"
            raise RunError(f"no Ray at this machine: {error}{logs}") from error
        hint = "" if isinstance(error, AuthenticationError) else _hint(address)
        raise RunError(f"no Ray at {address}: {error}{hint}") from error


def _package_folder() -> str:
    """Return the folder of the package ``hqde_fl``, which is sent to the nodes of a cluster.

    Raises
    ------
    RunError
        If the package is spread over several folders, as in a checkout without links.
    """
    folder, *others = hqde_fl.__path__
    if others:
        raise RunError(
            f"{folder} cannot be sent to a Ray cluster: its links to strategies, clients and "
            "simulations are missing (install hqde-fl, or clone it with core.symlinks=true)"
        )
    return str(folder)


def _hint(address: str) -> str:
    """Return a hint to set Ray's token if the cluster asks for one, else an empty string."""
    if not asks_for_token(address):
        return ""
    return " (it asks for a token: set RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN)"


def prepare(
    address: str = "",
    runtime_env: Mapping[str, Any] | None = None,
    resources: Sequence[Resources] = (),
    workers: int = 0,
    modules: Sequence[str] = (),
) -> None:
    """Start ``connect`` in a thread, so that the caller can load its data meanwhile.

    Nothing is done if this process is connected already. If the thread fails, nothing is raised
    here: the next call of ``connect`` tries again and raises.

    Parameters
    ----------
    address, runtime_env : str, Mapping[str, Any]
        As of ``connect``.
    resources : Sequence[Resources]
        Resources of a client, by groups of clients.
    workers : int
        Most workers that start with a Ray that is started here, before anyone needs them.
    modules : Sequence[str]
        Modules that these workers import before their first client.
    """
    over = threading.Event()

    def begin() -> None:
        try:
            with suppress(RunError, ConfigError), _CONNECTING:
                if not ray.is_initialized():
                    _announced.append(_connect(address, runtime_env))
                    if is_private(address or os.environ.get("RAY_ADDRESS", "")):
                        POOL.start_workers(resources, workers, modules)
            connected = ray.is_initialized()  # also where no worker fits
        finally:
            over.set()
        if connected:
            threading.Event().wait()  # Linux ends Ray's processes with the thread that started them

    if not ray.is_initialized():
        _starting[:] = [over]
        threading.Thread(target=begin, name="ray.init", daemon=True).start()


def wait_until_prepared(seconds: float) -> None:
    """Wait, for at most ``seconds``, until the thread of ``prepare`` has connected or failed.

    A Ray that is half started cannot be shut down. Return at once if ``prepare`` was not called.
    """
    for over in _starting:
        over.wait(seconds)


def kill_ray() -> bool:
    """Kill the Ray that this process has started, or is starting; return True if there was one.

    Its files are removed. This process must end afterwards: a call to that Ray may abort it, or
    never return.
    """
    killed = False
    for _ in range(KILL_ROUNDS):  # the thread that starts Ray may just be starting a process
        if not (processes := _ray_processes()):
            break
        killed = True
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=0.3)
    remove_files()
    return killed


def _ray_processes() -> list[psutil.Process]:
    """Return the child processes of this process that are Ray's, with all their descendants."""
    processes: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if os.path.dirname(ray.__file__) in " ".join(child.cmdline()):
                processes += [child, *child.children(recursive=True)]
    return processes


def cluster() -> list[dict[str, float]]:
    """Return the resources of each living node of the cluster: Ray's name -> amount."""
    return list(living_nodes().values())


def living_nodes() -> dict[str, dict[str, float]]:
    """Return the resources of each living node of the cluster by its id: Ray's name -> amount."""
    nodes: list[dict[str, Any]] = ray.nodes()  # type: ignore[no-untyped-call]
    return {node["NodeID"]: dict(node["Resources"]) for node in nodes if node["Alive"]}


@dataclass(eq=False)
class Slot:
    """A worker that is starting, idle or busy.

    Parameters
    ----------
    actor : ActorHandle
        The worker.
    allocation : Allocation
        Its resources.
    boot : ObjectRef or None
        A reference that is ready once the worker has started; None from then on.
    busy : bool
        True while it runs a batch.
    host : str
        Id of the cluster's node on which it runs; empty until it has started.
    load : float
        Load of that machine when its last job began, in [0, 1].
    """

    actor: Any
    allocation: Allocation
    boot: Any
    busy: bool = False
    host: str = ""
    load: float = 0.0


@dataclass(eq=False)
class Pool:
    """The workers of this process. Idle workers are ended if others need their resources."""

    slots: list[Slot] = field(default_factory=list)
    _nodes: list[dict[str, float]] = field(default_factory=list)
    _refreshed: float = 0.0
    _failures: int = 0

    def allocate(self, groups: Sequence[Resources]) -> list[Allocation]:
        """Return the resources that a client of each group gets on this cluster, in order.

        ``ConfigError`` is raised if a client of a group fits on no node.
        """
        self.refresh()
        return [allocate(group, self._nodes) for group in groups]

    def count(self, allocation: Allocation) -> int:
        """Return the number of workers with these resources."""
        return sum(slot.allocation == allocation for slot in self.slots)

    def grow(self, wanted: Mapping[Allocation, int]) -> None:
        """Start workers until each allocation has as many as wanted, or no more fit.

        Allocations take turns, so that no group waits until another is done. When no worker fits,
        idle workers of allocations that are not wanted are ended first.

        Parameters
        ----------
        wanted : Mapping[Allocation, int]
            Number of workers wanted of each allocation, >= 0.
        """
        missing = {allocation: n - self.count(allocation) for allocation, n in wanted.items()}
        while any(n > 0 for n in missing.values()):
            started = False
            for allocation in sorted(missing, key=self.count):
                if missing[allocation] > 0 and self._make_room(allocation, wanted):
                    self._start(allocation)
                    missing[allocation] -= 1
                    started = True
            if not started:
                if time.monotonic() < self._refreshed + REFRESH_SECONDS:
                    return
                self.refresh()  # a node may have joined

    def start_workers(
        self, groups: Sequence[Resources], workers: int, modules: Sequence[str]
    ) -> None:
        """Start workers before anyone needs them, as many as fit, and let them import modules.

        Parameters
        ----------
        groups : Sequence[Resources]
            Resources of a client, by groups of clients.
        workers : int
            Most workers that are started.
        modules : Sequence[str]
            Names of the modules.
        """
        allocations = self.allocate(groups)
        for _ in range(workers):
            if not (fitting := [one for one in allocations if self._fits(one)]):
                return
            self._start(min(fitting, key=self.count), modules)

    def refresh(self) -> None:
        """Read the cluster's resources again: a node may have been added or lost."""
        self._nodes, self._refreshed = cluster(), time.monotonic()

    def room(self, allocation: Allocation) -> str:
        """Return a sentence with what a client asks for and what each node has, used or free."""
        free: dict[str, float] = ray.available_resources()  # type: ignore[no-untyped-call]
        return (
            f"each asks for {allocation.num_cpus:g} CPUs and {allocation.num_gpus:g} GPUs; the "
            f"cluster has {listed(self._nodes)}, of which {free.get('CPU', 0):g} CPUs and "
            f"{free.get('GPU', 0):g} GPUs are free"
        )

    def mark_started(self, slot: Slot) -> None:
        """Mark a worker as started, or remove it if its start failed.

        Raises
        ------
        RunError
            If ``BOOT_FAILURES`` workers in a row have failed to start.
        """
        try:
            slot.host = ray.get(slot.boot)
            slot.boot, self._failures = None, 0
        except RayError as error:
            self.end_worker(slot)
            self._failures += 1
            if self._failures >= BOOT_FAILURES:
                raise RunError(f"{BOOT_FAILURES} Ray workers did not start: {error}") from None

    def end_worker(self, slot: Slot) -> None:
        """End a worker, even if it is busy, and remove it from ``slots``."""
        if slot in self.slots:
            self.slots.remove(slot)
        ray.kill(slot.actor)

    def close(self, *, idle_only: bool = False) -> None:
        """End all workers, or only those that are not busy; this process stays connected."""
        for slot in list(self.slots):
            if not (idle_only and slot.busy):
                self.end_worker(slot)

    def _start(self, allocation: Allocation, modules: Sequence[str] = ()) -> None:
        remote: Any = ray.remote(Starter)
        actor = remote.options(
            num_cpus=allocation.num_cpus, num_gpus=allocation.num_gpus, max_restarts=0
        ).remote(
            import_path.describe_path(), allocation.threads, allocation.memory_fraction, modules
        )
        self.slots.append(Slot(actor, allocation, boot=actor.host.remote()))

    def _make_room(self, allocation: Allocation, wanted: Mapping[Allocation, int]) -> bool:
        """End idle workers until one more with this allocation fits; return True if it does.

        Only workers with allocations that are not in ``wanted`` are ended.
        """
        spare = [s for s in self.slots if s.allocation not in wanted and not s.busy]
        while not self._fits(allocation):
            if not spare:
                return False
            self.end_worker(spare.pop())
        return True

    def _fits(self, allocation: Allocation) -> bool:
        """Return True if one more worker with this allocation fits beside the present workers."""
        for name, amount in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            total = sum(node.get(name, 0) for node in self._nodes)
            taken = sum(getattr(slot.allocation, amount) for slot in self.slots)
            if taken + getattr(allocation, amount) > total + 1e-6:
                return False
        return self.count(allocation) < sum(allocation.fits(node) for node in self._nodes)


POOL = Pool()
"""The workers of this process, which all its runs use."""
