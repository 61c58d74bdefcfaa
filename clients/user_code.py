"""Name the user's own code as the origin of an exception: which part, and where in which file."""

from __future__ import annotations

import os
import site
import sysconfig
import traceback
from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import cache, partial
from types import CodeType, FunctionType, TracebackType
from typing import Any, Self, TypeVar, final

import torch
from torch import Tensor, nn

from hqde_fl import errors
from hqde_fl.errors import HQDEError, TaskError
from hqde_fl.terminal_text import describe_error, printable

MAX_MESSAGE_LENGTH = 260
"""Largest number of characters that are quoted of an exception's message."""

T = TypeVar("T")

LIBRARIES = ("torch", "numpy", "flwr", "ray", "torchvision", "safetensors")
"""Packages whose files are never named: what they raise is about what they were given."""


@final
class user_code:  # noqa: N801 - a context manager, named like those of contextlib
    """A context manager that makes a ``TaskError`` of an exception in the user's code.

    The message reads ``the loss raised ValueError: ... for outputs (32, 2) float32 and targets (31)
    int64 (mine.py, line 12, in loss)``. Errors of hqde-fl pass unchanged. Objects can be entered
    repeatedly.

    Parameters
    ----------
    part : str
        The part of the task that runs in the block, with its article: "the loss", "metric 'f1'".
    function : Callable, optional
        The function or model that the block calls. Where the exception passed through no file of
        the user, the message says where the function is defined, or which layer of the model
        raised it.
    **values : Any
        What the block's code is given, by name; the message states their shapes.
    """

    __slots__ = ("function", "part", "values")

    def __init__(self, part: str, function: Callable[..., Any] | None = None, **values: Any):
        self.part, self.function, self.values = part, function, values

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, HQDEError):
            return
        message = describe_error(error).removesuffix(".")
        if len(message) > MAX_MESSAGE_LENGTH:
            message = f"{message[:MAX_MESSAGE_LENGTH]}..."
        given = " and ".join(f"{name} {description(v)}" for name, v in self.values.items())
        place = origin(error)
        layer = failed_layer(self.function, error) if isinstance(self.function, nn.Module) else ""
        text = f"{self.part} raised {message}{layer}{f' for {given}' if given else ''}"
        raise TaskError(text + (place or defined_at(self.function))) from error


def user_items(
    items: Iterable[T], part: str, function: Callable[..., Any] | None = None
) -> Iterator[T]:
    """Yield the items of an iterable that the user's code yields, such as a loader's batches.

    Exceptions of the iterable become a ``TaskError``, as by ``user_code``.
    """
    code = user_code(part, function)
    with code:
        iterator = iter(items)
    while True:
        with code:
            try:
                item = next(iterator)
            except StopIteration:
                return
        yield item


def description(value: Any) -> str:
    """Return the shapes and dtypes of the tensors of a value, or its type, as text."""
    if isinstance(value, Tensor):
        return f"{tuple(value.shape)} {str(value.dtype).removeprefix('torch.')}"
    if value is None or isinstance(value, bool | int | float | str):
        return printable(repr(value), 40)
    if isinstance(value, tuple | list) and all(isinstance(entry, str | int) for entry in value):
        return printable(repr(value[:3]), 40)[:-1] + (", ...)" if len(value) > 3 else ")")
    named: Mapping[str, Any] = getattr(value, "named", {})
    parts = [description(entry) for entry in getattr(value, "positional", ())]
    parts += [f"{name} {description(entry)}" for name, entry in named.items()]
    if isinstance(value, Mapping):
        parts = [f"{name} {description(entry)}" for name, entry in value.items()]
    elif isinstance(value, tuple | list) and any(isinstance(entry, Tensor) for entry in value):
        parts = [description(entry) for entry in value]
    if not parts:
        return f"of type {type(value).__name__}"
    return f"[{', '.join(parts[:4])}{', ...' if len(parts) > 4 else ''}]"


