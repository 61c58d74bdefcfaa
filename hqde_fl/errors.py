"""Every error hqde-fl raises on purpose.

::

    HQDEError
    ├── ConfigError           an experiment, option or file that cannot run (exit status 2)
    │   ├── UnknownNameError  a name or key that does not exist
    │   └── DataError         a data set that is not where it should be
    ├── BoundError            a rule cannot run on a round's updates, mostly too few of them
    ├── CodecError            bytes that are no payload of the size expected
    ├── UpdateError           one client's update has a wrong form or is lost
    ├── SecureAggregationError  a step of secure aggregation that would reveal an update, or failed
    ├── CohortError           too few nodes connected or answered for the run to go on
    ├── TaskError             the user's code (model, loss, metric, data set) raised an exception
    └── RunError              an engine failed during a run (exit status 1)
        └── CheckpointError   a checkpoint that cannot be written, or is damaged

A *client's* reply never raises: ``protocol.screening`` turns a bad one into a ``Rejected``.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HQDEError(Exception):
    """Base of every error that hqde-fl raises on purpose."""


class ConfigError(HQDEError, ValueError):
    """A configuration that cannot run; the message names the parameter, its bound and the value."""


class UnknownNameError(ConfigError):
    """A name or key that does not exist.

    Parameters
    ----------
    kind : str
        The kind of thing that the name should stand for, for instance ``"rule"``.
    name : str
        The unknown name.
    known : Iterable[str]
        The names that exist. The message suggests the nearest one, or lists all if none is near.
    """

    def __init__(self, kind: str, name: str, known: Iterable[str]) -> None:
        self.kind, self.name, self.known = kind, name, tuple(sorted(known))
        near = difflib.get_close_matches(name, self.known, n=1, cutoff=0.5)
        hint = f": did you mean {near[0]!r}?" if near else f": known: {', '.join(self.known)}"
        super().__init__(f"unknown {kind} {name!r}{hint if self.known else ''}")

    def __reduce__(self) -> tuple[type[UnknownNameError], tuple[str, str, tuple[str, ...]]]:
        return type(self), (self.kind, self.name, self.known)


class DataError(ConfigError):
    """A data set that is missing or unreadable."""


class BoundError(HQDEError, ValueError):
    """A rule cannot run on a round's updates.

    They are too few, its trusted client is not among them, or it would take too many steps.
    """


class CodecError(HQDEError, ValueError):
    """Bytes that are no sound payload of the expected number of values; screening rejects them."""


class UpdateError(HQDEError, ValueError):
    """The update of one client has a wrong form, or is lost; the message names the client.

    Parameters
    ----------
    client : int
        The client's id.
    problem : str
        What is wrong with its update.
    """

    def __init__(self, client: int, problem: str) -> None:
        self.client, self.problem = client, problem
        super().__init__(f"update of client {client}: {problem}")

    def __reduce__(self) -> tuple[type[UpdateError], tuple[int, str]]:
        return type(self), (self.client, self.problem)


class SecureAggregationError(HQDEError, ValueError):
    """A step of secure aggregation that cannot be done, or must not, as it would reveal an update.

    A client that raises it does not answer; for the server the bucket is void.
    """


class CohortError(HQDEError, RuntimeError):
    """Too few nodes connected or answered for the run to go on."""


class TaskError(HQDEError, RuntimeError):
    """The user's own code raised an exception, or returned what it must not.

    The message is one line: which part of the task, the exception, and the last line of the user's
    own files that it passed through.
    """


class RunError(HQDEError, RuntimeError):
    """The engine that executes a run failed."""


class CheckpointError(RunError):
    """A checkpoint that cannot be written or read; the message names the file."""
