import asyncio
import threading
from pathlib import Path

import pytest
import torch

import hqde_fl
from hqde_fl import ConfigError, Experiment, Krum, RunError, RunResult
from hqde_fl.simulations.python_api.frames import CLIENT_COLUMNS, ROUND_COLUMNS

from .conftest import QUICK, SHORT, Collected, local_rule, local_task

TASK = {"name": "digits", "hidden": 8}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "run"
    settings = {**QUICK, "clients": {"count": 5, "lr": 0.1}}
    faults = [{"name": "sign-flip", "count": 1}]
    return hqde_fl.run(out=str(out), task=TASK, rule=Krum(f=1), faults=faults, **settings)


def test_the_rounds_are_a_data_frame(result):
    rounds = result.rounds
    single = [name for name in ROUND_COLUMNS if name in rounds]
    assert {"round", "kept", "void", "f", "f-used", "bytes-up", "seconds", "note"} <= set(single)
    assert list(rounds.columns[:2]) == ["round", "server.accuracy"]
    assert rounds["round"].tolist() == [0, 1, 2]
    assert rounds["server.accuracy"].iloc[-1] == result.final["accuracy"]
    assert {"clients-train.train-loss", "exclusion.caught", "bytes-up-by-role.trainable"} <= set(
        rounds.columns
    )
    assert rounds["exclusion.precision"].dtype == float
    assert rounds["note"].isna().all()


def test_the_clients_are_a_data_frame(result):
    clients = result.clients
    assert tuple(clients.columns[: len(CLIENT_COLUMNS)]) == CLIENT_COLUMNS
    assert "fault" in clients
    assert len(clients) == 10
    assert clients[clients["fault"] == "sign-flip"].groupby("round").size().tolist() == [1, 1]
    assert clients.groupby("round")["influence"].sum().tolist() == pytest.approx([1, 1])


def test_the_results_are_the_columns_of_a_sweep(result):
    (row,) = result.results.to_dict("records")
    assert row["status"] == "finished"
    assert row["accuracy"] == result.final["accuracy"]
    assert row["rounds"] == 2
    assert "cell" not in row


def test_the_model_has_the_final_weights(result):
    with torch.no_grad():
        torch.manual_seed(3)
        before = torch.random.get_rng_state()
        model = result.model()
        assert torch.equal(torch.random.get_rng_state(), before)
        data = result.experiment.load_task().test()
        accuracy = (model(data.tensors[0]).argmax(1) == data.tensors[1]).float().mean()
    assert float(accuracy) == pytest.approx(result.final["accuracy"])
    assert not model.training
    with pytest.raises(ConfigError, match=r"member must be in \[0, 1\), found 1"):
        result.model(1)


def test_a_directory_is_read_again(result):
    again = RunResult.load(str(result.path))
    assert again == result
    assert again.experiment == result.experiment
    assert again.rounds.equals(result.rounds)
    with pytest.raises(ConfigError, match="no readable manifest"):
        RunResult.load(result.path.parent)


def test_the_report_is_drawn_if_it_is_missing(result):
    assert result.report() == result.path / "report.html"
    result.report().unlink()
    assert result.report().stat().st_size > 10_000


def test_a_figure_of_the_primary_or_another_metric(result):
    (axes,) = result.plot().axes
    assert [line.get_xdata().tolist() for line in axes.get_lines()] == [[0, 1, 2]]
    assert result.plot("loss").get_supylabel() == "loss"
    with pytest.raises(ConfigError, match="unknown metric of the server 'los': did you mean"):
        result.plot("los")


def test_members_of_an_ensemble_are_chosen(there):
    result = hqde_fl.run(
        task=local_task(), **{**SHORT, "rounds": 1, "clients": {"count": 4, "members": 2}}
    )
    with pytest.raises(ConfigError, match=r"2 members: choose one, from model\(0\) to model\(1\)"):
        result.model()
    first, second = result.models()
    assert torch.equal(result.model(1).weight, second.weight)
    assert not torch.equal(first.weight, second.weight)


