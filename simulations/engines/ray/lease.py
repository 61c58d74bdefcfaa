"""Who uses this process's Ray: one that was started here ends with its last user, no other does."""

from __future__ import annotations

import threading
from concurrent.futures import Future

import ray

from hqde_fl.simulations.engines.ray.pool import POOL, connect

_lock = threading.Lock()
_users: set[int] = set()
_started = False


class RayLease:
    """Makes sure that there is a Ray for as long as it is held.

    A Ray that is there already, the host program's own for instance, is used and left alone; only
    the workers end that nobody needs any more, which would keep its CPUs.
    """

    def __init__(self) -> None:
        global _started
        with _lock:
            if not ray.is_initialized():
                _users.clear()  # whatever they used has been shut down by somebody else
                _connect()
                _started = True
            _users.add(id(self))

    @property
    def alive(self) -> bool:
        """Whether the Ray is still there."""
        return id(self) in _users and ray.is_initialized()

    def release(self) -> None:
        """Give it back; may be called again."""
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
    """Connect in a thread that never ends: Linux ends Ray's processes with whoever started them."""
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
