"""The reason of a client's error reply, as one line."""

from __future__ import annotations

import re

from hqde_fl.terminal_text import MAX_REASON_LENGTH, printable

MAX_REASON_TAIL = 4096
"""Characters at the end of an error's reason that are looked at."""


def last_line(reason: object) -> str:
    """Return the last line of an error reply's reason, printable and of limited length.

    For an exception this is its type and message; of a ``TaskError``, which says itself what raised
    which exception, the message alone. "no reason given" if there is none.
    """
    text = str(reason or "")[-MAX_REASON_TAIL:].strip()
    line = text.splitlines()[-1].strip() if text else "no reason given"
    if flower := _FLOWERS_REPORT.search(line):
        line = flower["message"]
    return printable(line.removeprefix("TaskError: "), MAX_REASON_LENGTH)


_FLOWERS_REPORT = re.compile(r"Exception \w+ occurred\. Message: (?P<message>.*?)('>)?$")
"""What Flower makes of an exception in a ClientApp; the name is not that of the exception."""
