"""Simulated heterogeneity: ``speed``, ``bandwidth`` and ``drop-out`` in ``[clients]``."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Self, TypeVar, final

from flwr.app import Message
from flwr.serverapp import Grid

from hqde_fl.errors import ConfigError, TaskError
from hqde_fl.registry import Registry
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.catalogue import BANDWIDTHS, DROP_OUTS, SPEEDS
from hqde_fl.simulations.experiment.components import build_component
from hqde_fl.simulations.experiment.sections import ClientsSection
from hqde_fl.simulations.heterogeneity.bandwidth import Bandwidth
from hqde_fl.simulations.heterogeneity.client_times import ClientTimes
from hqde_fl.simulations.heterogeneity.drop_out import DropOut
from hqde_fl.simulations.heterogeneity.drop_out_grid import DropOutGrid
from hqde_fl.simulations.heterogeneity.speed import Speed
from hqde_fl.simulations.heterogeneity.virtual_time_grid import Delays, VirtualTimeGrid

T = TypeVar("T")


@final
@dataclass(frozen=True)
class Heterogeneity:
    """The simulated differences between clients, none of which need be there.

    Parameters
    ----------
    speed : Speed, optional
        How fast clients train.
    bandwidth : Bandwidth, optional
        Their connections.
    drop_out : DropOut, optional
        The clients that drop out of a round.
    passes : tuple[int, int]
        Epochs of local training, and the number of models that a client trains where its message
        lists none.
    seeds : Seeds
        The run's seeds.
    step_examples : int, default=0
        Examples in the steps of a round, where clients take steps; 0 where they take passes.
    """

    speed: Speed | None
    bandwidth: Bandwidth | None
    drop_out: DropOut | None
    passes: tuple[int, int]
    seeds: Seeds
    step_examples: int = 0

    @classmethod
    def build(cls, clients: ClientsSection, seeds: Seeds) -> Self:
        """Return the heterogeneity that a section configures.

        Raises
        ------
        ConfigError
            If a table does not describe its part.
        """
        return cls(
            _build(SPEEDS, clients.speed, "clients.speed"),
            _build(BANDWIDTHS, clients.bandwidth, "clients.bandwidth"),
            _build(DROP_OUTS, clients.drop_out, "clients.drop-out"),
            (clients.epochs, clients.members),
            seeds,
            clients.steps * clients.batch_size,
        )

    @property
    def times(self) -> ClientTimes:
        """Return what computes the clients' times."""
        return ClientTimes(self.speed, self.bandwidth, *self.passes, self.seeds, self.step_examples)

    @property
    def keeps_time(self) -> bool:
        """Return True if rounds are timed by a virtual clock."""
        return self.speed is not None or self.bandwidth is not None

    def check(self, clients: int) -> None:
        """Raise ``ConfigError`` unless the parts know each of so many clients, and work.

        Files are read for it, which only the server needs.
        """
        for part in (self.speed, self.bandwidth, self.drop_out):
            if part is not None:
                part.check(clients)
        times, last = self.times, clients - 1
        try:
            times.example_seconds(last, 1)
            times.connection(last, 1)
            if self.drop_out is not None:
                self.drop_out.part(last, 1, self.seeds)
        except TaskError as error:
            raise ConfigError(str(error)) from error

    def check_simulated(self, *, real_nodes: bool) -> None:
        """Raise ``ConfigError`` if anything is configured and the nodes are real ones."""
        parts = {
            "clients.speed": self.speed,
            "clients.bandwidth": self.bandwidth,
            "clients.drop-out": self.drop_out,
        }
        configured = [key for key, part in parts.items() if part is not None]
        if real_nodes and configured:
            raise ConfigError(
                f"{configured[0]} is for simulated clients: real nodes have their own speeds, "
                "connections and drop-outs, and rounds with them take real time"
            )

    def simulate(
        self, grid: Grid, download_bytes: Callable[[Message], int], delays: Delays
    ) -> Grid:
        """Return a grid with this heterogeneity; the given one if there is none.

        Parameters
        ----------
        grid : Grid
            Runs the clients.
        download_bytes : Callable[[Message], int]
            Bytes of a training message that take time.
        delays : Delays
            (round) -> partition id -> virtual seconds that faults add.
        """
        if self.drop_out is not None:
            grid = DropOutGrid(grid, self.drop_out, self.seeds)
        if not self.keeps_time:
            return grid
        return VirtualTimeGrid(
            grid,
            self.times,
            drop_out=self.drop_out,
            delays=delays,
            download_bytes=download_bytes,
        )


def _build(registry: Registry[T], table: Mapping[str, Any], key: str) -> T | None:
    """Return the part that a table describes, or None for an empty table."""
    return build_component(registry, table, key) if table else None
