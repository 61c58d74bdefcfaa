"""The way into the command ``hqde-fl``: the signals first, everything that takes time after them.

Ctrl-C in the first second, while torch and Flower are being imported, ends the process without a
traceback. Nothing but the standard library may be imported here at the top.
"""

from __future__ import annotations

import os
import sys

import hqde_fl
from hqde_fl.simulations.console import interruption


def main() -> None:
    """Run the command."""
    interruption.leave_at_once()
    try:
        _own_modules_last()
        from hqde_fl.simulations.console.command_line import app

        app()
    except SystemExit as end:
        interruption.ignore()
        if interruption.ends_process():
            _end_ray(end)
        raise
    finally:
        interruption.ignore()  # what Python does at the end of a process is short


def _end_ray(end: SystemExit) -> None:
    """End a Ray that this process has started, and the process with it.

    Ray's own way takes long, or for ever, where a signal to the whole group has ended half of it.
    """
    pool = sys.modules.get("hqde_fl.simulations.engines.ray.pool")
    if pool is not None and pool.end_at_once():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _own_modules_last() -> None:
    """Move the working directory, which ``python -m`` puts first, behind what is installed.

    Not where hqde-fl itself is run from there, as from a checkout.
    """
    here = os.getcwd()
    package = os.path.dirname(os.path.realpath(hqde_fl.__file__))
    if sys.path and sys.path[0] == here and os.path.dirname(package) != os.path.realpath(here):
        sys.path.append(sys.path.pop(0))
