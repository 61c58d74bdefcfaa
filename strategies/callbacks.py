"""Records of a round and callbacks that receive them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from flwr.app import ArrayRecord

if TYPE_CHECKING:
    from hqde_fl.rules.tree_report import NodeReport
    from hqde_fl.strategies.state import ServerState


@dataclass(frozen=True)
class ClientRecord:
    """Record of one client in one round.

    Parameters
    ----------
    round : int
        The round, from 1.
    node : int
        The client's node id in this run.
    partition : int or None
        Its partition id, where known: the same in every run.
    kept : bool
        True if its update is part of the aggregate, in an ensemble that of any member.
    influence : float
        Share of the aggregate that its update has; the influences of a round sum to one. In an
        ensemble the mean over the members that moved.
    reason : str or None
        Why it was not kept: ``filtered`` (by the rule), ``rejected: ...`` (by screening),
        ``failed: ...`` (it raised or died), ``missing: ...`` (it lacked a part of the model that
        it had said it holds), ``skipped: ...`` (it has no data) or ``late``.
    bytes_down, bytes_up : int
        Size in bytes of the serialised message to it and of its reply.
    seconds : float or None
        Training time that it reports.
    turnaround_seconds : float or None
        Seconds from the message to its reply, measured by the server; None if there is no reply.
    virtual_turnaround : float or None
        These in virtual seconds, also of a reply that came too late; None without a virtual clock.
    work : float
        Part of its configured local training that it was asked for, in (0, 1]; 1 if its reply
        passed screening and does not confirm it.
    members : tuple[int, ...]
        The members of an ensemble that were assigned to it; empty where there is one model.
    filtered_from : tuple[int, ...]
        Those of its members whose updates the rule filtered; ``reason`` is ``filtered`` if these
        are all.
    feedback_lost : bool
        True if it lost its error-feedback residual.
    epsilon : float or None
        The epsilon of all that it has sent so far, as it says itself, with local differential
        privacy or DP-SGD.
    bucket : int or None
        With secure aggregation: the bucket of the round that it was dealt into, from 0. The server
        knows the sum of the bucket alone: its clients are kept or filtered together, and each has
        an even share of the bucket's influence.
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
    turnaround_seconds: float | None = None
    virtual_turnaround: float | None = None
    work: float = 1.0
    members: tuple[int, ...] = ()
    filtered_from: tuple[int, ...] = ()
    feedback_lost: bool = False
    epsilon: float | None = None
    bucket: int | None = None


@dataclass(frozen=True)
class RoundRecord:
    """Record of one round; round 0 is the initial model.

    Parameters
    ----------
    round : int
        The round, from 0.
    server : Mapping[str, float]
        Metrics of the global model on the server.
    clients_train, clients_evaluate : Mapping[str, float]
        Means of the metrics that clients reported: of training, over the clients whose update the
        rule did not filter; of evaluation, over the clients whose reply passed screening.
    evaluation_asked : int
        Number of clients that were asked to evaluate the model.
    evaluation_excluded : Mapping[int, str]
        Client -> why its metrics are not in ``clients_evaluate``: ``late``, ``failed: ...``,
        ``rejected: ...`` or ``missing: ...``, as of ``ClientRecord.reason``. Clients have their
        partition ids, where known, else the node's.
    asked, kept, filtered, rejected, failed, late, missing, skipped : int
        Number of clients that were asked to train, and of those with each outcome.
    void : bool
        True if the round has no aggregate: no model was moved.
    f, f_used : int or None
        The number of faulty clients that the rule expects, and the number that it worked with,
        which is less where the updates were too few for f; None for a rule without f. In an
        ensemble ``f_used`` is the least over the members that were merged.
    feedback_lost : int
        Number of clients that lost their error-feedback residual, as a restarted node does.
    bytes_down, bytes_up : int
        Total size in bytes of the serialised training messages and replies.
    bytes_down_by_role, bytes_up_by_role : Mapping[str, int]
        These bytes by the role of what they carry: ``trainable``, ``statistics``, ``counters``,
        ``frozen``, and ``other`` for all that is no entry of the model, such as the config and
        metrics. Empty in round 0.
    seconds : float
        Wall time of the round.
    virtual_time : float or None
        Virtual seconds from the beginning of the run to the end of the round's training; None
        without a virtual clock.
    diagnostics : Mapping[str, Any]
        Diagnostics of the rule by name; in an ensemble with the members' names before theirs.
    epsilon : float or None
        With central differential privacy, or with the noise of secure aggregation: the epsilon that
        the run has spent after the round. The means of the clients' metrics are empty then, and the
        noise of the former is among the diagnostics.
    note : str or None
        Why the round kept the old model, or members of an ensemble; None if all moved.
    tree : tuple[tuple[int, NodeReport], ...]
        What each node of a rule that is a tree did, with the member that it merged; empty for other
        rules.
    clients : tuple[ClientRecord, ...]
        One record for each client that was asked to train.
    """

    round: int
    server: Mapping[str, float] = field(default_factory=dict)
    clients_train: Mapping[str, float] = field(default_factory=dict)
    clients_evaluate: Mapping[str, float] = field(default_factory=dict)
    evaluation_asked: int = 0
    evaluation_excluded: Mapping[int, str] = field(default_factory=dict)
    asked: int = 0
    kept: int = 0
    filtered: int = 0
    rejected: int = 0
    failed: int = 0
    late: int = 0
    missing: int = 0
    skipped: int = 0
    void: bool = False
    f: int | None = None
    f_used: int | None = None
    feedback_lost: int = 0
    bytes_down: int = 0
    bytes_up: int = 0
    bytes_down_by_role: Mapping[str, int] = field(default_factory=dict)
    bytes_up_by_role: Mapping[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    virtual_time: float | None = None
    diagnostics: Mapping[str, Any] = field(default_factory=dict)
    epsilon: float | None = None
    note: str | None = None
    tree: tuple[tuple[int, NodeReport], ...] = ()
    clients: tuple[ClientRecord, ...] = ()


class Callback:
    """Base class of callbacks, whose methods do nothing until they are overridden.

    Runs of experiments call all of them. ``HQDEStrategy`` in a Flower app of your own calls those
    from ``on_start`` to ``on_end``.

    Attributes
    ----------
    phase : str
        The span of a round in which the monitor counts the time of ``on_state``.
    """

    phase: ClassVar[str] = "record"

    def on_run(self, path: Path, experiment: Mapping[str, Any]) -> None:
        """Receive the run directory and the experiment as a table, before anything else."""

    def on_start(self, arrays: ArrayRecord, rounds: int) -> None:
        """Receive the model that the run starts or resumes from, and the last round's number."""

    def on_round(self, record: RoundRecord, arrays: ArrayRecord) -> None:
        """Receive the record of a round and the global model after it."""

    def on_state(self, state: ServerState, record: RoundRecord) -> None:
        """Receive the state after a round, once ``on_round`` of all callbacks has been called."""

    def on_early_end(self, reason: str) -> None:
        """Receive why the run ends before its last round: ``[stopping]``, or a spent budget."""

    def on_end(self, arrays: ArrayRecord) -> None:
        """Receive the final model after the last round."""

    def on_stop(self, error: BaseException) -> None:
        """Receive the exception that ends a run, after which no other method is called."""
