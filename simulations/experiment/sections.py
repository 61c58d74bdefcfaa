"""The tables of an experiment's file, with the types and defaults of their keys.

A bound of a parameter is stated here only if no part states it: parts refuse their own.
"""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field

from hqde_fl.clients.training import Training
from hqde_fl.selection import Ensemble
from hqde_fl.selection.ensemble import Assignment, Mode
from hqde_fl.simulations.experiment.components import Component, Table
from hqde_fl.strategies.settings import Buffers, DensityPolicy


def kebab(name: str) -> str:
    """Return a parameter's name as files write it: ``batch-size`` for ``batch_size``."""
    return name.replace("_", "-")


class Section(BaseModel):
    """A frozen, strictly typed table with keys in kebab-case that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, alias_generator=kebab
    )


class ClientsSection(Section):
    """``[clients]``: their number, their data, and how they train."""

    count: int = Field(10, ge=1)
    members: int = Ensemble.members
    assignment: Assignment = Ensemble.assignment
    members_per_client: int = Ensemble.members_per_client
    mode: Mode = Ensemble.mode
    bagging: bool = False
    partition: Component = Field({"name": "iid"})
    epochs: int = Training.epochs
    batch_size: int = Training.batch_size
    optimizer: str = Training.optimizer
    lr: float = Training.lr
    momentum: float = Training.momentum
    weight_decay: float = Training.weight_decay
    proximal_mu: float = Training.proximal_mu
    threads: int = Training.threads
    device: str = Training.device
    regularization_noise: Table = Field({})
    entanglement_noise: Table = Field({})
    vote: Component = Field({"name": "soft-vote"})


class StrategySection(Section):
    """``[strategy]``: the clients of a round, and how their updates become the next model."""

    selector: Component = Field({"name": "uniform"})
    fraction_train: float = 1.0
    fraction_evaluate: float = 0.0
    quorum: int = 0
    deadline: float = 600.0
    rule: Component = Field({"name": "mean", "weighted": True})
    codec: Component = Field({"name": "identity"})
    downlink: Component = Field({"name": "identity"})
    server_optimizer: Component = Field({"name": "sgd"})
    exploration_noise: Table = Field({})
    screening: Table = Field({})
    density: DensityPolicy = "free"
    held_out: int = Field(0, ge=0)
    confidence_metric: str = ""
    buffers: Buffers = "merge"


class EngineSection(Section):
    """``[engine]``: where the experiment runs."""

    name: str = "ray"
    address: str = ""
    runtime_env: Table = Field({})
    resources: tuple[Table, ...] = Field((), strict=False)


class MetricsSection(Section):
    """``[metrics]``: measurements beyond those that every run records."""

    honest_mean: bool = False
    functions: tuple[str, ...] = Field((), strict=False)
    primary: str = ""
    higher_is_better: dict[str, bool] = Field({})


class CheckpointSection(Section):
    """``[checkpoint]``: the number of rounds between two checkpoints, and of checkpoints kept."""

    every: int = Field(1, ge=0)
    keep: int = Field(3, ge=1)
