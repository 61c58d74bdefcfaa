"""Leases on this process's Ray: a Ray that was started here ends with the last of them."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import ray

from hqde_fl.simulations.engines.ray.pool import POOL, connect

_lock = threading.Lock()
_users: set[int] = set()
_started = False


class RayLease:
    """Keeps this process connected to a Ray until it is released.

    If the process is connected already, for instance by the host program, that Ray is used and not
    shut down; with the last lease only the idle workers on it are ended, to free its CPUs.
    """

    def __init__(self) -> None:
        global _started
        with _lock:
            if not ray.is_initialized():
                _users.clear()  # the Ray that they used was shut down by other code
                _connect()
                _started = True
            _users.add(id(self))

    @property
    def alive(self) -> bool:
        """True if it is not released and the process is still connected to a Ray."""
        return id(self) in _users and ray.is_initialized()

    def release(self) -> None:
        """Release the lease; calling it again has no effect.

        With the last lease, a Ray that the leases have started is shut down; on any other Ray the
        idle workers are ended.
        """
        global _started
        with _lock:
            if id(self) not in _users:
                return
            _users.discard(id(self))
            if _users:
                return
            ours, _started = _started, False
            if ray.is_initialized():
                POOL.close(idle_only=not ours)
                if ours:
                    ray.shutdown()


def _connect() -> None:
    """Call ``connect`` in a thread and wait for it; raise its error if it fails.

    Otherwise the thread never ends: Linux ends Ray's processes with the thread's end.
    """
    connected: Future[None] = Future()

    def begin() -> None:
        try:
            connect()
        except BaseException as error:
            connected.set_exception(error)
            return
        connected.set_result(None)
        threading.Event().wait()

    threading.Thread(target=begin, name="ray.init", daemon=True).start()
    connected.result()
