"""A client's control variate: what it corrects, what it keeps, and ends that do not agree."""

from dataclasses import replace

import pytest
import torch

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.mods.control_variates import OWN
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.control_variates import CONTROL, control_arrays
from hqde_fl.protocol.members import uncopied_record
from hqde_fl.protocol.records import from_record, layout_of

TRAINING = Training(batch_size=4, lr=0.1, control_variates=True)


@pytest.fixture
def told(ask, state):
    """Return a function that builds a training message with a control variate of the server."""

    def build(number=1, value=0.0):
        message = ask(state, number)
        layout = layout_of(message.content["arrays"])
        vector = torch.full((layout.size,), value)
        message.content[CONTROL] = uncopied_record(control_arrays(layout, vector))
        return message

    return build


def test_zero_control_variates_change_nothing_and_the_new_one_is_kept(
    task, told, ask, node, state, same, weights
):
    context = node()
    reply = ensemble_app(task, training=TRAINING)(told(), context)
    plain = replace(TRAINING, control_variates=False)
    assert same(weights(reply), weights(ensemble_app(task, training=plain)(ask(state), node())))
    changes, kept = from_record(reply.content[CONTROL]), from_record(context.state[OWN])
    assert same(changes, kept)  # from zero
    steps = 5  # of 21 examples, the last of which is alone
    for name, change in changes.items():
        mean = (state[name] - weights(reply)[name]).flatten() / (steps * TRAINING.lr)
        torch.testing.assert_close(change, mean)


def test_the_clients_own_control_variate_acts_in_its_next_round(task, told, node, same, weights):
    app, context = ensemble_app(task, training=TRAINING), node()
    app(told(1), context)
    assert not same(weights(app(told(2), context)), weights(app(told(2), node())))


def test_both_ends_have_to_take_part(task, told, ask, node, state):
    with pytest.raises(ConfigError, match="sends no control variates"):
        ensemble_app(task, training=TRAINING)(ask(state), node())
    plain = replace(TRAINING, control_variates=False)
    with pytest.raises(ConfigError, match="control_variates=False"):
        ensemble_app(task, training=plain)(told(), node())
