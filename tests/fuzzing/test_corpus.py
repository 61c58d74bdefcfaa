"""Inputs that fuzzing found worth keeping: each is read, within its bound on memory."""

from __future__ import annotations

import pytest

from hqde_fl.simulations.audit.peak_memory import memory_bound
from tests.fuzzing.targets import TARGETS, kept_inputs, peak_memory


@pytest.mark.parametrize("name", TARGETS)
def test_every_input_is_read_in_bounded_memory(name: str) -> None:
    target = TARGETS[name]
    inputs = [*target.seeds(), *kept_inputs(name)]
    assert inputs
    for data in inputs:
        target.run(data)  # what is made once only, such as caches, does not count below
    peaks = {data[:80]: peak_memory(target, data) - memory_bound(len(data)) for data in inputs}
    assert {data: excess for data, excess in peaks.items() if excess > 0} == {}
