import logging
from dataclasses import dataclass

import datasets
import numpy as np
import pytest
import torch
from torch import nn
from torch._utils import ExceptionWrapper
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_sequence
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    Subset,
    TensorDataset,
)

from hqde_fl.clients.batch_iteration import iterate_batches, read_loader
from hqde_fl.clients.batches import Arguments
from hqde_fl.clients.data_subset import data_subset
from hqde_fl.errors import DataError, TaskError

COUNT = 7
X = torch.arange(COUNT, dtype=torch.float32)[:, None].repeat(1, 2)
Y = torch.arange(COUNT)


class Tokens(nn.Module):
    """A model whose forward takes token ids by name."""

    def forward(self, ids, mask=None):
        return ids


class Plain:
    """A map-style data set that is no torch ``Dataset``."""

    def __init__(self, examples):
        self.examples = examples

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        return self.examples[index]


def hugging_face(**columns):
    return datasets.Dataset.from_dict(
        {"ids": X.tolist(), "text": list("abcdefg"), "label": Y.tolist()} | columns
    )


PAIRS = [(x, int(y)) for x, y in zip(X, Y, strict=True)]
DICTS = [{"ids": x, "text": "t", "label": y} for x, y in PAIRS]

FORMS = {
    "tensors": TensorDataset(X, Y),
    "list": PAIRS,
    "tuple": tuple(PAIRS),
    "map-style": Plain(PAIRS),
    "arrays": Plain([(x.numpy(), np.int64(y)) for x, y in PAIRS]),
    "subset": Subset(Subset(PAIRS, range(COUNT)), np.arange(COUNT)),
    "subset of tensors": Subset(TensorDataset(X, Y), torch.arange(COUNT)),
    "concat": ConcatDataset([PAIRS[:3], Plain(PAIRS[3:])]),
    "dicts": DICTS,
    "datasets": hugging_face(),
    "formatted": hugging_face().with_format("numpy"),
    "datasets subset": Subset(hugging_face(), range(COUNT)),
    "datasets concat": Subset(ConcatDataset([hugging_face(), hugging_face()]), range(COUNT)),
    "ragged column": hugging_face(tokens=[[1] * (1 + n) for n in range(COUNT)]),
}


def inputs_of(batch):
    return batch.inputs.named["ids"] if isinstance(batch.inputs, Arguments) else batch.inputs


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_data_gives_the_same_batches(form):
    data, model = FORMS[form], Tokens()
    whole = list(iterate_batches(data, 3, model))
    for batches in (
        whole,
        list(iterate_batches(data_subset(data, np.arange(COUNT)), 3, model)),
        list(read_loader(DataLoader(data, 3), model)),
    ):
        assert [batch.size for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat([inputs_of(batch) for batch in batches]), X)
        assert torch.cat([batch.targets for batch in batches]).tolist() == Y.tolist()
    few = data_subset(data_subset(data, [5, 1, 1]), [0, 2])
    (batch,) = iterate_batches(few, 3, model)
    assert batch.targets.tolist() == [5, 1]
    generator = torch.Generator().manual_seed(1)
    shuffled = list(iterate_batches(data, 3, model, generator))
    assert [batch.size for batch in shuffled] == [3, 3]  # without the last of one example
    for batch in shuffled:
        assert inputs_of(batch)[:, 0].tolist() == batch.targets.tolist()


def test_three_tensors_are_two_inputs_and_targets_in_their_own_order_and_shuffled():
    class Two(nn.Module):
        def forward(self, first, second):
            return first

    data = TensorDataset(X, -X, Y)
    for generator in (None, torch.Generator().manual_seed(1)):
        for batch in iterate_batches(data, 4, Two(), generator):
            first, second = batch.inputs.positional
            assert torch.equal(first, -second)
            assert first[:, 0].tolist() == batch.targets.tolist()


def ragged(examples=COUNT):
    return [(torch.full((2 + number % 3,), float(number)), number) for number in range(examples)]


def padded(examples):
    rows = pad_sequence([row for row, _ in examples])  # time first
    return rows, torch.tensor([y for _, y in examples])


