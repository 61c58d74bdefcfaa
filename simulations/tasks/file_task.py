"""Tasks whose data are files, a data set of Hugging Face, or a generated stand-in."""

from __future__ import annotations

import os
from abc import abstractmethod
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Literal, Self, final, get_args

from hqde_fl.errors import ConfigError, DataError
from hqde_fl.simulations.tasks.base import BuiltinTask
from hqde_fl.simulations.tasks.example_table import ExampleTable, Part

ENVIRONMENT = "HQDE_FL_DATA"
TEST_FRACTION = 4
"""Training examples of a stand-in for each of its test examples."""

Data = Literal["files", "hugging-face", "synthetic"]


@dataclass(frozen=True)
class FileTask(BuiltinTask):
    """A task whose data somebody has to get.

    Parameters
    ----------
    data_dir : str, default=""
        Directory with the files, or its parent if it is called as the task is. If empty, the
        environment variable ``HQDE_FL_DATA`` is used.
    data : {"files", "hugging-face", "synthetic"}, default="files"
        ``files``: those of ``data_dir``; ``hugging-face``: the data set of the Hugging Face Hub, by
        flwr-datasets, which fetches it once; ``synthetic``: a generated stand-in of the same
        shapes, which can be learnt and needs no files, for tests and timings.
    synthetic_examples : int, default=2000
        Number of training examples of the stand-in, >= 8; it has a quarter as many to test with.
    """

    name: ClassVar[str]
    """The task's name in a file, and that of its directory."""
    folders: ClassVar[tuple[str, ...]]
    """Folders in which the files may lie, below ``data_dir``; the first that exists counts."""
    source: ClassVar[str]
    """Where the files are from, and a command that gets them."""

    data_dir: str = ""
    data: Data = field(default="files", kw_only=True)
    synthetic_examples: int = field(default=2000, kw_only=True)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.require_known("data", Data)
        if self.synthetic_examples < 8:
            raise ConfigError(
                f"{type(self).__name__}.synthetic_examples must be >= 8, "
                f"found {self.synthetic_examples}"
            )

    @final
    def require_known(self, parameter: str, values: object) -> None:
        """Raise ``ConfigError`` unless a parameter is one of the values of a ``Literal``."""
        found, known = getattr(self, parameter), get_args(values)
        if found not in known:
            raise ConfigError(
                f"{type(self).__name__}.{parameter} must be one of {', '.join(known)}, "
                f"found {found!r}"
            )

    @final
    def locate(self) -> Self:
        """Return the task with the absolute path of the directory of its files.

        Raises ``DataError`` if the directory or a file is missing, or none is named. Data that are
        no files are not looked for.
        """
        if self.data != "files":
            return replace(self, data_dir="")
        path = self.data_dir or os.environ.get(ENVIRONMENT, "")
        if not path:
            raise DataError(f"task '{self.name}' needs a directory of files. {self.source}")
        outer = Path(path).expanduser().absolute()
        if not outer.is_dir():
            raise DataError(f"task '{self.name}': {outer} is not a directory. {self.source}")
        inner = (outer / folder for folder in self.folders)
        directory = next((folder for folder in inner if folder.is_dir()), outer)
        self.check_files(directory)
        return replace(self, data_dir=str(directory))

    @final
    def table(self, part: Part) -> ExampleTable:
        """Return the training or the test examples, always the same object in a process."""
        generated = self.synthetic_examples if self.data == "synthetic" else 0
        return _table(type(self), self.data, self.data_dir, generated, part)

    @classmethod
    @abstractmethod
    def check_files(cls, directory: Path) -> None:
        """Raise ``DataError`` (``missing``) unless a directory has all files."""

    @classmethod
    @abstractmethod
    def read(cls, directory: Path, part: Part) -> ExampleTable:
        """Read examples from files; ``DataError`` names the one that does not hold them."""

    @classmethod
    @abstractmethod
    def fetch(cls, part: Part) -> ExampleTable:
        """Return examples of the data set of Hugging Face."""

    @classmethod
    @abstractmethod
    def generate(cls, part: Part, train: int) -> ExampleTable:
        """Return examples of the stand-in with so many training examples: always the same."""

    @classmethod
    @final
    def missing(cls, file: str, directory: Path) -> DataError:
        """Return the error of a file that a directory lacks, with the command that gets it."""
        return DataError(f"task '{cls.name}': no {file} in {directory}. {cls.source}")


def instructions(origin: str, command: str, alternative: bool = True) -> str:
    """Return the end of errors about missing files: their origin, and a command that gets them."""
    other = ', or set data = "hugging-face"' if alternative else ""
    return (
        f"{origin} Get them by: {command}; name their directory by data-dir or {ENVIRONMENT}"
        f'{other}; data = "synthetic" is a generated stand-in.'
    )


@lru_cache(maxsize=4)
def _table(
    kind: type[FileTask], data: Data, directory: str, generated: int, part: Part
) -> ExampleTable:
    if data == "files":
        return kind.read(Path(directory), part)
    if data == "synthetic":
        return kind.generate(part, generated)
    return kind.fetch(part)
