"""Tests of both fronts, a ``Task`` and ``create_hqde_system``, with every form of batches."""

from __future__ import annotations

import collections
from functools import partial

import datasets
import pytest
import torch
from flwr_datasets.partitioner import IidPartitioner
from torch import nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence
from torch.utils.data import ConcatDataset, DataLoader, Subset, TensorDataset

from hqde_fl import create_hqde_system
from hqde_fl.clients.app import ensemble_app
from hqde_fl.clients.evaluation import evaluate
from hqde_fl.clients.initial_state import initial_state
from hqde_fl.clients.task import Task
from hqde_fl.clients.training import Training
from hqde_fl.errors import HQDEError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.inline import InlineGrid
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.strategies.settings import Participation

CLASSES, COUNT, SEQUENCE = 3, 48, 4
LABELS = [index % CLASSES for index in range(COUNT)]
IDS = torch.tensor([[1 + y] * SEQUENCE for y in LABELS])
RAGGED = [torch.full((2 + n % 3,), 1 + y) for n, y in enumerate(LABELS)]
Sentence = collections.namedtuple("Sentence", "label ids")


class Words(nn.Module):
    """A model of token ids."""

    def __init__(self):
        super().__init__()
        self.embedding = nn.Embedding(CLASSES + 1, 8, padding_idx=0)
        self.out = nn.Linear(8, CLASSES)

    def forward(self, ids):
        return self.out(self.embedding(ids).sum(dim=1))


class Masked(Words):
    def forward(self, ids, mask):
        return super().forward(ids * mask)


class HuggingFace(Words):
    """A model that takes labels too, for a loss of its own, and returns its outputs by name."""

    def forward(self, ids=None, mask=None, labels=None, **options):
        assert labels is None
        assert not options
        return {"logits": super().forward(ids), "hidden": ids}


class OfMapping(Words):
    def forward(self, batch):
        assert isinstance(batch["text"], list)
        return super().forward(batch["input_ids"])


class Recurrent(Words):
    def forward(self, rows):
        ids = nn.utils.rnn.pad_packed_sequence(rows, batch_first=True)[0]
        return super().forward(ids)


class TimeFirst(Words):
    def forward(self, ids):
        return super().forward(ids.T)


def table(ids=IDS, **columns):
    text = [f"sentence {index}" for index in range(COUNT)]
    ids = [row.tolist() for row in ids]
    return datasets.Dataset.from_dict({"ids": ids, "text": text, "label": LABELS} | columns)


def padded(examples, batch_first=True):
    rows = pad_sequence([row for row, _ in examples], batch_first=batch_first)
    return rows, torch.tensor([y for _, y in examples])


def packed(examples):
    rows = pack_sequence([row for row, _ in examples], enforce_sorted=False)
    return rows, torch.tensor([y for _, y in examples])


def with_mask(examples):
    rows, labels = padded(examples)
    return rows, rows > 0, labels


def padded_rows(examples):
    ids = pad_sequence([torch.as_tensor(row["ids"]) for row in examples], batch_first=True)
    return {"ids": ids, "labels": torch.tensor([row["label"] for row in examples])}


PAIRS = list(zip(IDS, LABELS, strict=True))
RAGGED_PAIRS = list(zip(RAGGED, LABELS, strict=True))
NO_MASK = torch.ones(SEQUENCE, dtype=torch.int64)

