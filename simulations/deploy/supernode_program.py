"""Run ``flower-supernode`` with a log as JSON lines, on a port that it finds itself.

Its ClientApps are forked, which spares them the imports (``clientapp_forks.py``).

::

    python -P -m hqde_fl.simulations.deploy.supernode_program ARGUMENTS OF flower-supernode

``HQDE_FL_LOG=json`` in its environment asks for the log. ``--port 0`` takes a free port, so that
several SuperNodes can run on one host.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from logging import ERROR

from hqde_fl.protocol.flower_internals import log
from hqde_fl.simulations.deploy.clientapp_forks import forked_clientapps
from hqde_fl.simulations.deploy.free_port import free_port
from hqde_fl.simulations.deploy.late_replies import send_late_replies
from hqde_fl.simulations.deploy.server_log import start_server_log
from hqde_fl.simulations.engines.flower_internals import flower_supernode


def with_free_port(arguments: Sequence[str]) -> list[str]:
    """Return command line arguments in which ``--port 0`` names a free port."""
    found = list(arguments)
    for number, word in enumerate(found):
        if word == "--port=0" or found[number - 1 : number + 1] == ["--port", "0"]:
            found[number] = word[:-1] + str(free_port())
    return found


def main() -> None:
    """Run the SuperNode with the arguments of this process, which ends with it.

    Flower's SuperNode returns without an error when its SuperLink answers with one, as while its
    database is locked. The server for its ClientApps would then keep the process, which nobody
    would start again.
    """
    sys.argv[:] = ["flower-supernode", *with_free_port(sys.argv[1:])]
    start_server_log("supernode")
    send_late_replies()
    with forked_clientapps():
        flower_supernode()
    log(ERROR, "the SuperNode has lost its SuperLink, and ends so that it is started again")
    logging.shutdown()
    os._exit(1)  # the server's thread does not end by itself


if __name__ == "__main__":
    main()
