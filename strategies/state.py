"""State that the server carries from one round to the next."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property

from flwr.app import ArrayRecord
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.members import join_members, split_members, uncopied_record
from hqde_fl.protocol.records import from_record, layout_of, to_record
from hqde_fl.rules.results import State
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.optimizers import Moments
from hqde_fl.strategies.resting import Resting
from hqde_fl.updates.layout import Layout


@dataclass(frozen=True, eq=False)
class ModelState:
    """All that the server carries from one round to the next for one model.

    Parameters
    ----------
    layout : Layout
        Names, shapes and places in ``flat`` of the model's entries.
    flat : Tensor
        (d,) the global model.
    buffers : Mapping[str, Tensor]
        The model's integer and boolean buffers, by name.
    moments : Mapping[str, Tensor]
        Moments of the server optimiser.
    rule : Mapping[str, Any]
        State of the rule.
    broadcast : Broadcast or None
        The clients' model; None where it is this one.
    density : Mapping[str, Any]
        State of the density diagnostics: the density matrix of the last round's updates.
    """

    layout: Layout
    flat: Tensor
    buffers: Mapping[str, Tensor]
    moments: Moments = field(default_factory=dict)
    rule: State = field(default_factory=dict)
    broadcast: Broadcast | None = None
    density: State = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: ArrayRecord) -> ModelState:
        """Return the state of a model before the first round: no moments, no rule state."""
        layout = layout_of(arrays)
        flat, buffers = layout.flatten(from_record(arrays))
        return cls(layout, flat, buffers)

    def with_arrays(self, arrays: ArrayRecord) -> ModelState:
        """Return the state with another model instead of this one; all else is kept.

        Parameters
        ----------
        arrays : ArrayRecord
            A trusted model with the same names, shapes and dtypes.

        Raises
        ------
        ConfigError
            If its names, shapes or dtypes are others.
        """
        if layout_of(arrays) != self.layout:
            raise ConfigError(
                "a run goes on with the arrays that it began with: "
                f"expected {len(self.layout.entries)} arrays of the same names, shapes and dtypes, "
                f"found {len(arrays)} ({', '.join(list(arrays)[:3])}, ...)"
            )
        flat, buffers = self.layout.flatten(from_record(arrays))
        return replace(self, flat=flat, buffers=buffers)

    @property
    def origin(self) -> Tensor:
        """The model that clients train from (d,): that of ``broadcast``, else the global model."""
        return self.flat if self.broadcast is None else self.broadcast.flat

    def model(self) -> dict[str, Tensor]:
        """Return the global model as a state dict."""
        return self.layout.restore(self.flat, self.buffers)

    @cached_property
    def record(self) -> ArrayRecord:
        """The global model as Flower sends it, read-only."""
        return to_record(self.model())


@dataclass(frozen=True, eq=False)
class ServerState:
    """State of the training that the server carries from one round to the next.

    Parameters
    ----------
    round : int
        Number of rounds done.
    models : tuple[ModelState, ...]
        The members of the ensemble; one in ordinary federated learning.
    feedback : Mapping[tuple[int, int], int]
        Client, by the id that rules know, and member -> the round since which the client holds an
        error-feedback residual. Only the keys count; the round is for the record.
    resting : Resting
        Clients without data, and the round until which each rests.
    aggregated : int or None
        Number of rounds in which a model was moved; the others were void. None in a state from a
        checkpoint of an earlier version, which did not count them.
    """

    round: int
    models: tuple[ModelState, ...]
    feedback: Mapping[tuple[int, int], int] = field(default_factory=dict)
    resting: Resting = field(default_factory=dict)
    aggregated: int | None = None

    @classmethod
    def of(cls, arrays: ArrayRecord, members: int = 1) -> ServerState:
        """Return the state before the first round.

        Parameters
        ----------
        arrays : ArrayRecord
            The initial model, or all members under their names.
        members : int
            Number of members, >= 1.

        Raises
        ------
        ConfigError
            If the arrays are not those of that number of members.
        """
        return cls(0, tuple(map(ModelState.of, _split(arrays, members))), aggregated=0)

    def with_arrays(self, arrays: ArrayRecord) -> ServerState:
        """Return the state with other models instead of these; all else is kept.

        A strategy around this one may change the model between rounds, as Flower's wrappers for
        differential privacy do.

        Raises
        ------
        ConfigError
            If their names, shapes or dtypes are others.
        """
        parts = _split(arrays, len(self.models))
        pairs = zip(self.models, parts, strict=True)
        return replace(self, models=tuple(model.with_arrays(part) for model, part in pairs))

    def arrays(self) -> ArrayRecord:
        """Return the global model as Flower sends it: all members, by their names; read-only."""
        return self.models[0].record if len(self.models) == 1 else self._joined

    @cached_property
    def _joined(self) -> ArrayRecord:
        return uncopied_record(join_members([model.record for model in self.models]))


def _split(arrays: ArrayRecord, members: int) -> list[ArrayRecord]:
    """Return each member's arrays under the model's own names.

    Raises ``ConfigError`` if the arrays are not those of that number of members.
    """
    if members == 1:
        return [arrays]
    return [uncopied_record(part) for part in split_members(arrays, members)]
