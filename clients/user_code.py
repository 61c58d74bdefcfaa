"""Name the user's own code as the origin of an exception: which part, and where in which file."""

from __future__ import annotations

import os
import traceback
from collections.abc import Callable, Mapping
from functools import partial
from types import CodeType, FunctionType, TracebackType
from typing import Any, Self, final

from torch import Tensor, nn

from hqde_fl.code_origin import failure_text, is_failure, is_users, origin
from hqde_fl.errors import HQDEError, TaskError
from hqde_fl.terminal_text import printable

MAX_MESSAGE_LENGTH = 260
"""Largest number of characters that are quoted of an exception's message."""


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
        if error is None or not is_failure(error) or isinstance(error, HQDEError):
            return
        message = failure_text(error).removesuffix(".")
        if len(message) > MAX_MESSAGE_LENGTH:
            message = f"{message[:MAX_MESSAGE_LENGTH]}..."
        given = " and ".join(f"{name} {description(v)}" for name, v in self.values.items())
        place = origin(error)
        layer = failed_layer(self.function, error) if isinstance(self.function, nn.Module) else ""
        text = f"{self.part} raised {message}{layer}{f' for {given}' if given else ''}"
        raise TaskError(text + (place or defined_at(self.function))) from error


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
