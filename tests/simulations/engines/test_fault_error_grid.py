"""A fault that cannot act is refused, one that fails ends the run; neither is a faulty client."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from flwr.app import ConfigRecord, Context, Error, Message, RecordDict
from flwr.clientapp import ClientApp

from hqde_fl.clients.faults.fault_errors import failure_text
from hqde_fl.errors import ConfigError, RunError
from hqde_fl.protocol.records import to_record
from hqde_fl.rules import Median
from hqde_fl.simulations import server_app
from hqde_fl.simulations.attacks import ATTACKS, IPM
from hqde_fl.simulations.engines.fault_error_grid import FaultErrorGrid
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Reporting

TASKS = "tests.simulations.odd_tasks"


def experiment(task: str, *faults: dict[str, object], **more: object) -> Experiment:
    table = {
        "rounds": 2,
        "task": {"name": f"{TASKS}:{task}" if task != "digits" else task},
        "clients": {"count": 4},
        "strategy": {"rule": "mean"},
        "engine": {"name": "inline"},
        "faults": list(faults),
    }
    return Experiment.parse(table | more)


FLIP = {"name": "label-flip", "clients": [3]}


# --- refused before the run ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "fault", "message"),
    [
        ("regression", FLIP, "'label-flip' cannot act on this task: the task must be a classif"),
        ("two_classes", FLIP | {"classes": 10}, "classes must be 2, .* found 10"),
        ("two_classes", FLIP | {"to": 2}, r"LabelFlip\.to must be in \[0, 2\), found 2"),
        ("two_classes", {"name": "backdoor", "count": 1}, r"'backdoor' .* batch of \(8, 5\)"),
        ("digits", {"name": "backdoor", "count": 1, "size": 9}, "at least 9 x 9 pixels"),
        ("digits", {"name": "backdoor", "count": 1, "target": 10}, r"in \[0, 10\), found 10"),
        ("digits", FLIP | {"classes": 2}, "classes must be 10, .* found 2"),
    ],
)
def test_a_fault_that_cannot_act_is_refused_before_anything_is_written(
    tmp_path: Path, task: str, fault: dict[str, object], message: str
) -> None:
    with pytest.raises(ConfigError, match=f"^fault .*{message}") as caught:
        run_experiment(experiment(task, fault), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()
    inactive = {key: value for key, value in fault.items() if key != "clients"} | {"count": 0}
    experiment(task, inactive).checked_task()


def test_flower_runs_check_too_when_they_serve(tmp_path: Path) -> None:
    """``flwr run`` begins with the ServerApp: nobody has checked before."""
    refused = experiment("regression", FLIP)
    config = {"config": refused.to_json(), "out": str(tmp_path / "run")}
    grid = InlineGrid(ClientApp(), 4, config)
    with pytest.raises(ConfigError, match="'label-flip' cannot act"):
        server_app.serve_run_config(grid, config)
    assert not (tmp_path / "run").exists()


def test_a_model_that_cannot_be_looked_at_is_one_line(tmp_path: Path, monkeypatch) -> None:
    from tests.simulations import odd_tasks

    def broken() -> torch.nn.Module:
        raise ValueError("no\nweights")

    task = odd_tasks.Task(broken, *[lambda *_: []] * 2)
    monkeypatch.setattr(odd_tasks, "two_classes", task)
    refused = experiment("two_classes", {"name": "nan", "count": 1})
    with pytest.raises(ConfigError, match=r"Task\.model raised ValueError: no weights"):
        run_experiment(refused, tmp_path / "run")
    assert not (tmp_path / "run").exists()
    with pytest.raises(ConfigError, match="'nan' cannot act on this task: ValueError: no weights"):
        refused.parts.faults.check_task(task)


def test_the_test_set_is_loaded_once(tmp_path, monkeypatch) -> None:
    from tests.simulations import odd_tasks

    loaded = []

    def test_set() -> object:
        loaded.append(1)
        return odd_tasks.held_back()

    task = odd_tasks.Task(odd_tasks.linear, odd_tasks.examples, test_set)
    monkeypatch.setattr(odd_tasks, "two_classes", task)
    experiment("two_classes", FLIP).checked_task(test=False, clients=False).model()
    loaded.clear()
    run_experiment(experiment("two_classes", FLIP), tmp_path / "run", report=False)
    assert loaded == [1]


# --- a fault that fails -------------------------------------------------------------------------

OWN = "fault 'label-flip' of client 3 failed in round 2: ConfigError: LabelFlip(classes=2) needs"


def test_an_error_of_the_faults_own_ends_the_run_with_its_name(tmp_path: Path) -> None:
    late = experiment("surprise", FLIP | {"start": 2}, rounds=3)
    with pytest.raises(RunError) as caught:
        run_experiment(late, tmp_path / "run")
    assert str(caught.value).startswith(OWN)
    run = Run.load(tmp_path / "run")
    assert run.manifest["status"] == "failed"
    assert run.manifest["error"] == f"RunError: {caught.value}"
    assert len(run.rounds) == 2
    assert run.detection.unjudged["failed"].faulty == 0


def test_an_error_of_the_clients_own_training_is_a_failed_client(tmp_path: Path) -> None:
    run_experiment(experiment("failing", FLIP), tmp_path / "run")
    run = Run.load(tmp_path / "run")
    reasons = {each["reason"] for each in run.clients if each["partition"] == 3}
    (reason,) = reasons
    assert reason.startswith(
        "failed: client 3: the data set raised OSError: disk failed (odd_tasks.py"
    )
    assert run.detection.unjudged["failed"].faulty == 2


def replies(*reasons: str | None, round: int = 2) -> tuple[InlineGrid, list[Message]]:
    """Clients that answer with these errors, if any, and a round's messages to them."""
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        reason = reasons[int(context.node_config["partition-id"])]
        if reason is not None:
            return Message(Error(0, reason), reply_to=message)
        return Message(RecordDict(), reply_to=message)

    @app.query("identity")
    def identity(message: Message, context: Context) -> Message:
        claim = ConfigRecord({"partition-id": context.node_config["partition-id"]})
        return Message(RecordDict({"identity": claim}), reply_to=message)

    grid = InlineGrid(app, len(reasons), {})
    content = RecordDict({"config": ConfigRecord({"server-round": round})})
    return grid, [Message(content, node, "train") for node in grid.get_node_ids()]


