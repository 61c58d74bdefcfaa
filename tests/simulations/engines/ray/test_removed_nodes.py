"""One of a cluster's three nodes is removed in the middle of a run: nobody is charged for it.

``make test-drills`` runs it; docs/drills.md has the figures.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from hqde_fl.simulations.engines.ray.private_ray import private_ray
from hqde_fl.simulations.recording.recorded_run import read_lines
from tests.simulations.command import chain_in, rounds_in, started

pytestmark = [pytest.mark.drills, pytest.mark.xdist_group("removed nodes")]

RUNS, ROUNDS = 10, 6
EXPERIMENT = f"""
seed = 5
rounds = {ROUNDS}
task = {{ name = "digits", hidden = 16 }}
clients = {{ count = 6, epochs = 40, lr = 0.1 }}
strategy = {{ rule = "geometric-median" }}
"""


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A head without CPUs, and three nodes of one CPU each."""
    with private_ray():
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
        for _ in range(3):
            cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
        yield cluster
        cluster.shutdown()


def run(folder: Path, cluster: Cluster, removal: random.Random | None) -> list[str]:
    """Run the experiment on the cluster, and return the hashes of its rounds.

    With ``removal``, a node is removed at a random round and another one added at the end.
    """
    (folder / "drill.toml").write_text(EXPERIMENT)
    out = folder / "run"
    address = f"engine.address={cluster.address}"
    words = ("run", "drill.toml", "--engine", "ray", "--set", address, "--out", out)
    with started(*words, cwd=folder) as running:
        if removal is not None:
            place = removal.randrange(1, ROUNDS)
            running.wait_for(lambda: rounds_in(out) > place, f"round {place}")
            cluster.remove_node(
                removal.choice(sorted(cluster.worker_nodes, key=lambda n: n.node_id))
            )
        status, errors = running.end()
    assert status == 0, errors
    if removal is not None:
        cluster.add_node(num_cpus=1)
        cluster.wait_for_nodes()
    assert [client for client in read_lines(out / "clients.jsonl") if not client["kept"]] == []
    return chain_in(out)


def test_a_removed_node_changes_nothing(cluster: Cluster, tmp_path: Path) -> None:
    rng, chains = random.Random(3), []
    for number in range(RUNS + 1):
        folder = tmp_path / str(number)
        folder.mkdir()
        chains.append(run(folder, cluster, rng if number else None))
    assert chains[1:] == chains[:1] * RUNS
