"""Parts of local training: what the server asks of a client, and what a reply confirms."""

from __future__ import annotations

from collections.abc import Mapping

from flwr.app import Message

from hqde_fl.protocol.members import config_value
from hqde_fl.protocol.spent_epsilon import EPSILON

WORK = "work"
"""Key of a training message's config, and metric of its reply: the part of the configured local
training that the client is asked to do, and that it did. Absent: all of it."""


def requested_work(message: Message) -> float:
    """Return the part of its local training that a message asks for; 1 if it names none in (0, 1].

    Parameters
    ----------
    message : Message
        A training message.
    """
    work = config_value(message, WORK, float)
    return work if work is not None and 0 < work <= 1 else 1.0


def confirmed_work(metrics: Mapping[str, float], requested: float) -> float:
    """Return the part of its local training that a client did: ``requested`` if it confirms that.

    A client that does not, such as one of another app, has done all of it. It can choose no other
    part: a small one would give its update a large factor.

    Parameters
    ----------
    metrics : Mapping[str, float]
        Metrics of the client's reply.
    requested : float
        The part that it was asked for.
    """
    return requested if metrics.get(WORK) == requested else 1.0


def reported_metrics(metrics: Mapping[str, float], requested: float) -> Mapping[str, float]:
    """Return a reply's metrics without the part of work that the server itself asked for.

    Nor do they have the epsilon of a private client, which is recorded for each, and has no mean.
    """
    without = {EPSILON} if requested == 1 else {EPSILON, WORK}
    return {name: value for name, value in metrics.items() if name not in without}
