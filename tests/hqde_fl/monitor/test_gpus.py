import sys
from types import SimpleNamespace

import pytest

from hqde_fl.monitor import gpus
from hqde_fl.monitor.gpus import Gpus
from hqde_fl.monitor.schema import Gpu


class NVMLError(Exception):
    pass


class FakeNVML:
    """NVML with two GPUs, the second of which tells nothing but its name."""

    NVMLError = NVMLError

    def __init__(self, running):
        self.running, self.shut_down = running, 0

    def nvmlInit(self):  # noqa: N802
        pass

    def nvmlShutdown(self):  # noqa: N802
        self.shut_down += 1

    def nvmlDeviceGetCount(self):  # noqa: N802
        return 2

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return index

    def nvmlDeviceGetName(self, handle):  # noqa: N802
        return [b"NVIDIA H100", "NVIDIA MIG"][handle]

    def _answer(self, handle, value):
        if handle == 1:
            raise NVMLError("not supported")
        return value

    def nvmlDeviceGetUtilizationRates(self, handle):  # noqa: N802
        return self._answer(handle, SimpleNamespace(gpu=40))

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return self._answer(handle, SimpleNamespace(used=7000))

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return self._answer(
            handle, [SimpleNamespace(pid=p, usedGpuMemory=m) for p, m in self.running]
        )


@pytest.fixture
def nvml(monkeypatch):
    def installed(running=()):
        fake = FakeNVML(running)
        monkeypatch.setitem(sys.modules, "pynvml", fake)
        monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: None)
        return fake

    return installed


@pytest.mark.parametrize(
    ("running", "own"),
    [
        ([], 0),
        ([(5, 100), (6, 200), (7, 400)], 300),
        ([(7, 400)], None),  # other ids, as in a container
        ([(5, None)], None),
    ],
)
def test_what_gpus_tell(nvml, running, own):
    fake = nvml(running)
    measured = Gpus()
    assert measured.names == ("NVIDIA H100", "NVIDIA MIG")
    assert measured.use({5, 6}) == (Gpu(0.4, 7000, own), Gpu(None, None, None))
    measured.close()
    assert fake.shut_down == 1
    assert measured.use({5}) == ()


def test_a_host_without_a_driver(monkeypatch):
    def missing(name):
        raise OSError(name)

    monkeypatch.setattr(gpus.ctypes, "CDLL", missing)
    measured = Gpus()
    assert (measured.names, measured.use({1})) == ((), ())
    measured.close()


def test_a_driver_that_fails(nvml):
    fake = nvml()
    fake.nvmlDeviceGetCount = fake.nvmlDeviceGetName = lambda *args: 1 / 0
    assert Gpus().names == ()


def test_without_the_package(monkeypatch):
    monkeypatch.setattr(gpus.ctypes, "CDLL", lambda name: None)
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert Gpus().names == ()
