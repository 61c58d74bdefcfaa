"""Rules that need facts of the server, in whole experiments: FLTrust, LASA and FLDetector."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from hqde_fl.clients.initial_state import initial_state
from hqde_fl.errors import ConfigError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.held_out import set_aside
from hqde_fl.simulations.experiment.root_training import root_training
from hqde_fl.simulations.run import run_experiment

FLTRUST = ["strategy.rule=fltrust", "strategy.root-examples=50"]


def test_the_server_trains_on_examples_that_are_not_in_the_test_set(tiny: Experiment) -> None:
    task, seeds = tiny.load_task(), Seeds(7)
    rest, examples = set_aside(task, 50, seeds, "root-examples")
    assert len(rest.test()) == len(task.test()) - 50  # type: ignore[arg-type]
    train = root_training(task, examples, tiny.parts.training, seeds)
    state = initial_state(task, 1, seeds)
    before = {name: value.clone() for name, value in state.items()}
    first, again, later = train(state, 1, 40), train(state, 1, 40), train(state, 2, 40)
    longer = train(state, 1, 400)
    assert all(torch.equal(first[name], again[name]) for name in state)
    assert any(not torch.equal(first[name], later[name]) for name in state)
    moved = [sum(float((end[k] - state[k]).norm()) for k in state) for end in (first, longer)]
    assert moved[1] > 3 * moved[0]  # it takes the steps of a client with 400 examples
    assert all(torch.equal(state[name], before[name]) for name in state)


def test_fltrust_filters_sign_flips(tiny: Experiment, tmp_path: Path) -> None:
    rounds: list[dict[str, object]] = []
    experiment = Experiment.parse(tiny.to_table(), FLTRUST)
    run_experiment(experiment, tmp_path / "run", on_round=rounds.append, report=False)
    trust = [line["diagnostics"]["trust"] for line in rounds[1:]]  # type: ignore[index]
    faulty = [str(client) for client in experiment.faulty]
    assert all(t[client] == 0 for t in trust for client in faulty)
    assert all(t[client] > 0 for t in trust for client in t if client not in faulty)


@pytest.mark.parametrize("overrides", [FLTRUST, ["strategy.rule=fldetector"]], ids=lambda o: o[0])
def test_a_resumed_run_ends_with_the_same_bits(
    tiny: Experiment, tmp_path: Path, overrides: list[str]
) -> None:
    def run(rounds: int, out: Path, resume: bool = False) -> bytes:
        experiment = Experiment.parse(tiny.to_table(), [*overrides, f"rounds={rounds}"])
        run_experiment(experiment, out, resume=resume, report=False)
        return (out / "model.safetensors").read_bytes()

    whole = run(4, tmp_path / "whole")
    run(2, tmp_path / "parts")
    assert run(4, tmp_path / "parts", resume=True) == whole


@pytest.mark.parametrize(
    "rule", ["lasa", "foolsgold", "flame", "fedrdf", "normalised-mean", "{name='smea', f=1}"]
)
def test_the_other_defences_run(tiny: Experiment, tmp_path: Path, rule: str) -> None:
    rounds: list[dict[str, object]] = []
    experiment = Experiment.parse(tiny.to_table(), [f"strategy.rule={rule}".replace("'", '"')])
    run_experiment(experiment, tmp_path / "run", on_round=rounds.append, report=False)
    assert all(line["note"] is None for line in rounds[1:])


def test_rules_that_do_not_need_them_are_tested_on_the_same_examples(
    tiny: Experiment, tmp_path: Path
) -> None:
    losses = []
    for number, overrides in enumerate(([FLTRUST[1]], FLTRUST, [])):
        rounds: list[dict[str, dict[str, float]]] = []
        experiment = Experiment.parse(tiny.to_table(), overrides)
        out = tmp_path / str(number)
        run_experiment(experiment, out, on_round=rounds.append, report=False)
        losses.append(rounds[0]["server"]["loss"])  # of the initial model
    assert losses[0] == losses[1] != losses[2]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (FLTRUST[:1], r"strategy.root-examples must be > 0 .* in FLTrust\(\), found 0"),
        ([*FLTRUST, 'faults=[{name="optimal-ipm", count=1}]'], "judges by the updates, found FLT"),
        (
            ['strategy.rule={name="chain", rules=["bucketing", "foolsgold"]}'],
            "every client's history",
        ),
        (["edges.groups=2", "edges.rule=fltrust"], "edges.rule cannot need an update of the serv"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(
    tiny: Experiment, overrides: list[str], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(tiny.to_table(), overrides)


def test_more_root_examples_than_the_test_set_has_are_refused(
    tiny: Experiment, tmp_path: Path
) -> None:
    experiment = Experiment.parse(tiny.to_table(), [FLTRUST[0], "strategy.root-examples=9999"])
    with pytest.raises(ConfigError, match=r"strategy.root-examples must be < \d+ .* found 9999"):
        run_experiment(experiment, tmp_path / "run", report=False)
