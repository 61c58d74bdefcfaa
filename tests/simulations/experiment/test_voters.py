"""Members that vote, chosen on the server and by ``HQDESystem``."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.nn import functional
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl import RunResult, create_hqde_system
from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError, DataError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.experiment.held_out import set_aside
from hqde_fl.simulations.experiment.voters import choose_voters
from hqde_fl.simulations.run import run_experiment

VOTING = ["clients.members=4", "clients.voters=2", "strategy.held-out=60", "faults=[]"]


def lines_of(path):
    return [json.loads(line) for line in (path / "rounds.jsonl").read_text().splitlines()]


def test_a_run_records_who_votes_and_measures_their_vote(tiny, tmp_path):
    experiment = Experiment.parse(tiny.to_table(), VOTING)
    run_experiment(experiment, tmp_path / "run")
    result, lines = RunResult.load(tmp_path / "run"), lines_of(tmp_path / "run")
    assert all(len(set(line["voters"]["members"])) == 2 for line in lines)
    assert {line["voters"]["solver"] for line in lines} <= {"annealing", "greedy"}
    assert list(result.voters) == lines[-1]["voters"]["members"]
    assert result.recorded.manifest["voters"] == lines[-1]["voters"]
    task, examples = set_aside(experiment.load_task(), 60, Seeds(7))
    models = [result.models()[member] for member in result.voters]
    assert evaluate(models, task.test(), task)["accuracy"] == pytest.approx(
        result.final["accuracy"]
    )
    again = choose_voters(
        result.models(),
        iterate_batches(examples, 7, models[0]),
        task,
        2,
        Seeds(7).numpy("voters", 2),
    )
    assert again.chosen == result.voters


def test_without_voters_all_members_vote(tiny, tmp_path):
    run_experiment(Experiment.parse(tiny.to_table(), ["clients.members=2"]), tmp_path / "run")
    assert RunResult.load(tmp_path / "run").voters == (0, 1)
    assert "voters" not in lines_of(tmp_path / "run")[-1]


def test_held_out_examples_serve_the_rule_and_the_voters(tiny, tmp_path):
    rule = 'strategy.rule={name="superposition", confidence="held-out"}'
    experiment = Experiment.parse(tiny.to_table(), [*VOTING, rule, "rounds=1"])
    run_experiment(experiment, tmp_path / "run")
    assert len(RunResult.load(tmp_path / "run").voters) == 2


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([*VOTING, "strategy.held-out=0"], r"held-out > 0 .* found 0, Median.* voters = 2"),
        ([*VOTING, "clients.voters=5"], "clients.voters must be <= 4 .clients.members., found 5"),
        (
            [*VOTING, 'clients.mode="fedavg"'],
            r"clients.voters needs clients.mode = 'independent', found 'fedavg'",
        ),
        ([*VOTING, "clients.voters=-1"], r"clients.voters.*>= 0|greater than or equal to 0"),
        (
            [
                *VOTING,
                'strategy.held-out-measure="hqde_fl.simulations.experiment.held_out:certainty"',
            ],
            r"held-out-measure acts with a rule whose confidence is 'held-out', found Median",
        ),
    ],
)
def test_impossible_voters_are_refused(tiny, overrides, message):
    with pytest.raises(ConfigError, match=message):
        Experiment.parse(tiny.to_table(), overrides)


class Constant(nn.Module):
    """A model that returns one number for every example, or a mapping with it."""

    def __init__(self, value, named=False):
        super().__init__()
        self.value, self.named = nn.Parameter(torch.tensor(value)), named

    def forward(self, x):
        outputs = self.value.expand(len(x), 1)
        return {"value": outputs} if self.named else outputs


def voters_of(models, loss, count=2):
    data = TensorDataset(torch.zeros(9, 3), torch.zeros(9, 1))
    task = Task(lambda: models[0], lambda *_: data, lambda: data, loss=loss, classifier=False)
    batches = iterate_batches(data, 4, models[0])
    return choose_voters(models, batches, task, count, Seeds(0).numpy("test")).chosen


def test_regression_chooses_members_whose_mean_is_right():
    models = [Constant(value) for value in (2.0, 1.0, -2.1, 1.1)]
    assert voters_of(models, functional.mse_loss) == (0, 2)  # alone they are the worst
    assert voters_of(models, functional.mse_loss, 1) == (1,)


def test_other_outputs_are_judged_by_the_loss():
    models = [Constant(value, named=True) for value in (2.0, 1.0, -2.1, 1.1)]
    assert voters_of(models, lambda outputs, y: (outputs["value"] - y).abs().mean()) == (1, 3)


class Classifier(nn.Module):
    """A linear model."""

    def __init__(self):
        super().__init__()
        self.out = nn.Linear(6, 3)

    def forward(self, x):
        return self.out(x)


def examples(count, seed):
    generator = torch.Generator().manual_seed(seed)
    y = torch.arange(count) % 3
    x = torch.randn(count, 6, generator=generator)
    x[torch.arange(count), y] += 1.0
    return DataLoader(TensorDataset(x, y), 16)


def system_of(**options):
    return create_hqde_system(
        Classifier,
        num_workers=2,
        training_config={"members": 4} | options,
        engine="inline",
        show_progress=False,
    )


def test_a_system_predicts_with_its_voters_and_saves_them(tmp_path):
    system = system_of()
    system.train(examples(60, 0), 1)
    held_out, test = examples(40, 1), examples(30, 2)
    everyone = system.predict_proba(test).probability
    assert system.voters == (0, 1, 2, 3)
    voters = system.choose_voters(held_out, 2)
    assert system.voters == voters == system.choose_voters(held_out, 2)
    chosen = system.predict_proba(test).probability
    assert not torch.equal(chosen, everyone)
    models = []
    for member in voters:
        models.append(Classifier())
        models[-1].load_state_dict(system.state_dicts()[member])
    inputs = torch.cat([x for x, _ in test])
    mean = torch.stack([model(inputs).softmax(dim=1) for model in models]).mean(dim=0)
    assert torch.allclose(chosen, mean, atol=1e-6)
    system.save(tmp_path / "model.safetensors")
    other = system_of()
    other.load(tmp_path / "model.safetensors")
    assert other.voters == voters
    assert torch.equal(other.predict_proba(test).probability, chosen)
    system.train(examples(60, 0), 1)
    assert (system.voters, len(system.state_dicts())) == (voters, 4)
    assert torch.equal(other.predict(test), chosen.argmax(dim=1))


def test_a_file_with_impossible_voters_is_refused(tmp_path):
    system = system_of()
    for voters in ([], [1, 0], [4], ["1"], "0", [0, 0]):
        system._models.voters = voters
        system.save(tmp_path / "model.safetensors")
        with pytest.raises(DataError, match="voters needs ascending numbers"):
            system_of().load(tmp_path / "model.safetensors")


def test_numbers_of_voters_that_a_system_does_not_have_are_refused():
    system = system_of()
    with pytest.raises(ConfigError, match="count must be <= 4 members, found 5"):
        system.choose_voters(examples(30, 0), 5)
    with pytest.raises(ConfigError, match="count must be a whole number >= 1, found 0"):
        system.choose_voters(examples(30, 0), 0)
    with pytest.raises(ConfigError, match="at least 1 example, found 0"):
        system.choose_voters([], 2)
