"""One thread for BLAS and torch while tiles are worked on.

Tiles have threads of their own; the libraries' would compete with them, and change the bits.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from threadpoolctl import ThreadpoolController


class _OneLibraryThread:
    """A context in which BLAS and torch use one thread, until the last user leaves it.

    The settings belong to the process: users are counted, so that contexts that overlap in time do
    not undo each other's.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._users = 0
        self._libraries: ThreadpoolController | None = None
        self._threads = 0
        self._restore: Callable[[], None] = lambda: None

    def unlimited_threads(self) -> int:
        """Return the number of threads that torch uses outside of these one-thread contexts."""
        return self._threads if self._users else torch.get_num_threads()

    @contextmanager
    def __call__(self) -> Iterator[None]:
        with self._lock:
            self._users += 1
            if self._users == 1:
                self._limit()
        try:
            yield
        finally:
            with self._lock:
                self._users -= 1
                if self._users == 0:
                    self._restore()

    def _limit(self) -> None:
        if self._libraries is None:  # looking them up takes milliseconds
            self._libraries = ThreadpoolController().select(user_api="blas")
        limited, self._threads = self._libraries.limit(limits=1), torch.get_num_threads()
        torch.set_num_threads(1)

        def restore() -> None:
            torch.set_num_threads(self._threads)
            limited.restore_original_limits()

        self._restore = restore


one_library_thread = _OneLibraryThread()
