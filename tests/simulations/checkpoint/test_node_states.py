"""Nodes keep their clients' states on disk, and find those that belong to a resumed run's past."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hqde_fl.clients.cache_location import STATE_VARIABLE
from hqde_fl.protocol.run_place import PLACE, RunPlace
from hqde_fl.simulations.checkpoint.node_states import RUNS_KEPT, kept_on_disk

RUN = "ab" * 16


@pytest.fixture(autouse=True)
def a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let messages be made, for which Flower wants to know the run."""
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "states"))
    return tmp_path / "states"


def new_context(partition: int = 3) -> Context:
    return Context(1, 2, {"partition-id": partition}, RecordDict(), {})


def message(place: RunPlace, kind: str = "train") -> Message:
    return Message(place.added_to(RecordDict()), dst_node_id=2, message_type=kind)


def train(context: Context, number: int, *resumed: int, run: str = RUN, oldest: int = 0) -> int:
    """Train in a round as a client that counts its trainings; return the count before it."""
    sent = message(RunPlace(run, resumed, number, oldest))
    with kept_on_disk(sent, context):
        assert PLACE not in sent.content
        record = context.state.array_records.get("count")
        before = 0 if record is None else int(record["n"].numpy()[0])
        context.state["count"] = ArrayRecord({"n": Array(np.array([before + 1]))})
        context.state["place"] = ConfigRecord({"round": number})
    return before


def files(folder: Path, run: str = RUN) -> list[str]:
    return sorted(os.listdir(folder / run / "3"))


def test_a_resumed_run_goes_on_with_the_state_of_its_checkpoint(folder: Path) -> None:
    context = new_context()
    assert [train(context, number) for number in (1, 2, 3)] == [0, 1, 2]
    assert train(new_context(), 3, 2) == 2  # after round 2: two trainings count
    assert files(folder) == ["0-1.safetensors", "0-2.safetensors", "1-3.safetensors"]


def test_a_node_that_was_restarted_goes_on_with_its_last_state(folder: Path) -> None:
    train(new_context(), 1)
    assert train(new_context(), 5) == 1


def test_a_run_that_begins_again_and_another_run_begin_without_a_state(folder: Path) -> None:
    train(new_context(), 1)
    assert train(new_context(), 1, 0) == 0
    assert train(new_context(), 2, run="cd" * 16) == 0


def test_the_state_of_another_run_is_not_taken_over(folder: Path) -> None:
    context = new_context()
    train(context, 1)
    assert train(context, 1, run="cd" * 16) == 0


@pytest.mark.parametrize(
    ("resumed", "attempt", "number", "belongs"),
    [
        ((), 0, 4, True),
        ((), 0, 5, False),  # the round itself
        ((2,), 0, 2, True),
        ((2,), 0, 3, False),
        ((2,), 1, 3, True),
        ((3, 2), 1, 3, False),
        ((2, 4), 0, 3, False),  # lost when the run went on after round 2
        ((2, 4), 1, 3, True),
        ((2,), 2, 1, False),
    ],
)
def test_what_belongs_to_the_past(
    resumed: tuple[int, ...], attempt: int, number: int, belongs: bool
) -> None:
    assert RunPlace(RUN, resumed, 5, 0).belongs(attempt, number) is belongs


def test_only_files_that_may_be_needed_are_kept(folder: Path) -> None:
    context = new_context()
    for number in range(1, 8):
        train(context, number, oldest=max(0, number - 3))
    assert files(folder) == [f"0-{number}.safetensors" for number in (4, 5, 6, 7)]
    for run in range(RUNS_KEPT + 2):
        train(new_context(), 1, run=f"{run:032x}")
    assert len(os.listdir(folder)) == RUNS_KEPT


def test_a_damaged_file_is_passed_over_with_a_warning(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    context = new_context()
    train(context, 1)
    train(context, 2)
    (folder / RUN / "3" / "0-2.safetensors").write_bytes(b"torn")
    assert train(new_context(), 3) == 1
    assert "0-2.safetensors is passed over" in caplog.text


def test_a_training_that_fails_writes_nothing(folder: Path) -> None:
    def fail() -> None:
        context.state["count"] = ConfigRecord({"n": 1})
        raise RuntimeError

    context = new_context()
    with pytest.raises(RuntimeError), kept_on_disk(message(RunPlace(RUN, (), 1, 0)), context):
        fail()
    assert not folder.exists()


@pytest.mark.parametrize(
    "changed",
    [
        {"run": "../../etc"},
        {"run": 3},
        {"resumed": 1},
        {"resumed": [-1]},
        {"round": "1"},
        {"oldest": True},
    ],
    ids=str,
)
def test_a_place_that_cannot_be_read_counts_as_none(
    folder: Path, changed: dict[str, int | str | list[int]]
) -> None:
    sent = message(RunPlace(RUN, (), 1, 0))
    sent.content[PLACE] = ConfigRecord({**sent.content[PLACE], **changed})
    with kept_on_disk(sent, context := new_context()):
        context.state["count"] = ConfigRecord({"n": 1})
    assert PLACE not in sent.content
    assert not folder.exists()


def test_without_a_folder_and_in_evaluations_nothing_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = RunPlace(RUN, (), 1, 0)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(STATE_VARIABLE, raising=False)
    for kind in ("train", "evaluate"):
        context = new_context()
        with kept_on_disk(message(place, kind), context):
            context.state["count"] = ConfigRecord({"n": 1})
        assert set(context.state) == {"count"}
        monkeypatch.setenv(STATE_VARIABLE, str(tmp_path / "states"))
    assert not (tmp_path / "states").exists()
