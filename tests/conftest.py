"""Settings of the whole suite."""

from __future__ import annotations

import gc
import logging
from collections.abc import Iterator

import pytest


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Leave the thousands of collected tests out of garbage collections, which they would slow."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def levels_of_the_logs() -> Iterator[None]:
    """Fail a test that leaves the logs changed: a later one would miss a line that it looks for."""
    flower, root = logging.getLogger("flwr"), logging.getLogger()
    before = root.manager.disable, flower.level, flower.disabled
    yield
    after = root.manager.disable, flower.level, flower.disabled
    logging.disable(before[0])
    flower.setLevel(before[1])
    flower.disabled = before[2]
    assert after == before, "the test changed what is logged and did not change it back"
