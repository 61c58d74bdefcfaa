"""The workers of an ``HQDESystem``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from flwr.clientapp import ClientApp

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.system.loader_data import LoaderData
from hqde_fl.simulations.system.pickling import can_pickle, unpicklable_part

if TYPE_CHECKING:
    from hqde_fl.simulations.engines.inline import InlineGrid
    from hqde_fl.simulations.engines.ray.grid import RayGrid
    from hqde_fl.simulations.engines.ray.lease import RayLease


@dataclass(eq=False)
class Workers:
    """The workers, and the data that they hold.

    Parameters
    ----------
    grid : InlineGrid or RayGrid
        The Grid that reaches the workers.
    data : LoaderData
        The data that the workers hold.
    lease : RayLease or None
        The lease of the Ray that runs the workers; None without Ray.
    """

    grid: InlineGrid | RayGrid
    data: LoaderData
    lease: RayLease | None = None

    @classmethod
    def start(cls, engine: str, app: ClientApp, workers: int, seed: int, data: LoaderData) -> Self:
        """Start new workers: in this process if ``engine`` is "inline", else on Ray.

        Each process receives the data once.

        Raises
        ------
        ConfigError
            If Ray cannot pickle what it sends to the processes; the message names the part of the
            data that is to blame, if one is.
        """
        if engine == "inline":
            from hqde_fl.simulations.engines.inline import InlineGrid

            return cls(InlineGrid(app, workers, {}, seed), data)
        from hqde_fl.simulations.engines.ray.grid import RayGrid
        from hqde_fl.simulations.engines.ray.lease import RayLease

        lease = RayLease()
        try:
            try:
                grid = RayGrid(app, workers, {}, seed)
            except Exception as error:
                if (problem := _pickling_problem(app, data)) is not None:
                    raise ConfigError(f"{problem}, as engine 'ray' needs") from error
                raise
            return cls(grid, data, lease)
        except BaseException:
            lease.release()
            raise

    def hold(self, data: LoaderData) -> bool:
        """Return True if the workers are alive and hold the data of a loader."""
        return data.same(self.data) and (self.lease is None or self.lease.alive)

    def close(self) -> None:
        """Release the lease on Ray; do nothing if the workers run in this process.

        When a process's last lease is released, its workers end, and Ray too if the process
        started it.
        """
        if self.lease is not None:
            self.lease.release()


def _pickling_problem(app: ClientApp, data: LoaderData) -> str | None:
    """Return what cannot be pickled of all that workers on Ray receive; None if all can."""
    for name, value in (("data set", data.dataset), ("loader's collate_fn", data.collate)):
        if (found := unpicklable_part(value)) is not None:
            path, part = found
            kind = f"type {type(part).__module__}.{type(part).__qualname__}"
            owner = f"the {name}'s attribute {path!r}" if path else f"the {name}"
            return f"{owner} ({kind}) cannot be pickled"
    return None if can_pickle(app) else "the model or its loss cannot be pickled"
