"""An object that cannot be sent to workers on Ray is named by its path in the user's data."""

from __future__ import annotations

import threading
from typing import Any

import pytest
import torch
from ray import cloudpickle
from torch import nn
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset, default_collate

from hqde_fl import create_hqde_system
from hqde_fl.errors import ConfigError
from hqde_fl.simulations.system.pickling import can_pickle, unpicklable_part


class Locked(Dataset[Any]):
    """A data set with a lock, and a reference to itself."""

    def __init__(self) -> None:
        self.x = torch.ones(8, 3)
        self.me = self
        self.lock = threading.Lock()

    def __len__(self) -> int:
        return 8

    def __getitem__(self, index: int) -> Any:
        return self.x[index], 0


class Nested(Locked):
    """A data set with a generator deep inside."""

    def __init__(self) -> None:
        self.sources = {"first": [1, Holder()]}


class Holder:
    def __init__(self) -> None:
        self.rows = (row for row in range(3))


class Refuses(Locked):
    def __init__(self) -> None:
        self.x = torch.ones(8, 3)

    def __reduce__(self) -> Any:
        raise RuntimeError("not me")


LOCK = type(threading.Lock())


@pytest.mark.parametrize(
    ("value", "path", "kind"),
    [
        (Locked(), "lock", LOCK),
        (Subset(Locked(), [0, 1]), "dataset.lock", LOCK),
        (Locked().__getitem__, "__self__.lock", LOCK),
        (Nested(), "sources['first'][1].rows", type(row for row in ())),
        (Refuses(), "", Refuses),
    ],
)
def test_the_innermost_part_is_found(value: Any, path: str, kind: type) -> None:
    part = unpicklable_part(value)
    assert part is not None
    assert (part[0], type(part[1])) == (path, kind)
    assert not can_pickle(value)


@pytest.mark.parametrize("value", [TensorDataset(torch.ones(3)), default_collate, lambda x: x])
def test_nothing_is_found_where_all_can_be_pickled(value: Any) -> None:
    assert unpicklable_part(value) is None
    assert can_pickle(value)


class PicklingGrid:
    """A ``RayGrid`` that goes no further than pickling the app."""

    def __init__(self, app: Any, *_: Any) -> None:
        cloudpickle.dumps(app)
        raise OSError("no Ray here")


class Lease:
    released = 0

    def release(self) -> None:
        Lease.released += 1


class LockedFunction:
    """A function with a lock."""

    def __init__(self) -> None:
        self.lock = threading.Lock()

    def __call__(self, *values: Any) -> Any:
        collates = len(values) == 1
        return default_collate(*values) if collates else nn.functional.cross_entropy(*values)


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr("hqde_fl.simulations.engines.ray.grid.RayGrid", PicklingGrid)
    monkeypatch.setattr("hqde_fl.simulations.engines.ray.lease.RayLease", Lease)
    monkeypatch.setattr(Lease, "released", 0)

    def start(data: Any, collate: Any = None, loss: Any = None) -> None:
        system = create_hqde_system(
            nn.Linear,
            {"in_features": 3, "out_features": 2},
            2,
            loss_fn=loss,
            engine="ray",
            show_progress=False,
        )
        system.train(DataLoader(data, batch_size=4, collate_fn=collate), 1)

    return start


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"data": Locked()}, r"the data set's attribute 'lock' \(type _thread\.lock\) cannot be"),
        ({"data": Subset(Locked(), range(8))}, r"the data set's attribute 'dataset\.lock' \("),
        ({"data": Refuses()}, r"the data set \(type .*test_pickling\.Refuses\) cannot be pickled"),
        ({"collate": LockedFunction()}, r"the loader's collate_fn's attribute 'lock' \(type _thr"),
        (
            {"loss": LockedFunction()},
            "the model or its loss cannot be pickled, as engine 'ray' needs",
        ),
    ],
)
def test_a_system_names_what_it_cannot_send(
    train: Any, options: dict[str, Any], message: str
) -> None:
    plain = TensorDataset(torch.ones(8, 3), torch.zeros(8, dtype=torch.long))
    with pytest.raises(ConfigError, match=message) as caught:
        train(**{"data": plain} | options)
    assert "\n" not in str(caught.value)
    assert Lease.released == 1


def test_other_errors_stay_what_they_are(train: Any) -> None:
    plain = TensorDataset(torch.ones(8, 3), torch.zeros(8, dtype=torch.long))
    with pytest.raises(OSError, match="no Ray here"):
        train(plain)
    assert Lease.released == 1
