"""A SuperLink in this process with its Grid, and nodes that upload any bytes a test gives them."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec
from flwr.app import Message, RecordDict
from flwr.app.message import remove_content_from_message
from flwr.common.serde import message_from_proto, message_to_proto
from flwr.proto.fleet_pb2 import (
    ActivateNodeRequest,
    DeactivateNodeRequest,
    PullMessagesRequest,
    PushMessagesRequest,
    RegisterNodeFleetRequest,
)
from flwr.proto.heartbeat_pb2 import SendNodeHeartbeatRequest
from flwr.proto.message_pb2 import ObjectTree, PullObjectRequest, PushObjectRequest
from flwr.proto.node_pb2 import Node as NodeProto
from flwr.server.superlink.linkstate import LinkState
from flwr.supercore.constant import NOOP_FEDERATION_ID, TaskType
from flwr.supercore.inflatable.inflatable_object import (
    get_all_nested_objects,
    get_object_id,
    get_object_tree,
    iterate_object_tree,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
from flwr.supercore.primitives.asymmetric import generate_key_pairs, public_key_to_bytes
from flwr.supercore.task_identity import TaskIdentity
from flwr.superlink.grid import HttpGrid
from flwr.superlink.main import create_app
from flwr.supernode.fleet_http_client import FleetHttpClient
from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

from hqde_fl.protocol.flower_internals import set_message_id
from hqde_fl.simulations.audit.upload_changes import protobuf_field

HEARTBEAT = 30.0


@dataclass(frozen=True)
class Site:
    """A SuperLink with one run on it."""

    address: str
    grid: HttpGrid
    state: LinkState


@contextmanager
def superlink() -> Iterator[Site]:
    """Serve a SuperLink without a database from a thread."""
    app = create_app()
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen()
    address = f"127.0.0.1:{listener.getsockname()[1]}"
    server = uvicorn.Server(uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run, args=([listener],))
    thread.start()
    state = app.state.linkstate_factory.state()
    run_id = state.create_run(
        None, None, None, {}, NOOP_FEDERATION_ID, None, None, TaskType.SERVER_APP
    )
    run = state.get_run_info(run_ids=[run_id])[0]
    token = state.claim_task(run.primary_task_id)
    assert token is not None
    state.activate_task(run.primary_task_id)
    TaskIdentity.run_id, TaskIdentity.task_id, TaskIdentity.node_id = run_id, 0, 1
    grid = HttpGrid(address, insecure=True, token=token)
    grid.set_run(run)
    over = threading.Event()

    def beat() -> None:  # otherwise the token expires after a minute
        while not over.wait(10.0):
            state.acknowledge_task_heartbeat(run.primary_task_id)

    beating = threading.Thread(target=beat)
    beating.start()
    try:
        yield Site(address, grid, state)
    finally:
        over.set()
        beating.join()
        grid.close()
        server.should_exit = server.force_exit = True
        thread.join()


@dataclass
class Upload:
    """A reply of a node: the message, the tree that it declares and the objects that it pushes."""

    message: Message
    tree: ObjectTree | bytes
    objects: dict[str, bytes] = field(default_factory=dict)

    @classmethod
    def of(cls, reply: Message) -> Upload:
        """Return the upload of an honest node."""
        set_message_id(reply, reply.object_id)
        objects = {key: part.deflate() for key, part in get_all_nested_objects(reply).items()}
        return cls(reply, get_object_tree(reply), objects)

    def replaced(self, change: Mapping[str, Callable[[bytes], bytes]]) -> Upload:
        """Return the upload with objects of some types changed and all ids above them adjusted."""
        assert isinstance(self.tree, ObjectTree)
        tree, objects = self._changed(self.tree, change)
        message = self.message
        set_message_id(message, tree.object_id)
        return Upload(message, tree, objects)

    def _changed(
        self, tree: ObjectTree, change: Mapping[str, Callable[[bytes], bytes]]
    ) -> tuple[ObjectTree, dict[str, bytes]]:
        content, children, objects = self.objects[tree.object_id], [], dict[str, bytes]()
        for child in tree.children:
            changed, below = self._changed(child, change)
            content = rewritten(content, child.object_id, changed.object_id)
            children.append(changed)
            objects |= below
        kind = content.split(b" ", 1)[0].decode()
        if kind in change:
            content = change[kind](content)
        key = get_object_id(content)
        return ObjectTree(object_id=key, children=children), {**objects, key: content}


class Raw:
    """A request with the bytes of a tree of objects that protobuf would not write."""

    def __init__(self, request: PushMessagesRequest, tree: bytes) -> None:
        number = request.DESCRIPTOR.fields_by_name["message_object_trees"].number
        self._bytes = request.SerializeToString() + protobuf_field(number, tree)

    def SerializeToString(self, deterministic: bool) -> bytes:  # noqa: N802
        return self._bytes


def rewritten(content: bytes, old: str, new: str) -> bytes:
    """Return an object with the id of one child replaced."""
    return content.replace(old.encode(), new.encode())


def sealed(kind: str, children: Sequence[str], body: bytes) -> bytes:
    """Return an object with a correct head."""
    return f"{kind} {','.join(children)} {len(body)}".encode() + b"\x00" + body


class Node:
    """A minimal SuperNode, which is online from the beginning.

    Without a key it creates one and registers it, which a SuperLink without authentication allows.
    """

    def __init__(
        self, address: str, key: ec.EllipticCurvePrivateKey | None = None, root: bytes | None = None
    ) -> None:
        private = generate_key_pairs()[0] if key is None else key
        self.client = FleetHttpClient.from_server_address(
            address,
            root is None,
            root,
            interceptors=[
                RuntimeVersionHttpInterceptor(component_name="SuperNode"),
                NodeAuthHttpInterceptor(private, private.public_key()),
            ],
        )
        self._key = public_key_to_bytes(private.public_key())
        if key is None:
            self.client.RegisterNode(RegisterNodeFleetRequest(public_key=self._key))
        self.proto = self.activate()
        self.id = self.proto.node_id
        self._run_id = 0

    def activate(self) -> NodeProto:
        request = ActivateNodeRequest(public_key=self._key, heartbeat_interval=HEARTBEAT)
        return NodeProto(node_id=self.client.ActivateNode(request).node_id)

    def beat(self) -> None:
        """Send a heartbeat, which keeps this node online for another minute."""
        request = SendNodeHeartbeatRequest(node=self.proto, heartbeat_interval=HEARTBEAT)
        self.client.SendNodeHeartbeat(request)

    def deactivate(self) -> None:
        self.client.DeactivateNode(DeactivateNodeRequest(node_id=self.id))

    def instruction(self) -> Message:
        """Wait for the next message to this node and return it."""
        pause = threading.Event()
        while not (
            response := self.client.PullMessages(PullMessagesRequest(node=self.proto))
        ).ByteSize():
            pause.wait(0.02)
        tree = response.message_object_trees[0]
        self._run_id = response.messages_list[0].metadata.run_id
        contents = {}
        for part in iterate_object_tree(tree):
            wanted = PullObjectRequest(
                node=self.proto, run_id=self._run_id, object_id=part.object_id
            )
            while not (answer := self.client.PullObject(wanted)).object_available:
                pause.wait(0.02)
            contents[part.object_id] = answer.object_content
        message = inflate_object_from_contents(tree.object_id, contents)
        assert isinstance(message, Message)
        set_message_id(message, message_from_proto(response.messages_list[0]).metadata.message_id)
        return message

    def reply(self, content: RecordDict, asked: Message | None = None) -> Upload:
        """Return an honest reply to a message, by default the next one, without sending it."""
        return Upload.of(Message(content, reply_to=asked or self.instruction()))

    def hand_in(self, upload: Upload) -> None:
        """Send a reply: announce it and push all of its objects."""
        session = self.announce(upload)
        for key, content in upload.objects.items():
            self.push(key, content, session)

    def announce(self, upload: Upload) -> str:
        """Announce a reply and return the id of the session in which its objects may be pushed."""
        message = upload.message
        if message.has_content():
            message = remove_content_from_message(message)
        tree, raw = (
            (upload.tree, b"") if isinstance(upload.tree, ObjectTree) else (None, upload.tree)
        )
        request = PushMessagesRequest(
            node=self.proto,
            messages_list=[message_to_proto(message)],
            message_object_trees=[] if tree is None else [tree],
            clientapp_runtime_list=[0.0],
        )
        call: Any = self.client.PushMessages
        response = call(request if tree is not None else Raw(request, raw))
        return str(response.session_id)

    def push(self, key: str, content: bytes, session: str) -> bool:
        """Push one object."""
        request = PushObjectRequest(
            node=self.proto,
            run_id=self._run_id,
            object_id=key,
            object_content=content,
            session_id=session,
        )
        return bool(self.client.PushObject(request).stored)

    def finds(self, key: str) -> bool:
        """Return True if the SuperLink expects or has an object."""
        request = PullObjectRequest(node=self.proto, run_id=self._run_id, object_id=key)
        return bool(self.client.PullObject(request).object_found)

    def has(self, key: str) -> bool:
        """Return True if the SuperLink has an object's bytes, from this or another node."""
        request = PullObjectRequest(node=self.proto, run_id=self._run_id, object_id=key)
        return bool(self.client.PullObject(request).object_available)
