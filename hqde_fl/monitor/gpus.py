"""Utilisation and memory of the host's NVIDIA GPUs, by NVML (the package ``nvidia-ml-py``)."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Collection
from contextlib import suppress
from typing import Any

from hqde_fl.monitor.schema import Gpu


class Gpus:
    """The GPUs of this host; none if NVML, its package or a driver is not there.

    Attributes
    ----------
    names : tuple of str
        The names of the GPUs, in NVML's order.
    """

    def __init__(self) -> None:
        self.names: tuple[str, ...] = ()
        self._nvml: Any = None
        self._handles: list[Any] = []
        try:
            if sys.platform == "linux":  # costs less than the import where there is no driver
                ctypes.CDLL("libnvidia-ml.so.1")
            import pynvml

            pynvml.nvmlInit()
            handles = [
                pynvml.nvmlDeviceGetHandleByIndex(index)
                for index in range(pynvml.nvmlDeviceGetCount())
            ]
            self.names = tuple(map(_text, map(pynvml.nvmlDeviceGetName, handles)))
            self._nvml, self._handles = pynvml, handles
        except Exception:  # no package, no library, no driver, or one that fails: no GPU to measure
            return

    def use(self, pids: Collection[int]) -> tuple[Gpu, ...]:
        """Return the use of each GPU, that of the processes ``pids`` apart.

        What a GPU does not tell is None.
        """
        return tuple(self._use(handle, pids) for handle in self._handles)

    def _use(self, handle: Any, pids: Collection[int]) -> Gpu:
        utilisation = memory = own = None
        nvml = self._nvml
        with suppress(nvml.NVMLError):
            utilisation = nvml.nvmlDeviceGetUtilizationRates(handle).gpu / 100
        with suppress(nvml.NVMLError):
            memory = int(nvml.nvmlDeviceGetMemoryInfo(handle).used)
        with suppress(nvml.NVMLError):
            running = nvml.nvmlDeviceGetComputeRunningProcesses(handle)
            # in a container NVML may see other process ids, or none
            used = [process.usedGpuMemory for process in running if process.pid in pids]
            if (used or not running) and None not in used:
                own = sum(used)
        return Gpu(utilisation, memory, own)

    def close(self) -> None:
        """Let go of NVML."""
        if self._nvml is not None:
            with suppress(self._nvml.NVMLError):
                self._nvml.nvmlShutdown()
            self._handles = []


def _text(name: str | bytes) -> str:
    return name.decode(errors="replace") if isinstance(name, bytes) else name
