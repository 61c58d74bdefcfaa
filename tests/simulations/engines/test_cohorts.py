"""Clients that are trained together reply as they do one by one, to the bit."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.clientapp.typing import ClientAppCallable
from torch import nn
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.app import EnsembleApp, ensemble_app
from hqde_fl.clients.cohort import CohortTraining
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.protocol.npy import ViewArray
from hqde_fl.protocol.records import to_record
from hqde_fl.protocol.reply_block import RowMessage, untouched_row
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation, Reporting
from hqde_fl.updates.roles import roles_of
from tests.contracts.models import KINDS, kind_task

CLIENTS = 5
TOGETHER = {"mlp", "batch-norm-2d", "group-norm", "raw-columns", "lstm", "gru-state", "f64"}
"""Kinds of models whose clients are trained together."""


def unchanged_message(message: Message, context: Context, call: ClientAppCallable) -> Message:
    """Do nothing, as a mod of a user's, which sees each client by itself."""
    return call(message, context)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The numbers of clients that were trained together."""
    numbers: list[int] = []
    train = CohortTraining.train

    def counted(self: CohortTraining, calls: Sequence[Any], *args: Any, **kwargs: Any) -> Any:
        numbers.append(len(calls))
        return train(self, calls, *args, **kwargs)

    monkeypatch.setattr(CohortTraining, "train", counted)
    return numbers


class Records(Callback):
    """The rounds of a run without what is measured."""

    def __init__(self) -> None:
        self.rounds: list[Any] = []

    def on_round(self, record: RoundRecord, *args: Any, **kwargs: Any) -> None:
        measured = ("seconds", "turnaround_seconds")
        clients = [
            {key: value for key, value in vars(client).items() if key not in measured}
            for client in record.clients
        ]
        self.rounds.append(
            (clients, record.bytes_up_by_role, record.clients_train.get("train-loss"))
        )


def run(task: Task, app: EnsembleApp, rounds: int = 2, **known: Any) -> tuple[Any, list[Any]]:
    """Run a federation inline; return its final model, and what its rounds recorded."""
    records = Records()
    strategy = HQDEStrategy(
        participation=Participation(fraction_evaluate=0.0),
        reporting=Reporting(callbacks=[records]),
        **known,
    )
    torch.manual_seed(0)
    arrays = to_record(task.model().state_dict())
    result = strategy.start(InlineGrid(app, CLIENTS, {}), arrays, num_rounds=rounds)
    return {name: bytes(array.data) for name, array in result.arrays.items()}, records.rounds


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_model(kind: str, trained: list[int]) -> None:
    task = kind_task(CLIENTS, 3, None, kind)
    roles = roles_of(task.model())
    training = Training(batch_size=8, lr=0.1)
    together = run(task, ensemble_app(task, training=training), roles=roles)
    if kind in TOGETHER:
        assert trained[:1] == [CLIENTS]
    before = len(trained)
    mods = [unchanged_message]
    alone = run(task, ensemble_app(task, training=training, mods=mods), roles=roles)
    assert len(trained) == before
    assert together == alone


class Remembering(nn.Module):
    """A model that counts its calls in an attribute, and fails if a count was left behind."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 2)
        self.calls = 0

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return scores that depend on the number of earlier calls."""
        self.calls += 1
        if not self.training:
            raise AssertionError("it is only trained")
        return self.layer(x) * self.calls  # type: ignore[no-any-return]


def examples(client: int, number: int = 6) -> TensorDataset:
    generator = torch.Generator().manual_seed(client)
    x = torch.randn(number, 4, generator=generator)
    return TensorDataset(x, (x.sum(1) > 0).long())


def task_of(
    partition: Callable[[int, int], Dataset[Any]], model: Callable[[], nn.Module] | None = None
) -> Task:
    """Return a task of two classes."""
    return Task(
        model=model or (lambda: nn.Linear(4, 2)),
        partition=partition,
        test=lambda: examples(99),
        loss=nn.functional.cross_entropy,
    )


def replies(task: Task, mods: Sequence[Any] = (), sent: Mapping[str, Any] | None = None) -> Any:
    """Return the replies of all clients to one training message."""
    app = ensemble_app(task, training=Training(batch_size=4), mods=mods)
    grid = InlineGrid(app, CLIENTS, {})
    torch.manual_seed(0)
    state = task.model().state_dict()
    config = ConfigRecord({"server-round": 1, **(sent or {})})
    content = RecordDict({"arrays": to_record(state), "config": config})
    messages = [Message(content, node, "train", group_id="1") for node in grid.get_node_ids()]
    return list(grid.send_and_receive(messages))


def described(reply: Message) -> Any:
    """Return what a reply says, without what is measured."""
    if reply.has_error():
        return str(reply.error.reason).splitlines()[-1]
    arrays = {
        key: (array.dtype, array.shape, array.stype, bytes(array.data))
        for record in reply.content.array_records.values()
        for key, array in record.items()
    }
    metrics = {
        key: value
        for record in reply.content.metric_records.values()
        for key, value in record.items()
        if key != "train-seconds"
    }
    others = {name: dict(record) for name, record in reply.content.config_records.items()}
    return list(reply.content), arrays, metrics, others


def same_replies(task: Task, **sent: Any) -> list[Any]:
    """Return the replies of clients that are trained together, which are those one by one."""
    together, alone = replies(task, sent=sent), replies(task, [unchanged_message], sent)
    found = [described(reply) for reply in together]
    assert found == [described(reply) for reply in alone]
    return found


def test_a_model_with_a_memory(trained: list[int]) -> None:
    same_replies(task_of(lambda client, _: examples(client), Remembering))
    assert trained == [CLIENTS]


def test_clients_without_data_and_with_errors(trained: list[int]) -> None:
    def partition(client: int, _: int) -> Dataset[Any]:
        if client == 1:
            raise RuntimeError("no disk")
        x, y = examples(client).tensors
        if client == 2:
            return examples(client, 0)
        if client == 3:
            return TensorDataset(x[:, :3], y)  # too few columns for the model
        return TensorDataset(x, torch.full_like(y, -100) if client == 4 else y)

    found = same_replies(task_of(partition))
    assert trained == [CLIENTS]
    assert "no disk" in found[1]
    assert found[2] == found[4] == "skipped: no data"
    assert "mat1 and mat2" in found[3]
    assert found[0][2]["num-examples"] == 6


def test_entries_that_do_not_change_are_left_out() -> None:
    class Idle(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.unused = nn.Linear(4, 2), nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x)  # type: ignore[no-any-return]

    task = task_of(lambda client, _: examples(client), Idle)
    sent = {"roles": "tttt", "leave-out-unchanged": True}
    for _, arrays, _, others in same_replies(task, **sent):
        assert set(arrays) == {"layer.weight", "layer.bias"}
        assert others["hqde.entries"]["unchanged"]


def test_what_a_client_changes_of_torch_ends_with_it() -> None:
    class Changing(Dataset[Any]):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, index: int) -> Any:
            torch.set_default_dtype(torch.float64)
            return torch.ones(4, dtype=torch.float32), torch.tensor(index)

    seen: list[torch.dtype] = []

    def loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        seen.append(torch.get_default_dtype())
        return nn.functional.cross_entropy(scores, targets)

    task = task_of(lambda client, _: Changing() if client == 0 else examples(client))
    same_replies(replace(task, loss=loss))
    assert torch.get_default_dtype() == torch.float32
    assert set(seen[1:9]) == {torch.float32}


def test_the_generators_of_the_process_stay_as_they_are() -> None:
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand()
    task = task_of(lambda client, _: examples(client))
    app = ensemble_app(task, training=Training(batch_size=4))
    grid = InlineGrid(app, CLIENTS, {})
    record = to_record(nn.Linear(4, 2).state_dict())
    torch.manual_seed(5)
    np.random.seed(5)
    content = RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 1})})
    list(grid.send_and_receive([Message(content, n, "train") for n in grid.get_node_ids()]))
    assert torch.equal(torch.rand(3), expected[0])
    assert np.random.rand() == expected[1]


def test_a_content_that_was_looked_at_is_no_row_any_more() -> None:
    reply, other, *_ = replies(task_of(lambda client, _: examples(client)))
    assert isinstance(reply, RowMessage)
    assert untouched_row(reply) is not None
    array = reply.content["arrays"]["weight"]
    assert untouched_row(reply) is None
    assert untouched_row(other) is not None
    assert isinstance(array, ViewArray)
    values = array.numpy()
    assert values.shape == (2, 4)
    array.data = to_record({"weight": torch.zeros(2, 4)})["weight"].data
    assert not array.numpy().any()
    reply.content = RecordDict({"arrays": ArrayRecord()})
    assert not reply.content["arrays"]


def test_the_model_leaves_the_memory_of_the_replies() -> None:
    app = ensemble_app(task_of(lambda client, _: examples(client)))
    grid = InlineGrid(app, CLIENTS, {})
    record = to_record(nn.Linear(4, 2).state_dict())
    content = RecordDict({"arrays": record, "config": ConfigRecord({"server-round": 1})})
    messages = [Message(content, node, "train") for node in grid.get_node_ids()]
    training = app.cohort_training(messages[0], Context(0, 0, {}, RecordDict(), {}))
    assert training is not None
    entries = app.client.model(0).entries
    assert entries is not None
    places = {name: entry.data_ptr() for name, entry in entries.items()}
    list(grid.send_and_receive(messages))
    assert {name: entry.data_ptr() for name, entry in entries.items()} == places


def test_a_row_that_is_not_finite_is_rejected(trained: list[int]) -> None:
    def partition(client: int, _: int) -> Dataset[Any]:
        x, y = examples(client).tensors
        return TensorDataset(x * float("inf") if client == 2 else x, y)

    task = task_of(partition)
    _, rounds = run(task, ensemble_app(task, training=Training(batch_size=4)), rounds=1)
    assert trained == [CLIENTS]
    reasons = [client["reason"] for client in rounds[-1][0]]
    assert sorted(map(str, reasons)) == ["None"] * 4 + ["rejected: non-finite update"]


def test_gradients_that_a_client_turns_off_are_on_for_the_next() -> None:
    def loss(scores: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
        value = nn.functional.cross_entropy(scores, targets)
        torch.set_grad_enabled(False)
        return value

    def partition(client: int, _: int) -> TensorDataset:
        return examples(client, 4)  # one batch

    found = same_replies(replace(task_of(partition), loss=loss))
    assert torch.is_grad_enabled()
    assert len(found) == CLIENTS


def test_rows_whose_squares_overflow_are_judged_by_their_numbers(trained: list[int]) -> None:
    class Large(nn.Module):
        """A model with numbers whose squares are no float32."""

        def __init__(self) -> None:
            super().__init__()
            self.layer, self.large = nn.Linear(4, 2), nn.Parameter(torch.full((3,), 1e25))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.layer(x) + 0 * self.large.sum()  # type: ignore[no-any-return]

    task = task_of(lambda client, _: examples(client), Large)
    training = Training(batch_size=4)
    together = run(task, ensemble_app(task, training=training), rounds=1)
    assert trained == [CLIENTS]
    mods = [unchanged_message]
    assert together == run(task, ensemble_app(task, training=training, mods=mods), rounds=1)
    assert [client["reason"] for client in together[1][-1][0]] == [None] * CLIENTS
