"""Division by a column of the data: each client has the examples of one user, or of several."""

from __future__ import annotations

from dataclasses import dataclass
from logging import INFO
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import ConfigError
from hqde_fl.protocol.flower_internals import log
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.partition import Partitioner


@final
@dataclass(frozen=True)
class PredefinedUsers(Partitioner):
    """Each client has all examples of one user, as the data themselves name them (LEAF).

    The users of FEMNIST are writers, those of Shakespeare roles of a play (Caldas et al. 2018).
    With fewer clients than users, the clients' users are drawn at random, and the log says how many
    are left out. A function of your own that divides its data gives ``split`` the column instead of
    the labels.

    Parameters
    ----------
    column : str, default="user"
        The column of the task's data that names the user of each example; ``label`` is the class.
    grouped : bool, default=False
        Deal all users to the clients in nearly equal numbers, so that a client may have several and
        none is left out.
    min_examples : int, default=1
        Leave out users with fewer examples, >= 1.
    seed : int, optional
        Seed >= 0 of the division; the run's seed is used if not given.
    """

    column: str = "user"
    grouped: bool = False
    min_examples: int = 1
    seed: int | None = None

    def __post_init__(self) -> None:
        if not self.column:
            raise ConfigError("PredefinedUsers.column must name a column, found ''")
        if self.min_examples < 1:
            raise ConfigError(
                f"PredefinedUsers.min_examples must be >= 1, found {self.min_examples}"
            )
        if self.seed is not None and self.seed < 0:
            raise ConfigError(f"PredefinedUsers.seed must be >= 0, found {self.seed}")

    @property
    def divides_by(self) -> str:
        """The column that names the user of each example."""
        return self.column

    def divide(
        self, labels: NDArray[Any], partitions: int, seeds: Seeds
    ) -> list[NDArray[np.int64]]:
        """Return the indices of each client's user or users; ``labels`` are the users (n,)."""
        if labels.ndim != 1:
            raise ConfigError(
                f"{self} needs one user for each example, found a column of shape {labels.shape}"
            )
        _, number, counts = np.unique(labels, return_inverse=True, return_counts=True)
        users = np.flatnonzero(counts >= self.min_examples)
        if len(users) < partitions:
            raise ConfigError(
                f"{self} needs a user for each of {partitions} partitions, found {len(users)} "
                f"with at least {self.min_examples} examples"
            )
        own = seeds if self.seed is None else Seeds(self.seed)
        users = own.numpy("partition", "users").permutation(users)
        dealt = np.array_split(users, partitions) if self.grouped else users[:partitions, None]
        by_user = np.split(np.argsort(number, kind="stable"), np.cumsum(counts)[:-1])
        parts = [np.concatenate([by_user[user] for user in group]) for group in dealt]
        if left := len(counts) - sum(map(len, dealt)):
            rest = len(labels) - sum(map(len, parts))
            log(INFO, "%s leaves out %d users with %d examples", self, left, rest)
        return parts
