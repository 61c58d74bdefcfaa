"""The downlink codec: the model is broadcast as differences."""

from __future__ import annotations

import pytest
import torch
from flwr.app import ArrayRecord, ConfigRecord, Context, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.clients.mods.codec import CodecMod
from hqde_fl.clients.mods.downlink import MODEL, DownlinkMod
from hqde_fl.codec import EntropyCoded, ErrorFeedback, Identity, Quantized
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.delta_broadcast import HELD
from hqde_fl.protocol.packed_updates import packed_entries
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Uniform
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Communication
from tests.strategies.federation import Recorder, strategy_with

SIZE = 4000
TARGET = torch.randn(SIZE, generator=torch.Generator().manual_seed(1))
START = {
    "weight": torch.zeros(SIZE),
    "half": torch.zeros(600, dtype=torch.bfloat16),
    "bias": torch.zeros(4),
    "steps": torch.tensor(0),
}
EIGHT = Quantized(8, unbiased=False)


class Federation(InlineGrid):
    """A Grid whose clients go a third of the way to the target; it keeps their start models."""

    def __init__(self, partitions: int = 4, mods: bool = True) -> None:
        self.seen: list[dict[int, dict[str, torch.Tensor]]] = []
        self.contexts: dict[int, Context] = {}
        app = ClientApp(mods=[DownlinkMod(), CodecMod()] if mods else [])

        @app.train()
        def train(message: Message, context: Context) -> Message:
            partition = int(context.node_config["partition-id"])
            self.contexts[partition] = context
            number = int(message.content.config_records["config"]["server-round"])  # type: ignore[arg-type]
            state = from_record(message.content.array_records["arrays"])
            while len(self.seen) < number:
                self.seen.append({})
            self.seen[number - 1][partition] = state
            trained = {
                "weight": state["weight"] + (TARGET - state["weight"]) / 3,
                "half": state["half"] + 1,
                "bias": state["bias"] + 1,
                "steps": state["steps"] + 1,
            }
            metrics = MetricRecord({"num-examples": 10})
            return Message(
                RecordDict({"arrays": to_record(trained), "metrics": metrics}), reply_to=message
            )

        super().__init__(app, partitions, {}, seed=1)


def run(
    grid: Federation, strategy: HQDEStrategy, rounds: int = 6, start: ArrayRecord | None = None
) -> dict[str, torch.Tensor]:
    return from_record(strategy.start(grid, start or to_record(START), rounds).arrays)


def distance(model: dict[str, torch.Tensor]) -> float:
    return float((model["weight"] - TARGET).norm() / TARGET.norm())


def test_everybody_trains_from_the_same_bits_and_gets_there() -> None:
    recorder, grid = Recorder(), Federation()
    strategy = strategy_with(recorder, downlink=EIGHT, codec=ErrorFeedback(EIGHT))
    model = run(grid, strategy, rounds=12)
    for models in grid.seen:
        assert len(models) == 4
        for name in START:
            assert all(torch.equal(state[name], models[0][name]) for state in models.values())
    exact = run(Federation(), strategy_with(Recorder()), rounds=12)
    assert distance(model) < 1.1 * distance(exact) + 1e-3
    assert int(model["steps"]) == 12
    down = [record.bytes_down for record in recorder.rounds[1:]]
    assert max(down[1:]) < down[0] / 3
    assert all(record.kept == 4 for record in recorder.rounds[1:])


def test_the_server_knows_what_the_clients_hold() -> None:
    grid = Federation()
    strategy = strategy_with(Recorder(), downlink=EIGHT)
    run(grid, strategy)
    assert strategy.state is not None
    broadcast = strategy.state.models[0].broadcast
    assert broadcast is not None
    assert set(broadcast.held.values()) == {6}
    for context in grid.contexts.values():
        held = from_record(context.state.array_records[MODEL])
        assert list(held) == [entry.name for entry in packed_entries(broadcast.layout)]
        assert all(torch.equal(held[name], broadcast.model[name]) for name in held)


