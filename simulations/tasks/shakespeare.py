"""Shakespeare of LEAF (Caldas et al. 2018): the next character of what a role says."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks import synthetic
from hqde_fl.simulations.tasks.character_lstm import CharacterLstm
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part
from hqde_fl.simulations.tasks.file_task import FileTask, instructions
from hqde_fl.simulations.tasks.hugging_face import load_columns
from hqde_fl.simulations.tasks.leaf_files import json_files, read_users, rows_of_part

LETTERS = "\n !\"&'(),-.0123456789:;>?ABCDEFGHIJKLMNOPQRSTUVWXYZ[]abcdefghijklmnopqrstuvwxyz}"
"""LEAF's characters; any other one counts as a space."""
LENGTH = 80
HUB_NAME = "flwrlabs/shakespeare"


@final
@dataclass(frozen=True)
class Shakespeare(FileTask):
    """The next of 80 characters after 80 of Shakespeare, from LEAF's JSON files, with LEAF's LSTM.

    The column ``user`` is the role in a play, for ``partition = "users"``. Where LEAF has not
    divided the files into ``train`` and ``test``, the last tenth of a role's text is the test set.

    Parameters
    ----------
    embedding : int, default=8
        Numbers for each character, >= 1.
    hidden : int, default=256
        Units of each LSTM layer, >= 1.
    layers : int, default=2
        Number of LSTM layers, >= 1.
    """

    name = "shakespeare"
    classes = len(LETTERS)
    folders = ("shakespeare/data", "shakespeare", "data")
    source = instructions(
        "Shakespeare is LEAF's (https://leaf.cmu.edu).",
        "git clone https://github.com/TalwalkarLab/leaf && cd leaf/data/shakespeare && "
        "./preprocess.sh -s niid --sf 1.0 -k 0 -t sample (in its folder data)",
    )

    embedding: int = 8
    hidden: int = 256
    layers: int = 2

    def __post_init__(self) -> None:
        super().__post_init__()
        for parameter in ("embedding", "hidden", "layers"):
            if (found := getattr(self, parameter)) < 1:
                raise ConfigError(f"Shakespeare.{parameter} must be >= 1, found {found}")

    def network(self) -> nn.Module:
        """Build a new LSTM."""
        return CharacterLstm(self.classes, self.embedding, self.hidden, self.layers)

    def prepare(self, inputs: Tensor) -> Tensor:
        """Return the numbers of characters as int64, which an embedding takes."""
        return inputs.long()

    @classmethod
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` unless there are JSON files of both parts."""
        for part in ("train", "test"):
            files, divided = json_files(directory, part)
            if not files:
                raise cls.missing(f"{part}/*.json" if divided else "all_data/*.json", directory)

    @classmethod
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read the characters (n, 80), the next ones and the roles of a part.

        Raises ``DataError`` if a file does not hold such texts.
        """
        files, divided = json_files(directory, part)
        texts, following, roles = [], [], []
        for path in files:
            for user, inputs, targets in read_users(path):
                if not inputs:
                    continue
                texts.append(_numbers(inputs, LENGTH, f"{path}: each x of user {user!r}"))
                following.append(_numbers(targets, 1, f"{path}: each y of user {user!r}"))
                roles += [user] * len(targets)
        if not roles:
            raise DataError(f"{directory} must hold at least 1 example, found 0")
        x, y = np.concatenate(texts), np.concatenate(following)
        return _table(x, y, np.array(roles), None if divided else part)

    @classmethod
    def fetch(cls, part: Part) -> ExampleTable:
        """Return the characters, the next ones and the roles of the data set of Hugging Face."""
        columns = {"x": "x", "y": "y", "user": "character_id"}
        values = load_columns(HUB_NAME, "train", columns)
        x = _numbers(values["x"], LENGTH, f"each x of {HUB_NAME!r}")
        y = _numbers(values["y"], 1, f"each y of {HUB_NAME!r}")
        return _table(x, y, np.asarray(values["user"], str), part)

    @classmethod
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return texts of a Markov chain, in which each role has its own habits."""
        return synthetic.characters(cls.name, len(LETTERS), LENGTH, part, train)


def _table(
    x: NDArray[np.uint8], y: NDArray[np.uint8], users: NDArray[Any], part: Part | None
) -> ExampleTable:
    """Return a table of all rows, or of those of a part that nobody has divided yet."""
    rows = slice(None) if part is None else rows_of_part(users, part, shuffled=False)
    labels = torch.from_numpy(y[rows, 0].astype(np.int64))
    return ExampleTable(torch.from_numpy(x[rows]), labels, {"user": users[rows]})


def _numbers(texts: Iterable[Any], length: int, owner: str) -> NDArray[np.uint8]:
    """Return the numbers (n, length) of the characters of texts, in ``LETTERS``."""
    rows = [str(text) if isinstance(text, str) else None for text in texts]
    if not all(row is not None and len(row) == length for row in rows):
        raise DataError(f"{owner} must be a text of {length} characters")
    codes = "".join(row for row in rows if row is not None).encode("utf-32-le")
    points = np.minimum(np.frombuffer(codes, np.uint32), len(_PLACE_OF) - 1)
    return _PLACE_OF[points].reshape(-1, length)


_PLACE_OF = np.full(129, LETTERS.index(" "), np.uint8)
for _place, _letter in enumerate(LETTERS):
    _PLACE_OF[ord(_letter)] = _place
