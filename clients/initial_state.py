"""The initial models of a run."""

from __future__ import annotations

from torch import Tensor, nn

from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_calls import build_model
from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.protocol.members import join_members
from hqde_fl.seeding import Seeds
from hqde_fl.updates.roles import Roles, roles_of


def build_member(task: Task, seeds: Seeds, member: int) -> nn.Module:
    """Return a new model of an ensemble's member: the same everywhere in a run.

    So what a model draws at random and does not hold in its state dict is the same in every client
    and at the server. The process's generators are not advanced.

    Parameters
    ----------
    task : Task
        Builds the model.
    seeds : Seeds
        The run's seeds; member m is initialised with the seed ``("member", m)``.
    member : int
        The member's number.

    Raises
    ------
    TaskError
        If the model cannot be built.
    """
    with reproducible(seeds.integer("member", member)):
        return build_model(task)


def initial_models(task: Task, members: int, seeds: Seeds) -> list[nn.Module]:
    """Return the initial models of an ensemble's members.

    Parameters
    ----------
    task : Task
        Builds the models.
    members : int
        Number of members, >= 1; each has different initial weights.
    seeds : Seeds
        The run's seeds.

    Raises
    ------
    ConfigError
        If ``members`` is too small, or a model cannot be trained in a federation: it cannot be
        built, has nothing to train, or an entry that cannot be carried, which the message names.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, found {members}")
    models = []
    for member in range(members):
        try:
            model = build_member(task, seeds, member)
        except TaskError as error:
            raise ConfigError(str(error)) from error
        roles_of(model)  # raises ConfigError
        models.append(model)
    return models


def initial_state(task: Task, members: int, seeds: Seeds) -> dict[str, Tensor]:
    """Return the initial state dict of an ensemble, with the names of ``join_members``.

    The parameters and errors are those of ``initial_models``.
    """
    models = initial_models(task, members, seeds)
    return join_members(
        [{name: tensor.detach() for name, tensor in model.state_dict().items()} for model in models]
    )


def initial_roles(task: Task) -> Roles:
    """Return the roles of the entries of a task's model, the same for every member.

    Raises
    ------
    ConfigError
        As ``initial_models`` does.
    """
    (model,) = initial_models(task, 1, Seeds(0))
    return roles_of(model)
