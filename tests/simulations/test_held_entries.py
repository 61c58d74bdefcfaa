"""Runs with a frozen backbone: it is sent to a node once, and never returned."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.cache_location import CACHE_DIR
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.codec import Quantized
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.callbacks import Callback, RoundRecord
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication, Ensemble, Participation, Reporting
from hqde_fl.updates.roles import roles_of

CLIENTS, ROUNDS = 4, 5
ADAPTER_NUMBERS = 8 * 128 + 3 * 8 + 3
BACKBONE_BYTES = 4 * (128 * 4 + 128 * 128)


def blobs(number: int, count: int, examples: int = 20) -> TensorDataset:
    generator = torch.Generator().manual_seed(1000 * count + number)
    y = torch.arange(examples) % 3
    return TensorDataset(torch.eye(3, 4)[y] * 4 + torch.randn(20, 4, generator=generator), y)


def network() -> nn.Module:
    """Return a frozen backbone with a trainable adapter behind it."""
    backbone = nn.Sequential(
        nn.Linear(4, 128, bias=False), nn.ReLU(), nn.Linear(128, 128, bias=False)
    )
    for parameter in backbone.parameters():
        parameter.requires_grad = False
    return nn.Sequential(backbone, nn.Linear(128, 8, bias=False), nn.Linear(8, 3))


TASK = Task(model=network, partition=blobs, test=lambda: blobs(99, 100))


class Rounds(Callback):
    """Keeps the rounds' records, and calls a function before each round but the first."""

    def __init__(self, between: Callable[[int], None]) -> None:
        self.records: list[RoundRecord] = []
        self._between = between

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        self.records.append(record)
        self._between(record.round + 1)


def run(
    tmp_path: Path,
    *,
    known: bool = True,
    caches: bool = True,
    members: int = 1,
    evaluate: float = 0.0,
    app: ClientApp | None = None,
    between: Callable[[int], None] = lambda number: None,
    **communication: object,
) -> tuple[dict[str, torch.Tensor], list[RoundRecord]]:
    """Run five rounds with four clients; each has a cache of its own, ``tmp_path/PARTITION``."""
    app = app or ensemble_app(TASK, members=members, training=Training(lr=0.02, batch_size=4))
    grid = InlineGrid(app, CLIENTS, {}, 3)
    for context in grid._contexts.values():
        number = str(context.node_config["partition-id"])
        context.node_config[CACHE_DIR] = str(tmp_path / number) if caches else ""
    rounds = Rounds(between)
    strategy = HQDEStrategy(
        communication=Communication(**communication),  # type: ignore[arg-type]
        participation=Participation(fraction_evaluate=evaluate),
        ensemble=Ensemble(members=members),
        reporting=Reporting(callbacks=[rounds]),
        roles=roles_of(network()) if known else None,
    )
    arrays = to_record(initial_state(TASK, members, Seeds(0)))
    final = strategy.start(grid, arrays, ROUNDS).arrays
    grid.close()
    return from_record(final), rounds.records


CODECS: dict[str, dict[str, object]] = {
    "none": {},
    "up": {"codec": Quantized(4)},
    "both": {"codec": Quantized(4), "downlink": Quantized(4)},
}


@pytest.mark.parametrize("codecs", CODECS)
@pytest.mark.parametrize("known", [True, False], ids=["known", "inferred"])
def test_only_the_adapter_travels(tmp_path: Path, known: bool, codecs: str) -> None:
    _, records = run(tmp_path, known=known, **CODECS[codecs])
    packed = {"none": (32, 32), "up": (32, 4), "both": (4, 4)}[codecs]
    down, up = (CLIENTS * (1.1 * ADAPTER_NUMBERS * bits / 8 + 2048) for bits in packed)
    assert records[1].bytes_down > CLIENTS * BACKBONE_BYTES
    # an inferred role changes what is packed, so that the first difference follows in round 3
    first = 2 if known or codecs != "both" else 3
    assert max(record.bytes_down for record in records[first:]) < down
    assert max(record.bytes_up for record in records[2:]) < up
    assert [record.kept for record in records[1:]] == [CLIENTS] * ROUNDS


