import os
import subprocess
import sys

import pytest

from hqde_fl.monitor.process_tree import (
    LinuxProcessTree,
    PortableProcessTree,
    ProcessTree,
    ProcessUse,
    process_tree,
)

linux = pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="reads /proc")
SLEEP = [sys.executable, "-S", "-c", "import sys; print('up', flush=True); sys.stdin.read()"]


def child():
    process = subprocess.Popen(SLEEP, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdout.readline() == b"up\n"
    return process


def end(process):
    process.communicate()


class FakeTree(ProcessTree):
    """A tree whose numbers a test gives."""

    uses: dict[int, ProcessUse]

    def _uses(self):
        return self.uses


def use(cpu, ended=0.0, read=0, memory=10):
    return ProcessUse(cpu, ended, memory, read, None if read is None else 0)


@pytest.mark.parametrize("kind", [pytest.param(LinuxProcessTree, marks=linux), PortableProcessTree])
def test_children_belong_to_the_tree(kind):
    first = child()
    try:
        tree = kind(os.getpid(), os.getpid())
        before = tree.use()
        assert {os.getpid(), first.pid} <= tree.pids
        assert before.cpu_seconds == 0.0
        assert before.memory > before.driver_memory > 0
        assert tree.use().cpu_seconds >= 0.0
    finally:
        end(first)
    assert first.pid not in kind(os.getpid()).pids


@linux
def test_new_children_are_found_and_ended_ones_forgotten():
    tree = LinuxProcessTree(os.getpid())
    tree.use()
    process = child()
    assert process.pid not in tree.pids
    tree.use()
    assert process.pid in tree.pids
    end(process)
    tree.use()
    assert process.pid not in tree.pids


@linux
def test_a_process_stays_when_its_parent_has_ended():
    read, write = os.pipe()  # ends the grandchild
    script = (
        "import subprocess, sys; "
        f"p = subprocess.Popen({SLEEP!r}, stdin={read}, stdout=subprocess.PIPE); "
        "p.stdout.readline(); print(p.pid, flush=True); sys.stdin.read()"
    )
    command = [sys.executable, "-S", "-c", script]
    parent = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, pass_fds=[read]
    )
    try:
        grandchild = int(parent.stdout.readline())
        tree = process_tree()
        tree.use()
        assert grandchild in tree.pids
        parent.stdin.close()
        parent.wait()
        tree.use()
        assert grandchild in tree.pids
        assert parent.pid not in tree.pids
    finally:
        os.close(write)
        os.close(read)
        parent.stdout.close()


def test_strangers_do_not_belong_to_it():
    process = child()
    try:
        tree = process_tree(process.pid)
        tree.use()
        assert tree.pids == {process.pid}
    finally:
        end(process)


def test_cpu_time_of_ended_children_is_counted_once():
    tree = FakeTree(1, driver=1)
    tree.uses = {1: use(5.0), 2: use(3.0)}
    assert tree.use().cpu_seconds == 0.0
    tree.uses = {1: use(6.0), 2: use(4.0)}
    assert tree.use().cpu_seconds == 2.0
    tree.uses = {1: use(6.5, ended=4.0)}
    measured = tree.use()
    assert (measured.cpu_seconds, measured.driver_seconds) == (2.5, 6.5)


def test_counts_do_not_fall_when_a_process_takes_its_own_along():
    tree = FakeTree(1)
    tree.uses = {1: use(1.0, read=100), 2: use(1.0, read=50)}
    tree.use()
    tree.uses = {1: use(1.0, read=100), 2: use(4.0, read=80)}
    assert tree.use().read == 30
    tree.uses = {1: use(1.0, read=110)}
    measured = tree.use()
    assert (measured.cpu_seconds, measured.read) == (3.0, 30)
    tree.uses = {1: use(2.0, read=120)}
    measured = tree.use()
    assert (measured.cpu_seconds, measured.read) == (4.0, 40)


def test_the_past_of_a_further_root_does_not_count():
    tree = FakeTree(1)
    tree.uses = {1: use(1.0)}
    tree.use()
    tree.add_root(2)
    tree.uses = {1: use(2.0), 2: use(500.0)}
    tree.use()
    tree.uses = {1: use(2.0), 2: use(503.0)}
    assert tree.use().cpu_seconds == 3.0


@linux
def test_a_further_root_with_its_children():
    tree = LinuxProcessTree(1)
    tree.use()
    known = os.getpid() in tree.pids
    tree.add_root(os.getpid())
    process = child()
    try:
        tree.use()
        assert {os.getpid(), process.pid} <= tree.pids
        assert known or os.getppid() not in tree.pids
    finally:
        end(process)


def test_disk_traffic_that_is_not_known():
    tree = FakeTree(1)
    tree.uses = {1: use(1.0, read=None)}
    measured = tree.use()
    assert (measured.read, measured.written, measured.driver_memory) == (None, None, None)


def test_a_tree_that_has_ended():
    process = child()
    tree = process_tree(process.pid, process.pid)
    tree.use()
    end(process)
    measured = tree.use()
    assert (measured.processes, measured.memory, measured.driver_seconds) == (0, 0, None)
