"""Write the Flower App of one run.

It consists of a few lines for each component, which import those of this package, and a
``pyproject.toml`` with the whole experiment. So it runs from any directory, with or without a
checkout, and the bundle that Flower ships has a few kilobytes.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import tomli_w

from hqde_fl.simulations.engines.flower.carried_files import CarriedFiles
from hqde_fl.simulations.engines.torch_settings import TorchSettings
from hqde_fl.simulations.experiment import import_path, own_modules

APP_NAME = "hqde-fl-run"
"""Prefix of the names of generated apps."""

# Python files are carried by a wheel and by a Flower App Bundle, and are checked like all others.
_TEMPLATE = Path(__file__).parent / "generated_app"
_PACKAGE = "hqde_fl_run"


def write_app(
    directory: Path,
    config: Mapping[str, str],
    name: str = APP_NAME,
    carried: CarriedFiles | None = None,
) -> None:
    """Write a Flower App whose components are those of this package.

    Parameters
    ----------
    directory : Path
        The directory of the app, which is created.
    config : Mapping of str to str
        The run's configuration.
    name : str, optional
        The name of the app.
    carried : CarriedFiles, optional
        The user's files that the app brings along. Then its processes may be on other hosts, and
        nothing of this process's import path is told to them; else they use the same path.
    """
    package = directory / _PACKAGE
    shutil.copytree(_TEMPLATE, package, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copyfile(import_path.__file__, package / "import_path.py")
    settings: dict[str, Any] = {"torch": dataclasses.asdict(TorchSettings.current())}
    if carried is None:
        settings |= {"path": import_path.describe_path(), "folders": own_modules.added_folders()}
    else:
        carried.copy_to(package)
        settings |= {"carried-folders": carried.folders, "carried-files": dict(carried.names)}
    (package / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    project = {
        "project": {
            "name": name,
            "version": "0.1.0",
            "description": "One run of hqde-fl, generated",
            "license": "Apache-2.0",
        },
        "tool": {
            "flwr": {
                "app": {
                    "publisher": "hqde-fl",
                    "components": {
                        "serverapp": f"{_PACKAGE}.server_app:app",
                        "clientapp": f"{_PACKAGE}.client_app:app",
                    },
                    "config": config,
                }
            }
        },
    }
    (directory / "pyproject.toml").write_text(tomli_w.dumps(project), encoding="utf-8")
