"""Name the user's own code as the origin of an exception: which part, and where in which file."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from types import TracebackType
from typing import Self, final

from hqde_fl import errors
from hqde_fl.errors import HQDEError, TaskError
from hqde_fl.terminal_text import describe_error


@final
class user_code:  # noqa: N801 - a context manager, named like those of contextlib
    """A context manager that makes a ``TaskError`` of an exception in the user's code.

    The message reads ``the loss raised ValueError: ... (mine.py, line 12, in loss)``. Errors of
    hqde-fl pass unchanged. Objects can be entered repeatedly.

    Parameters
    ----------
    part : str
        The part of the task that runs in the block, with its article: "the loss", "metric 'f1'".
    """

    __slots__ = ("part",)

    def __init__(self, part: str) -> None:
        self.part = part

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if isinstance(error, Exception) and not isinstance(error, HQDEError):
            raise TaskError(f"{self.part} raised {describe_error(error)}{origin(error)}") from error


def origin(error: BaseException) -> str:
    """Return " (FILE, line N, in FUNCTION)" of an exception's last frame in the user's files.

    Files of hqde-fl, of installed packages and of the standard library are not the user's. The
    result is empty if no frame is in a file of the user.
    """
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if not frame.filename.startswith(_not_the_users()):
            return f" ({os.path.basename(frame.filename)}, line {frame.lineno}, in {frame.name})"
    return ""


def _not_the_users() -> tuple[str, ...]:
    places = sysconfig.get_paths()
    installed = {places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed |= {*site.getsitepackages(), site.getusersitepackages()}
    above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = {os.path.dirname(os.path.abspath(errors.__file__))}
    own |= {os.path.join(above, name) for name in ("strategies", "clients", "simulations")}
    return (*(f"{place}{os.sep}" for place in installed | own), "<frozen ")
