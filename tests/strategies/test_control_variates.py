"""SCAFFOLD on both ends, against a plain loop, and hostile control variates."""

from typing import Any

import pytest
import torch
from flwr.app import ArrayRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp
from torch import nn
from torch.nn.functional import cross_entropy
from torch.utils.data import TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.batch_iteration import iterate_batches
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.message_fields import is_training
from hqde_fl.clients.mods.control_variates import OWN
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.privacy import CentralDP
from hqde_fl.protocol.control_variates import CONTROL, control_arrays, screen_control
from hqde_fl.protocol.members import uncopied_record
from hqde_fl.protocol.records import from_record, layout_of, to_array, to_record
from hqde_fl.rules import Cohort, Mean, Median
from hqde_fl.rules.executor import SerialExecutor
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble
from hqde_fl.simulations.checkpoint.store import TREE
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.control_variates import ServerControl
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Aggregation, Participation, Reporting
from tests.strategies.federation import Recorder

CLIENTS, LR, EPOCHS = 3, 0.1, 2


def linear() -> nn.Module:
    return nn.Linear(4, 3).double()


def examples(number: int, count: int) -> TensorDataset:
    generator = torch.Generator().manual_seed(number)
    x = torch.randn(12, 4, generator=generator, dtype=torch.float64)
    return TensorDataset(x, (torch.arange(12) + number) % (number + 1))


TASK = Task(model=linear, partition=examples)
TRAINING = Training(epochs=EPOCHS, batch_size=4, lr=LR, control_variates=True)


class Forging(ClientApp):
    """The clients' app, of which a test may change the replies of client 0."""

    def __init__(self, app: ClientApp, forge: Any) -> None:
        super().__init__()
        self.app, self.forge = app, forge

    def __call__(self, message: Message, context: Context) -> Message:
        reply = self.app(message, context)
        is_forged = is_training(message) and context.node_config["partition-id"] == 0
        return self.forge(reply) if is_forged else reply


def run(rounds: int, rule: Any = None, forge: Any = None, members: int = 1) -> Any:
    """Run some rounds; return the strategy, the clients' Grid and the records."""
    app = ensemble_app(TASK, training=TRAINING, members=members)
    grid = InlineGrid(Forging(app, forge) if forge else app, CLIENTS, {}, seed=1)
    recorder = Recorder()
    strategy = HQDEStrategy(
        Aggregation(rule or Mean(), control_variates=True),
        participation=Participation(
            fraction_evaluate=0, min_available_nodes=CLIENTS, identify=True
        ),
        ensemble=Ensemble(members),
        reporting=Reporting((recorder,)),
    )
    strategy.start(grid, to_record(initial_state(TASK, members, Seeds(0))), rounds)
    return strategy, grid, recorder


def test_both_ends_do_what_a_plain_loop_does():
    """Algorithm 1 of Karimireddy et al. 2020, option II, with all clients in each round."""
    strategy, grid, _ = run(3)
    x = initial_state(TASK, 1, Seeds(0))
    c = {name: torch.zeros_like(value) for name, value in x.items()}
    own = [dict(c) for _ in range(CLIENTS)]
    for number in range(1, 4):
        ends, changes = [], []
        for client in range(CLIENTS):
            generator = Seeds(0).torch("client", client, number, 0)
            torch.randint(2**63 - 1, (), generator=generator)  # the seed of the global generators
            y, model, steps = dict(x), linear(), 0
            for _ in range(EPOCHS):
                for batch in iterate_batches(examples(client, CLIENTS), 4, model, generator):
                    model.load_state_dict(y)
                    model.zero_grad()
                    cross_entropy(model(batch.inputs), batch.targets).backward()
                    y = {
                        n: y[n] - LR * (p.grad - own[client][n] + c[n])
                        for n, p in model.named_parameters()
                    }
                    steps += 1
            new = {n: own[client][n] - c[n] + (x[n] - y[n]) / (steps * LR) for n in x}
            changes.append({n: new[n] - own[client][n] for n in x})
            own[client] = new
            ends.append(y)
        x = {n: sum(y[n] for y in ends) / CLIENTS for n in x}
        c = {n: c[n] + sum(change[n] for change in changes) / CLIENTS for n in c}
    (model,) = strategy.state.models
    for name, value in model.model().items():
        torch.testing.assert_close(value, x[name], rtol=1e-10, atol=1e-12)
    vector = torch.cat([c[entry.name].flatten() for entry in model.layout.weights])
    torch.testing.assert_close(model.control.vector, vector, rtol=1e-10, atol=1e-12)
    for client, state in grid.contexts(range(CLIENTS)).items():
        for name, value in from_record(state[OWN]).items():
            torch.testing.assert_close(value, own[client][name].flatten(), rtol=1e-10, atol=1e-12)


