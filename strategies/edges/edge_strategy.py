"""The Strategy with edges, for Flower apps of the user's own."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, final

from flwr.app import ArrayRecord, ConfigRecord, Message, MetricRecord
from flwr.serverapp import Grid
from flwr.serverapp.strategy import Result, Strategy

from hqde_fl.errors import ConfigError
from hqde_fl.strategies.edges.edge_grid import EdgeGrid
from hqde_fl.strategies.edges.settings import EdgeSettings
from hqde_fl.strategies.hqde import HQDEStrategy


@final
class EdgeStrategy(Strategy):
    """A strategy whose clients belong to edges, all of which run in the server's process.

    ``start`` runs the root's strategy on an ``EdgeGrid`` around the Grid that it is given. It works
    with any Flower ``ClientApp``, but not inside another strategy.

    Parameters
    ----------
    root : HQDEStrategy
        The root's strategy; its clients are the edges.
    edges : EdgeSettings
        Settings of the edges.
    seed : int
        Root of all that edges draw at random, >= 0.

    Attributes
    ----------
    grid : EdgeGrid or None
        The edges of the last ``start``.
    """

    def __init__(self, root: HQDEStrategy, edges: EdgeSettings, seed: int = 0) -> None:
        if (root.settings.aggregation.privacy or edges.aggregation.privacy) is not None:
            raise ConfigError(
                "edges have no differential privacy (Aggregation.privacy): an edge's update is not "
                "one client's, and an edge sends it without noise"
            )
        self.root, self.edges, self._seed = root, edges, seed
        self.grid: EdgeGrid | None = None

    def start(self, grid: Grid, *arguments: Any, **options: Any) -> Result:
        """Run the rounds on a grid of clients; further arguments are those of ``HQDEStrategy``."""
        roles = self.root.settings.roles
        self.grid = EdgeGrid(grid, self.edges, seed=self._seed, roles=roles)
        return self.root.start(self.grid, *arguments, **options)

    def summary(self) -> None:
        """Log the parts of the root's strategy."""
        self.root.summary()

    def configure_train(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the root's messages to the edges; ``grid`` has to be an ``EdgeGrid``."""
        return self.root.configure_train(server_round, arrays, config, grid)

    def aggregate_train(
        self, server_round: int, replies: Iterable[Message]
    ) -> tuple[ArrayRecord | None, MetricRecord | None]:
        """Merge the edges' replies by the root's rule."""
        return self.root.aggregate_train(server_round, replies)

    def configure_evaluate(
        self, server_round: int, arrays: ArrayRecord, config: ConfigRecord, grid: Grid
    ) -> Iterable[Message]:
        """Return the root's evaluation messages to the edges."""
        return self.root.configure_evaluate(server_round, arrays, config, grid)

    def aggregate_evaluate(
        self, server_round: int, replies: Iterable[Message]
    ) -> MetricRecord | None:
        """Return the means of the metrics that edges report."""
        return self.root.aggregate_evaluate(server_round, replies)
