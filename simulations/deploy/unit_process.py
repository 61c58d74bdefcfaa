"""Run the program of a systemd unit where there is no systemd, with its arguments and settings."""

from __future__ import annotations

import os
import shlex
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import NoReturn

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.simulations.deploy.site_check import site_settings
from hqde_fl.simulations.deploy.units import EDGE_SETTINGS, INSTALLED, SETTINGS, STATE


def unit_process(folder: Path, state: Path) -> tuple[list[str], dict[str, str]]:
    """Return the command line and the environment that the unit in a host's folder asks for.

    Its programs are those of this Python, its paths those of ``folder`` and ``state``. The
    environment is this process's, with the unit's and that of ``site.env`` over it.

    Parameters
    ----------
    folder : Path
        What the unit expects in ``/etc/hqde-fl``: an unpacked bundle, or a federation's
        ``superlink``.
    state : Path
        What it expects in ``/var/lib/hqde-fl``.

    Raises
    ------
    ConfigError
        If the folder has no unit, or more than one.
    """
    units = sorted(folder.glob("*.service"))
    if len(units) != 1:
        raise ConfigError(f"{folder} needs one systemd unit (*.service), found {len(units)}")
    programs = sysconfig.get_path("scripts")
    places = {
        f"{INSTALLED}/venv/bin/python": sys.executable,
        f"{INSTALLED}/venv/bin": programs,
        EDGE_SETTINGS: str(folder),
        SETTINGS: str(folder),
        STATE: str(state),
    }
    environment, command = dict(os.environ), list[str]()
    for line in units[0].read_text(encoding="utf-8").splitlines():
        key, _, value = line.partition("=")
        if key == "Environment":
            name, _, setting = value.partition("=")
            environment[name] = _placed(setting, places)
        elif key == "ExecStart":
            command = [_placed(word, places) for word in shlex.split(value)]
    settings = site_settings(folder)
    environment |= {"PATH": os.pathsep.join([programs, os.environ.get("PATH", os.defpath)])}
    return [_expanded(word, settings) for word in command], environment | settings


def become_unit(folder: Path, state: Path) -> NoReturn:
    """Replace this process by the program of the unit in ``folder``, in the folder ``state``.

    Raises
    ------
    ConfigError
        If the folder has no unit, or more than one.
    RunError
        If the folder of state cannot be made.
    """
    command, environment = unit_process(folder.resolve(), state.resolve())
    os.umask(0o077)
    try:
        state.mkdir(parents=True, exist_ok=True)
        os.chdir(state)
    except OSError as error:
        raise RunError(f"{state} cannot be used: {error.strerror}") from error
    os.execve(command[0], command, environment)


def _placed(text: str, places: Mapping[str, str]) -> str:
    for before, now in places.items():
        text = text.replace(before, now)
    return text


def _expanded(text: str, settings: Mapping[str, str]) -> str:
    for name, value in settings.items():
        text = text.replace(f"${{{name}}}", value)
    return text
