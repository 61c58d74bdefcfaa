"""A model for which this machine has too little memory is refused before the run."""

from __future__ import annotations

from types import SimpleNamespace

import psutil
import pytest

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.memory_check import LEAST, require_memory

SIZE = 4_000_000


@pytest.mark.parametrize("engine", LEAST)
def test_the_bound_and_what_was_found_are_said(
    engine: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def with_available(count: float) -> None:
        monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=count))

    with_available((LEAST[engine] - 1) * SIZE)
    require_memory(engine, SIZE)
    with_available((LEAST[engine] - 1) * SIZE - 1)
    with pytest.raises(ConfigError, match=rf"of memory at least on engine {engine}, found"):
        require_memory(engine, SIZE)


def test_a_run_is_refused(tiny: Experiment, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "virtual_memory", lambda: SimpleNamespace(available=1))
    with pytest.raises(ConfigError, match="use a machine with more"):
        tiny.checked_task()
    tiny.checked_task(clients=False)  # the clients are elsewhere
