import signal
import threading
import types
from contextlib import ExitStack

import pytest

from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, DataError, RunError
from hqde_fl.simulations import run
from hqde_fl.simulations.checkpoint.resume import exclusive
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording import run_follower
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.run_directory import RunDirectory
from hqde_fl.simulations.run import run_experiment
from hqde_fl.simulations.tasks import load_task


@pytest.mark.usefixtures("with_reports")
def test_same_seed_twice_gives_the_same_bits(tmp_path, tiny, comparable):
    rounds = []
    result = run_experiment(tiny, tmp_path / "a", on_round=rounds.append)
    run_experiment(tiny, tmp_path / "b")
    for name in ("rounds.jsonl", "clients.jsonl"):
        assert comparable(tmp_path / "a" / name) == comparable(tmp_path / "b" / name)
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert models[0] == models[1]

    assert [line["round"] for line in rounds] == [0, 1, 2]
    loaded = Run.load(tmp_path / "a")
    assert loaded.manifest["status"] == "finished"
    assert result.final == loaded.final
    assert set(loaded.final) == {"accuracy", "loss"}
    assert sorted(client["partition"] for client in loaded.clients) == [0, 0, 1, 1, 2, 2, 3, 3]
    assert (tmp_path / "a" / "report.html").stat().st_size > 10_000


def test_another_seed_gives_another_model(tmp_path, tiny):
    other = Experiment.parse(tiny.to_table(), ["seed=8"])
    run_experiment(tiny, tmp_path / "a")
    run_experiment(other, tmp_path / "b")
    models = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("a", "b")]
    assert models[0] != models[1]


def test_several_members_vote(tmp_path, tiny):
    from safetensors.torch import load_file

    several = Experiment.parse(tiny.to_table(), ["clients.members=2", "rounds=1"])
    run_experiment(several, tmp_path / "run")
    model = load_file(tmp_path / "run" / "model.safetensors")
    assert {name.partition("/")[0] for name in model} == {"member-0", "member-1"}


