"""HQDESystem on Ray: the data are sent once, and a Ray of the host program is not stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import ray
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset

from hqde_fl import create_hqde_system

pytestmark = pytest.mark.xdist_group("ray")

ROOT = Path(__file__).resolve().parents[4]


class Watched(Dataset[Any]):
    """A data set that creates a file each time it is pickled or unpickled."""

    def __init__(self, folder: Path, examples: int = 60) -> None:
        self.folder, self.examples = folder, examples

    def __len__(self) -> int:
        return self.examples

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return torch.eye(3)[index % 3] + 0.01 * index, index % 3

    def __reduce__(self) -> Any:
        note(self.folder, "pickled")
        return unpickled, (self.folder, self.examples)


def note(folder: Path, what: str) -> None:
    (folder / f"{what}-{len(list(folder.glob(f'{what}-*')))}").touch()


def unpickled(folder: Path, examples: int) -> Watched:
    note(folder, "unpickled")
    return Watched(folder, examples)


@pytest.fixture
def as_in_a_notebook() -> Iterator[None]:
    """Pickle the classes of this module by value, because workers cannot import it."""
    ray.cloudpickle.register_pickle_by_value(sys.modules[__name__])
    yield
    ray.cloudpickle.unregister_pickle_by_value(sys.modules[__name__])


@pytest.mark.slow
@pytest.mark.usefixtures("one_ray", "as_in_a_notebook")
def test_the_data_reach_the_workers_once_and_the_hosts_ray_stays(tmp_path: Path) -> None:
    host = ray.put("the host's own")
    loader = DataLoader(Watched(tmp_path), 8)
    options = {"seed": 3, "show_progress": False, "training_config": {"learning_rate": 0.1}}
    with create_hqde_system(nn.Linear, {"in_features": 3, "out_features": 3}, **options) as system:
        assert system.engine == "ray"
        history = system.train(loader, 3)
        history += system.train(loader, 2)
    assert [each["epoch"] for each in history] == [1, 2, 3, 4, 5]
    assert len(list(tmp_path.glob("pickled-*"))) == 1
    assert 1 <= len(list(tmp_path.glob("unpickled-*"))) <= 4
    assert ray.get(host) == "the host's own"
    everything = ray.remote(num_cpus=3)(lambda: "a task of the host's own")
    assert ray.get(everything.remote(), timeout=120).startswith("a task")  # no worker keeps a CPU
    inline = create_hqde_system(
        nn.Linear, {"in_features": 3, "out_features": 3}, engine="inline", **options
    )
    inline.train(loader, 5)
    for one, other in zip(system.state_dicts(), inline.state_dicts(), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)


OWN_RAY = """
import json, os, psutil, ray
from torch import nn
import torch
from torch.utils.data import DataLoader, TensorDataset
from hqde_fl import create_hqde_system
from hqde_fl.simulations.engines.ray.private_ray import files_folder

def alive():
    names = [process.name() for process in psutil.Process().children(True)]
    return sum(name.startswith(("raylet", "gcs_server")) for name in names)

loader = DataLoader(TensorDataset(torch.rand(8, 2), torch.arange(8) % 2), 4)
kwargs = {"in_features": 2, "out_features": 2}
one, two = (create_hqde_system(nn.Linear, kwargs, 2, show_progress=False) for _ in range(2))
found = [alive()]
for system in (one, two):
    system.train(loader, 1)
found.append(alive())
folder = files_folder()
one.cleanup()
found.append(ray.is_initialized())
two.cleanup()
two.cleanup()
found += [ray.is_initialized(), alive(), os.path.exists(folder)]
print(json.dumps(found))
"""


@pytest.mark.slow
def test_a_ray_of_its_own_ends_with_the_last_system(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 100)  # as schedulers of clusters make them: too long for a socket
    long.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", OWN_RAY],
        cwd=ROOT,
        env={**os.environ, "TMPDIR": str(long)},
        capture_output=True,
        text=True,
        timeout=300,
        check=True,
    )
    before, during, still, after, left, files = json.loads(done.stdout.splitlines()[-1])
    assert (before, still, after, left, files) == (0, True, False, 0, False)
    assert during > 0
