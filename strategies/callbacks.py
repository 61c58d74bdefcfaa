"""What a round leaves behind, and how to listen to it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from flwr.app import ArrayRecord

if TYPE_CHECKING:
    from hqde_fl.strategies.state import ServerState


@dataclass(frozen=True)
class ClientRecord:
    """What became of one client in one round.

    Parameters
    ----------
    round : int
        The round, from 1.
    node : int
        The node's id in this run.
    partition : int or None
        Its partition id, where known: the same in every run.
    kept : bool
        Whether its update reached the result, in an ensemble that of any member.
    influence : float
        Its share of the result; the shares of a round sum to one. In an ensemble the mean of its
        shares over the members that moved.
    reason : str or None
        Why it was not kept: ``filtered`` (by the rule), ``rejected: ...`` (by screening),
        ``failed: ...`` (it raised or died), ``skipped: ...`` (it has no data) or ``late``.
    bytes_down, bytes_up : int
        Size of the serialised message to it and of its reply.
    seconds : float or None
        How long it says it trained.
    members : tuple[int, ...]
        The members of an ensemble that it was given; empty where there is one model.
    filtered_from : tuple[int, ...]
        Those of them that the rule kept its update out of; the reason is ``filtered`` if all are.
    feedback_lost : bool
        Whether it no longer had an error that it should have fed back.
    """

    round: int
    node: int
    partition: int | None
    kept: bool
    influence: float
    reason: str | None
    bytes_down: int
    bytes_up: int
    seconds: float | None
    members: tuple[int, ...] = ()
    filtered_from: tuple[int, ...] = ()
    feedback_lost: bool = False


@dataclass(frozen=True)
class RoundRecord:
    """What became of one round; round 0 is the initial model.

    Parameters
    ----------
    round : int
        The round.
    server : Mapping[str, float]
        Metrics of the global model on the server.
    clients_train, clients_evaluate : Mapping[str, float]
        Means of the metrics that the clients reported.
    asked, kept, filtered, rejected, failed, late, skipped : int
        Clients: asked to train, and what became of them.
    void : bool
        Whether the round has no aggregate: no model was moved.
    f, f_used : int or None
        The number of faulty clients that the rule was told to expect, and the number that it worked
        with, which is less where the updates would else have been too few; None if it is told none.
        In an ensemble the least over the members that were merged.
    feedback_lost : int
        Clients that had lost their error feedback, as a restarted node has.
    bytes_down, bytes_up : int
        Total size of the serialised training messages.
    seconds : float
        Wall time of the round.
    diagnostics : Mapping[str, Any]
        What the rule had to say; in an ensemble under the members' names.
    note : str or None
        Why the round kept the old model, if it did; in an ensemble, which members it kept, and why.
    clients : tuple[ClientRecord, ...]
        One record for each client asked.
    """

    round: int
    server: Mapping[str, float] = field(default_factory=dict)
    clients_train: Mapping[str, float] = field(default_factory=dict)
    clients_evaluate: Mapping[str, float] = field(default_factory=dict)
    asked: int = 0
    kept: int = 0
    filtered: int = 0
    rejected: int = 0
    failed: int = 0
    late: int = 0
    skipped: int = 0
    void: bool = False
    f: int | None = None
    f_used: int | None = None
    feedback_lost: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    seconds: float = 0.0
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None
    clients: tuple[ClientRecord, ...] = ()


class Callback:
    """Listens to a run; override what you need."""

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """The initial model is there, no round has begun."""

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """A round is over, ``arrays`` is the global model after it."""

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        """After ``on_round`` of all callbacks: what the server carries into the next round."""

    def on_end(self, arrays: ArrayRecord) -> None:
        """All rounds are over."""
