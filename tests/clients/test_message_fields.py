import pytest
from flwr.app import ArrayRecord, Context, Message, RecordDict

from hqde_fl.clients.message_fields import array_record, is_training, partition_of, server_round
from hqde_fl.errors import ConfigError


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("train", True), ("train.again", True), ("evaluate", False), ("query.identity", False)],
)
def test_training_messages_are_recognised(ask, kind, expected):
    assert is_training(ask({}, kind=kind)) is expected


def test_the_round_is_read_from_any_config_record(ask):
    assert server_round(ask({}, 7)) == 7
    assert server_round(Message(RecordDict(), 1, "train")) == 0


def test_a_message_must_have_one_array_record(ask):
    message = ask({})
    assert array_record(message)[0] == "arrays"
    message.content["more"] = ArrayRecord()
    with pytest.raises(ConfigError, match="exactly 1 ArrayRecord, found 2"):
        array_record(message)


def test_the_partition_is_read_from_the_nodes_config(node):
    assert partition_of(node(2, 5)) == (2, 5)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({}, "needs the integers partition-id and num-partitions, found None and None"),
        ({"partition-id": "0", "num-partitions": 2}, "found '0' and 2"),
        ({"partition-id": 2, "num-partitions": 2}, r"partition-id must be in \[0, 2\), found 2"),
        ({"partition-id": -1, "num-partitions": 2}, r"found -1"),
    ],
)
def test_a_missing_or_impossible_partition_is_an_error(config, message):
    with pytest.raises(ConfigError, match=message):
        partition_of(Context(1, 1, config, RecordDict(), {}))