def faults(server_round: int) -> dict[int, str]:
    return {1: "zero"} if server_round > 1 else {}


def test_only_the_planned_fault_in_its_round_can_end_a_run() -> None:
    said = failure_text("zero", 1, 2, ValueError("x"))
    for reasons, number in (
        ((said, None), 2),  # a client that has no fault
        ((None, said), 1),  # one whose fault does not act yet
        ((None, failure_text("nan", 1, 2, "x")), 2),  # of another fault
        ((None, failure_text("zero", 0, 2, "x")), 2),  # of another client
        ((None, failure_text("zero", 1, 1, "x")), 2),  # of another round
        ((None, "RuntimeError: out of memory"), 2),
    ):
        grid, messages = replies(*reasons, round=number)
        assert len(list(FaultErrorGrid(grid, faults).send_and_receive(messages))) == 2
    grid, messages = replies(None, f"Traceback\n{said}\n")
    with pytest.raises(
        RunError, match=r"^fault 'zero' of client 1 failed in round 2: ValueError: x"
    ):
        list(FaultErrorGrid(grid, faults).send_and_receive(messages))


def test_where_the_grid_does_not_know_the_partitions_clients_tell() -> None:
    """The first to claim a partition has it: another one that claims it as well does not."""
    grid, messages = replies(failure_text("zero", 1, 2, "x"), failure_text("zero", 1, 2, "y"))

    class Blind:
        def send_and_receive(
            self, messages: object, *, timeout: object = None
        ) -> Iterator[Message]:
            return iter(list(grid.send_and_receive(messages)))  # type: ignore[arg-type]

    watched = FaultErrorGrid(Blind(), faults)  # type: ignore[arg-type]
    assert len(list(watched.send_and_receive(messages))) == 2  # nobody has been asked yet
    content = RecordDict({"config": ConfigRecord()})
    asked = [Message(content, node, "query.identity") for node in grid.get_node_ids()]
    assert len(list(watched.send_and_receive(asked))) == 2
    with pytest.raises(RunError, match="failed in round 2: y"):
        list(watched.send_and_receive(messages))
    other = FaultErrorGrid(Blind(), faults)  # type: ignore[arg-type]
    first, second = asked
    other._partitions = {first.metadata.dst_node_id: 1}
    list(other.send_and_receive([second]))
    assert other._partition(second.metadata.dst_node_id) is None


