"""Tests of ``EnsembleClient`` through the ``ClientApp`` of ``ensemble_app``."""

import hashlib
import itertools
import subprocess
import sys
from dataclasses import replace

import cloudpickle
import pytest
import torch
from psutil import virtual_memory

from hqde_fl.clients import partition_cache
from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.ensemble import EnsembleClient
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.training import Training
from hqde_fl.distributed import auto_executor
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import split_members
from hqde_fl.protocol.records import from_record
from hqde_fl.seeding import Seeds

TRAINING = Training(epochs=2, batch_size=4, lr=0.1, momentum=0.9)


def digest(reply):
    content = b"".join(array.data for array in reply.content["arrays"].values())
    return hashlib.sha256(content).hexdigest()


def test_the_reply_holds_full_weights_and_metrics(task, ask, node):
    state = initial_state(task, 1, Seeds(0))
    message = ask(state)
    reply = ensemble_app(task, training=TRAINING)(message, node())
    trained = from_record(reply.content["arrays"])
    assert list(trained) == list(state)
    assert all(trained[k].dtype == state[k].dtype for k in state)
    assert trained["1.num_batches_tracked"].item() == 2 * 5  # the 21st example is left out
    assert not torch.equal(trained["0.weight"], state["0.weight"])
    metrics = reply.content["metrics"]
    assert set(metrics) == {"num-examples", "train-loss", "train-seconds"}
    assert metrics["num-examples"] == 21
    assert 0 < metrics["train-loss"] < 5
    assert reply.metadata.reply_to_message_id == message.metadata.message_id


def test_training_does_not_change_the_message(task, ask, node):
    state = initial_state(task, 1, Seeds(0))
    message, copy = ask(state), ask(state)
    ensemble_app(task)(message, node())
    assert message.content == copy.content


def test_a_reply_does_not_depend_on_earlier_clients(task, ask, node):
    message = ask(initial_state(task, 2, Seeds(0)))
    replies = set()
    for order in itertools.permutations(range(3)):
        app = ensemble_app(task, members=2, training=TRAINING, seed=3)
        digests = {partition: digest(app(message, node(partition))) for partition in order}
        replies.add(tuple(digests[partition] for partition in range(3)))
        assert digests[0] == digest(app(message, node(0)))
    assert len(replies) == 1
    assert len(set(replies.pop())) == 3


def test_round_seed_and_member_determine_the_random_numbers(task, ask, node):
    state = initial_state(task, 1, Seeds(0))
    digests = {
        digest(ensemble_app(task, seed=seed)(ask(state, number), node()))
        for seed in (0, 1)
        for number in (1, 2)
    }
    assert len(digests) == 4
    equal_members = {f"member-{m}/{name}": tensor for m in (0, 1) for name, tensor in state.items()}
    reply = ensemble_app(task, members=2)(ask(equal_members), node())
    one, two = split_members(from_record(reply.content["arrays"]), 2)
    assert not torch.equal(one["0.weight"], two["0.weight"])


PROGRAM = """
import hashlib, torch
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.supercore.task_identity import TaskIdentity
from torch import nn
from torch.utils.data import TensorDataset
from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.seeding import Seeds
from hqde_fl.protocol.records import to_record
TaskIdentity.run_id = TaskIdentity.task_id = TaskIdentity.node_id = 1
def partition(i, n):
    x = torch.linspace(-1, 1, 48).reshape(12, 4) + i
    return TensorDataset(x, torch.arange(12) % 3)
def model():
    return nn.Sequential(nn.Linear(4, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 3))
task = Task(model, partition, lambda: partition(0, 1))
content = {"arrays": to_record(initial_state(task, 1, Seeds(2))),
           "config": ConfigRecord({"server-round": 5})}
context = Context(1, 1, {"partition-id": 1, "num-partitions": 2}, RecordDict(), {})
app = ensemble_app(task, training=Training(batch_size=5, epochs=3), seed=2)
reply = app(Message(RecordDict(content), 1, "train"), context)
data = b"".join(array.data for array in reply.content["arrays"].values())
result = hashlib.sha256(data).hexdigest()
"""


