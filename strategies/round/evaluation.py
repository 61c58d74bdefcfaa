"""One evaluation of the model by clients, from its messages to the mean of their metrics."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import final

from flwr.app import ArrayRecord, ConfigRecord, Message, MessageType

from hqde_fl.protocol.message_roles import role_config
from hqde_fl.protocol.screening import Screening
from hqde_fl.strategies.callbacks import RoundRecord
from hqde_fl.strategies.metrics import mean_metrics, spread_metrics
from hqde_fl.strategies.outcomes import MISSING, outcome_of
from hqde_fl.strategies.roster import Roster
from hqde_fl.strategies.round.look_alikes import note_look_alikes
from hqde_fl.strategies.round.outgoing import address, leave_out_held
from hqde_fl.strategies.round.reply_notes import noted_reports
from hqde_fl.strategies.round.reply_screening import screen_reports
from hqde_fl.strategies.state import ModelState


@final
class Evaluation:
    """An evaluation of the model: the messages that ask for it, and what their replies report.

    Parameters
    ----------
    messages : Sequence[Message]
        The evaluation messages; empty if no client is asked.

    Attributes
    ----------
    excluded : dict[int, str]
        Node id -> why its metrics do not count, once ``metrics`` has read the replies.
    """

    def __init__(self, messages: Sequence[Message] = ()) -> None:
        self.messages = list(messages)
        self.excluded: dict[int, str] = {}

    @classmethod
    def address(
        cls,
        number: int,
        nodes: Sequence[int],
        arrays: ArrayRecord,
        config: ConfigRecord,
        keys: tuple[str, str],
        models: Sequence[ModelState],
    ) -> Evaluation:
        """Return an evaluation in round ``number`` whose messages ask the nodes for it.

        A single model is sent without the entries that a node holds.

        Parameters
        ----------
        number : int
            The round.
        nodes : Sequence[int]
            Ids of the nodes.
        arrays : ArrayRecord
            The model, or all members under their names.
        config : ConfigRecord
            Config that the messages carry.
        keys : tuple[str, str]
            Names of the ``ArrayRecord`` and of the ``ConfigRecord`` in messages.
        models : Sequence[ModelState]
            State of the members, which knows what nodes hold.
        """
        if len(models) > 1:
            content = [(arrays, config)] * len(nodes)
        else:
            holdings = models[0].holdings
            config = ConfigRecord({**role_config(models[0].layout), **config})
            held = [holdings.digest_of(node) for node in nodes]
            shared = {d: leave_out_held(arrays, config, holdings, d) for d in set(held)}
            content = [shared[digest] for digest in held]
        return cls(address(nodes, content, keys, number, MessageType.EVALUATE))

    def metrics(
        self, replies: Iterable[Message], limits: Screening, roster: Roster
    ) -> dict[str, float] | None:
        """Return the clients' metrics, and keep in ``excluded`` why others are not among them.

        They are the mean of each metric and its spread over the clients; None if no reply passes
        screening.
        """
        noted = noted_reports(replies, self.messages, roster)
        reports, self.excluded = screen_reports(noted, self.messages, limits)
        note_look_alikes(reports)
        if not reports:
            return None
        ordered = [reports[node] for node in roster.order(reports)]
        return mean_metrics(ordered) | spread_metrics(ordered)

    @property
    def lacking(self) -> set[int]:
        """Ids of the nodes that lacked held entries."""
        return {node for node, why in self.excluded.items() if outcome_of(why) == MISSING}

    def note(
        self, record: RoundRecord, metrics: Mapping[str, float], roster: Roster
    ) -> RoundRecord:
        """Return the record of a round with this evaluation's clients and their metrics."""
        excluded = {roster.identity(node): self.excluded[node] for node in self.excluded}
        return replace(
            record,
            clients_evaluate=metrics,
            evaluation_asked=len(self.messages),
            evaluation_excluded=dict(sorted(excluded.items())),
        )
