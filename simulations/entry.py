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
    finally:
        interruption.ignore()  # what Python and Ray do at the end of a process is short


def _own_modules_last() -> None:
    """Move the working directory, which ``python -m`` puts first, behind what is installed.

    Not where hqde-fl itself is run from there, as from a checkout.
    """
    here = os.getcwd()
    ours = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
    if sys.path and sys.path[0] == here and ours != os.path.realpath(here):
        sys.path.append(sys.path.pop(0))