def test_another_process_gives_the_same_bits(ask):
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM + "print(result)"],
        env={"PYTHONPATH": ":".join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=True,
    )
    torch.manual_seed(123)
    variables: dict[str, str] = {}
    exec(PROGRAM, variables)
    assert run.stdout.strip() == variables["result"]


def test_several_members_are_sent_in_one_record_and_vote(task, ask, node):
    state = initial_state(task, 3, Seeds(0))
    app = ensemble_app(task, members=3, training=TRAINING)
    reply = app(ask(state), node())
    trained = from_record(reply.content["arrays"])
    assert list(trained) == list(state)
    answer = app(ask(trained, kind="evaluate"), node(1)).content["metrics"]
    models = []
    for member in split_members(trained, 3):
        models.append(task.model())
        models[-1].load_state_dict(member)
    expected = evaluate(models, task.partition(1, 3), task)
    assert answer["num-examples"] == 21
    assert answer["eval-loss"] == pytest.approx(expected["loss"])
    assert answer["eval-accuracy"] == pytest.approx(expected["accuracy"])
    assert answer["eval-member-accuracy"] == pytest.approx(expected["member-accuracy"])
    assert set(answer) == {"num-examples", *(f"eval-{name}" for name in expected)}


def test_a_node_reports_its_partition(task, ask, node):
    reply = ensemble_app(task)(ask({}, kind="query.identity"), node(2))
    assert dict(reply.content["identity"]) == {"partition-id": 2}


def test_models_are_built_once_and_partitions_are_loaded_once(
    task, ask, node, monkeypatch, tmp_path
):
    built, loaded = [], []

    def model():
        built.append(1)
        return task.model()

    def partition(number, count):
        loaded.append(number)
        return task.partition(number, count)

    counting = replace(task, model=model, partition=partition)
    message = ask(initial_state(task, 2, Seeds(0)))
    app = ensemble_app(counting, members=2)
    for number in (0, 1, 0, 2, 1):
        app(message, node(number))
    assert len(built) == 2
    assert loaded == [0, 1, 2]
    elsewhere = node(1)
    elsewhere.node_config["cache-dir"] = str(tmp_path)  # each simulated run has its own
    app(message, elsewhere)
    assert loaded == [0, 1, 2]

    loaded.clear()
    monkeypatch.setattr(partition_cache, "MIN_KEPT_PARTITIONS", 2)
    free = 0.2
    monkeypatch.setattr(auto_executor, "free_memory", lambda: free * virtual_memory().total)
    client = EnsembleClient(counting, members=2)
    for number in (0, 1, 2, 0, 1, 0):  # each of the others takes the other's place
        client.train(message, node(number))
    assert loaded == [0, 1, 2, 1]
    assert len(client._partitions) == 2
    free = 0.5
    for number in (2, 0, 1):
        client.train(message, node(number))
    assert loaded == [0, 1, 2, 1, 2]


def test_weights_of_another_model_are_an_error(task, ask, node):
    state = initial_state(task, 1, Seeds(0))
    del state["0.weight"]
    with pytest.raises(RuntimeError, match=r"0\.weight"):
        ensemble_app(task)(ask(state), node())
    with pytest.raises(ConfigError, match="2 members"):
        ensemble_app(task, members=2)(ask(state), node())


def test_mods_wrap_every_message_the_first_outermost(task, ask, node):
    calls = []

    def mod(name):
        def around(message, context, call_next):
            calls.append(name)
            return call_next(message, context)

        return around

    app = ensemble_app(task, mods=[mod("outer"), mod("inner")])
    app(ask({}, kind="query.identity"), node())
    app(ask(initial_state(task, 1, Seeds(0))), node())
    assert calls == ["outer", "inner"] * 2


def test_the_app_can_be_sent_to_another_process(task, ask, node):
    message = ask(initial_state(task, 1, Seeds(0)))
    app = ensemble_app(task, training=TRAINING)
    expected = digest(app(message, node()))
    assert digest(cloudpickle.loads(cloudpickle.dumps(app))(message, node())) == expected


def test_there_is_at_least_one_member(task):
    with pytest.raises(ConfigError, match="members must be >= 1, found 0"):
        ensemble_app(task, members=0)