def origin(error: BaseException) -> str:
    """Return " (FILE, line N, in FUNCTION)" of an exception's last frame in the user's files.

    Files of hqde-fl, of installed packages and of the standard library are not the user's. If the
    exception passed through no file of the user, the last frame of an installed package other than
    ``LIBRARIES`` is named; the result is empty if there is none either. If the exception passed
    through a data set, the index of the example is named too.
    """
    frames = [(f.f_code, line, f.f_locals) for f, line in traceback.walk_tb(error.__traceback__)]
    own = [frame for frame in frames if is_users(frame[0].co_filename)]
    written = [frame for frame in own if frame[0].co_filename != "<string>"]  # as dataclasses are
    foreign = [frame for frame in frames if not frame[0].co_filename.startswith(_libraries())]
    for found in (written, own, foreign):
        if found:
            code, line, _ = found[-1]
            file = os.path.basename(code.co_filename)
            index = next(filter(None, (_example(code, values) for code, _, values in own)), "")
            return f" ({file}, line {line}, in {code.co_name}{index})"
    return ""


def _example(code: CodeType, values: Mapping[str, Any]) -> str:
    """Return ", index 37" for a frame of a data set's ``__getitem__``; "" for any other."""
    if code.co_name != "__getitem__" or code.co_argcount < 2:
        return ""
    index = values.get(code.co_varnames[1])
    return f", index {index}" if isinstance(index, int) else ""


def defined_at(function: Any) -> str:
    """Return " (NAME: FILE, line N)" of a function or class in the user's files; "" for others."""
    while isinstance(function, partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, partial) else function.__wrapped__
    if isinstance(function, type) and isinstance(
        init := vars(function).get("__init__"), FunctionType
    ):
        function = init
    function = getattr(function, "__func__", function)
    code = getattr(function, "__code__", None)
    if not isinstance(code, CodeType) or not is_users(code.co_filename):
        return ""
    file = os.path.basename(code.co_filename)
    return f" ({function.__qualname__}: {file}, line {code.co_firstlineno})"


def failed_layer(model: nn.Module, error: BaseException) -> str:
    """Return " in its layer 'NAME' (CLASS)" of the innermost layer of torch that raised an error.

    The result is empty if the model itself, or a class of the user, raised it.
    """
    if any(
        is_users(frame.f_code.co_filename) for frame, _ in traceback.walk_tb(error.__traceback__)
    ):
        return ""
    names = {id(module): name for name, module in model.named_modules() if name}
    layer = ""
    for frame, _ in traceback.walk_tb(error.__traceback__):
        if (name := names.get(id(frame.f_locals.get("self")))) is not None:
            layer = f" in its layer {name!r} ({type(frame.f_locals['self']).__name__})"
    return layer


def is_users(file: str) -> bool:
    """Return True if a file of code is the user's: neither hqde-fl's nor installed."""
    return not file.startswith(_not_the_users())


@cache
def _not_the_users() -> tuple[str, ...]:
    places = sysconfig.get_paths()
    installed = {places[name] for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    installed |= {*site.getsitepackages(), site.getusersitepackages()}
    return (*(f"{place}{os.sep}" for place in installed), *_own())


@cache
def _libraries() -> tuple[str, ...]:
    """Return the beginnings of the names of files in the standard library and ``LIBRARIES``."""
    places = sysconfig.get_paths()
    packages = {
        places["purelib"],
        places["platlib"],
        os.path.dirname(os.path.dirname(torch.__file__)),
    }
    folders = [os.path.join(place, name) for place in packages for name in LIBRARIES]
    standard = [
        os.path.join(places["stdlib"], name)
        for name in os.listdir(places["stdlib"])
        if name not in ("site-packages", "dist-packages")
    ]
    return (*(f"{folder}{os.sep}" for folder in folders), *standard, *_own())


def _own() -> tuple[str, ...]:
    """Return the beginnings of the names of hqde-fl's files."""
    above = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    own = {os.path.dirname(os.path.abspath(errors.__file__))}
    own |= {os.path.join(above, name) for name in ("strategies", "clients", "simulations")}
    return (*(f"{place}{os.sep}" for place in own), "<frozen ")
