"""The state of a model with entries of every role and dtype survives a checkpoint."""

from __future__ import annotations

from pathlib import Path

import torch

from hqde_fl.protocol.held_entries import Manifest
from hqde_fl.protocol.omitted_entries import same_bits
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE, Snapshot
from hqde_fl.strategies.holdings import Holdings
from hqde_fl.strategies.state import ModelState, ServerState
from hqde_fl.updates.roles import Roles

STATE = {
    "embedding": torch.tensor([[1.0, -0.0]]),
    "phase": torch.tensor([1 - 2j, 3j], dtype=torch.complex128),
    "brain": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
    "half": torch.tensor(0.5, dtype=torch.float16),
    "none": torch.zeros(0, 2),
    "out": torch.tensor([[1.0, -0.0]]),
    "turns": torch.tensor([1j, float("nan")], dtype=torch.complex64),
    "norm.running_var": torch.ones(2, dtype=torch.float64),
    "steps": torch.tensor(3),
}
ROLES = Roles({"turns": "frozen"}, {"out": "embedding"}, frozenset({"turns"}))


def test_a_server_state_comes_back_with_its_roles_and_bits(tmp_path: Path) -> None:
    model = ModelState.of(to_record(STATE), ROLES)
    manifest = Manifest.of(model.record, ["turns"])
    holdings = Holdings({7: manifest.digest}, {manifest.digest: manifest})
    models = (ModelState(model.layout, model.flat, model.others, holdings=holdings, settled=True),)
    container.write(tmp_path / "file", TREE, Snapshot("{}", ServerState(3, models)))
    (read,) = container.read(tmp_path / "file", TREE).state.models
    assert read.layout == model.layout
    assert (read.layout.codes, read.layout.tied_pairs) == ("ttttttbsc", [5, 0])
    assert (read.holdings, read.settled) == (holdings, True)
    restored = from_record(read.record)
    assert list(restored) == list(STATE)
    for name, tensor in STATE.items():
        assert same_bits(restored[name], tensor), name
