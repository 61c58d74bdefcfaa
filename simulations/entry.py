"""The way into the command ``hqde-fl``: the signals first, everything that takes time after them.

Ctrl-C in the first second, while torch and Flower are being imported, ends the process without a
traceback. Nothing but the standard library may be imported here at the top.
"""

from __future__ import annotations

import os
import sys

from simulations import interruption


def main() -> None:
    """Run the command."""
    interruption.leave_at_once()
    try:
        _own_modules_last()
        from simulations.cli import app

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
    pool = sys.modules.get("simulations.engines.ray_pool")
    if pool is not None and pool.end_at_once():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _own_modules_last() -> None:
    """Move the working directory, which ``python -m`` puts first, behind what is installed.

    Not where hqde-fl itself is run from there, as from a checkout.
    """
    here = os.getcwd()
    ours = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if sys.path and sys.path[0] == here and ours != os.path.realpath(here):
        sys.path.append(sys.path.pop(0))
