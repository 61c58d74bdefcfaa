"""The place in the user's own code where an exception was raised."""

from __future__ import annotations

import os
import re
import site
import sys
import sysconfig
import traceback
from collections.abc import Mapping
from functools import cache
from types import CodeType
from typing import Any

from hqde_fl.terminal_text import describe_error

LIBRARIES = ("torch", "numpy", "flwr", "ray", "torchvision", "safetensors")
"""Packages whose files are never named: what they raise is about what they were given."""

_FRAME = re.compile(r'File "([^"\n]+)", line (\d+), in (\S+)')


def is_failure(error: BaseException | None) -> bool:
    """Return True for an exception that code of the user may raise by mistake.

    That includes the exit of the process, as by ``parse_args`` or ``sys.exit``, but neither Ctrl-C
    nor the exit that a signal has asked for.
    """
    return isinstance(error, Exception) or type(error) is SystemExit


def failure_text(error: BaseException) -> str:
    """Return an exception's type and message as one line; a ``SyntaxError`` without its place."""
    if isinstance(error, SyntaxError) and error.filename:
        return describe_error(f"{type(error).__name__}: {error.msg}")
    return describe_error(error)


def origin(error: BaseException) -> str:
    """Return " (FILE, line N, in FUNCTION)" of an exception's last frame in the user's files.

    Files of hqde-fl, of installed packages and of the standard library are not the user's. If the
    exception passed through no file of the user, the last frame of an installed package other than
    ``LIBRARIES`` is named; the result is empty if there is none either. If the exception passed
    through a data set, the index of the example is named too. Of a ``SyntaxError`` it is the line
    that is wrong.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f" ({os.path.basename(error.filename)}, line {error.lineno})"
    frames = [(f.f_code, line, f.f_locals) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if is_users(frame[0].co_filename)]
    written = [frame for frame in own if frame[0].co_filename != "<string>"]  # as dataclasses are
    foreign = [frame for frame in frames if not frame[0].co_filename.startswith(_libraries())]
    for found in (written, own, foreign):
        if found:
            code, line, _ = found[-1]
            index = next(filter(None, (_example(code, values) for code, _, values in own)), "")
            return _place(code.co_filename, line, code.co_name, index)
    return ""


def origin_in_text(trace: str) -> str:
    """Return what ``origin`` does, for the text of a traceback; "" without a file of the user."""
    own = [frame for frame in _FRAME.findall(trace) if is_users(frame[0])]
    return _place(*own[-1]) if own else ""


def passed_users_code(error: BaseException) -> bool:
    """Return True if an exception passed through a file of the user, or is about its syntax."""
    frames = traceback.walk_tb(error.__traceback__)
    return isinstance(error, SyntaxError) or any(is_users(f.f_code.co_filename) for f, _ in frames)


def is_users(file: str) -> bool:
    """Return True if a file of code is the user's: neither hqde-fl's nor installed."""
    return not file.startswith(_not_the_users())


def _place(file: str, line: int | str, function: str, index: str = "") -> str:
    inside = "" if function == "<module>" else f", in {function}"
    return f" ({os.path.basename(file)}, line {line}{inside}{index})"


def _example(code: CodeType, values: Mapping[str, Any]) -> str:
    """Return ", index 37" for a frame of a data set's ``__getitem__``; "" for any other."""
    if code.co_name != "__getitem__" or code.co_argcount < 2:
        return ""
    index = values.get(code.co_varnames[1])
    return f", index {index}" if isinstance(index, int) else ""


@cache
def _not_the_users() -> tuple[str, ...]:
    """Return the beginnings of the names of files that are installed, or hqde-fl's."""
    places = sysconfig.get_paths()
    installed = {places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed |= {*site.getsitepackages(), site.getusersitepackages()}
    # of an environment that this one is laid over, as `uv run --with` does
    installed |= {place for place in sys.path if place.endswith(("site-packages", "dist-packages"))}
    return (*(f"{place}{os.sep}" for place in installed), *_own())


@cache
def _libraries() -> tuple[str, ...]:
    """Return the beginnings of the names of files in the standard library and ``LIBRARIES``."""
    places = sysconfig.get_paths()
    packages = {places["purelib"], places["platlib"]}
    if (torch := sys.modules.get("torch")) is not None:
        packages.add(os.path.dirname(os.path.dirname(str(torch.__file__))))
    folders = [os.path.join(place, name) for place in packages for name in LIBRARIES]
    standard = [
        os.path.join(places["stdlib"], name)
        for name in os.listdir(places["stdlib"])
        if name not in ("site-packages", "dist-packages")
    ]
    return (*(f"{folder}{os.sep}" for folder in folders), *standard, *_own())


@cache
def _own() -> tuple[str, ...]:
    """Return the beginnings of the names of hqde-fl's files."""
    package = os.path.dirname(os.path.abspath(__file__))
    parts = (os.path.join(os.path.dirname(package), name) for name in _PARTS)
    return (*(f"{place}{os.sep}" for place in (package, *parts)), "<frozen ")


_PARTS = ("strategies", "clients", "simulations")
"""Folders of a checkout that ``hqde_fl`` has links to."""
