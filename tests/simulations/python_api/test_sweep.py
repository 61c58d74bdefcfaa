import threading
import warnings

import pytest

import hqde_fl
from hqde_fl import ConfigError, Experiment, Krum, SweepResult, TrimmedMean
from hqde_fl.simulations.recording.comparison import Comparison

from .conftest import QUICK, local_rule, local_task

AXES = {"rule": ["mean", local_rule()], "attack": ["none", "sign-flip"], "f": [1], "seeds": [1, 2]}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    out = tmp_path_factory.mktemp("results") / "sweep"
    base = Experiment(task=local_task(), **QUICK)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        return hqde_fl.sweep(base, AXES, out=str(out), name="study", rounds=1, report=False)


def test_the_results_are_the_table_of_the_sweep(result):
    results = result.results
    assert list(results.columns[:6]) == ["rule", "attack", "f", "seed", "status", "accuracy"]
    assert results["rule"].unique().tolist() == ["mean", "Middle"]
    assert (results["status"] == "finished").all()
    assert results["cell"].nunique() == 8
    assert results["accuracy"].between(0, 1).all()
    assert results.groupby("attack")["faulty"].sum().tolist() == [0, 4]
    assert result.errors == {}


def test_rounds_and_clients_have_the_axes_before_them(result):
    for frame, rows in ((result.rounds, 16), (result.clients, 32)):
        assert list(frame.columns[:6]) == ["rule", "attack", "f", "seed", "cell", "round"]
        assert len(frame) == rows
        assert frame["f"].tolist() == [1] * rows
    last = result.rounds[result.rounds["round"] == 1]
    assert last["server.accuracy"].tolist() == result.results["accuracy"].tolist()
    assert last["recorded-f"].isna().all()


def test_each_run_is_at_hand(result):
    assert set(result.runs) == set(result.results["cell"])
    cell = result.results["cell"].iloc[-1]
    run = result.runs[cell]
    assert run.experiment.seed == 2
    assert run.final["accuracy"] == result.results["accuracy"].iloc[-1]
    assert tuple(run.model().weight.shape) == (2, 4)


def test_a_figure_has_a_panel_for_each_condition(result):
    figure = result.plot()
    assert [axes.get_title() for axes in figure.axes] == ["none, f=1", "sign-flip, f=1"]
    assert [line.get_label() for line in figure.axes[0].get_lines()] == ["mean", "Middle"]
    assert figure.get_supylabel() == "accuracy"
    with pytest.raises(ConfigError, match="unknown metric of the server 'acuracy'"):
        result.plot("acuracy")


def test_a_directory_is_read_again(result):
    again = SweepResult.load(result.path)
    assert again == result
    assert again.results.equals(result.results)
    assert not (result.path / "report.html").exists()
    assert again.report() == result.path / "report.html"
    assert again.report().stat().st_size > 10_000
    with pytest.raises(ConfigError, match="holds no sweep"):
        SweepResult.load(result.path / "cells")


def test_finished_cells_are_kept(result, capfd):
    base = Experiment(task=local_task(), **QUICK)
    times = [run.recorded.manifest["started"] for run in result.runs.values()]
    settings = {"name": "study", "rounds": 1, "resume": result.path, "progress": True}
    settings["report"] = False
    again = hqde_fl.sweep(base, {**AXES, "seeds": [1, 2, 3]}, **settings)
    assert "8 cells have finished before, 4 to go" in capfd.readouterr().out
    assert [run.recorded.manifest["started"] for run in again.runs.values()][:2] == times[:2]
    assert len(again.results) == 12


@pytest.mark.slow
def test_cells_in_a_process_get_the_objects_of_the_program(there):
    axes = {"task": [local_task(bias=False)], "seeds": range(1, 2)}
    settings = {"rule": local_rule(), **QUICK, "rounds": 1}
    elsewhere = hqde_fl.sweep(settings, axes, jobs=2, out="a", report=False)
    assert (there / "a" / "worker-0.log").exists()
    here = hqde_fl.sweep(settings, axes, out="b", report=False)
    assert elsewhere.results.equals(here.results)
    assert elsewhere.results["accuracy"].notna().all()


def test_objects_of_one_axis_differ(there):
    axes = {"task": [local_task(), local_task(bias=False)]}
    results = hqde_fl.sweep(axes=axes, report=False, **{**QUICK, "rounds": 1}).results
    assert results["task"].tolist() == ["Task", "Task-2"]
    assert results["loss"].nunique() == results["cell"].nunique() == 2


def test_a_cell_that_fails_is_a_row_and_a_warning(there):
    axes = {"faults": [[], [{"name": "crash", "count": 4}]]}
    results = []

    def run():
        with pytest.warns(UserWarning, match="1 of 2 cells failed: no round produced"):
            results.append(
                hqde_fl.sweep(
                    task=local_task(), axes=axes, experiment=QUICK, rounds=1, report=False
                )
            )

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    (result,) = results
    assert result.results["status"].tolist() == ["finished", "failed"]
    assert list(result.errors) == [result.results["cell"].iloc[1]]
    assert len(result.runs) == 1


def test_a_file_gets_other_axes_and_settings(there):
    (there / "study.toml").write_text(
        "rounds = 9\n[clients]\ncount = 5\n[sweep]\nseeds = [1, 2]\n"
        'rule = ["mean", { name = "krum", f = "$f" }]\nf = [0, 1]\n'
    )
    axes = {"rule": [{"label": "trimmed", "name": TrimmedMean(f=1)}], "f": None, "metric": "loss"}
    result = hqde_fl.sweep(
        "study.toml",
        axes,
        rounds=1,
        engine="inline",
        task=local_task(),
        clients={"lr": 0.5},
        report=False,
    )
    assert result.path.parent.name == "runs"
    assert result.results[["rule", "seed"]].to_numpy().tolist() == [["trimmed", 1], ["trimmed", 2]]
    assert result.comparison.metric == "loss"
    experiment = next(iter(result.runs.values())).experiment
    assert (experiment.clients.count, experiment.clients.lr) == (5, 0.5)
    assert Comparison.load(result.path).title == "study"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "[sweep] needs at least one key with a list of values"),
        ({"axes": {"rule": "mean"}}, "[sweep] rule needs to be a list of values, found 'mean'"),
        ({"axes": {"clients.lrr": [1.0]}}, "unknown [clients] key 'lrr': did you mean 'lr'?"),
        ({"axes": {"rule": [Krum(f=2)]}}, "cell krum (f=2): Krum(f=2) needs at least 7 updates"),
        ({"axes": {"seeds": [1]}, "roundz": 2}, "unknown key 'roundz': did you mean 'rounds'?"),
        ({"axes": ["seeds"]}, "axes need to be a dict of lists of values, found ['seeds']"),
        ({"axes": {"seeds": [1]}, "jobs": 0}, "jobs must be >= 1, found 0"),
        ({"axes": {"seeds": [1]}, "out": "a", "resume": "a"}, "leave out `out`"),
    ],
)
def test_what_is_wrong_is_one_line_and_nothing_is_left(there, arguments, message):
    with pytest.raises(ConfigError) as caught:
        hqde_fl.sweep(QUICK, **arguments)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not [*there.glob("runs/*")]
