"""The JSON files of LEAF (Caldas et al. 2018): users, and the examples of each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hqde_fl.errors import DataError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.tasks.example_table import Part

TEST_SHARE = 10
"""Of a user's examples one in so many is a test example, where the files do not divide them."""


def json_files(directory: Path, part: Part) -> tuple[list[Path], bool]:
    """Return the sorted JSON files of a part, and whether LEAF has divided them into parts.

    These are the files of the folder ``train`` or ``test``; without both folders, those of
    ``all_data``, or of the directory itself. The list is empty if there are none.
    """
    if all((directory / name).is_dir() for name in ("train", "test")):
        return sorted((directory / part).glob("*.json")), True
    inner = directory / "all_data"
    return sorted((inner if inner.is_dir() else directory).glob("*.json")), False


def read_users(path: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
    """Yield each user of a file with lists of the inputs and of the targets of the user.

    Raises
    ------
    DataError
        If the file is missing or no JSON of LEAF, or a user has not as many inputs as targets.
    """
    try:
        content = json.loads(path.read_text())
        data = {user: content["user_data"][user] for user in content["users"]}
        pairs = [(str(user), data[user]["x"], data[user]["y"]) for user in data]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"cannot read {path} as LEAF's JSON with 'users' and 'user_data': {error!r}"
        ) from error
    for user, inputs, targets in pairs:
        if not isinstance(inputs, list) or not isinstance(targets, list):
            raise DataError(f"{path}: user {user!r} must have lists x and y")
        if len(inputs) != len(targets):
            raise DataError(
                f"{path}: user {user!r} must have as many x as y, "
                f"found {len(inputs)} and {len(targets)}"
            )
        yield user, inputs, targets


def rows_of_part(users: NDArray[Any], part: Part, *, shuffled: bool) -> NDArray[np.int64]:
    """Return the rows of a part where nobody has divided them: of each user a tenth is for tests.

    The tenth is rounded down, and the same for every run.

    Parameters
    ----------
    users : NDArray
        (n,) user of each example.
    part : {"train", "test"}
        The part.
    shuffled : bool
        The test examples of a user are drawn at random; else they are the user's last ones, so that
        a text is tested on what follows.
    """
    _, numbers, counts = np.unique(users, return_inverse=True, return_counts=True)
    ties = Seeds(0).numpy("leaf", "test").random(len(users)) if shuffled else np.arange(len(users))
    order = np.lexsort((ties, numbers))
    place = np.arange(len(users)) - np.repeat(np.cumsum(counts) - counts, counts)
    of_test = place >= np.repeat(counts - counts // TEST_SHARE, counts)
    return np.sort(order[of_test == (part == "test")])