@pytest.mark.parametrize("codecs", CODECS)
def test_a_cache_changes_no_bit_of_the_model(tmp_path: Path, codecs: str) -> None:
    with_caches, _ = run(tmp_path, **CODECS[codecs])
    without, records = run(tmp_path, caches=False, **CODECS[codecs])
    assert list(with_caches) == list(without)
    assert all(torch.equal(with_caches[name], without[name]) for name in without)
    assert min(record.bytes_down for record in records[1:]) > CLIENTS * BACKBONE_BYTES
    assert max(record.bytes_up for record in records[1:]) < BACKBONE_BYTES
    start = initial_state(TASK, 1, Seeds(0))
    assert all(torch.equal(start[name], without[name]) == ("0." in name[:2]) for name in start)


@pytest.mark.parametrize("codecs", CODECS)
def test_a_node_that_lost_its_cache_misses_one_round(tmp_path: Path, codecs: str) -> None:
    def lose(number: int) -> None:
        if number == 3:
            shutil.rmtree(tmp_path / "1")

    _, records = run(tmp_path, between=lose, **CODECS[codecs])
    assert [record.missing for record in records[1:]] == [0, 0, 1, 0, 0]
    assert [record.kept for record in records[1:]] == [4, 4, 3, 4, 4]
    reasons = [client.reason for client in records[3].clients if client.reason is not None]
    assert len(reasons) == 1
    assert reasons[0].startswith("missing: ")
    down = [client.bytes_down for record in records for client in record.clients]
    assert sum(size > BACKBONE_BYTES for size in down) == CLIENTS + 1


def test_a_damaged_entry_is_sent_again(tmp_path: Path) -> None:
    def damage(number: int) -> None:
        if number == 3:
            largest = max((tmp_path / "2").iterdir(), key=lambda file: file.stat().st_size)
            largest.write_bytes(largest.read_bytes()[:-1] + b"\xff")

    _, records = run(tmp_path, between=damage)
    assert [record.missing for record in records[1:]] == [0, 0, 1, 0, 0]


def test_each_member_of_an_ensemble_is_held(tmp_path: Path) -> None:
    final, records = run(tmp_path, members=2)
    assert records[1].bytes_down > 2 * CLIENTS * BACKBONE_BYTES
    bound = CLIENTS * (2 * 1.1 * 4 * ADAPTER_NUMBERS + 2048)
    for record in records[2:]:
        assert record.bytes_down < bound
        assert record.bytes_up < bound
    without, _ = run(tmp_path, members=2, caches=False)
    assert all(torch.equal(final[name], without[name]) for name in without)


def test_clients_evaluate_what_they_hold(tmp_path: Path) -> None:
    def lose(number: int) -> None:
        if number == 4:
            shutil.rmtree(tmp_path / "0")

    _, records = run(tmp_path, evaluate=1.0, between=lose)
    _, without = run(tmp_path, evaluate=1.0, caches=False)
    assert [record.missing for record in records[1:]] == [0, 0, 0, 1, 0]
    for record, expected in zip(records[1:4], without[1:4], strict=True):
        assert record.clients_evaluate == expected.clients_evaluate != {}
    assert all(record.clients_evaluate for record in records[1:])


def test_a_client_that_says_nothing_gets_and_returns_everything(tmp_path: Path) -> None:
    app, seen = ClientApp(), []

    @app.train()
    def train(message: Message, context: Context) -> Message:
        arrays = message.content.array_records["arrays"]
        seen.append(list(arrays))
        state = {
            name: tensor if name.startswith("0.") else tensor + 0.1
            for name, tensor in from_record(arrays).items()
        }
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": to_record(state), "metrics": metrics})
        return Message(content, reply_to=message)

    final, records = run(tmp_path, known=False, app=app)
    assert seen == [list(final)] * CLIENTS * ROUNDS
    assert list(tmp_path.iterdir()) == []
    assert min(record.bytes_down for record in records[1:]) > CLIENTS * BACKBONE_BYTES
    assert min(record.bytes_up for record in records[1:]) > CLIENTS * BACKBONE_BYTES


def test_a_node_that_loses_its_cache_in_every_round_costs_only_its_own(tmp_path: Path) -> None:
    _, records = run(tmp_path, between=lambda n: shutil.rmtree(tmp_path / "3", ignore_errors=True))
    assert [record.kept for record in records[1:]] == [4, 3, 4, 3, 4]
    assert [record.missing for record in records[1:]] == [0, 1, 0, 1, 0]
    assert len({client.node for r in records for client in r.clients if client.reason}) == 1
