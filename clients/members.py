"""The members of an ensemble, and their names in one state dict.

One member travels under the model's own names, so that stock clients can take its place; several as
``member-0/<name>``, ``member-1/<name>``, ...
"""

from __future__ import annotations

from torch import Tensor

from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import join_members
from hqde_fl.seeding import Seeds


def initial_state(task: Task, members: int, seeds: Seeds) -> dict[str, Tensor]:
    """The weights that a run starts from.

    Parameters
    ----------
    task : Task
        Builds the models.
    members : int
        How many, >= 1. Each is initialised differently.
    seeds : Seeds
        The run's seeds; member m is initialised from ``("member", m)``.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, found {members}")
    states = []
    for member in range(members):
        with reproducible(seeds.integer("member", member)):
            model = task.model()
        states.append({name: tensor.detach() for name, tensor in model.state_dict().items()})
    return join_members(states)
