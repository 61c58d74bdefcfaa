"""Ray for this process, and the workers that stay warm between runs."""

from __future__ import annotations

import os
import threading
import warnings
from collections.abc import Mapping, Sequence
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from typing import Any

import psutil
import ray
from ray.exceptions import AuthenticationError, RayError

import hqde_fl
from hqde_fl.errors import RunError
from hqde_fl.simulations.console.interruption import sigterm_kept
from hqde_fl.simulations.engines.ray.access import asks_for_token
from hqde_fl.simulations.engines.ray.private import is_private, private_ray, read_environment
from hqde_fl.simulations.engines.ray.resources import Resources, Share, settle
from hqde_fl.simulations.engines.ray.starter import Starter
from hqde_fl.simulations.experiment import import_path

_CONNECTING = threading.Lock()
_starting: list[threading.Event] = []
"""Set when a start that ``prepare`` began is over."""
_announced: list[str] = []
"""The dashboard of a Ray that ``prepare`` connected to, until somebody connects and hears of it."""

KILL_ROUNDS = 5
"""How often processes of Ray are looked for that are to be killed."""

BOOT_FAILURES = 3
"""Workers that may fail to start, one after the other, before a run gives up."""


def connect(address: str = "", runtime_env: Mapping[str, Any] | None = None) -> str:
    """Make sure that this process has a Ray.

    A Ray that is there already is used as it is. Else the cluster at ``address`` (or at the
    environment's ``RAY_ADDRESS``) is joined, and this project's code shipped to it; failing an
    address, a local Ray is started, which ends with this process and which nobody else can use.

    Parameters
    ----------
    address : str
        Such as ``"10.0.0.1:6379"`` or ``"auto"``.
    runtime_env : Mapping[str, Any], optional
        Ray's runtime environment for the workers, on top of this project's code.

    Returns
    -------
    str
        The address of Ray's dashboard; empty if there is none, or if Ray was there already.

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
        # not whatever Ray somebody else happens to run here, which ray.init would join by itself
        options |= {"address": "local", "include_dashboard": False}
    else:
        environment["py_modules"] = [*environment.get("py_modules", []), *hqde_fl.__path__[:1]]
        options["address"] = address
        read_environment()  # the user may have set a token for it after Ray was imported
    try:
        with (
            sigterm_kept(),
            warnings.catch_warnings(),
            private_ray() if private else nullcontext(),
        ):  # Ray announces a change that does not concern us
            warnings.simplefilter("ignore", FutureWarning)
            return str(ray.init(runtime_env=environment or None, **options).dashboard_url or "")
    except (ConnectionError, RuntimeError, ValueError, AuthenticationError) as error:
        hint = "" if private or isinstance(error, AuthenticationError) else _hint(address)
        raise RunError(f"no Ray at {address or 'this machine'}: {error}{hint}") from error


def _hint(address: str) -> str:
    """What Ray keeps to its log when it does not get in."""
    if not asks_for_token(address):
        return ""
    return " (it asks for a token: set RAY_AUTH_MODE=token and its RAY_AUTH_TOKEN)"


def prepare(address: str = "", runtime_env: Mapping[str, Any] | None = None) -> None:
    """Begin to ``connect``, while the caller loads its data: starting a Ray is mostly waiting.

    Whatever goes wrong is seen by whoever connects next, for it is tried again then.
    """
    over = threading.Event()

    def begin() -> None:
        with suppress(RunError):
            try:
                _announced.append(connect(address, runtime_env))
            finally:
                over.set()
            threading.Event().wait()  # Linux ends Ray's processes with the thread that started them

    if not ray.is_initialized():
        _starting[:] = [over]
        threading.Thread(target=begin, name="ray.init", daemon=True).start()


def prepared(seconds: float) -> None:
    """Wait until a start that ``prepare`` began is over: half a Ray cannot be ended as a whole."""
    for over in _starting:
        over.wait(seconds)


def end_at_once() -> bool:
    """Kill a Ray that this process has started, or begun to start; whether there was one.

    This process must end then: whatever it asks of that Ray may end it, or never return.
    """
    found = False
    for _ in range(KILL_ROUNDS):  # the thread that starts it may just be starting one more process
        if not (processes := _ray_processes()):
            break
        found = True
        for process in processes:
            with suppress(psutil.Error):
                process.kill()
        psutil.wait_procs(processes, timeout=0.3)
    return found


def _ray_processes() -> list[psutil.Process]:
    """Return the living processes of Ray below this one."""
    found: list[psutil.Process] = []
    for child in psutil.Process().children():
        with suppress(psutil.Error):
            if os.path.dirname(ray.__file__) in " ".join(child.cmdline()):
                found += [child, *child.children(recursive=True)]
    return found


def cluster() -> list[dict[str, float]]:
    """What each node of the cluster has, by Ray's names."""
    return [dict(node["Resources"]) for node in ray.nodes() if node["Alive"]]  # type: ignore[no-untyped-call]