def test_members_have_control_variates_of_their_own_and_a_checkpoint_keeps_them():
    strategy, grid, _ = run(2, members=2)
    one, other = (model.control.vector for model in strategy.state.models)
    assert not torch.equal(one, other)
    kept = grid.contexts([1])[1][OWN]
    assert {name.split("/")[0] for name in kept} == {"member-0", "member-1"}
    read = TREE.load(*TREE.dump(strategy.state))
    assert torch.equal(read.models[0].control.vector, one)


def forged(change):
    """Return a function that changes the control variates in a reply."""

    def forge(reply: Message) -> Message:
        content = dict(reply.content)
        record = content.pop(CONTROL)
        if (other := change(record)) is not None:
            content[CONTROL] = other
        reply.content = RecordDict(content)
        return reply

    return forge


def with_first(record, value):
    name = next(iter(record))
    return uncopied_record({**record, name: value(from_record(record)[name])})


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda record: None, "no control variates"),
        (lambda record: ArrayRecord(), "missing array"),
        (lambda record: with_first(record, lambda v: to_array(v * float("nan"))), "not finite"),
        (lambda record: with_first(record, lambda v: to_array(v[:1])), "expected float64"),
        (lambda record: with_first(record, lambda v: to_array(v.float())), "expected float64"),
        (
            lambda record: uncopied_record({**record, "x": to_array(torch.ones(10))}),
            "unknown array 'x'",
        ),
    ],
    ids=["none", "empty", "nan", "shape", "dtype", "extra"],
)
def test_a_hostile_control_variate_rejects_the_reply_and_no_other(change, reason):
    strategy, _, recorder = run(1, forge=forged(change))
    reasons = [recorder.client(client).reason for client in range(CLIENTS)]
    assert reason in reasons[0]
    assert reasons[0].startswith("rejected: ")
    assert reasons[1:] == [None, None]
    assert bool(strategy.state.models[0].control.vector.isfinite().all())


def test_a_robust_rule_treats_a_large_control_variate_as_it_treats_an_update():
    def huge(record):
        return to_record({name: 1e9 * value for name, value in from_record(record).items()})

    mean = run(1, Mean(), forged(huge))[0].state.models[0].control.vector
    median = run(1, Median(), forged(huge))[0].state.models[0].control.vector
    assert float(mean.abs().max()) > 1e6
    assert float(median.abs().max()) < 10


def test_the_control_variate_moves_by_the_part_of_the_clients_that_took_part():
    layout = layout_of(to_record(linear().state_dict()))
    control = ServerControl.zero(layout)
    changes = [torch.ones(layout.size, dtype=torch.float64)] * 2
    after = control.after(changes, Mean(), Cohort.of(2), 8, SerialExecutor())
    assert after.vector.tolist() == [0.25] * layout.size
    shorter = [change[1:] for change in changes]  # roles have changed
    assert control.after(shorter, Mean(), Cohort.of(2), 8, SerialExecutor()) is control


def test_control_variates_survive_screening_unchanged():
    layout = layout_of(to_record(linear().state_dict()))
    vector = torch.randn(layout.size, dtype=torch.float64)
    for member in (None, 3):
        record = uncopied_record(control_arrays(layout, vector, member))
        assert torch.equal(screen_control(record, layout, member), vector)


def test_what_control_variates_do_not_go_together_with_is_refused():
    with pytest.raises(ConfigError, match="without noise"):
        Aggregation(
            Mean(), control_variates=True, privacy=CentralDP(noise_multiplier=1.0, delta=1e-5)
        )
    with pytest.raises(ConfigError, match="averages the members"):
        HQDEStrategy(
            Aggregation(Mean(), control_variates=True), ensemble=Ensemble(2, mode="fedavg")
        )
