import collections
import logging

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence

from hqde_fl.clients.batch_reader import BatchReader
from hqde_fl.clients.batches import Arguments, BatchWithoutTargets, to_device
from hqde_fl.errors import TaskError

X, Z, Y = torch.ones(3, 2), torch.zeros(3, 2), torch.arange(3)
TEXT = ["a", "b", "c"]
Pair = collections.namedtuple("Pair", "label image")
Fields = collections.namedtuple("Fields", "first second third")


def model_of(forward):
    return type("Model", (nn.Module,), {"forward": forward})()


ONE = model_of(lambda self, x: x)
TWO = model_of(lambda self, a, b: a)
OPTIONAL = model_of(lambda self, x, mask=None: x)
NAMED = model_of(lambda self, input_ids, mask=None: input_ids)
LABELS = model_of(lambda self, x, labels=None: x)
TEACHER = model_of(lambda self, x, y: x)
KEYWORDS = model_of(lambda self, x, **rest: x)
ANY = model_of(lambda self, *values, **named: named)
ONLY_NAMED = model_of(lambda self, *, x, z=None: x)


class Wrapped(nn.Module):
    """A model like those of PEFT: its own forward takes anything, its base model does not."""

    def forward(self, *values, **named):
        return self.get_base_model()(*values, **named)

    def get_base_model(self):
        return NAMED


class Graphs:
    """Graphs like those of PyTorch Geometric: an object with targets that moves itself."""

    def __init__(self, y, device="cpu"):
        self.y, self.device = y, device

    def to(self, device):
        return Graphs(self.y.to(device), str(device))


GRAPHS = Graphs(Y)


def named(**entries):
    return Arguments(named=entries)


@pytest.mark.parametrize(
    ("model", "batch", "inputs", "targets"),
    [
        (ONE, (X, Y), X, Y),
        (ONE, [X, Y], X, Y),
        (nn.Sequential(), [X, (Y, Z)], X, (Y, Z)),
        (ONE, X, X, X),
        (ONE, (X,), X, X),
        (ONE, ((X, Z), Y), (X, Z), Y),
        (TWO, (X, Z, Y), Arguments((X, Z)), Y),
        (TWO, ((X, Z), Y), Arguments((X, Z)), Y),
        (TWO, [[X, Z], Y], Arguments((X, Z)), Y),
        (TWO, ({"a": X, "b": Z}, Y), named(a=X, b=Z), Y),
        (OPTIONAL, (X, Z, Y), Arguments((X, Z)), Y),
        (TWO, (Arguments((X, Z)), Y), Arguments((X, Z)), Y),
        (ANY, (X, Z, X, Y), Arguments((X, Z, X)), Y),
        (ONE, Pair(Y, X), X, Y),
        (TWO, Fields(X, Z, Y), Arguments((X, Z)), Y),
        (NAMED, {"input_ids": X, "text": TEXT, "label": Y}, named(input_ids=X), Y),
        (NAMED, {"mask": Z, "input_ids": X, "y": Y}, named(mask=Z, input_ids=X), Y),
        (NAMED, ({"input_ids": X, "text": TEXT}, Y), named(input_ids=X), Y),
        (Wrapped(), {"input_ids": X, "index": Z, "labels": Y}, named(input_ids=X), Y),
        (LABELS, {"x": X, "labels": Y}, named(x=X), Y),
        (LABELS, {"x": X, "labels": Y, "y": Z}, named(x=X), Y),
        (TEACHER, {"x": X, "y": Y}, named(x=X, y=Y), Y),
        (TEACHER, {"x": X, "y": Z, "target": Y}, named(x=X, y=Z), Y),
        (KEYWORDS, {"x": X, "z": Z, "text": TEXT, "y": Y}, named(x=X, z=Z), Y),
        (KEYWORDS, {"z": Z, "text": TEXT, "y": Y}, {"z": Z, "text": TEXT}, Y),
        (ANY, {"z": [Z], "text": TEXT, "targets": Y}, named(z=[Z]), Y),
        (ONLY_NAMED, {"x": X, "z": Z, "w": Z, "y": Y}, named(x=X, z=Z), Y),
        (ONE, {"image": X, "text": TEXT, "label": Y}, {"image": X, "text": TEXT}, Y),
        (ONE, {"x": X, "weight": Z}, named(x=X), BatchWithoutTargets(x=X, weight=Z)),
        (ONE, {"image": X}, {"image": X}, BatchWithoutTargets(image=X)),
        (ONE, GRAPHS, GRAPHS, Y),
    ],
)
def test_a_batch_is_read_as_inputs_and_targets(model, batch, inputs, targets):
    found = BatchReader.of(model).pair(batch)
    assert repr(found) == repr((inputs, targets))
    assert type(found[1]) is type(targets)


