"""The catalogue's bombs on a real SuperLink, and their effect on the memory of the ServerApp.

The ServerApp runs in a process of its own; the SuperLink and the nodes run in that of the test.
"""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import cache

import httpx
import pytest
from flwr.app import Context, Message, RecordDict

from hqde_fl.protocol.flower_internals import Run, TaskIdentity, set_message_id
from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.records import from_record, layout_of
from hqde_fl.protocol.screening import (
    Rejected,
    Screening,
    SentModel,
    screen,
    screen_evaluation,
)
from hqde_fl.simulations.audit import AnswerContext, CatalogueRow, UploadedReply
from hqde_fl.simulations.audit.catalogue import GROUPS
from hqde_fl.simulations.audit.honest_clients import honest_content, initial_model
from hqde_fl.simulations.audit.peak_memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.sandbox import Sandbox
from hqde_fl.simulations.engines.deployment import guarded_grid
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid
from hqde_fl.simulations.engines.deployment.superlink_requests import Link
from hqde_fl.simulations.engines.flower_internals import HttpGrid, ObjectTree
from tests.deployment.superlink import Node, Site, Upload

pytestmark = pytest.mark.deployment

ROWS = {row.name: row for row in GROUPS["bombs"]}
REFUSED = {
    "short-children",
    "spaces-in-a-head",
    "digits-in-a-head",
    "head-without-end",
    "deep-tree",
    "empty-tree",
}
"""Rows that a SuperLink refuses, because it checks heads and the ids in a tree."""
ANSWER_SECONDS = 60.0
"""Long enough for every answer that comes."""
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's mallopt


@cache
def connected(address: str, token: str, run_id: int) -> GuardedGrid:
    """Return the Grid of the ServerApp's process."""
    guarded_grid.POLL_SECONDS, guarded_grid.NODES_SECONDS = 0.02, 0.1
    with suppress(OSError, AttributeError):  # so that memory freed by Flower's threads is returned
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_ARENA_MAX, 1)
        mallopt(_MMAP_THRESHOLD, 1 << 16)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, 1
    grid = HttpGrid(address, insecure=True, token=token)
    grid.set_run(Run.create_empty(run_id))
    return GuardedGrid(grid)


def serve(
    address: str, token: str, run_id: int, node: int, kind: str, seconds: float
) -> tuple[str, int | None]:
    """Ask a node, read and screen its reply; return the reason of a failure and memory growth."""
    grid, arrays = connected(address, token, run_id), initial_model()
    message = Message(RecordDict({"arrays": arrays}), node, kind, group_id="1")
    layout = layout_of(arrays)
    sent = SentModel(layout, *layout.flatten(from_record(arrays)))
    meter = PeakMeter()
    meter.start()
    reason = "late"
    for reply in grid.send_and_receive([message], timeout=seconds):
        if reply.has_error():
            reason = f"failed: {reply.error.reason}"
            continue
        message_bytes(reply.content)
        train = kind == "train"
        screened = screen(reply, sent, Screening()) if train else None
        screened = screened or screen_evaluation(reply, Screening())
        reason = f"rejected: {screened.reason}" if isinstance(screened, Rejected) else ""
    return reason, meter.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox[tuple[str, int | None]]]:
    with Sandbox(serve, seconds=2 * ANSWER_SECONDS) as sandbox:
        yield sandbox


def upload_of(node: Node, row: CatalogueRow | None) -> Upload:
    """Return the upload of a node that follows a row, or of an honest one for None."""
    asked = node.instruction()
    content = honest_content(asked, 0)
    upload = node.reply(content, asked)
    if row is None:
        return upload
    context = Context(asked.metadata.run_id, node.id, {}, RecordDict(), {})
    (wire,) = row.replies(AnswerContext(asked, content, context, None, 4242))
    assert isinstance(wire, UploadedReply)
    set_message_id(upload.message, wire.root)
    flat = [ObjectTree(object_id=key) for key in wire.objects if key != wire.root]
    tree = wire.tree or ObjectTree(object_id=wire.root, children=flat)
    return Upload(upload.message, tree, dict(wire.objects))


def hand_in(node: Node, row: CatalogueRow | None) -> int:
    """Reply and return the bytes sent. A node with a refused upload signs off, to end the round."""
    upload = upload_of(node, row)
    with suppress(httpx.HTTPStatusError):
        node.hand_in(upload)
    if row is not None and row.name in REFUSED:
        node.deactivate()
    return sum(len(key) + len(part) for key, part in upload.objects.items())


def ask(
    site: Site, server: Sandbox[tuple[str, int | None]], row: CatalogueRow | None
) -> tuple[str, int | None, int]:
    """Pass one reply through the SuperLink; return its failure, memory growth and bytes sent."""
    node, kind = Node(site.address), "train" if row is None else row.request
    token, run_id = site.grid._token, site.grid.run.run_id
    with ThreadPoolExecutor(1) as pool:
        sent = pool.submit(hand_in, node, row)
        reason, growth = server(site.address, token, run_id, node.id, kind, ANSWER_SECONDS)
        return reason, growth, sent.result()


def test_an_honest_reply_passes(site: Site, server: Sandbox[tuple[str, int | None]]) -> None:
    assert ask(site, server, None)[0] == ""


@pytest.mark.parametrize("name", ROWS)
def test_a_bomb_is_named_within_the_memory_bound(
    site: Site, server: Sandbox[tuple[str, int | None]], name: str
) -> None:
    reason, growth, size = ask(site, server, ROWS[name])
    assert (growth is None) == (sys.platform != "linux"), "only Linux keeps a peak to measure"
    assert growth is None or growth <= memory_bound(size)
    if name in REFUSED:
        assert reason.startswith("failed: ")
    else:
        assert reason.startswith((ROWS[name].expected, "failed: too large: more than"))


@pytest.mark.parametrize("name", ROWS)
def test_what_a_superlink_takes(site: Site, name: str) -> None:
    """The objects are not pulled. Those of a wide tree are not the announced ones."""
    node, row, link = Node(site.address), ROWS[name], Link(site.grid)
    message = Message(RecordDict({"arrays": initial_model()}), node.id, row.request, group_id="1")
    assert link.push([message]) == [True]
    upload = upload_of(node, row)
    try:
        session = node.announce(upload)
    except httpx.HTTPStatusError:
        taken = False
    else:
        for key, part in upload.objects.items():
            node.push(key, part, session)
        taken = row.name == "wide-tree" or all(node.has(key) for key in upload.objects)
        link.forget(upload.message.metadata.message_id)
    node.deactivate()
    assert taken == (name not in REFUSED)