def packed(examples):
    rows = pack_sequence([row for row, _ in examples], enforce_sorted=False)
    return rows, torch.tensor([y for _, y in examples])


def targets_by_time(examples):
    rows, _ = padded(examples)
    return rows, rows.long()


def detection(examples):
    return [row for row, _ in examples], [{"labels": torch.tensor([y])} for _, y in examples]


@dataclass
class Sentences:
    rows: torch.Tensor
    labels: torch.Tensor


@pytest.mark.parametrize(
    ("collate", "kind"),
    [
        (padded, torch.Tensor),
        (packed, PackedSequence),
        (targets_by_time, torch.Tensor),
        (detection, list),
        (lambda examples: Sentences(*padded(examples)), Sentences),
    ],
)
def test_the_users_collate_makes_batches_of_known_sizes(collate, kind):
    data, model = ragged(), nn.Identity()
    loader = DataLoader(data, 3, collate_fn=collate)
    for batches in (
        list(iterate_batches(data, 3, model, collate=collate)),
        list(read_loader(loader, model)),
    ):
        assert [batch.size for batch in batches] == [3, 3, 1]
        assert {type(batch.inputs) for batch in batches} == {kind}


@pytest.mark.parametrize(
    ("options", "sizes"),
    [
        ({"batch_size": 3, "drop_last": True}, [3, 3]),
        ({"batch_sampler": [[0, 1], [2]]}, [2, 1]),
        ({"batch_size": None}, [1] * COUNT),
    ],
)
def test_the_sizes_of_a_loaders_batches(options, sizes):
    loader = DataLoader(TensorDataset(X, Y), **options)
    assert [batch.size for batch in read_loader(loader, nn.Identity())] == sizes
    assert [batch.size for batch in read_loader(list(loader), nn.Identity())] == sizes


def test_a_stream_is_read_for_evaluation():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(PAIRS)

    for stream in (Stream(), hugging_face().to_iterable_dataset()):
        batches = list(read_loader(DataLoader(stream, 3), Tokens()))
        assert [batch.size for batch in batches] == [3, 3, 1]
        assert torch.equal(torch.cat([inputs_of(batch) for batch in batches]), X)


def test_a_loader_is_left_as_it_was_and_keeps_its_order():
    data = hugging_face()
    loader = DataLoader(data, 3, shuffle=True, generator=torch.Generator().manual_seed(4))
    before = loader.dataset, loader.collate_fn
    order = [y for batch in read_loader(loader, Tokens()) for y in batch.targets.tolist()]
    assert before == (loader.dataset, loader.collate_fn)
    assert data.format["type"] is None
    loader.generator.manual_seed(4)
    assert order == [y for batch in loader for y in batch["label"].tolist()]


@pytest.mark.parametrize("data", [hugging_face(), Subset(hugging_face(), range(COUNT))])
def test_the_users_collate_gets_the_examples_as_they_are(data):
    def collate(examples):
        assert [type(value) for value in examples[0].values()] == [list, str, int]
        return torch.tensor([row["ids"] for row in examples]), [row["label"] for row in examples]

    for batches in (
        iterate_batches(data, 3, Tokens(), collate=collate),
        read_loader(DataLoader(data, 3, collate_fn=collate), Tokens()),
    ):
        assert torch.equal(torch.cat([batch.inputs for batch in batches]), X)


def failing(examples):
    raise ValueError("no padding")


class Broken(Dataset):
    def __len__(self):
        return 4

    def __getitem__(self, index):
        raise OSError(f"file {index} is gone")