def test_a_model_that_is_not_written_in_python_takes_every_batch():
    reader = BatchReader.of(model_of(staticmethod(max)))
    assert reader.pair((X, Y))[0] is X
    assert repr(reader.pair({"x": X, "y": Y})[0]) == repr(named(x=X))


def test_a_batch_without_targets_may_be_all_inputs():
    reader = BatchReader.of(TWO)
    several = [((X, Z), Y), [[X, Z], Y], (Arguments((X, Z)), Y)]
    for batch in ((X, Z), (X, Z, Y), *several):
        assert repr(reader.pair(batch, labelled=False)[0]) == repr(Arguments((X, Z)))


@pytest.mark.parametrize(
    ("model", "batch", "message"),
    [
        (TWO, (X, Y), r"^Model.forward\(a, b\) needs 2 inputs, found 1 in a batch, besides its"),
        (TWO, ((X,), Y), r"^Model.forward\(a, b\) needs 2 inputs, found 1 in a batch"),
        (
            ONE,
            (X, Y, Y),
            r"forward\(x\) needs 1 input, found 2 in a batch, besides its targets, the last entry: "
            "give several targets as one tuple$",
        ),
        (OPTIONAL, (X, Z, X, Y), r"forward\(x, mask\) needs 1 to 2 inputs, found 3 in a batch"),
        (nn.Linear(2, 2), (X, Z, Y), r"^Linear.forward\(input\) needs 1 input, found 2"),
        (
            TWO,
            {"a": X, "c": Z, "labels": Y},
            r"^Model.forward\(a, b\) needs b, found a batch with the entries a, c, and 'labels', "
            "which are the targets$",
        ),
        (NAMED, {"mask": X}, r"needs input_ids, found a batch with the entries mask$"),
        (TWO, {"y": Y}, r"needs a, b, found a batch with the entries none, and 'y'"),
        (
            model_of(lambda self, a=None, b=None: a),
            {"c": X, "y": Y},
            r"needs an entry of the batch, found a batch with the entries c",
        ),
    ],
)
def test_a_batch_that_forward_cannot_be_called_with_is_an_error(model, batch, message):
    with pytest.raises(TaskError, match=message):
        BatchReader.of(model).pair(batch)


def test_entries_that_forward_does_not_take_are_named_once(caplog, monkeypatch):
    monkeypatch.setattr("hqde_fl.clients.batch_reader._logged", set())
    batch = {"input_ids": X, "text": TEXT, "idx": Z, "labels": Y}
    with caplog.at_level(logging.INFO, "flwr"):
        for _ in range(3):
            BatchReader.of(NAMED).pair(batch)
    (record,) = caplog.records
    line = "Model.forward(input_ids, mask) does not get these entries of a batch: idx, text"
    assert record.getMessage() == line


@pytest.mark.parametrize(
    ("example", "used"),
    [
        ({"input_ids": 1, "text": "a", "label": 0}, {"input_ids", "label"}),
        ({"input_ids": 1, "text": "a"}, {"input_ids", "text"}),
        ({"image": 1, "text": "a", "label": 0}, {"image", "text", "label"}),
    ],
)
def test_only_entries_that_forward_takes_are_stacked(example, used):
    assert BatchReader.of(NAMED).used_entries(example).keys() == used
    assert BatchReader.of(KEYWORDS).used_entries(example) is example


def test_values_are_moved_to_a_device_by_their_own_method():
    packed = pack_sequence([torch.ones(3), torch.ones(2)])
    value = {"packed": packed, "nested": (Pair(X, [Z]), TEXT), "graphs": GRAPHS, "n": None}
    moved = to_device(value, torch.device("meta"))
    assert type(moved["packed"]) is PackedSequence
    assert moved["packed"].data.is_meta
    assert moved["packed"].batch_sizes.tolist() == [2, 2, 1]
    (pair, text) = moved["nested"]
    assert type(pair) is Pair
    assert pair.label.is_meta
    assert pair.image[0].is_meta
    assert (text, moved["graphs"].device, moved["n"]) == (TEXT, "meta", None)
    assert type(to_device(BatchWithoutTargets(x=X), torch.device("meta"))) is BatchWithoutTargets
    assert to_device(Arguments((X,), {"z": Z}), torch.device("meta")).named["z"].is_meta