FORMS = {
    "tensors": (Words, TensorDataset(IDS, torch.tensor(LABELS)), None),
    "list": (Words, PAIRS, None),
    "subset of subset": (Words, Subset(Subset(PAIRS, range(COUNT)), range(COUNT)), None),
    "concat": (Words, ConcatDataset([PAIRS[:9], PAIRS[9:]]), None),
    "three entries": (Masked, [(ids, NO_MASK, y) for ids, y in PAIRS], None),
    "three tensors": (
        Masked,
        TensorDataset(IDS, torch.ones_like(IDS), torch.tensor(LABELS)),
        None,
    ),
    "two inputs as one": (Masked, [((ids, NO_MASK), y) for ids, y in PAIRS], None),
    "named tuple": (Words, [Sentence(y, ids) for ids, y in PAIRS], None),
    "dicts": (Words, [{"ids": ids, "text": "t", "y": y} for ids, y in PAIRS], None),
    "datasets": (Words, table(), None),
    "datasets of a Hugging Face model": (HuggingFace, table(), None),
    "datasets with a format": (Words, table().with_format("torch", columns=["ids", "label"]), None),
    "datasets with a ragged column": (Words, table(tokens=[r.tolist() for r in RAGGED]), None),
    "one mapping": (OfMapping, table().rename_column("ids", "input_ids"), None),
    "padded": (Words, RAGGED_PAIRS, padded),
    "padded, time first": (TimeFirst, RAGGED_PAIRS, partial(padded, batch_first=False)),
    "padded, with a mask": (Masked, RAGGED_PAIRS, with_mask),
    "padded datasets": (Words, table(RAGGED), padded_rows),
    "packed": (Recurrent, RAGGED_PAIRS, packed),
}


@pytest.mark.parametrize("form", FORMS)
def test_create_hqde_system_trains_validates_and_predicts(form):
    model, data, collate = FORMS[form]
    loader = DataLoader(data, 8, shuffle=True, collate_fn=collate)
    validation = DataLoader(data, 10, collate_fn=collate)
    system = create_hqde_system(
        model,
        num_workers=2,
        training_config={"learning_rate": 0.05},
        engine="inline",
        show_progress=False,
    )
    history = system.train(loader, 4, validation)
    assert history[-1]["kept"] == 2
    assert history[-1]["train-loss"] < history[0]["train-loss"]
    assert history[-1]["validation-accuracy"] > 0.9
    assert system.predict(validation).tolist() == LABELS
    assert system.evaluate(validation)["accuracy"] == history[-1]["validation-accuracy"]


@pytest.mark.parametrize("form", FORMS)
def test_a_task_trains_and_is_tested(form):
    model, data, collate = FORMS[form]
    halves = [Subset(data, range(0, COUNT, 2)), Subset(data, range(1, COUNT, 2))]
    if isinstance(data, datasets.Dataset):
        halves = [data.shard(2, number) for number in range(2)]
    task = Task(model, lambda number, _: halves[number], lambda: data, collate=collate)
    assert accuracy_of(task) > 0.9


def accuracy_of(task):
    """Return the accuracy after a few rounds with two clients, whose bags are bootstrap samples."""
    app = ensemble_app(task, training=Training(lr=0.2, batch_size=4), bagging=True)
    strategy = HQDEStrategy(participation=Participation(min_available_nodes=2))
    start = to_record(initial_state(task, 1, Seeds(0)))
    result = strategy.start(InlineGrid(app, 2, {}, 0), start, 4)
    trained = task.model()
    trained.load_state_dict(from_record(result.arrays))
    return evaluate([trained], task.test(), task)["accuracy"]


def test_partitions_of_flower_datasets_are_read():
    partitioner = IidPartitioner(num_partitions=2)
    partitioner.dataset = table()
    task = Task(Words, lambda number, _: partitioner.load_partition(number), table)
    assert accuracy_of(task) > 0.9


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (RAGGED_PAIRS, "a batch needs examples of one shape, found entry 0 with ("),
        (table(RAGGED), "a batch needs examples of one shape, found entry 'ids' with ("),
        (datasets.DatasetDict(train=table(), test=table()), "a DatasetDict of 'train', 'test'"),
        ([(ids, ids, y) for ids, y in PAIRS], "Words.forward(ids) needs 1 input, found 2 in a"),
        (table().rename_column("ids", "words"), "the model (Words), given a dict as forward"),
        (table().remove_columns("label"), "the loss, given the whole batch as no entry is labels"),
        (table(text=[None] * COUNT).rename_column("text", "mask"), "found as entry 'mask'"),
    ],
)
def test_a_mistake_in_the_data_is_one_line(data, message):
    model = Masked if "mask" in message else Words
    system = create_hqde_system(model, num_workers=2, engine="inline", show_progress=False)
    with pytest.raises(HQDEError) as error:
        system.train(DataLoader(data, 8), 1)
    assert message in str(error.value)
    assert "\n" not in str(error.value)