@dataclass(eq=False)
class Slot:
    """A worker: booting, idle, busy or dead.

    Parameters
    ----------
    actor : ActorHandle
        The worker.
    share : Share
        What it was given.
    boot : ObjectRef or None
        Comes when the worker is there; None from then on.
    busy : bool
        Whether it runs something.
    """

    actor: Any
    share: Share
    boot: Any
    busy: bool = False


@dataclass(eq=False)
class Pool:
    """The workers of this process. Workers that nobody needs make room for others."""

    slots: list[Slot] = field(default_factory=list)
    _nodes: list[dict[str, float]] = field(default_factory=list)
    _failures: int = 0

    def settle(self, groups: Sequence[Resources]) -> list[Share]:
        """What each group's clients get on this cluster."""
        self._nodes = cluster()
        return [settle(group, self._nodes) for group in groups]

    def idle(self, share: Share) -> list[Slot]:
        """Workers with this share that wait for work."""
        return [s for s in self.slots if s.share == share and s.boot is None and not s.busy]

    def grow(self, wanted: Mapping[Share, int]) -> None:
        """Start workers until each share has as many as it wants, or no more fit.

        Shares take turns, so that no group waits until another is done. When nothing fits, idle
        workers of shares that nobody wants are retired first.
        """
        missing = {share: n - self._count(share) for share, n in wanted.items()}
        while any(n > 0 for n in missing.values()):
            started = False
            for share in sorted(missing, key=lambda s: self._count(s)):
                if missing[share] > 0 and self._make_room(share, wanted):
                    self._start(share)
                    missing[share] -= 1
                    started = True
            if not started:
                return

    def refresh(self) -> None:
        """Look again at what the cluster has: a node may have come or gone."""
        self._nodes = cluster()

    def booted(self, slot: Slot) -> None:
        """Take note that a worker is there, or why it is not.

        Raises
        ------
        RunError
            If workers keep failing to start.
        """
        try:
            ray.get(slot.boot)
            slot.boot, self._failures = None, 0
        except RayError as error:
            self.bury(slot)
            self._failures += 1
            if self._failures >= BOOT_FAILURES:
                raise RunError(f"{BOOT_FAILURES} Ray workers did not start: {error}") from None

    def bury(self, slot: Slot) -> None:
        """End a worker, whatever it is doing."""
        if slot in self.slots:
            self.slots.remove(slot)
        ray.kill(slot.actor)

    def close(self, *, idle_only: bool = False) -> None:
        """End all workers, or those that run nothing; the Ray stays."""
        for slot in list(self.slots):
            if not (idle_only and slot.busy):
                self.bury(slot)

    def _count(self, share: Share) -> int:
        return sum(slot.share == share for slot in self.slots)

    def _start(self, share: Share) -> None:
        remote: Any = ray.remote(Starter)
        actor = remote.options(
            num_cpus=share.num_cpus, num_gpus=share.num_gpus, max_restarts=0
        ).remote(import_path.current(), share.threads, share.memory_fraction)
        self.slots.append(Slot(actor, share, boot=actor.ping.remote()))

    def _make_room(self, share: Share, wanted: Mapping[Share, int]) -> bool:
        spare = [s for s in self.slots if s.share not in wanted and not s.busy]
        while not self._fits(share):
            if not spare:
                return False
            self.bury(spare.pop())
        return True

    def _fits(self, share: Share) -> bool:
        """Whether one more such worker fits beside the others, by the cluster's totals."""
        for name, amount in (("CPU", "num_cpus"), ("GPU", "num_gpus")):
            total = sum(node.get(name, 0) for node in self._nodes)
            taken = sum(getattr(slot.share, amount) for slot in self.slots)
            if taken + getattr(share, amount) > total + 1e-6:
                return False
        return self._count(share) < sum(share.fits(node) for node in self._nodes)


POOL = Pool()
"""This process's workers: every run uses them."""
