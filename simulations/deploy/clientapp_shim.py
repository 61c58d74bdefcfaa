"""Stand in for ``flwr-clientapp``: let a process that has imported everything fork a ClientApp.

::

    python -IS clientapp_shim.py SOCKET PROGRAM ARGUMENTS OF flwr-clientapp

It hands over its arguments, environment and standard streams, passes signals on, and ends as the
ClientApp does. If nobody answers at the socket, it becomes the program itself. It imports little,
as it is started for every message.
"""

import json
import os
import signal
import socket
import sys
from types import FrameType

LENGTH = 8
"""Bytes before the request that hold its length."""
FORWARDED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def main() -> None:
    """Run a ClientApp, and exit with its status."""
    path, program, *arguments = sys.argv[1:]
    connection = socket.socket(socket.AF_UNIX)
    try:
        connection.connect(path)
    except OSError:
        os.execv(program, [program, *arguments])

    def forward(number: int, _: FrameType | None) -> None:
        connection.send(bytes([number]))

    for number in FORWARDED:
        signal.signal(number, forward)
    request = json.dumps({"argv": arguments, "cwd": os.getcwd(), "environ": dict(os.environ)})
    data = os.fsencode(request)
    socket.send_fds(connection, [len(data).to_bytes(LENGTH, "big")], [0, 1, 2])
    connection.sendall(data)
    status = connection.recv(4)
    if len(status) < 4:  # whoever forks was killed, and its ClientApps with it
        sys.exit(1)
    code = int.from_bytes(status, "big", signed=True)
    if code < 0:  # end by the same signal
        if -code in FORWARDED:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


if __name__ == "__main__":
    main()
