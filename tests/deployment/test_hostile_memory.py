"""The catalogue's bombs on a real SuperLink, and what they do to the memory of the ServerApp.

The ServerApp has a process of its own, in which nothing else runs; the SuperLink and the nodes are
in the process of the test.
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
from flwr.proto.message_pb2 import ObjectTree
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid

from hqde_fl.protocol.message_size import message_bytes
from hqde_fl.protocol.records import from_record, layout_of
from hqde_fl.protocol.screening import Rejected, Screening, screen, screen_evaluation
from hqde_fl.simulations.audit import AnswerContext, CatalogueRow, UploadedReply
from hqde_fl.simulations.audit.catalogue import GROUPS
from hqde_fl.simulations.audit.honest_clients import honest_content, initial_model
from hqde_fl.simulations.audit.peak_memory import PeakMeter, memory_bound
from hqde_fl.simulations.audit.sandbox import Sandbox
from hqde_fl.simulations.engines.deployment import guarded_grid
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid
from hqde_fl.simulations.engines.deployment.link import Link
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
"""What a SuperLink does not take: it looks at heads, and at the ids in a tree."""
ANSWER_SECONDS = 60.0
"""Long enough for every answer that comes."""
_MMAP_THRESHOLD, _ARENA_MAX = -3, -8  # of glibc's mallopt


@cache
def connected(address: str, token: str, run_id: int) -> GuardedGrid:
    """The ServerApp's Grid, in its own process."""
    guarded_grid.POLL_SECONDS, guarded_grid.NODES_SECONDS = 0.02, 0.1
    with suppress(OSError, AttributeError):  # or what a thread of Flower's frees is not given back
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
    """Ask a node, read and screen its reply: what is wrong with it, and the growth of memory."""
    grid, arrays = connected(address, token, run_id), initial_model()
    message = Message(RecordDict({"arrays": arrays}), node, kind, group_id="1")
    layout = layout_of(arrays)
    model = layout.flatten(from_record(arrays))[0]
    meter = PeakMeter()
    meter.start()
    reason = "late"
    for reply in grid.send_and_receive([message], timeout=seconds):
        if reply.has_error():
            reason = f"failed: {reply.error.reason}"
            continue
        message_bytes(reply.content)
        train = kind == "train"
        screened = screen(reply, layout, model, Screening()) if train else None
        screened = screened or screen_evaluation(reply, Screening())
        reason = f"rejected: {screened.reason}" if isinstance(screened, Rejected) else ""
    return reason, meter.stop()


@pytest.fixture(scope="module")
def server() -> Iterator[Sandbox[tuple[str, int | None]]]:
    with Sandbox(serve, seconds=2 * ANSWER_SECONDS) as sandbox:
        yield sandbox


def upload_of(node: Node, row: CatalogueRow | None) -> Upload:
    """What a node hands in that does what a row says, or what is right."""
    asked = node.instruction()
    content = honest_content(asked, 0)
    upload = node.reply(content, asked)
    if row is None:
        return upload
    context = Context(asked.metadata.run_id, node.id, {}, RecordDict(), {})
    (wire,) = row.replies(AnswerContext(asked, content, context, None, 4242))
    assert isinstance(wire, UploadedReply)
    upload.message.metadata.__dict__["_message_id"] = wire.root
    flat = [ObjectTree(object_id=key) for key in wire.objects if key != wire.root]
    tree = wire.tree or ObjectTree(object_id=wire.root, children=flat)
    return Upload(upload.message, tree, dict(wire.objects))


def hand_in(node: Node, row: CatalogueRow | None) -> int:
    """Answer; the bytes sent. A node whose upload is refused goes away, so that nobody waits."""
    upload = upload_of(node, row)
    with suppress(httpx.HTTPStatusError):
        node.hand_in(upload)
    if row is not None and row.name in REFUSED:
        node.deactivate()
    return sum(len(key) + len(part) for key, part in upload.objects.items())


def ask(
    site: Site, server: Sandbox[tuple[str, int | None]], row: CatalogueRow | None
) -> tuple[str, int | None, int]:
    """One reply on its way through the SuperLink: what became of it, growth, bytes sent."""
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
    """Nobody pulls it here. The objects of a wide tree are others than those announced."""
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
