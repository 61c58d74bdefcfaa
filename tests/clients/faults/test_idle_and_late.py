"""Tests of faults that skip training, replace its result, delay the reply or end the process."""

import subprocess
import sys

import pytest
import torch
from flwr.app import Error, Message, RecordDict

from hqde_fl.clients.faults import FreeRide, Kill, Scaling, Stale, Straggle, Zero, straggle
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.screening import Accepted


def test_scaling_replaces_the_model(train, weights, state, weight_names):
    honest, faulty = weights(train()), weights(train(Scaling(scale=4.0)))
    for name, start in state.items():
        expected = start + 4 * (honest[name] - start) if name in weight_names else honest[name]
        torch.testing.assert_close(faulty[name], expected)


def test_zero_sends_no_weights_and_a_free_ride_no_update(train, weights, state, weight_names):
    zero, free = weights(train(Zero())), weights(train(FreeRide()))
    for name, start in state.items():
        expected = torch.zeros_like(start) if name in weight_names else start
        assert torch.equal(zero[name], expected)
        assert torch.equal(free[name], start)


def test_a_free_ride_may_add_noise_and_claim_more_examples(
    train, weights, state, weight_names, screened
):
    reply = train(FreeRide(noise=1e-3, claim=500))
    assert reply.content["metrics"]["num-examples"] == 500
    sent = weights(reply)
    noise = torch.cat([(sent[name] - state[name]).flatten() for name in weight_names])
    assert 0.5e-3 < float(noise.std()) < 2e-3
    assert isinstance(screened(reply), Accepted)


def test_a_stale_client_sends_the_weights_of_earlier_rounds(train, weights, same, node):
    context, honest = node(), [weights(train(number=n)) for n in range(1, 6)]
    stale = [weights(train(Stale(2), number=n, context=context)) for n in range(1, 6)]
    for reply, expected in zip(stale, [0, 0, 0, 1, 2], strict=True):
        assert same(reply, honest[expected])


def test_a_stale_client_keeps_only_the_models_it_needs_and_no_other_state(train, node):
    context = node()
    context.state["other"] = train().content["arrays"]
    for number in range(1, 15):
        train(Stale(3), number=number, context=context)
    assert len(context.state) == 4
    assert "other" in context.state


def test_a_failed_reply_of_a_stale_client_is_not_kept(ask, node, state):
    message, context = ask(state), node()
    failed = Message(Error(0, "memory"), reply_to=message)
    for answer in (failed, Message(RecordDict(), reply_to=message)):
        assert Stale()(message, context, lambda *_, a=answer: a) is answer
    assert len(context.state) == 0


def test_a_straggler_waits_and_is_honest(train, weights, same, monkeypatch):
    waited = []
    monkeypatch.setattr(straggle.time, "sleep", waited.append)
    assert same(weights(train(Straggle(seconds=12.5))), weights(train()))
    assert waited == [12.5]


def test_kill_ends_the_process_at_once():
    code = (
        "import atexit; atexit.register(print, 'cleaned up');"
        "from hqde_fl.clients.faults import Kill; Kill(7).act(None, None, None, None)"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert ended.returncode == 7
    assert ended.stdout == b""


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Scaling(scale=0.0), "Scaling.scale must be finite and > 0, found 0.0"),
        (lambda: FreeRide(noise=-1.0), "FreeRide.noise must be finite and >= 0, found -1.0"),
        (lambda: FreeRide(claim=-1), "FreeRide.claim must be >= 0, found -1"),
        (lambda: Stale(rounds=0), "Stale.rounds must be >= 1, found 0"),
        (lambda: Straggle(seconds=-1.0), "Straggle.seconds must be finite and >= 0, found -1.0"),
        (lambda: Kill(status=256), r"Kill.status must be in \[0, 255\], found 256"),
    ],
)
def test_impossible_faults_are_refused(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
