"""Stops on Ray: HQDE's own front, aggregation by map and reduce, the weight store."""

from __future__ import annotations

from functools import cache
from uuid import uuid4

import torch
from torch.utils.data import DataLoader, TensorDataset

from hqde_fl.distributed.mapreduce import MapReduce
from hqde_fl.distributed.store import DistributedWeightStore
from hqde_fl.rules import Cohort, GeometricMedian, aggregate
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.engines.ray.lease import RayLease
from hqde_fl.simulations.system.create_system import create_hqde_system
from hqde_fl.simulations.tasks.models import mlp
from hqde_fl.simulations.tour.stop import TourFigure, TourStop
from hqde_fl.updates import Updates

SEEDS = Seeds(0)


@cache
def digits() -> tuple[TensorDataset, TensorDataset]:
    """Return training and test images of scikit-learn's digits."""
    from sklearn.datasets import load_digits

    data = load_digits()
    order = torch.randperm(len(data.target), generator=SEEDS.torch("tour", "digits"))
    x = torch.tensor(data.data, dtype=torch.float32)[order] / 16
    y = torch.tensor(data.target)[order]
    return TensorDataset(x[:1400], y[:1400]), TensorDataset(x[1400:], y[1400:])


def system() -> TourFigure:
    """Train an ensemble from a model class and a loader, on four workers."""
    train, test = digits()
    loader = DataLoader(train, batch_size=64, shuffle=True, generator=SEEDS.torch("tour", "loader"))
    with create_hqde_system(
        mlp,
        {"inputs": 64, "hidden": 64, "classes": 10},
        num_workers=4,
        engine="ray",
        show_progress=False,
    ) as made:
        made.train(loader, num_epochs=4)
        accuracy = made.evaluate(DataLoader(test, batch_size=200))["accuracy"]
    return TourFigure(accuracy, f"accuracy {accuracy:.3f} after four epochs on four Ray workers")


def map_reduce() -> TourFigure:
    """Merge updates by column shards on Ray, and compare with this process, bit for bit."""
    rows = torch.randn(12, 200_000, generator=SEEDS.torch("tour", "updates"))
    updates, cohort = Updates(rows), Cohort.of(12)
    here = aggregate(GeometricMedian(), updates, cohort).delta
    on_ray = aggregate(GeometricMedian(), updates, cohort, executor=MapReduce()).delta
    differing = int((here != on_ray).sum())
    return TourFigure(differing, f"{differing} of 200,000 numbers differ from those of one process")


def weight_store() -> TourFigure:
    """Put versions of weights into the replicated store, and read an old one back."""
    store = DistributedWeightStore(f"tour-{uuid4().hex[:8]}")
    try:
        versions = [store.put("global", {"w": torch.full((1000,), float(v))}) for v in range(3)]
        old = store.get("global", versions[0]).weights["w"]
        number = len(store.versions("global"))
    finally:
        store.close()
    assert bool((old == 0).all())
    return TourFigure(number, f"{number} versions kept; the first is read back as it was")


STOPS = (
    TourStop("HQDESystem", "A model class and a loader become an ensemble.", "python.md", system),
    TourStop("MapReduce", "Ray tasks merge shards of columns.", "distributed.md", map_reduce),
    TourStop(
        "DistributedWeightStore",
        "Actors keep numbered versions of weights, in replicas.",
        "distributed.md",
        weight_store,
    ),
)


def lease() -> RayLease:
    """Return a lease on one Ray for all of these stops."""
    return RayLease()
