"""The place of a node's cache of model entries. Standard library only, as commands import it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

CACHE_DIR = "cache-dir"
"""Key of a node's configuration with the folder of its cache; empty for none."""
CACHE_VARIABLE = "HQDE_FL_CACHE_DIR"
"""Environment variable with the folder of the cache of nodes whose configuration names none."""

STATE_VARIABLE = "HQDE_FL_STATE_DIR"
"""Environment variable with the folder of the clients' states for runs that are resumed; without
it, they are in the cache's folder.
"""


def cache_folder(node_config: Mapping[str, object]) -> Path | None:
    """Return the folder of a node's cache; None if neither configuration nor environment has it."""
    named = node_config.get(CACHE_DIR, os.environ.get(CACHE_VARIABLE))
    return Path(named) if isinstance(named, str) and named else None


def state_folder(node_config: Mapping[str, object]) -> Path | None:
    """Return the folder of a node's clients' states; None if neither it nor a cache is named."""
    if named := os.environ.get(STATE_VARIABLE):
        return Path(named)
    cache = cache_folder(node_config)
    return cache and cache / "states"
