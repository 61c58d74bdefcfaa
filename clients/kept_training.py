"""What a client keeps of its training from one of its rounds to the next, in its own state.

That is the state of its optimiser, such as the momentum, and its place in its data: where asked for
(``Training.keep_optimizer``), and nothing of it is ever sent.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Self, final

import torch
from flwr.app import ArrayRecord, ConfigRecord, Context
from torch import Tensor, nn
from torch.optim import Optimizer

from hqde_fl.errors import TaskError
from hqde_fl.protocol.members import add_member_prefix, member_name, select_member, uncopied_record
from hqde_fl.protocol.records import from_record, to_record

OPTIMIZER = "hqde.optimizer"
"""Name in the client's state of the tensors of its optimisers, ``member-<i>/<weight>/<name>``."""

PLACE = "hqde.place-in-data"
"""Name in the client's state of the number of batches that it has read for each member."""

BATCHES = "batches"


@final
@dataclass(eq=False)
class KeptTraining:
    """The state of a member's optimiser, and the client's place in its data.

    Parameters
    ----------
    orders : Callable[[int], torch.Generator]
        Number of a pass over the data, from 0 -> the generator of its order.
    batches : int
        Number of batches that the client has read for the member in all rounds.
    tensors : dict[str, Tensor]
        ``<weight>/<name>`` -> tensor of the optimiser's state.
    """

    orders: Callable[[int], torch.Generator]
    batches: int = 0
    tensors: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def of(cls, context: Context, member: int, orders: Callable[[int], torch.Generator]) -> Self:
        """Return what a client's state holds of a member; nothing before the first round.

        Parameters
        ----------
        context : Context
            The client's context.
        member : int
            The member; 0 where there is one model.
        orders : Callable[[int], torch.Generator]
            Number of a pass over the data -> the generator of its order.
        """
        places = context.state.config_records.get(PLACE, ConfigRecord())
        batches = select_member(member, places).get(BATCHES, 0)
        kept = context.state.array_records.get(OPTIMIZER, ArrayRecord())
        own = from_record(select_member(member, kept))
        return cls(orders, batches if isinstance(batches, int) else 0, own)

    def store(self, context: Context, member: int) -> None:
        """Keep this in the client's state instead of what that holds of the member."""
        prefix = f"{member_name(member)}/"
        kept = context.state.array_records.get(OPTIMIZER, ArrayRecord())
        others = {name: array for name, array in kept.items() if not name.startswith(prefix)}
        own = add_member_prefix(member, to_record(self.tensors))
        context.state[OPTIMIZER] = uncopied_record({**others, **own})
        places = context.state.config_records.get(PLACE, ConfigRecord())
        place = add_member_prefix(member, {BATCHES: self.batches})
        context.state[PLACE] = ConfigRecord({**places, **place})

    def load(self, model: nn.Module, optimizer: Optimizer) -> None:
        """Give an optimiser the state that was kept.

        Parameters
        ----------
        model : nn.Module
            The model, whose weights have the names.
        optimizer : Optimizer
            The optimiser of its weights, without a state.

        Raises
        ------
        TaskError
            If a tensor is not of the shape of its weight, or of a weight that the model lacks.
        """
        parameters = dict(model.named_parameters())
        for key, tensor in self.tensors.items():
            weight, _, name = key.rpartition("/")
            parameter = parameters.get(weight)
            if parameter is None or tensor.shape not in ((), parameter.shape):
                shape = None if parameter is None else tuple(parameter.shape)
                raise TaskError(
                    f"the client has kept {name!r} of weight {weight!r} {tuple(tensor.shape)}, "
                    f"found a weight {shape}: a kept optimiser needs the same model in every round"
                )
            # the count of steps is on the CPU, wherever the weights are
            moved = tensor if name == "step" else tensor.to(parameter.device)
            optimizer.state[parameter][name] = moved

    def keep(self, model: nn.Module, optimizer: Optimizer, batches: int) -> None:
        """Take over an optimiser's state after a training.

        Parameters
        ----------
        model, optimizer : nn.Module and Optimizer
            The model and its optimiser.
        batches : int
            Number of batches that the training has read.
        """
        self.batches += batches
        self.tensors = {
            f"{weight}/{name}": value
            for weight, parameter in model.named_parameters()
            for name, value in optimizer.state.get(parameter, {}).items()
            if isinstance(value, Tensor)
        }
