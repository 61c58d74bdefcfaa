"""Create files that their owner alone can read."""

from __future__ import annotations

import os

PRIVATE_MODE = 0o600
"""Mode of new files: a run's records tell about its clients, and a model about their data."""


def private(path: str, flags: int) -> int:
    """Return a descriptor of a file, with ``PRIVATE_MODE`` if it is new: an ``opener``."""
    return os.open(path, flags, PRIVATE_MODE)
