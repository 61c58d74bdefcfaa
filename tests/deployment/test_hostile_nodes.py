"""The hostile catalogue on a real SuperLink, through the guarded Grid."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from flwr.app import Context, RecordDict

from hqde_fl.protocol.flower_internals import set_message_id
from hqde_fl.simulations.audit import AnswerContext, UploadedReply
from hqde_fl.simulations.audit.honest_clients import honest_content, initial_model
from hqde_fl.simulations.audit.message_objects import to_objects
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid
from hqde_fl.simulations.engines.flower_internals import ObjectTree
from tests.deployment.superlink import Node, Site, Upload
from tests.hostile.batch import HONEST, Rounds, check, rejected, strategy

pytestmark = pytest.mark.deployment

SIGNED_BY_THE_SUPERLINK = {
    "another-type",
    "another-run",
    "another-group",
    "stranger",
    "stolen-name",
    "node-id-0",
    "duplicate",
    "many-replies",
    "error-and-reply",
}
"""Forged envelopes and second replies, which cannot be sent to a SuperLink."""
LONG = {"deep-records"}
"""Rows that take thousands of uploads."""
ROWS = [
    row
    for row in rejected("objects", "arrays", "files", "metrics", "records", "envelopes")
    if row.name not in SIGNED_BY_THE_SUPERLINK | LONG
]


def answer(node: Node, partition: int) -> None:
    """Answer the next message as the node's row says, or honestly."""
    message = node.instruction()
    content = honest_content(message, partition)
    if partition >= len(ROWS):
        node.hand_in(node.reply(content, message))
        return
    context = Context(message.metadata.run_id, node.id, {}, RecordDict(), {})
    (reply,) = ROWS[partition].replies(AnswerContext(message, content, context, None, 4242))
    wire = reply if isinstance(reply, UploadedReply) else to_objects(reply)
    upload = node.reply(content, message)
    set_message_id(upload.message, wire.root)
    children = [ObjectTree(object_id=key) for key in wire.objects if key != wire.root]
    tree = ObjectTree(object_id=wire.root, children=children)
    node.hand_in(Upload(upload.message, tree, dict(wire.objects)))


def test_every_culprit_is_named_and_the_honest_mean_kept(site: Site) -> None:
    nodes = [Node(site.address) for _ in range(len(ROWS) + HONEST)]
    for node in nodes:
        site.state.acknowledge_node_heartbeat(node.id, 3600.0)  # until its turn has come
    partitions = {node.id: partition for partition, node in enumerate(nodes)}
    rounds = Rounds()
    hqde = strategy(rounds, identify=False)  # these nodes answer one message

    def work() -> None:
        # The honest nodes, which come last, answer first: all clients send the same counter, and a
        # SuperLink accepts the first declaration of an object's children (SECURITY.md).
        for partition, node in reversed(list(enumerate(nodes))):
            answer(node, partition)

    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    hqde.start(GuardedGrid(site.grid), initial_model(), num_rounds=1, timeout=600.0)
    worker.join()
    for node in nodes:
        node.deactivate()
    record = rounds.rounds[1]
    clients = [replace(each, partition=partitions[each.node]) for each in record.clients]
    rounds.rounds[1] = replace(record, clients=tuple(clients))
    check(rounds, ROWS, alternative="failed: too large")
