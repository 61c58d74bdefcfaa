"""Observations of a round's clients, for the histories that selectors read."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor

from hqde_fl.protocol.screening import Accepted
from hqde_fl.seeding import Seeds
from hqde_fl.selection.history import NEW_CLIENT, ClientHistory, Observation
from hqde_fl.strategies.callbacks import ClientRecord
from hqde_fl.strategies.outcomes import FAILED, LATE, MISSING, REJECTED, SKIPPED, outcome_of
from hqde_fl.strategies.round.reply_times import ReplyTimes
from hqde_fl.updates.received_updates import received_columns
from hqde_fl.updates.sketch import sketch

Histories = Mapping[int, ClientHistory]
"""Client, by the id that rules know -> what was measured of it."""

LOSS = "train-loss"
"""Metric of a reply that selectors take as the client's loss."""


def observe(
    client: ClientRecord,
    times: ReplyTimes,
    reply: Mapping[int, Accepted],
    sketch: Tensor | None,
) -> Observation | None:
    """Return what a round shows of a client; None if it had no data.

    Parameters
    ----------
    client : ClientRecord
        Its record of the round.
    times : ReplyTimes
        The times of the round's replies.
    reply : Mapping[int, Accepted]
        Member -> its accepted update; empty if its reply was not accepted.
    sketch : Tensor or None
        A random projection of its update.
    """
    outcome = outcome_of(client.reason)
    if outcome == SKIPPED:
        return None
    # who did not train, or sends anything at all, tells nothing of how long training takes
    untrained = outcome in (FAILED, MISSING, REJECTED)
    seconds = None if untrained else times.seconds(client.node)
    if outcome == LATE:  # also a client whose end a virtual clock knows: the server does not
        seconds = min(times.deadline, times.round_seconds())
    whole = times.round_seconds()
    busy = min(1.0, seconds / whole) if seconds is not None and whole > 0 else 0.0
    first = next(iter(reply.values()), None)
    success = client.reason is None
    return Observation(
        round=client.round,
        success=success,
        seconds=seconds,
        late=outcome == LATE,
        work=client.work,
        busy=busy,
        host_load=times.host_load(client.node),
        examples=first.num_examples if success and first is not None else None,
        loss=first.metrics.get(LOSS) if success and first is not None else None,
        sketch=sketch,
    )


def histories_after(
    histories: Histories, observations: Iterable[tuple[int, Observation | None]]
) -> Histories:
    """Return the clients' histories after a round.

    Parameters
    ----------
    histories : Histories
        Those before it.
    observations : Iterable[tuple[int, Observation or None]]
        Client and what the round shows of it; None leaves its history as it is.
    """
    after = dict(histories)
    for client, seen in observations:
        if seen is not None:
            after[client] = after.get(client, NEW_CLIENT).after(seen)
    return after


def sketches(
    members: Sequence[tuple[Seeds, Mapping[int, Accepted]]],
) -> dict[int, Tensor]:
    """Return node -> sketch of its accepted updates of all members, one after the other.

    Parameters
    ----------
    members : Sequence[tuple[Seeds, Mapping[int, Accepted]]]
        For each member of the ensemble its seeds, and node -> accepted update.
    """
    sums: dict[int, Tensor] = {}
    for seeds, replies in members:
        if not replies:
            continue
        rows = sketch(received_columns([reply.update for reply in replies.values()]), seeds)
        for node, row in zip(replies, rows, strict=True):
            sums[node] = sums[node] + row if node in sums else row
    return sums
