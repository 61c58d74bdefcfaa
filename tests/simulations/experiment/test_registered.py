"""``clients.count = "registered"``, and tasks without a test set on the server."""

from __future__ import annotations

from pathlib import Path

import pytest
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.simulations import client_app
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.run import run_experiment
from tests.simulations.odd_tasks import examples, linear

PLAIN = {"rounds": 1, "clients": {"count": "registered"}}


def test_registered_is_a_setting_of_its_own() -> None:
    experiment = Experiment.parse(PLAIN)
    assert experiment.clients.registered
    assert Experiment.from_json(experiment.to_json()) == experiment
    assert Experiment.parse({}, ["clients.count=registered"]).clients.registered
    assert not Experiment.parse({}).clients.registered
    with pytest.raises(ConfigError, match=r"clients\.count"):
        Experiment.parse({"clients": {"count": "all"}})


def test_it_needs_real_nodes(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"clients.count = 'registered' needs real nodes"):
        run_experiment(Experiment.parse(PLAIN), tmp_path / "out", engine="inline")
    assert not (tmp_path / "out").exists()


def test_a_rule_may_need_more_clients_than_are_known() -> None:
    rule = {"name": "krum", "f": 20}
    experiment = Experiment.parse({**PLAIN, "strategy": {"rule": rule}})
    assert experiment.parts.rule.minimum() > experiment.clients.count
    with pytest.raises(ConfigError, match="needs at least"):
        Experiment.parse({"strategy": {"rule": rule}})


def test_what_counts_all_clients_is_refused() -> None:
    fixed = "needs a fixed clients.count, found 'registered'"
    noise = {"clients": {"count": "registered", "entanglement-noise": {"scale": 0.1}}}
    private = {
        **PLAIN,
        "strategy": {"rule": "mean"},
        "privacy": {"noise-multiplier": 1.0, "delta": 1e-3, "accountant": "rdp"},
    }
    for table, named in ((noise, "clients.entanglement-noise"), (private, "[privacy]")):
        with pytest.raises(ConfigError) as caught:
            Experiment.parse(table)
        assert str(caught.value).startswith(named)
        assert str(caught.value).endswith(fixed)


def test_data_are_divided_among_as_many_as_the_server_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)
    config = {"config": Experiment.parse(PLAIN).to_json()}
    sizes = []
    for count in (2, 4):
        number = ConfigRecord({"partition-id": 1, "num-partitions": count})
        message = Message(RecordDict({"hqde.number": number}), 5, "query.examples")
        context = Context(1, 5, {"data-path": "/srv"}, RecordDict(), dict(config))
        reply = client_app.app(message, context)
        sizes.append(next(iter(reply.content.config_records.values()))["examples"])
        assert context.node_config == {"data-path": "/srv"}
    assert abs(sizes[0] - 2 * sizes[1]) <= 2


own_evaluation = Task(
    linear, examples, evaluation=lambda number, count: examples(500 + number, count, 10)
)
training_data = Task(linear, examples)


@pytest.mark.parametrize(("task", "size"), [("own_evaluation", 10), ("training_data", 40)])
def test_without_a_test_set_the_clients_evaluate(tmp_path: Path, task: str, size: int) -> None:
    table = {
        "rounds": 2,
        "task": {"name": f"{__name__}:{task}"},
        "clients": {"count": 2},
        "engine": {"name": "inline"},
    }
    assert run_experiment(Experiment.parse(table), tmp_path / "out", report=False).final == {}
    rounds = Run.load(tmp_path / "out").rounds
    assert all(line["server"] == {} for line in rounds)
    assert all(0 <= line["clients-evaluate"]["eval-accuracy"] <= 1 for line in rounds[1:])


def test_what_needs_a_test_set_says_so(tmp_path: Path) -> None:
    table = {
        "rounds": 1,
        "task": {"name": f"{__name__}:training_data"},
        "clients": {"count": 3},
        "strategy": {"held-out": 5, "rule": {"name": "superposition", "confidence": "held-out"}},
        "engine": {"name": "inline"},
    }
    with pytest.raises(TaskError, match=r"no test set on the server: it needs Task\.test"):
        run_experiment(Experiment.parse(table), tmp_path / "out")
