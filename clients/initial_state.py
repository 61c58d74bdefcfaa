"""The initial weights of a run."""

from __future__ import annotations

from torch import Tensor

from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import join_members
from hqde_fl.seeding import Seeds
from hqde_fl.updates.roles import Roles, roles_of


def initial_state(task: Task, members: int, seeds: Seeds) -> dict[str, Tensor]:
    """Return the initial state dict of an ensemble, with the names of ``join_members``.

    Parameters
    ----------
    task : Task
        Builds the models.
    members : int
        Number of members, >= 1; each has different initial weights.
    seeds : Seeds
        The run's seeds; member m is initialised with the seed ``("member", m)``.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, found {members}")
    states = []
    for member in range(members):
        with reproducible(seeds.integer("member", member)):
            model = task.model()
        states.append({name: tensor.detach() for name, tensor in model.state_dict().items()})
    return join_members(states)


def initial_roles(task: Task) -> Roles:
    """Return the roles of the entries of a task's model, the same for every member.

    Raises
    ------
    ConfigError
        If an entry cannot be carried, or nothing can be trained.
    """
    with reproducible(0):  # building a model must not advance the process's generators
        return roles_of(task.model())
