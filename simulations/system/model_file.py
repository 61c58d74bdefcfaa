"""Files with the weights of an ``HQDESystem``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from flwr.app import ArrayRecord
from torch import Tensor

from hqde_fl.errors import DataError, RunError
from hqde_fl.protocol.records import from_record, to_record
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.weights_file import read_weights, weights_to_bytes


def save_weights(
    path: str | Path, arrays: ArrayRecord, epochs: int, members: int, voters: Sequence[int]
) -> None:
    """Save the members' weights, the numbers of epochs and members, and who of them votes.

    The file is a safetensors file.

    Raises
    ------
    DataError
        If the file cannot be written.
    """
    facts: dict[str, Any] = {"epochs": epochs, "members": members}
    if len(voters) < members:
        facts["voters"] = list(voters)
    try:
        replace_file(Path(path), weights_to_bytes(from_record(arrays), facts))
    except RunError as error:
        raise DataError(str(error)) from None


def load_weights(
    path: str | Path, current: ArrayRecord, members: int
) -> tuple[ArrayRecord, int, tuple[int, ...]]:
    """Return the weights, the number of epochs and the voters in a file of ``save_weights``.

    The number is 0, and the voters are all members, if the file does not state them.

    Parameters
    ----------
    path : str or Path
        The file.
    current : ArrayRecord
        The system's weights, whose names, shapes and dtypes the file must have.
    members : int
        The number of members.

    Raises
    ------
    DataError
        If the file cannot be read, has malformed metadata, or holds the weights of other models.
    """
    state, facts = read_weights(path)
    expected = from_record(current)
    _check_same_models(path, expected, state)
    arrays = to_record({name: state[name] for name in expected})
    return arrays, _epochs(path, facts), _voters(path, facts, members)


def _epochs(path: str | Path, facts: Mapping[str, Any]) -> int:
    """Return the number of epochs that a file states, or 0."""
    stated = facts.get("epochs", 0)
    if isinstance(stated, str) and stated.isdecimal() and len(stated) < 10:  # as files had it once
        stated = int(stated)
    if type(stated) is not int or stated < 0:
        raise DataError(
            f"{path} cannot be loaded: epochs needs a number >= 0, found {stated!r:.40}"
        )
    return stated


def _voters(path: str | Path, facts: Mapping[str, Any], members: int) -> tuple[int, ...]:
    """Return the members that a file says vote, or all."""
    stated = facts.get("voters", list(range(members)))
    known = isinstance(stated, list) and all(type(member) is int for member in stated)
    if not known or not stated or sorted(set(stated) & set(range(members))) != stated:
        raise DataError(
            f"{path} cannot be loaded: voters needs ascending numbers in [0, {members}), "
            f"found {stated!r:.40}"
        )
    return tuple(stated)


def _check_same_models(
    path: str | Path, expected: Mapping[str, Tensor], loaded: Mapping[str, Tensor]
) -> None:
    """Raise ``DataError`` unless a file has the expected names, shapes and dtypes."""
    for name in sorted(expected.keys() | loaded.keys()):
        own, other = _shape_and_dtype(expected.get(name)), _shape_and_dtype(loaded.get(name))
        if own != other:
            raise DataError(f"{path} holds other models: {name!r} is {other}, expected {own}")


def _shape_and_dtype(tensor: Tensor | None) -> str:
    return "missing" if tensor is None else f"{tuple(tensor.shape)} {tensor.dtype}"
