"""Describe the packages and the machine that a run uses, for its manifest."""

from __future__ import annotations

import platform
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import psutil

PACKAGES = ("hqde-fl", "torch", "flwr", "ray", "numpy")
"""Packages whose version can change the numbers of a run."""


@cache
def versions() -> dict[str, str | None]:
    """Return the versions of Python and of ``PACKAGES``, None for a package not installed."""
    installed: dict[str, str | None] = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            installed[package] = None
    return installed


@cache
def hardware() -> dict[str, Any]:
    """Return this machine's numbers of cores and threads, memory in GiB, type and system."""
    return {
        "cores": psutil.cpu_count(logical=False),
        "threads": psutil.cpu_count(),
        "memory-gib": round(psutil.virtual_memory().total / 2**30, 1),
        "machine": platform.machine(),
        "system": platform.platform(),
    }
