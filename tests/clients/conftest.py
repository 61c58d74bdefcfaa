"""A small task, and fixtures that build Flower messages and contexts."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pytest
import torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import Tensor, nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.protocol.screening import Screening, SentModel, screen
from hqde_fl.seeding import Seeds

Ask = Callable[..., Message]
Node = Callable[..., Context]


def blobs(number: int, count: int, examples: int = 21) -> TensorDataset:
    """Return examples of three classes in four dimensions, different in every partition."""
    generator = torch.Generator().manual_seed(1000 * count + number)
    y = torch.arange(examples) % 3
    centres = torch.eye(3, 4) * 4
    return TensorDataset(centres[y] + torch.randn(examples, 4, generator=generator), y)


def network() -> nn.Module:
    """Return a network with dropout, running statistics and an integer buffer."""
    return nn.Sequential(
        nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 3)
    )


@pytest.fixture
def task() -> Task:
    return Task(model=network, partition=blobs, test=lambda: blobs(99, 100, 60))


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Ask:
    """Return a function that builds a message from the server: ``ask(state, round, type)``."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)

    def build(state: Mapping[str, Tensor], number: int = 1, kind: str = "train") -> Message:
        config = ConfigRecord({"server-round": number})
        return Message(RecordDict({"arrays": to_record(state), "config": config}), 1, kind)

    return build


@pytest.fixture
def node() -> Node:
    """Return a function that builds the context of the node with a partition."""

    def build(partition: int = 0, count: int = 3) -> Context:
        config = {"partition-id": partition, "num-partitions": count}
        return Context(1, 1, config, RecordDict(), {})

    return build


@pytest.fixture
def state(task):
    return initial_state(task, 1, Seeds(0))


@pytest.fixture
def train(task, ask, node, state):
    """Return a function that trains one client and returns its reply.

    Pass ``context`` to send a further message to the same node.
    """

    def build(*mods, number=1, start=None, context=None):
        app = ensemble_app(task, training=Training(lr=0.1, batch_size=4), mods=mods)
        return app(ask(start or state, number), context or node())

    return build


@pytest.fixture
def weights():
    """Return a function that reads a reply's arrays as a state dict."""
    return lambda reply: from_record(reply.content["arrays"])


@pytest.fixture
def weight_names(state):
    """Return the names of the weights of the task's model."""
    return [entry.name for entry in layout_of(to_record(state)).weights]


@pytest.fixture
def screened(ask, state):
    """Return a function that screens a reply as the server does."""

    def build(reply):
        layout = layout_of(ask(state).content["arrays"])
        return screen(reply, SentModel(layout, *layout.flatten(state)), Screening())

    return build


@pytest.fixture
def same():
    """Return a function that tells whether two states are equal."""
    return lambda one, other: (
        list(one) == list(other) and all(torch.equal(one[k], other[k]) for k in one)
    )
