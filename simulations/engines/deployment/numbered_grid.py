"""A Grid that numbers the nodes whose own configs name no partition.

A node gets the lowest free number when it is first seen, in the order in which nodes were
registered, and keeps it for the run, also if it leaves and comes back. The numbers are in a file
of the run directory, by which a resumed run goes on with them.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, final

from flwr.app import ConfigRecord, Message, RecordDict
from flwr.serverapp import Grid

from hqde_fl.protocol.node_numbers import with_number
from hqde_fl.protocol.partition_claims import IDENTITY, claimed_partition
from hqde_fl.protocol.wrapped_grid import WrappedGrid, contents_restored
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.file_names import NODES


@final
class NumberedGrid(WrappedGrid):
    """A Grid with real nodes that answers for those which do not know their partition.

    Parameters
    ----------
    grid : Grid
        The Grid that reaches the nodes.
    directory : Path
        The run directory.
    count : int, optional
        The number of partitions; as many as have been given out if not given.
    """

    def __init__(self, grid: Grid, directory: Path, count: int | None = None) -> None:
        super().__init__(grid)
        self._file, self._count = directory / NODES, count
        self._numbers: dict[int, int] = {}
        self._names: dict[int, str] = {}
        self._claimed: set[int] = set()
        self._read()

    def send_and_receive(
        self, messages: Iterable[Message], *, timeout: float | None = None
    ) -> Iterator[Message]:
        """Send messages, each with the number of its node, and return the replies.

        A reply to ``query.identity`` that claims no partition gets the node's number.
        """
        sent = list(messages)
        kinds = {m.metadata.dst_node_id: m.metadata.message_type for m in sent}
        asked = {node for node, kind in kinds.items() if kind == IDENTITY}
        self._number(node for node in kinds if node not in asked)
        given = [n for node, n in self._numbers.items() if node not in self._claimed]
        count = self._count or max(given, default=-1) + 1
        with contents_restored(sent):
            for message in sent:
                node = message.metadata.dst_node_id
                if node in self._numbers and node not in self._claimed:
                    message.content = with_number(message.content, self._numbers[node], count)
            replies = self._grid.send_and_receive(sent, timeout=timeout)
        return self._identified(replies) if asked else iter(replies)

    def _identified(self, replies: Iterable[Message]) -> Iterator[Message]:
        """Yield replies to ``query.identity``; those without a claim last, with their numbers."""
        waiting = []
        for reply in replies:
            claimed = claimed_partition(reply, ())
            if claimed is None and _may_be_numbered(reply):
                waiting.append(reply)
                continue
            node = reply.metadata.src_node_id
            if claimed is not None and claimed not in self._numbers.values():
                self._numbers[node] = claimed
                self._claimed.add(node)
            yield reply
        self._number(reply.metadata.src_node_id for reply in waiting)
        for reply in waiting:
            identity = reply.content.config_records.get("identity", ConfigRecord())
            number = self._numbers[reply.metadata.src_node_id]
            record = ConfigRecord({**identity, "partition-id": number})
            reply.content = RecordDict({**reply.content, "identity": record})
            yield reply

    def _number(self, nodes: Iterable[int]) -> None:
        """Give the lowest free numbers to nodes that have none, in the order of registration."""
        new = {node for node in nodes if node not in self._numbers}
        if new:
            known = {node.node_id: node for node in self.get_nodes()}
            self._names |= {node: known[node].name for node in known}

            def registration(node: int) -> tuple[str, int]:
                return (known[node].registered_at if node in known else "~", node)

            taken, number = {*self._numbers.values()}, 0
            for node in sorted(new, key=registration):
                while number in taken:
                    number += 1
                self._numbers[node] = number
                taken.add(number)
        if new or not self._file.exists():
            self._write()

    def _read(self) -> None:
        """Read the numbers of a run that is resumed; there are none if the file is damaged."""
        try:
            table: dict[str, Any] = json.loads(self._file.read_bytes())
            for number, entry in table.items():
                node = int(entry["node-id"])
                self._numbers[node], self._names[node] = int(number), str(entry["name"])
                if entry["claimed"]:
                    self._claimed.add(node)
        except (OSError, ValueError, TypeError, KeyError, AttributeError):
            return

    def _write(self) -> None:
        table = {
            number: {
                "node-id": str(node),  # a number of JSON would lose digits elsewhere
                "name": self._names.get(node, ""),
                "claimed": node in self._claimed,
            }
            for node, number in sorted(self._numbers.items(), key=lambda item: item[1])
        }
        replace_file(self._file, json.dumps(table, indent=1).encode())


def _may_be_numbered(reply: Message) -> bool:
    """Return True if a node knows no partition of its own, or replied with none that counts."""
    if not reply.has_content():
        return False
    identity = reply.content.config_records.get("identity", ConfigRecord())
    return "partition-id" not in identity