def test_a_file_with_overrides(there, capfd):
    (there / "mine.py").write_text("from hqde_fl.simulations.tasks import Digits, load_task\n")
    file = there / "study.toml"
    file.write_text('task = { name = "digits", hidden = 8 }\n[strategy]\nquorum = 2\n')
    overrides = {"strategy.quorum": 3, "rounds": 9, "clients": {"batch_size": 16}}
    result = hqde_fl.run(file, overrides=overrides, **SHORT)
    experiment = result.experiment
    assert (experiment.name, experiment.rounds, experiment.strategy.quorum) == ("study", 2, 3)
    assert (experiment.clients.count, experiment.clients.batch_size) == (4, 16)
    assert result.path.parent == there / "runs"
    assert capfd.readouterr() == ("", "")
    second = hqde_fl.run(str(file), progress=True, **SHORT)
    assert second.path.parent == there / "runs"
    assert second.path != result.path
    assert capfd.readouterr().out.count("accuracy") == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"roundz": 3}, "unknown key 'roundz': did you mean 'rounds'?"),
        ({"rounds": 0}, "rounds needs to be >= 1, found 0"),
        ({"overrides": {"clients.cuont": 3}}, "unknown [clients] key 'cuont': did you mean"),
        ({"clients": {"count": "3"}}, "clients.count needs to be an integer, found '3'"),
        ({"rule": "krumm"}, "unknown rule 'krumm': did you mean 'krum'?"),
        ({"rule": Krum(f=2)}, "Krum(f=2) needs at least 7 updates, found 4 clients"),
        ({"task": object()}, "task needs to be a value that a file can have or a part, found <o"),
        ({"overrides": {"rounds.x": 3}}, "cannot set rounds.x: rounds is 10, not a table"),
        ({"engine": "rai"}, "unknown engine 'rai': did you mean 'ray'?"),
        ({"experiment": "no.toml"}, "no.toml cannot be read: No such file or directory"),
        ({"experiment": 3}, "an experiment is a file, settings or an Experiment, found 3"),
        ({"out": "a", "resume": "b"}, "resume goes on in its own directory: leave out `out`"),
        ({"resume": "nothing"}, "no readable manifest.json"),
        ({"task": local_task(), "engine": "flower"}, "which do not have 'python:Task'"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(there, arguments, message):
    arguments = {**QUICK, **arguments}
    if "resume" in arguments:
        arguments = {key: arguments[key] for key in ("resume", "out") if key in arguments}
    with pytest.raises(ConfigError) as caught:
        hqde_fl.run(**arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [*there.glob("runs/*")]


def test_a_sweep_is_refused(there):
    (there / "study.toml").write_text("[sweep]\nseeds = [1]\n")
    with pytest.raises(ConfigError, match=r"has a \[sweep\] table: run it with hqde_fl.sweep"):
        hqde_fl.run("study.toml")


def test_it_runs_in_a_thread_and_under_an_event_loop(there):
    results = []
    thread = threading.Thread(target=lambda: results.append(hqde_fl.run(task=TASK, **SHORT)))
    thread.start()
    thread.join()

    async def cell():
        return hqde_fl.run(task=TASK, **SHORT)

    results.append(asyncio.run(cell()))
    first, second = results
    assert first.path != second.path
    assert first.rounds["server.loss"].equals(second.rounds["server.loss"])


def test_a_run_is_resumed_with_the_objects_it_was_given(there):
    made = {"task": {"name": local_factory, "bias": False}, "rule": local_rule(), **SHORT}
    first = hqde_fl.run(out="run", **made)
    assert first.experiment.task == {"name": "python:local_factory", "bias": False}
    assert first.model().bias is None
    losses = first.rounds["server.loss"].tolist()
    longer = hqde_fl.run(resume="run", **made | {"rounds": 3})
    assert longer.rounds["round"].tolist() == [0, 1, 2, 3]
    assert longer.rounds["server.loss"][:3].tolist() == losses
    with pytest.raises(ConfigError, match=r"was run with clients\.lr = 0\.05, found 0\.1"):
        hqde_fl.run(longer.experiment, resume="run", clients={"lr": 0.1}, report=False)
    with pytest.raises(ConfigError, match=r"was an object of the program .*: use hqde_fl.run"):
        hqde_fl.run(resume="run", rounds=4)
    with pytest.raises(ConfigError, match="was an object of the program"):
        RunResult.load("run").model()
    named = hqde_fl.run(out=Path("named"), task=TASK, **SHORT)
    assert hqde_fl.run(resume=named.path, rounds=3, report=False).rounds["round"].max() == 3


def test_a_callback_is_told_the_run_and_how_it_ends(there):
    collected = Collected()
    settings = {"task": local_task(), "callbacks": [collected]}
    result = hqde_fl.run(**settings, **SHORT)
    assert collected.rounds == [0, 1, 2]
    assert collected.path == result.path
    assert collected.stopped is None
    crash = [{"name": "crash", "count": 4}]
    with pytest.raises(RunError):
        hqde_fl.run(**settings, faults=crash, **SHORT)
    assert isinstance(collected.stopped, RunError)


def test_a_failed_run_has_no_model(there):
    with pytest.raises(RunError):
        hqde_fl.run(task=TASK, out="run", faults=[{"name": "crash", "count": 4}], **SHORT)
    (there / "run" / "model.safetensors").unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="has no final model: the run did not finish"):
        RunResult.load("run").model()


def test_an_experiment_is_the_same_however_it_is_made(there):
    made = Experiment(task=TASK, rule=Krum(f=1), **{**QUICK, "clients": {"count": 6}})
    (there / "same.toml").write_text(
        'name = "experiment"\nrounds = 2\ntask = { name = "digits", hidden = 8 }\n'
        '[clients]\ncount = 6\n[strategy]\nrule = { name = "krum", f = 1 }\n'
        '[engine]\nname = "inline"\n'
    )
    assert made == Experiment.load("same.toml")
    assert Experiment.from_json(made.to_json()) == made


def local_factory(partitions, seed, partition, bias):
    return local_task(bias)


local_factory.__module__ = "__main__"
