"""The user's own files that a Flower App carries to real nodes.

Nodes have other folders than the host that starts a run. So the app brings the files of the parts
that the experiment names, the modules that these have imported, and whatever ``engine.files``
lists, within the limits of a Flower App Bundle.
"""

from __future__ import annotations

import glob
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, final

from hqde_fl.errors import ConfigError
from hqde_fl.simulations.engines.flower_internals import FAB_INCLUDE_PATTERNS, FAB_MAX_SIZE
from hqde_fl.simulations.experiment import own_modules

KINDS = tuple(p.removeprefix("**/*") for p in FAB_INCLUDE_PATTERNS if p.startswith("**/*."))
"""The endings of names of files that a bundle carries."""

MAX_BYTES = FAB_MAX_SIZE - 2**20
"""Most bytes that all files may have together; a bundle holds the rest of the app as well."""

FOLDER = "own"
"""The folder of the app that holds the files."""


@final
@dataclass(frozen=True)
class CarriedFiles:
    """Files of the user, and where an app has them.

    Parameters
    ----------
    files : Mapping[str, Path]
        Path in the app's package -> file.
    folders : tuple[str, ...]
        Folders in the app's package that own modules and files are searched in, in this order.
    names : Mapping[str, str]
        A file as the experiment names it -> path in the app's package.
    """

    files: Mapping[str, Path] = field(default_factory=dict)
    folders: tuple[str, ...] = ()
    names: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, table: Mapping[str, Any]) -> Self:
        """Return the files that an experiment needs, given its complete table.

        Raises
        ------
        ConfigError
            If a bundle cannot carry them: one is of a kind that Flower leaves out, or all together
            are too large; the message names them.
        """
        named = own_modules.named_files(table)
        sources = own_modules.user_files(table)
        sources |= {file: file.parent for file in named.values() if file not in sources}
        listed = dict(_listed(table.get("engine", {}).get("files", ()), sources.values()))
        roots = list(dict.fromkeys([*sources.values(), *listed.values()]))
        places = {
            file: f"{FOLDER}/{roots.index(root)}/{file.relative_to(root).as_posix()}"
            for file, root in {**sources, **listed}.items()
        }
        needed = {*named.values(), *listed}
        places = {file: to for file, to in places.items() if _is_carried(file) or file in needed}
        _check(places)
        return cls(
            {place: file for file, place in places.items()},
            tuple(f"{FOLDER}/{number}" for number in range(len(roots))),
            {name: places[file] for name, file in named.items()},
        )

    def copy_to(self, package: Path) -> None:
        """Copy the files into the package of an app."""
        for place, file in self.files.items():
            target = package / place
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, target)


def _listed(patterns: Sequence[str], roots: Iterable[Path]) -> Iterator[tuple[Path, Path]]:
    """Yield the files that ``engine.files`` lists, each with the folder that it is searched in."""
    folders = list(dict.fromkeys([*map(Path, own_modules.added_folders()), *roots, Path.cwd()]))
    for pattern in patterns:
        for folder in folders:
            found = glob.glob(pattern, root_dir=folder, recursive=True)
            files = sorted(name for name in found if (folder / name).is_file())
            if files:
                yield from ((folder / name, folder) for name in files)
                break
        else:
            places = ", ".join(map(str, folders))
            raise ConfigError(f"engine.files: there is no file {pattern!r} in {places}")


def _is_carried(file: Path) -> bool:
    """Return True if Flower puts a file of this name into a bundle."""
    test = file.name.startswith("test_") or file.stem.endswith("_test")
    return file.name.endswith(KINDS) and not (test and file.suffix == ".py")


def _check(files: Mapping[Path, str]) -> None:
    """Raise ``ConfigError`` that names the files which a bundle cannot carry."""
    if left_out := sorted(str(file) for file in files if not _is_carried(file)):
        raise ConfigError(
            f"{', '.join(left_out)} cannot go to the nodes: a Flower App Bundle carries only files "
            f"that end in {', '.join(KINDS)}, and no test_*.py or *_test.py"
        )
    sizes = {file: os.path.getsize(file) for file in files}
    if (total := sum(sizes.values())) > MAX_BYTES:
        largest = sorted(sizes, key=lambda file: sizes[file], reverse=True)[:3]
        names = ", ".join(f"{file} ({sizes[file]:,} bytes)" for file in largest)
        raise ConfigError(
            "the files of the experiment's own parts must have at most "
            f"{MAX_BYTES:,} bytes to go to the nodes, found {total:,}; the largest: {names}"
        )
