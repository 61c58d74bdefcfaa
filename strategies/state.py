"""State that the server carries from one round to the next."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from flwr.app import ArrayRecord
from torch import Tensor

from hqde_fl.errors import ConfigError
from hqde_fl.privacy.ledger import PrivacyState
from hqde_fl.protocol.members import join_members, split_members, uncopied_record
from hqde_fl.protocol.records import from_record, layout_of, model_record, triples
from hqde_fl.protocol.screening import SentModel
from hqde_fl.rules.results import State
from hqde_fl.selection import ClientHistory
from hqde_fl.strategies.clients_model import Broadcast
from hqde_fl.strategies.control_variates import ServerControl
from hqde_fl.strategies.holdings import Holdings
from hqde_fl.strategies.optimizers import Moments
from hqde_fl.strategies.resting import Resting
from hqde_fl.updates.finite import all_finite
from hqde_fl.updates.layout import Layout
from hqde_fl.updates.roles import Roles


@dataclass(frozen=True, eq=False)
class ModelState:
    """All that the server carries from one round to the next for one model.

    Parameters
    ----------
    layout : Layout
        Names, shapes and roles of the model's entries, and the weights' places in ``flat``.
    flat : Tensor
        (d,) the weights of the global model.
    others : Mapping[str, Tensor]
        The model's statistics, counters and frozen entries, by name.
    moments : Mapping[str, Tensor]
        Moments of the server optimiser.
    rule : Mapping[str, Any]
        State of the rule.
    broadcast : Broadcast or None
        The clients' model; None where it is this one.
    density : Mapping[str, Any]
        State of the density diagnostics: the density matrix of the last round's updates.
    holdings : Holdings
        The entries that nodes say they hold.
    settled : bool
        True once a round has shown which weights are trained, where roles are inferred.
    control : ServerControl or None
        The server's control variate; None without SCAFFOLD.
    """

    layout: Layout
    flat: Tensor
    others: Mapping[str, Tensor]
    moments: Moments = field(default_factory=dict)
    rule: State = field(default_factory=dict)
    broadcast: Broadcast | None = None
    density: State = field(default_factory=dict)
    holdings: Holdings = field(default_factory=Holdings)
    settled: bool = False
    control: ServerControl | None = None

    @classmethod
    def of(cls, arrays: ArrayRecord, roles: Roles | None = None) -> ModelState:
        """Return the state of a model before the first round: no moments, no rule state.

        Raises
        ------
        ConfigError
            If no entry of the model can be trained, or a role is given for an unknown entry.
        """
        layout, state = layout_of(arrays, roles), from_record(arrays)
        if roles is None:  # nobody trains infinities, such as those of an attention mask
            masks = [e.name for e in layout.weights if not all_finite(state[e.name])]
            layout = layout.with_roles(dict.fromkeys(masks, "frozen"), {})
        if layout.size == 0:
            first = ", ".join(f"{e.name} {e.dtype}, {e.role}" for e in layout.entries[:3])
            raise ConfigError(
                "a model needs at least 1 floating-point number that is trainable, "
                f"found {len(layout.entries)} entries ({first})"
            )
        flat, others = layout.flatten(state)
        return cls(layout, flat, others)

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
        if triples(arrays) != [(e.name, e.shape, e.dtype) for e in self.layout.entries]:
            raise ConfigError(
                "a run goes on with the arrays that it began with: "
                f"expected {len(self.layout.entries)} arrays of the same names, shapes and dtypes, "
                f"found {len(arrays)} ({', '.join(list(arrays)[:3])}, ...)"
            )
        flat, others = self.layout.flatten(from_record(arrays))
        return replace(self, flat=flat, others=others)

    def with_layout(self, layout: Layout) -> ModelState:
        """Return the state of the same model with other roles or ties of its entries.

        What the optimiser and the rule remember of a weight is kept; for new weights it is zero.
        The density diagnostics begin again.
        """
        flat, others = layout.flatten(self.model())
        places = _places(self.layout, layout)
        known = self.flat.to(flat)[places.clamp(min=0)] if self.layout.size else flat
        flat = torch.where(places >= 0, known, flat)  # half precision has fewer digits than flat
        moments = _moved(self.moments, self.layout.size, places)
        rule = _moved(self.rule, self.layout.size, places)
        broadcast = None if self.broadcast is None else self.broadcast.with_layout(layout)
        control = self.control
        if control is not None:
            vector = _moved(control.vector, self.layout.size, places).to(layout.dtype)
            control = ServerControl(vector, _moved(control.rule, self.layout.size, places))
        return replace(
            self,
            layout=layout,
            flat=flat,
            others=others,
            moments=moments,
            rule=rule,
            broadcast=broadcast,
            density={},
            control=control,
        )

    @property
    def origin(self) -> Tensor:
        """The weights (d,) that clients train from: those of ``broadcast`` if there is one."""
        return self.flat if self.broadcast is None else self.broadcast.flat

    @cached_property
    def sent(self) -> SentModel:
        """The model that clients train from."""
        return SentModel(self.layout, self.origin, self.others)

    def model(self) -> dict[str, Tensor]:
        """Return the global model as a state dict."""
        return self.layout.restore(self.flat, self.others)

    @cached_property
    def record(self) -> ArrayRecord:
        """The global model as Flower sends it, read-only."""
        return model_record(self.model(), self.layout)

    @property
    def sent_record(self) -> ArrayRecord:
        """The model that clients train from, as Flower sends it, read-only."""
        return self.record if self.broadcast is None else self.broadcast.record


def _places(before: Layout, after: Layout) -> Tensor:
    """Return each number's place in an earlier flat vector, (d,); -1 for a number that is new."""
    places = torch.full((after.size,), -1)
    for entry in after.weights:
        old = before.by_name[entry.name]
        if old.offset is not None:
            places[entry.span] = torch.arange(old.offset, old.offset + old.numbers)
    return places