def test_a_hostile_client_that_says_its_fault_failed_is_a_failed_client(tmp_path: Path) -> None:
    """Through the strategy, with everything on: it costs the liar the round, not the run."""
    lie = failure_text("label-flip", 3, 1, "I say so")
    app = ClientApp()

    @app.train()
    def train(message: Message, context: Context) -> Message:
        if context.node_config["partition-id"] == 0:
            raise RuntimeError(lie)
        arrays = to_record({"w": torch.ones(2)})
        from flwr.app import MetricRecord

        metrics = MetricRecord({"num-examples": 1})
        return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)

    records = []
    from hqde_fl.strategies.callbacks import Callback

    class Keep(Callback):
        def on_round(self, record, arrays):
            records.append(record)

    plan = experiment("two_classes", FLIP).parts.faults
    grid = plan.supervise(InlineGrid(app, 4, {}))
    strategy = HQDEStrategy(Median(), reporting=Reporting([Keep()]))
    strategy.start(grid, to_record({"w": torch.zeros(2)}), 1)
    assert (records[1].failed, records[1].kept) == (1, 3)
    (failed,) = [client for client in records[1].clients if client.reason]
    assert failed.reason == f"failed: RuntimeError: {lie}"


def test_without_local_faults_nobody_listens() -> None:
    grid = InlineGrid(ClientApp(), 4, {})
    for faults in ((), ({"name": "ipm", "count": 1},)):
        planned = experiment("two_classes", *faults).parts.faults
        assert planned.supervise(grid) is grid


# --- an attack that fails -----------------------------------------------------------------------


@pytest.mark.parametrize("method", ["learn", "forge"])
def test_an_attack_that_fails_ends_the_run_with_its_name(tmp_path, monkeypatch, method) -> None:
    def broken(*_: object) -> object:
        raise IndexError("no\nsuch row")

    monkeypatch.setattr(IPM, method, broken)
    attacked = experiment("two_classes", {"name": "ipm", "count": 1, "start": 2})
    message = "attack 'ipm' failed in round 2: IndexError: no such row"
    with pytest.raises(RunError, match=f"^{message}$"):
        run_experiment(attacked, tmp_path / "run")
    run = Run.load(tmp_path / "run")
    assert (run.manifest["status"], run.manifest["error"]) == ("failed", f"RunError: {message}")


def test_an_update_of_another_size_is_the_attacks_error(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(IPM, "forge", lambda *_: torch.ones(3))
    with pytest.raises(RunError, match=r"^attack 'ipm' failed in round 1: RuntimeError: "):
        run_experiment(experiment("two_classes", {"name": "ipm", "count": 1}), tmp_path / "run")


@pytest.mark.parametrize("name", list(ATTACKS))
def test_attacks_act_on_small_models(tmp_path: Path, name: str) -> None:
    table = {"name": name, "count": 1} | ({"z": 1.5} if name == "alie" else {})
    run_experiment(experiment("two_classes", table, rounds=1), tmp_path / "run", report=False)
    assert Run.load(tmp_path / "run").manifest["status"] == "finished"


def test_a_backdoor_whose_success_cannot_be_measured_ends_the_run(tmp_path, monkeypatch) -> None:
    def broken(*_: object) -> float:
        raise ValueError("odd outputs")

    monkeypatch.setattr(server_app, "attack_success", broken)
    with pytest.raises(RunError, match="'backdoor' could not be measured in round 0: ValueError"):
        run_experiment(experiment("digits", {"name": "backdoor", "count": 1}), tmp_path / "run")
    assert json.loads((tmp_path / "run" / "manifest.json").read_text())["status"] == "failed"
