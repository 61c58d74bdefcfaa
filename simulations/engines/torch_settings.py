"""Process-wide settings of torch that change results, carried to the processes of a run."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Self, final

AUTOCAST_DEVICES = ("cpu", "cuda", "mps", "xpu")
"""Types of devices for which torch may be computing in mixed precision."""


@final
@dataclass(frozen=True)
class TorchSettings:
    """Settings of torch that belong to a whole process; the defaults are torch's own.

    Parameters
    ----------
    default_dtype : str
        Name of the dtype of new tensors, as ``torch.set_default_dtype`` takes it.
    matmul_precision : str
        Precision of float32 products, as ``torch.set_float32_matmul_precision`` takes it; empty
        if it was set for a backend alone, which is not carried.
    deterministic, warn_only : bool
        Arguments of ``torch.use_deterministic_algorithms``.
    cudnn_deterministic : bool
        ``torch.backends.cudnn.deterministic``.
    """

    default_dtype: str = "float32"
    matmul_precision: str = "highest"
    deterministic: bool = False
    warn_only: bool = False
    cudnn_deterministic: bool = False

    @classmethod
    def current(cls) -> Self:
        """Return this process's settings; torch is not imported for it."""
        torch = sys.modules.get("torch")
        if torch is None:
            return cls()
        return cls(
            str(torch.get_default_dtype()).removeprefix("torch."),
            _matmul_precision(torch),
            torch.are_deterministic_algorithms_enabled(),
            torch.is_deterministic_algorithms_warn_only_enabled(),
            torch.backends.cudnn.deterministic,
        )

    def adopt(self) -> None:
        """Make these the settings of this process; torch is imported if they are not its own."""
        current = self.current()
        if self == current:
            return
        import torch

        if self.default_dtype != current.default_dtype:
            torch.set_default_dtype(getattr(torch, self.default_dtype))
        if self.matmul_precision and self.matmul_precision != current.matmul_precision:
            torch.set_float32_matmul_precision(self.matmul_precision)
        if (self.deterministic, self.warn_only) != (current.deterministic, current.warn_only):
            torch.use_deterministic_algorithms(self.deterministic, warn_only=self.warn_only)
        torch.backends.cudnn.deterministic = self.cudnn_deterministic


@contextmanager
def kept_torch_settings() -> Iterator[None]:
    """Restore torch's settings at the end of the block, which may change them."""
    settings = TorchSettings.current()
    try:
        yield
    finally:
        settings.adopt()


@contextmanager
def without_autocast() -> Iterator[None]:
    """Let ``torch.autocast`` around the block change nothing in it.

    It belongs to a thread, and so would be in force on some engines and not on others.
    """
    torch: Any = sys.modules.get("torch")
    with ExitStack() as stack:
        for kind in AUTOCAST_DEVICES if torch is not None else ():
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


def _matmul_precision(torch: Any) -> str:
    """Return torch's precision of float32 products, or "" if it differs between its backends."""
    try:
        return str(torch.get_float32_matmul_precision())
    except RuntimeError:  # set by torch.backends.cuda.matmul.fp32_precision or the like
        return ""
