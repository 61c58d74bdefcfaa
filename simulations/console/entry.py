"""Entry point of the command ``hqde-fl``, also as ``python -m`` of this module.

Signals are handled before anything that takes time is imported: Ctrl-C in the first second, while
torch and Flower are being imported, ends the process without a traceback. Nothing but the standard
library may be imported here at the top.
"""

from __future__ import annotations

import io
import os
import sys

import hqde_fl
from hqde_fl.simulations.console import interruption


def main() -> None:
    """Run the command ``hqde-fl`` with this process's arguments, then raise ``SystemExit``."""
    interruption.leave_at_once()
    _replace_foreign_characters()
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
        interruption.ignore()  # Python takes little time to end a process


def _end_ray(end: SystemExit) -> None:
    """End a Ray that this process has started, and the process with it; else do nothing.

    Ray's own shutdown takes long, or never ends, after a signal to the whole process group has
    ended half of it.
    """
    pool = sys.modules.get("hqde_fl.simulations.engines.ray.pool")
    if pool is not None and pool.kill_ray():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(end.code if isinstance(end.code, int) else 1)


def _replace_foreign_characters() -> None:
    """Let stdout write ``?`` for what its encoding does not have, where that would be an error."""
    if isinstance(sys.stdout, io.TextIOWrapper) and sys.stdout.errors == "strict":
        sys.stdout.reconfigure(errors="replace")


def _own_modules_last() -> None:
    """Move the working directory, which ``python -m`` puts first, behind what is installed.

    It stays first if hqde-fl itself is imported from there, as in a checkout. Without a working
    directory the process ends with one line.
    """
    try:
        here = os.getcwd()
    except FileNotFoundError:
        sys.exit("error: the working directory does not exist any more: change to another one")
    package = os.path.dirname(os.path.realpath(hqde_fl.__file__))
    if sys.path and sys.path[0] == here and os.path.dirname(package) != os.path.realpath(here):
        sys.path.append(sys.path.pop(0))


if __name__ == "__main__":
    main()
