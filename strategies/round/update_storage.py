"""Move the updates of a round out of this process as they arrive, where they would not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Tree
from hqde_fl.rules.executor import Store
from hqde_fl.strategies.settings import StrategySettings
from hqde_fl.strategies.state import ModelState


class UpdateStorage:
    """Stores accepted updates where the executor of a strategy wants them.

    Updates stay in this process if the executor reads them here, or if the round may still settle
    the roles of a model's entries, for which it looks at all updates.

    Parameters
    ----------
    settings : StrategySettings
        Settings of the strategy.
    models : Sequence[ModelState]
        The members as the round began.
    replies : int
        Number of replies that are expected.
    """

    def __init__(
        self, settings: StrategySettings, models: Sequence[ModelState], replies: int
    ) -> None:
        self._stores: list[Store | None] = []
        executor, whole = settings.aggregation.executor, _read_whole(settings)
        for model in models:
            fixed, size = model.settled or not model.layout.inferred, model.layout.size
            store = None
            if fixed:
                store = executor.storage(replies, size, model.layout.dtype, whole)
            self._stores.append(store)

    def stored(self, client: int, members: Mapping[int, Accepted]) -> Mapping[int, Accepted]:
        """Return a reply's update of each member, moved out of this process where it must be."""
        moved = dict(members)
        for member, accepted in members.items():
            if (store := self._stores[member]) is not None:
                moved[member] = replace(accepted, update=store(client, accepted.delta))
        return moved


def _read_whole(settings: StrategySettings) -> bool:
    """Return whether a task reads a few updates whole, and nothing else reads columns of all."""
    columns = settings.reporting.density == "always"
    columns |= settings.participation.selector.uses_sketches
    return isinstance(settings.aggregation.rule, Tree) and not columns