def _moved(value: Any, size: int, places: Tensor) -> Any:
    """Return state with every vector of ``size`` numbers read at other places, 0 at places -1."""
    if isinstance(value, Mapping):
        return {key: _moved(part, size, places) for key, part in value.items()}
    if isinstance(value, Tensor) and value.shape == (size,):
        return torch.where(places >= 0, value[places.clamp(min=0)], 0)
    return value


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
    histories : Mapping[int, ClientHistory]
        Client, by the id that rules know -> what was measured of it, for selectors and rules that
        use it; else empty.
    selector : State
        The selector's own memory.
    virtual_time : float
        Virtual seconds of all rounds done; 0 without a virtual clock.
    privacy : PrivacyState or None
        What differential privacy has spent; None without it.
    """

    round: int
    models: tuple[ModelState, ...]
    feedback: Mapping[tuple[int, int], int] = field(default_factory=dict)
    resting: Resting = field(default_factory=dict)
    aggregated: int | None = None
    histories: Mapping[int, ClientHistory] = field(default_factory=dict)
    selector: State = field(default_factory=dict)
    virtual_time: float = 0.0
    privacy: PrivacyState | None = None

    @classmethod
    def of(cls, arrays: ArrayRecord, members: int = 1, roles: Roles | None = None) -> ServerState:
        """Return the state before the first round.

        Parameters
        ----------
        arrays : ArrayRecord
            The initial model, or all members under their names.
        members : int
            Number of members, >= 1.
        roles : Roles, optional
            The roles of a model's entries; inferred if not given.

        Raises
        ------
        ConfigError
            If the arrays are not those of that number of members, nothing in them can be trained,
            or a role is given for an entry that there is not.
        """
        models = tuple(ModelState.of(part, roles) for part in _split(arrays, members))
        return cls(0, models, aggregated=0)

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

    def without_holdings(self, nodes: Collection[int] | None = None) -> ServerState:
        """Return the state as if some nodes, by default all, held no entries of a model.

        What nodes have stored may be gone, as when a run is resumed; all is sent to them again.
        """
        models = tuple(
            replace(m, holdings=Holdings() if nodes is None else m.holdings.without(*nodes))
            for m in self.models
        )
        return replace(self, models=models)

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
