"""What a round tells of its clients, and how a selector gets it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, final

import numpy as np
import pytest
import torch
from flwr.app import RecordDict

from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.rules import ByzantineFilter
from hqde_fl.selection import Candidates, ClientHistory, Selection, Selector
from hqde_fl.selection.base import State
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.store import TREE, Snapshot
from hqde_fl.strategies.callbacks import ClientRecord
from hqde_fl.strategies.round.observations import histories_after, observe
from hqde_fl.strategies.round.reply_times import ReplyTimes
from hqde_fl.strategies.state import ServerState
from tests.strategies.federation import (
    HOSTILE,
    MODEL,
    Recorder,
    Tamper,
    crash,
    extra,
    federation,
    metric,
    strategy_with,
)
from tests.strategies.timed import Timed


@final
@dataclass(frozen=True, eq=False)
class Watching(Selector):
    """Selects all clients, gives one half the work, and keeps what it is shown."""

    uses_sketches: ClassVar[bool] = True

    half: int = -1
    seen: list[dict[int, ClientHistory]] = field(default_factory=list)

    def size(self, available: int) -> int:
        return available

    def select(self, candidates: Candidates, state: State, rng: np.random.Generator) -> Selection:
        self.seen.append(dict(candidates.history))
        work = {self.half: 0.5} if self.half in candidates.ids else {}
        draws = [*state.get("draws", ()), int(rng.integers(100))]
        return Selection(list(candidates.ids), work, {"draws": draws, "last": torch.ones(2)})


def histories(
    tamper: Tamper | None = None, rounds: int = 1, seconds: Any = None, **options: Any
) -> tuple[dict[int, ClientHistory], ServerState]:
    """Return the histories after a run, and its last state."""
    strategy = strategy_with(Recorder(), **{"selector": Watching(), **options})
    grid = Timed(federation(tamper), seconds or [2.0] * 10, virtual=True)
    strategy.start(grid, to_record(MODEL), rounds)
    assert strategy.state is not None
    return dict(strategy.state.histories), strategy.state


def test_an_accepted_reply_is_a_success_with_its_time_load_and_claims() -> None:
    after, state = histories(rounds=2, seconds=[*range(1, 11)])
    assert set(after) == set(range(10))
    for client, history in after.items():
        assert (history.selected, history.last_selected) == (2, 2)
        assert history.success_rate == 1.0
        assert history.seconds == client + 1
        share = (client + 1) / 10
        assert history.load == pytest.approx(share * 0.75)
        assert (history.examples, history.loss) == (10 + client, 0.5)
    assert len(state.selector["draws"]) == 2


@pytest.mark.parametrize(
    "tamper",
    [crash, extra("more", to_record(MODEL)), metric("num-examples", -1)],
    ids=["failed", "two models", "claim"],
)
def test_who_gives_no_usable_reply_is_no_success_and_shows_no_speed(tamper: Tamper) -> None:
    after, _ = histories(tamper)
    assert after[HOSTILE].success_rate == 0.75
    assert after[HOSTILE].seconds is None
    assert after[HOSTILE].examples is after[HOSTILE].loss is after[HOSTILE].sketch is None
    assert after[HOSTILE].load == 0.0
    assert after[0].success_rate == 1.0


def test_a_late_client_needs_at_least_the_deadline() -> None:
    seconds = [9.0 if client == HOSTILE else 2.0 for client in range(10)]
    after, _ = histories(seconds=seconds, deadline=4.0)
    assert after[HOSTILE].success_rate == 0.75
    assert after[HOSTILE].seconds == 4.0
    assert after[HOSTILE].load == 0.5
    half, _ = histories(seconds=seconds, deadline=4.0, selector=Watching(HOSTILE))
    assert half[HOSTILE].seconds == 8.0  # it was asked for half of the work


def test_a_filtered_update_is_no_success_but_has_a_time() -> None:
    def opposite(content: RecordDict) -> RecordDict:
        state = from_record(content.array_records["arrays"])
        far = {
            name: tensor - 50 if tensor.is_floating_point() else tensor
            for name, tensor in state.items()
        }
        content["arrays"] = to_record(far)
        return content

    after, _ = histories(opposite, rule=ByzantineFilter())
    assert after[HOSTILE].success_rate == 0.75
    assert after[HOSTILE].seconds == 2.0
    assert after[HOSTILE].examples is None
    assert after[HOSTILE].sketch is not None  # its update passed screening


def record(reason: str | None, work: float = 1.0) -> ClientRecord:
    return ClientRecord(3, 5, 1, not reason, 0.1, reason, 0, 0, None, work=work)


def test_a_client_without_data_leaves_no_trace() -> None:
    times = ReplyTimes(federation(None), 9.0)
    assert observe(record("skipped: no data"), times, {}, None) is None
    assert histories_after({}, [(1, None)]) == {}
    missing = observe(record("missing: needs the model in full"), times, {}, None)
    assert missing is not None
    assert (missing.success, missing.seconds) == (False, None)


def test_earlier_histories_are_not_changed_and_absent_clients_keep_theirs() -> None:
    before = {1: ClientHistory(selected=4), 2: ClientHistory(selected=1)}
    times = ReplyTimes(federation(None), 9.0)
    after = histories_after(before, [(1, observe(record(None), times, {}, None))])
    assert after[1].selected == 5
    assert after[2] is before[2]
    assert before[1].selected == 4


def test_a_selector_reads_what_earlier_rounds_showed() -> None:
    selector = Watching(7)
    histories(rounds=3, selector=selector)
    assert [{client: h.selected for client, h in shown.items()} for shown in selector.seen] == [
        {},
        dict.fromkeys(range(10), 1),
        dict.fromkeys(range(10), 2),
    ]
    # these clients do not confirm that they did half
    assert selector.seen[-1][7].seconds == 2.0


def test_similar_updates_have_similar_sketches() -> None:
    after, _ = histories()
    rows = torch.stack([history.sketch for history in after.values() if history.sketch is not None])
    assert rows.shape[0] == 10
    rows = rows / rows.norm(dim=1, keepdim=True)
    assert bool((rows @ rows.T > 0.95).all())


def test_histories_and_the_selectors_state_survive_a_checkpoint(tmp_path: Path) -> None:
    after, state = histories(rounds=2, seconds=[*range(1, 11)])
    container.write(tmp_path / "file", TREE, Snapshot("{}", state))
    read = container.read(tmp_path / "file", TREE).state
    assert read.virtual_time == state.virtual_time == 20.0
    assert read.selector["draws"] == state.selector["draws"]
    assert torch.equal(read.selector["last"], torch.ones(2))
    for client, history in after.items():
        restored = vars(read.histories[client])
        for name, value in vars(history).items():
            if isinstance(value, torch.Tensor):
                assert torch.equal(restored[name], value)
            else:
                assert restored[name] == value
                assert type(restored[name]) is type(value)


def test_a_checkpoint_of_an_earlier_version_has_none_of_them(tmp_path: Path) -> None:
    _, state = histories()
    text, arrays = TREE.dump(Snapshot("{}", state))
    skeleton = json.loads(text)
    name, parts = skeleton["object"][1]["state"]["object"]
    assert name == "ServerState"
    for new in ("histories", "selector", "virtual_time"):
        del parts[new]
    old = TREE.load(json.dumps(skeleton), arrays).state
    assert (old.histories, old.selector, old.virtual_time) == ({}, {}, 0.0)
    strategy = strategy_with(Recorder(), selector=Watching())
    grid = Timed(federation(None), [2.0] * 10, virtual=True)
    strategy.start(grid, to_record(MODEL), 2, resume=old)
    assert strategy.state is not None
    assert {history.selected for history in strategy.state.histories.values()} == {1}
