"""Tests that errors of a fault's own code are separated from those of the honest client."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from flwr.app import Error, Message, RecordDict
from torch.utils.data import Dataset, TensorDataset

from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.faults import Backdoor, Crash, Fault, LabelFlip, SignFlip, only_for
from hqde_fl.clients.faults.fault_errors import FaultError, failure_text, find_failure
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.clients.training_hooks import poison
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.protocol.records import to_record
from hqde_fl.seeding import Seeds


@dataclass(frozen=True)
class Broken(Fault):
    """A fault whose code raises before or after the honest training."""

    when: str

    def act(self, message, context, call_next, generator):
        if self.when == "before":
            raise ValueError("no such\nthing")
        reply = call_next(message, context)
        if self.when == "after":
            raise KeyError("weight")
        return reply


@pytest.fixture
def state(task):
    return initial_state(task, 1, Seeds(0))


@pytest.fixture
def reply(task, ask, node, state):
    """Return a function that gives a partition's reply in round 4 with a fault of partition 2."""

    def build(fault, partition=2, name="", data=task.partition):
        mods = [only_for(fault, {2}, name=name)]
        app = ensemble_app(replace(task, partition=data), training=Training(), mods=mods)
        return app(ask(state, 4), node(partition))

    return build


class Unreadable(Dataset[Any]):
    """A data set whose examples cannot be read."""

    def __len__(self):
        return 20

    def __getitem__(self, index):
        raise OSError("disk failed")


def fails(number, count):
    return Unreadable()


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (Broken("before"), "ValueError: no such thing"),
        (Broken("after"), "KeyError: 'weight'"),
        (LabelFlip(classes=2), "ConfigError: LabelFlip(classes=2) needs labels below 2, found 2"),
        (LabelFlip(to=5), "ConfigError: LabelFlip.to must be in [0, 3), found 5"),
        (Backdoor(), "ConfigError: Backdoor needs images, found a batch of (21, 4)"),
    ],
)
def test_a_faults_own_error_names_it(reply, fault, message):
    with pytest.raises(FaultError) as caught:
        reply(fault, name="broken")
    expected = f"fault 'broken' of client 2 failed in round 4: {message}"
    assert str(caught.value).startswith(expected)
    assert "\n" not in str(caught.value)
    assert poison.get() is None
    assert reply(fault, partition=1).has_content()


@pytest.mark.parametrize("fault", [SignFlip(), Broken("after"), LabelFlip(classes=3), LabelFlip()])
def test_an_error_of_the_honest_client_is_no_error_of_the_fault(reply, fault):
    with pytest.raises(TaskError, match="OSError: disk failed"):
        reply(fault, data=fails)


def test_a_crash_is_no_error_of_the_fault(reply):
    with pytest.raises(RuntimeError, match="'crash' of partition 2 in round 4") as caught:
        reply(Crash())
    assert not isinstance(caught.value, FaultError)


def test_a_fault_inside_a_fault_is_named_once(task, ask, node, state):
    mods = [only_for(LabelFlip(), {0}, name="outer"), only_for(Broken("after"), {0}, name="inner")]
    app = ensemble_app(task, training=Training(), mods=mods)
    with pytest.raises(FaultError, match=r"^fault 'inner' of client 0 failed in round 1: KeyError"):
        app(ask(state), node())


def test_poisoning_a_client_with_its_own_training_code_is_an_error(ask, node, state):
    message = ask(state, 3)
    own = Message(RecordDict({"arrays": to_record(state)}), reply_to=message)
    mod = only_for(LabelFlip(), {0}, name="label-flip")
    with pytest.raises(
        FaultError, match=r"round 3: ConfigError: .* with hqde_fl\.clients\.training"
    ):
        mod(message, node(), lambda *_: own)
    for empty in (
        Message(RecordDict(), reply_to=message),  # a client without data
        Message(Error(0, "out of memory"), reply_to=message),
    ):
        assert mod(message, node(), lambda *_, reply=empty: reply) is empty


def test_the_failure_is_found_in_the_engines_reports():
    text = failure_text("label-flip", 3, 2, ConfigError("found\n'<x>'"))
    assert text == "fault 'label-flip' of client 3 failed in round 2: ConfigError: found '<x>'"
    error = FaultError(text)
    for reason in (
        text,
        f"Traceback ...\n  FaultError: {text}\n\nFaultError: {text}",
        str(type(error))
        + ":<'"
        + f"\nException ClientAppException occurred. Message: {text}"
        + "'>",
    ):
        assert find_failure(reason, "label-flip", 3, 2) == text
        for other in (("zero", 3, 2), ("label-flip", 4, 2), ("label-flip", 3, 1)):
            assert find_failure(reason, *other) is None
    assert find_failure("fault 'label-flip' of client 3 failed", "label-flip", 3, 2) is None
    assert len(failure_text("zero", 1, 1, "x" * 10_000)) < 600


def test_images_smaller_than_the_trigger_are_an_error_of_the_fault(ask, node):
    """The check before the run sees the test set only, whose images may be larger."""
    small = TensorDataset(torch.rand(9, 1, 2, 2), torch.arange(9) % 3)
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 3))
    task = Task(lambda: model, lambda i, n: small, lambda: small)
    app = ensemble_app(task, mods=[only_for(Backdoor(size=3), {0}, name="backdoor")])
    with pytest.raises(FaultError, match=r"'backdoor' of client 0 .* at least 3 x 3 pixels"):
        app(ask(initial_state(task, 1, Seeds(0))), node())
