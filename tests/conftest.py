"""Settings of the whole suite."""

from __future__ import annotations

import gc

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave the thousands of collected tests out of garbage collections, which they would slow."""
    gc.collect()
    gc.freeze()