@pytest.mark.parametrize(
    ("data", "collate", "message"),
    [
        (
            ragged(),
            None,
            "a batch needs examples of one shape, found entry 0 with (2,), (3,), (4,): "
            "pad it in a collate function (Task.collate, or the loader's collate_fn)",
        ),
        (
            hugging_face(ids=[[1] * (1 + n) for n in range(COUNT)]),
            None,
            "found entry 'ids' with (1,), (2,), (3,): pad it",
        ),
        ([([1, 2], 0), ([1], 1)], None, "of one length, found entry 0 with 1, 2: pad it"),
        ([(X[0], 0), (X[0], 1, 2)], None, "of one length, found an example with 2, 3"),
        ([(X[0], Y[1]), (X[0], 1)], None, "of one type, found entry 1 of Tensor and int"),
        ([{"ids": X[0], "y": 1}, {"ids": X[0]}], None, "the same entries, found some without 'y'"),
        ([(X[0], None)], None, "torch makes no batch of type NoneType, found as entry 1: conve"),
        (
            [(Tokens(), 1)],
            None,
            "torch makes no batch of type Tokens, found as entry 0: convert it in the data set or",
        ),
        (
            ragged(),
            lambda examples: None,
            "the collate function returned None: does it return a batch? (<lambda>: test_batch_",
        ),
        (ragged(), failing, "the collate function raised ValueError: no padding (test_batch"),
        (Broken(), None, "the data set raised OSError: file 0 is gone (test_batch_iteration.py"),
    ],
)
def test_what_cannot_be_a_batch_is_one_line(data, collate, message):
    loader = DataLoader(data, 3, collate_fn=collate)
    for batches in (
        iterate_batches(data, 3, Tokens(), collate=collate),
        read_loader(loader, Tokens()),
    ):
        with pytest.raises(TaskError) as error:
            next(batches)
        text = str(error.value)
        assert message in text
        assert "\n" not in text


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (OSError("file 3 is gone"), r"the data set raised OSError: file 3 is gone \(test_batch_"),
        (TaskError("a batch needs one shape"), "a batch needs one shape$"),
    ],
)
def test_an_error_in_a_process_that_loads_data_is_one_line(cause, message):
    class Loader:
        def __iter__(self):
            return self

        def __next__(self):
            try:
                raise cause
            except Exception:
                ExceptionWrapper(where="in DataLoader worker process 0").reraise()

    with pytest.raises(TaskError, match=f"^{message}"):
        next(read_loader(Loader(), Tokens()))


def test_a_data_set_that_runs_out_of_something_does_not_end_the_batches():
    class Found(Dataset):
        def __len__(self):
            return 4

        def __getitem__(self, index):
            return next(pair for number, pair in enumerate(PAIRS[:2]) if number == index)

    message = r"^the data set raised StopIteration \(test_batch_iteration.py, .* index 2\)$"
    with pytest.raises(TaskError, match=message):
        list(iterate_batches(Found(), 1, Tokens()))
    with pytest.raises(TaskError, match=message):
        list(read_loader(DataLoader(Found()), Tokens()))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (datasets.DatasetDict(train=hugging_face()), "found a DatasetDict of 'train': choose one"),
        (DataLoader(PAIRS), "found a DataLoader: give its data set"),
        (hugging_face().to_pandas(), "found a DataFrame: datasets.Dataset.from_pandas makes one"),
        ((example for example in PAIRS), "with __getitem__ and __len__, found generator"),
        ([], "needs at least 1 example, found 0"),
        (TensorDataset(X[:0], Y[:0]), "needs at least 1 example, found 0"),
    ],
)
def test_what_is_no_data_set_is_refused(data, message):
    with pytest.raises(DataError, match=message):
        next(iterate_batches(data, 3, Tokens()))
    if isinstance(data, dict):
        with pytest.raises(DataError, match=message):
            next(read_loader(DataLoader(data, 3), Tokens()))


@pytest.mark.parametrize(
    "data", [TensorDataset(X, Y), hugging_face(), datasets.DatasetDict(train=hugging_face())]
)
def test_a_data_set_is_no_loader(data):
    message = rf"a loader of batches is needed, found a {type(data).__name__}: .*DataLoader\(data"
    with pytest.raises(DataError, match=message):
        next(read_loader(data, Tokens()))


def test_dropped_entries_are_logged_once_for_all_batches(caplog, monkeypatch):
    monkeypatch.setattr("hqde_fl.clients.batch_reader._logged", set())
    with caplog.at_level(logging.INFO, "flwr"):
        for _ in range(2):
            list(iterate_batches(hugging_face(), 3, Tokens()))
    assert [record.getMessage() for record in caplog.records] == [
        "Tokens.forward(ids, mask) does not get these entries of a batch: text"
    ]
