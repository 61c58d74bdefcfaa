"""Submit tasks to the Ray that this process is connected to, and read their results."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import ray
from ray.exceptions import RayError, RayTaskError

from hqde_fl.errors import RunError
from hqde_fl.monitor.task_counters import TaskCount

RETRIES = 16
"""Times that a task is run again after its process or its node died."""


def task(function: Callable[..., Any]) -> Any:
    """Return a function as a Ray task that is run again after its process or its node died.

    It asks for no CPU: the workers that train clients hold all of them between rounds. Whoever
    submits tasks bounds how many run at one time. Ray pickles the function by its name, so that it
    must be one of its module.
    """
    return ray.remote(num_cpus=0, max_retries=RETRIES)(function)


def run_measured(
    kind: str, returns: int, function: Callable[..., Any], *arguments: Any
) -> tuple[Any, ...]:
    """Return the results of a function, and after them what is to be counted of the call.

    Parameters
    ----------
    kind : str
        What the function does, by which its calls are counted.
    returns : int
        How many results it returns.
    function : Callable
        A function of a module.
    *arguments : Any
        Its arguments; those that are arrays are counted in bytes.
    """
    clock = time.perf_counter()
    result = function(*arguments)
    seconds, host = time.perf_counter() - clock, ray.get_runtime_context().get_node_id()
    size = sum(getattr(argument, "nbytes", 0) for argument in arguments)
    results = (result,) if returns == 1 else tuple(result)
    return *results, TaskCount(kind, host, 1, seconds, size)


_run_measured = task(run_measured)


def submit_measured(
    kind: str, returns: int, function: Callable[..., Any], *arguments: Any, **options: Any
) -> list[Any]:
    """Submit a call of ``run_measured``; return references to its results and to its count."""
    remote = _run_measured.options(num_returns=returns + 1, **options)
    references: list[Any] = remote.remote(kind, returns, function, *arguments)
    return references


def require_ray(purpose: str) -> None:
    """Raise ``RunError`` unless this process is connected to a Ray.

    Parameters
    ----------
    purpose : str
        What needs it, for the message.
    """
    if not ray.is_initialized():
        raise RunError(
            f"{purpose} needs a Ray: run with the engine 'ray', or connect this process first "
            "(ray.init)"
        )


def fetch(references: Any) -> Any:
    """Return the value of a reference, or the values of a list of references.

    An exception that a task raised is raised here as it was there.

    Raises
    ------
    RunError
        If a task could not be run, or an object is lost.
    """
    try:
        return ray.get(references)
    except RayTaskError as error:
        cause = error.cause
        if isinstance(cause, RayError):
            raise RunError(f"a task on Ray failed: {_first_line(cause)}") from cause
        raise cause from None
    except RayError as error:
        raise RunError(f"a task on Ray failed: {_first_line(error)}") from error


def submit(calls: Iterable[Callable[[], Any]], at_once: int) -> Iterator[Any]:
    """Make calls that return references, and yield these in their order.

    Parameters
    ----------
    calls : Iterable[Callable[[], ObjectRef]]
        Each submits a task, and returns a reference or a list of them.
    at_once : int
        Tasks that are unfinished at one time, at most: what they read is in memory meanwhile.
    """
    unfinished: list[Any] = []
    for call in calls:
        if len(unfinished) >= at_once:
            _, unfinished = ray.wait(unfinished, num_returns=1, fetch_local=False)
        reference = call()
        unfinished.append(reference[0] if isinstance(reference, list) else reference)
        yield reference


def fetch_in_order(calls: Iterable[Callable[[], Any]], at_once: int) -> Iterator[Any]:
    """Make calls that return references, and yield their values in order; few wait to be read."""
    waiting: deque[Any] = deque()
    for call in calls:
        waiting.append(call())
        if len(waiting) >= at_once:
            yield fetch(waiting.popleft())
    while waiting:
        yield fetch(waiting.popleft())


def cpus() -> int:
    """Return the number of CPUs of the cluster, at least 1."""
    return max(1, int(ray.cluster_resources().get("CPU", 1)))  # type: ignore[no-untyped-call]


def groups(references: Sequence[Any], size: int) -> list[Sequence[Any]]:
    """Return the references in groups of ``size`` neighbours; the last one may be smaller."""
    return [references[start : start + size] for start in range(0, len(references), size)]


def _first_line(error: BaseException) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no reason given'}"
