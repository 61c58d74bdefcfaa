"""Confidence in whole experiments: measured on the server's examples, or reported."""

import pytest
import torch

from hqde_fl.clients.initial_state import initial_state
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.own_files import load_file
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.held_out import judge, set_aside
from hqde_fl.simulations.run import run_experiment

HELD_OUT = ['strategy.rule={name="superposition", confidence="held-out"}', "strategy.held-out=60"]
REPORTED = ['strategy.rule={name="superposition", confidence="reported"}']


def test_held_out_examples_are_not_in_the_test_set(tiny):
    task = tiny.load_task()
    rest, examples = set_aside(task, 60, Seeds(7))
    confidence = judge(rest, examples, Seeds(7))
    whole, left = task.test().tensors[0], rest.test().tensors[0]
    assert len(left) == len(whole) - 60
    rows = {tuple(row.tolist()) for row in whole.flatten(1)}
    assert all(tuple(row.tolist()) in rows for row in left.flatten(1))
    state = initial_state(task, 1, Seeds(7))
    assert 0 < confidence(state) == confidence(state) < 0.2  # ten classes, untrained
    broken = {name: torch.full_like(tensor, torch.nan) for name, tensor in state.items()}
    assert confidence(broken) == 0
    with pytest.raises(ConfigError, match=r"held-out must be < \d+ \(the test set\), found 9999"):
        set_aside(task, 9999, Seeds(7))


@pytest.mark.parametrize("overrides", [HELD_OUT, REPORTED])
def test_a_run_with_confidence_that_is_measured_or_reported(tiny, tmp_path, overrides):
    rounds = []
    experiment = Experiment.parse(tiny.to_table(), overrides)
    run_experiment(experiment, tmp_path / "run", on_round=rounds.append)
    assert all(line["kept"] == 4 and line["note"] is None for line in rounds[1:])
    assert "density-purity" in rounds[1]["diagnostics"]
    assert "density-fidelity" in rounds[2]["diagnostics"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (HELD_OUT[:1], r"held-out > 0 goes together with .* found 0, Superposition"),
        (HELD_OUT[1:], r"held-out > 0 goes together with .* found 60, Median"),
        (["strategy.confidence-metric=loss"], r"confidence-metric acts with .* found Median"),
        ([*REPORTED, 'faults=[{name="optimal-alie", count=1}]'], "judges by the updates, found"),
        (["strategy.density=often"], "strategy.density"),
    ],
)
def test_settings_that_a_rule_misses_or_ignores_are_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(tiny.to_table(), overrides)


def test_a_measure_of_the_users_own(tiny, tmp_path):
    (tmp_path / "own_measure.py").write_text(
        "sizes = []\n\n\ndef quality(model, data, task):\n"
        "    sizes.append(len(data))\n    return 7.0 if task.classifier else 0.0\n\n\n"
        "def fails(model, data, task):\n    return model.nothing\n"
    )
    own = f"strategy.held-out-measure={tmp_path}/own_measure.py:"
    experiment = Experiment.parse(tiny.to_table(), [*HELD_OUT, f"{own}quality"])
    run_experiment(experiment, tmp_path / "run", report=False)
    sizes = load_file(tmp_path / "own_measure.py").sizes
    assert set(sizes) == {60}
    assert len(sizes) == 4 * tiny.rounds
    fails = Experiment.parse(tiny.to_table(), [*HELD_OUT, f"{own}fails"])
    with pytest.raises(TaskError, match=r"^held-out measure .* AttributeError: .*own_measure.py"):
        run_experiment(fails, tmp_path / "fails", report=False)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["strategy.held-out-measure=mine.py:x"], "needs strategy.held-out > 0, found 0"),
        ([*HELD_OUT, "strategy.held-out-measure=accuracy"], "needs module:function or FILE.py"),
        ([*HELD_OUT, "strategy.held-out-measure=json:JSONDecoder"], "must be a function .* type"),
    ],
)
def test_measures_that_are_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(tiny.to_table(), overrides)
