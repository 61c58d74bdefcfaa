"""The members of an ensemble, and their names in one state dict.

One member travels under the model's own names, so that stock clients can take its place; several as
``member-0/<name>``, ``member-1/<name>``, ...
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import Tensor

from hqde_fl.clients.reproducibility import reproducible
from hqde_fl.clients.task import Task
from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import member_name, named
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
            states.append(task.model().state_dict())
    return join(states)


def join(states: Sequence[Mapping[str, Tensor]]) -> dict[str, Tensor]:
    """The members' state dicts as the one that travels. Tensors are detached, not copied."""
    if len(states) == 1:
        return {name: tensor.detach() for name, tensor in states[0].items()}
    joined: dict[str, Tensor] = {}
    for member, state in enumerate(states):
        joined |= named(member, {name: tensor.detach() for name, tensor in state.items()})
    return joined


def split(state: Mapping[str, Tensor], members: int) -> list[dict[str, Tensor]]:
    """The members' state dicts from the one that travelled.

    Raises
    ------
    ConfigError
        If the state is not that of as many members.
    """
    if members < 1:
        raise ConfigError(f"members must be >= 1, found {members}")
    if members == 1:
        return [dict(state)]
    states: dict[str, dict[str, Tensor]] = {member_name(member): {} for member in range(members)}
    for key, tensor in state.items():
        prefix, _, name = key.partition("/")
        if prefix not in states or not name:
            raise ConfigError(
                f"the state of {members} members has keys member-0/... to "
                f"member-{members - 1}/..., found {key!r}"
            )
        states[prefix][name] = tensor
    for prefix, member_state in states.items():
        if not member_state:
            raise ConfigError(f"the state of {members} members has no {prefix}/...")
    return list(states.values())
