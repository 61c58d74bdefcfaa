"""A million clients, of which a hundred train in a round."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.simulations.command import call, chain_in

pytestmark = pytest.mark.slow

TASK = """
import torch
from hqde_fl import Task

def examples(client, clients):
    x = torch.randn(20, 10, generator=torch.Generator().manual_seed(client))
    return torch.utils.data.TensorDataset(x, (x[:, 0] > 0).long())

task = Task(lambda: torch.nn.Linear(10, 2), examples, test=lambda: examples(10**7, 1))
"""
EXPERIMENT = """
rounds = 2
task = { name = "million.py:task" }
clients = { count = 1_000_000, lr = 0.1 }
strategy = { rule = "median", fraction-train = 1e-4 }
faults = [{ name = "sign-flip", fraction = 0.2 }]
"""


def test_a_million_clients_on_two_engines(tmp_path: Path) -> None:
    (tmp_path / "million.py").write_text(TASK)
    (tmp_path / "million.toml").write_text(EXPERIMENT)
    chains = []
    for engine in ("inline", "ray"):
        done = call("run", "million.toml", "--engine", engine, "--out", engine, cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "and 199,960 more" in done.stdout
        assert "kept 100/100" in done.stdout
        chains.append(chain_in(tmp_path / engine))
    assert chains[0] == chains[1]