@pytest.mark.parametrize("device", ["xpu:77", "nonsense"])
def test_a_device_that_is_not_there_is_refused(tmp_path, tiny, device):
    other = Experiment.parse(
        tiny.to_table(),
        ["strategy.executor.name=torch-device", f"strategy.executor.device={device}"],
    )
    with pytest.raises(ConfigError, match=f"^TorchDevice.device must be .* found '{device}': "):
        run_experiment(other, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_directory_in_use_is_refused(tmp_path, tiny):
    (tmp_path / "mine.txt").write_text("precious")
    with pytest.raises(ConfigError, match="is not an empty directory"):
        run_experiment(tiny, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_missing_data_is_found_before_anything_is_written(tmp_path, tiny):
    table = tiny.to_table() | {"task": {"name": "fashion-mnist", "data-dir": str(tmp_path / "no")}}
    with pytest.raises(DataError, match="is not a directory"):
        run_experiment(Experiment.parse(table), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def broken_metric(**given):
    """Return a task with a metric that fails after the check before the run."""
    task = load_task({"name": "digits"}, {"name": "iid"}, given["partitions"], given["seed"])
    calls = []

    def metric(outputs, targets):
        calls.append(len(targets))
        if len(calls) > 1:
            raise RuntimeError("the disk is gone")
        return 0.5

    return Task(task.model, task.partition, task.test, metrics={"own": metric})


def test_a_run_that_fails_keeps_what_it_recorded(tmp_path, tiny, monkeypatch):
    module = types.ModuleType("broken_task")
    module.task = broken_metric
    monkeypatch.setitem(__import__("sys").modules, "broken_task", module)
    experiment = Experiment.parse(tiny.to_table() | {"task": "broken_task:task"})
    with pytest.raises(RuntimeError, match="the disk is gone"):
        run_experiment(experiment, tmp_path / "run")
    manifest = Run.load(tmp_path / "run").manifest
    assert manifest["status"] == "failed"
    assert "metric 'own' raised RuntimeError: the disk is gone" in manifest["error"]


@pytest.fixture
def flower(monkeypatch, record):
    """Return the function that replaces ``flwr run``: it records two rounds, or fails."""
    from hqde_fl.simulations.engines.flower import engine

    def set_up(failure=None):
        def run_flower(experiment_json, partitions, out, **options):
            experiment = Experiment.from_json(experiment_json)
            assert partitions == experiment.clients.count
            assert options["cpus_per_client"] == 1.0
            if failure is None:
                record(out, experiment)
            else:
                (out / "flower.log").parent.mkdir()
                raise failure

        monkeypatch.setattr(engine, "run_flower", run_flower)
        monkeypatch.setattr(run_follower, "POLL_SECONDS", 0.01)

    return set_up


def test_the_flower_engine_is_followed_through_the_run_directory(tmp_path, tiny, flower):
    flower()
    rounds = []
    result = run_experiment(tiny, tmp_path / "run", engine="flower", on_round=rounds.append)
    assert [line["round"] for line in rounds] == [0, 1, 2]
    assert result.final["accuracy"] == pytest.approx(0.7)
    assert Run.load(tmp_path / "run").manifest["engine"] == "flower"


def test_a_flower_engine_that_fails_before_it_begins(tmp_path, tiny, flower):
    flower(RunError("no SuperLink"))
    with pytest.raises(RunError, match="no SuperLink"):
        run_experiment(tiny, tmp_path / "run", engine="flower")


@pytest.mark.parametrize("owner", ["earlier", "meanwhile", "own"])
@pytest.mark.parametrize(
    ("failure", "status", "text"),
    [(KeyboardInterrupt(), "interrupted", None), (RunError("is in use"), "failed", "is in use")],
    ids=["interrupted", "failed"],
)
def test_only_the_manifest_of_the_own_attempt_is_closed(
    tmp_path, tiny, monkeypatch, owner, failure, status, text
):
    from hqde_fl.simulations.engines.flower import engine as flower

    out = tmp_path / "run"
    monkeypatch.setattr(run, "STOP_SECONDS", 0.0)
    with ExitStack() as other:

        def begin():
            if owner == "meanwhile":
                other.enter_context(exclusive(out))
            recording = RunDirectory(out, tiny).recording()
            recording.__enter__()
            return recording  # which is never left, as if it went on

        def run_flower(*_args, **_options):
            kept.append(begin() if owner != "earlier" else None)
            raise failure

        kept = [begin()] if owner == "earlier" else []
        monkeypatch.setattr(flower, "run_flower", run_flower)
        with pytest.raises(type(failure)):
            run_experiment(tiny, out, engine="flower", resume=True)
        manifest = Run.load(out).manifest
    expected = (status, text) if owner == "own" else ("running", None)
    assert (manifest["status"], manifest["error"]) == expected


def test_an_attempt_on_ray_that_never_began_changes_no_manifest(
    tmp_path, tiny, record, monkeypatch
):
    from hqde_fl.simulations.engines.ray import grid as ray_grid

    def refuse(*_):
        raise ConfigError("is in use")

    out = tmp_path / "run"
    counters = run.RunResult(out, {})
    grid = types.SimpleNamespace(dashboard="", counters=counters, close=lambda: None)
    before = record(out, tiny).manifest
    monkeypatch.setattr(ray_grid, "RayGrid", lambda *_, **__: grid)
    monkeypatch.setattr(run, "_serve", refuse)
    with pytest.raises(ConfigError, match="is in use"):
        run._run_on_ray(run._Attempt(tiny, None, out, False, print))
    assert Run.load(out).manifest == before


def test_ctrl_c_is_raised_again_on_the_main_thread_only():
    lines, raised = [], []
    with run._interruptible(lines.append) as listener:

        def listen():
            try:
                listener({"round": 0})
            except KeyboardInterrupt:
                raised.append(0)

        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
        thread = threading.Thread(target=listen)
        thread.start()
        thread.join()
        with pytest.raises(KeyboardInterrupt):
            listener({"round": 1})
    assert lines == [{"round": 0}, {"round": 1}]
    assert not raised


def test_an_unknown_engine(tmp_path, tiny):
    with pytest.raises(ConfigError, match="did you mean 'inline'"):
        run_experiment(tiny, tmp_path / "run", engine="inlin")
    assert not (tmp_path / "run").exists()