def test_clients_that_rest_catch_up() -> None:
    recorder, grid = Recorder(), Federation(8)
    strategy = strategy_with(
        recorder, downlink=EntropyCoded(4), selector=Uniform(fraction=0.25), seed=3
    )
    run(grid, strategy, rounds=14)
    assert all(record.kept == 2 for record in recorder.rounds[1:])
    for models in grid.seen:
        states = list(models.values())
        assert all(torch.equal(state["weight"], states[0]["weight"]) for state in states)
    sizes = {client.bytes_down for record in recorder.rounds[3:] for client in record.clients}
    assert len(sizes) > 2  # in full, one difference, several differences


@pytest.mark.parametrize("damage", ["lost", "corrupt", "ahead"])
def test_a_client_without_the_base_misses_it_once_and_then_gets_the_model_in_full(
    damage: str,
) -> None:
    recorder, grid = Recorder(), Federation()

    class Damage(Recorder):
        def on_round(self, record, arrays):  # type: ignore[no-untyped-def]
            if record.round == 3:
                state = grid.contexts[2].state
                if damage == "lost":
                    del state[MODEL]
                elif damage == "corrupt":
                    state[MODEL] = to_record({n: t + 1 for n, t in START.items()})
                else:
                    state[HELD] = ConfigRecord({"version": 99})

    strategy = strategy_with(recorder, downlink=EIGHT, callbacks=[recorder, Damage()])
    run(grid, strategy)
    assert recorder.client(2, 4).reason == "missing: needs the model in full"
    assert (recorder.rounds[4].missing, recorder.rounds[4].late) == (1, 0)
    assert recorder.client(2, 5).kept
    assert recorder.client(2, 5).bytes_down > 3 * recorder.client(1, 5).bytes_down
    assert recorder.client(2, 6).bytes_down == recorder.client(1, 6).bytes_down


def test_clients_without_the_mod_get_the_exact_model_in_full() -> None:
    recorder = Recorder()
    model = run(Federation(mods=False), strategy_with(recorder, downlink=EIGHT))
    plain = run(Federation(mods=False), strategy_with(Recorder()))
    assert all(torch.equal(model[name], plain[name]) for name in START)
    assert len({client.bytes_down for client in recorder.rounds[6].clients}) == 1


def test_error_feedback_is_built_in() -> None:
    with pytest.raises(ConfigError, match="codec without memory"):
        Communication(downlink=ErrorFeedback())


def test_differences_are_sent_only_while_they_are_smaller_than_the_model() -> None:
    """A client that missed rounds needs all of their payloads; from some number on they cost more.

    At 6 bits for each number five payloads are smaller than the model in float32, six are not.
    """
    layout = layout_of(to_record({"w": torch.zeros(4096)}))
    generator = torch.Generator().manual_seed(0)
    states = [{"w": torch.randn(4096, generator=generator)} for _ in range(8)]
    broadcast = Broadcast(layout, states[0], version=1, held={7: 1})
    for late in range(1, 8):
        broadcast = broadcast.next_version(states[late], Quantized(6), Seeds(0))
        size = sum(len(payload) for payload in broadcast.payloads[-late:])
        assert (size < 4 * 4096) == (late <= 5)
        assert broadcast.payloads_behind(7) == (late if late <= 5 else 0)


def test_a_codec_that_saves_nothing_sends_the_model_in_full() -> None:
    """Payloads of 32 bits for each number: the model itself is as small, and exact."""
    recorder, grid = Recorder(), Federation()
    run(grid, strategy_with(recorder, downlink=Identity()))
    sizes = {client.bytes_down for record in recorder.rounds[2:] for client in record.clients}
    model = sum(tensor.nbytes for tensor in START.values())
    assert all(model < size < model + 2000 for size in sizes)
    assert all(record.kept == 4 for record in recorder.rounds[1:])
