"""Move the updates of a round out of this process as they arrive, where they would not fit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from logging import INFO

from hqde_fl.protocol.flower_internals import log
from hqde_fl.protocol.screening import Accepted
from hqde_fl.rules import Tree
from hqde_fl.rules.executor import UpdateStore
from hqde_fl.strategies.settings import StrategySettings
from hqde_fl.strategies.state import ModelState
from hqde_fl.updates.received_updates import StoredUpdate


class UpdateStorage:
    """Stores accepted updates where the executor of a strategy wants them.

    Parameters
    ----------
    settings : StrategySettings
        Settings of the strategy.
    models : Sequence[ModelState]
        The members as the round began.
    replies : int
        Number of replies that are expected.
    number : int
        The round, for the log.
    """

    def __init__(
        self, settings: StrategySettings, models: Sequence[ModelState], replies: int, number: int
    ) -> None:
        self._stores: list[UpdateStore | None] = []
        executor, whole = settings.aggregation.executor, _read_whole(settings)
        for model in models:
            size, dtype = model.layout.size, model.layout.dtype
            # where the round may still settle the roles of entries, it looks at whole updates
            settled = model.settled or not model.layout.inferred
            store = executor.storage(replies, size, dtype, whole=whole, settled=settled)
            self._stores.append(store)
        if (place := next(filter(None, self._stores), None)) is not None:
            numbers = sum(model.layout.size * model.layout.dtype.itemsize for model in models)
            log(
                INFO,
                "round %d: %d updates of %.3g MB are kept in %s, not in memory (executor %s)",
                number,
                replies,
                numbers / 1e6,
                place,
                executor,
            )

    def stored(self, client: int, members: Mapping[int, Accepted]) -> Mapping[int, Accepted]:
        """Return a reply's update of each member, moved out of this process where it must be."""
        moved = dict(members)
        for member, accepted in members.items():
            store = self._stores[member]
            if store is not None and not isinstance(accepted.update, StoredUpdate):
                moved[member] = replace(accepted, update=store(client, accepted.update))
        return moved


def _read_whole(settings: StrategySettings) -> bool:
    """Return whether a task reads a few updates whole, and nothing else reads columns of all."""
    columns = settings.reporting.density == "always"
    columns |= settings.participation.selector.uses_sketches
    return isinstance(settings.aggregation.rule, Tree) and not columns
