"""Flower's undocumented names, each pinned together with the part of the project that needs it.

A version of Flower that moves or changes one of them fails here, by name, before it fails in a run.
"""

from __future__ import annotations

import ast
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from flwr.proto.control_pb2 import ListNodesResponse
from flwr.proto.message_pb2 import PullObjectResponse

from benchmarks.structure import files, private_flower
from hqde_fl.protocol import flower_internals as for_both_ends
from hqde_fl.protocol.flower_internals import set_message_id
from hqde_fl.simulations.engines import flower_internals as for_engines
from hqde_fl.simulations.engines.deployment.announcements import Announcements
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid, guard
from hqde_fl.simulations.engines.deployment.superlink_requests import Link
from hqde_fl.simulations.engines.flower_internals import (
    ArrayChunk,
    HttpGrid,
    PullAppMessagesRequest,
    PullAppMessagesResponse,
)
from hqde_fl.simulations.engines.inline import InlineGrid

ROOT = Path(__file__).resolve().parents[2]
HOMES = {
    ROOT / room / "flower_internals.py" for room in ("hqde_fl/protocol", "simulations/engines")
}


@dataclass(frozen=True)
class Pin:
    """The part of the project that breaks without a name, and what is used of it."""

    breaks: str
    parameters: str | None = None
    """Names of the parameters with which it is called."""
    has: str = ""
    """Attributes that are used; of a protobuf message its fields."""
    value: object = None


CLIENT = "server_address insecure root_certificates interceptors retry_invoker"
"""Parameters of ``from_server_address`` of Flower's HTTP clients."""

PINS = {
    # hqde_fl/protocol/flower_internals.py
    "ErrorCode": Pin(
        "error replies of all engines, and the reply of a client without data",
        has="CLIENT_APP_CRASHED CLIENT_APP_RAISED_EXCEPTION MESSAGE_UNAVAILABLE NODE_UNAVAILABLE",
    ),
    "NodeInfo": Pin(
        "noticing nodes that restarted",
        has="node_id public_key status last_activated_at registered_at name",
    ),
    "Run": Pin("the run id on the inline and Ray engines", has="create_empty"),
    "TaskIdentity": Pin("sender and run id of messages on the inline and Ray engines"),
    "log": Pin("every line that the project logs", "level msg args kwargs"),
    "make_message": Pin(
        "messages in a Ray worker; forged envelopes of the audit", "metadata content error"
    ),
    # simulations/engines/flower_internals.py
    "ArrayChunk": Pin("reading the arrays of a reply (inflate)", "data"),
    "ConfirmMessageReceivedRequest": Pin(
        "deleting a reply on the SuperLink", has="node run_id message_object_id"
    ),
    "ControlHttpClient": Pin(
        "sites that join and leave, the watch of a run",
        has="from_server_address ListNodes RegisterNode UnregisterNode ListRuns",
    ),
    "DeactivateNodeRequest": Pin("restarting a node that died", has="node_id"),
    "FAB_INCLUDE_PATTERNS": Pin(
        "which files of the user real nodes are sent",
        value=(
            *("**/*.py", "**/*.toml", "**/*.md", "**/*.yaml", "**/*.yml", "**/*.json"),
            *("**/*.jsonl", "/LICENSE"),
        ),
    ),
    "FAB_MAX_SIZE": Pin("how large these files may be", value=10 << 20),
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE": Pin("the bounds of a reply", value=5 << 20),
    "FleetHttpClient": Pin("restarting a node that died", has="from_server_address DeactivateNode"),
    "HEAD_BODY_DIVIDER": Pin("reading the objects of a reply (inflate)", value=b"\x00"),
    "HttpGrid": Pin(
        "every deployed run",
        "runtime_api_address insecure root_certificates token",
        has="close get_nodes run set_run push_messages pull_messages",
    ),
    "InflatableObject": Pin("reading the objects of a reply (inflate)", has="inflate"),
    "ListNodesRequest": Pin("`hqde-fl nodes up`: the keys that are registered"),
    "ListRunsRequest": Pin("noticing that a run has ended", has="run_id"),
    "NodeAuthHttpInterceptor": Pin("restarting a node that died", "private_key public_key"),
    "ObjectTree": Pin("object ids of a reply (announcements)", has="object_id children"),
    "ProtoConfigRecord": Pin("weighing the configs of a reply", has="items"),
    "ProtoMessage": Pin("announced messages; errors of clients", has="metadata content error"),
    "ProtoMetadata": Pin("matching announced replies", has="reply_to_message_id"),
    "ProtoMetricRecord": Pin("weighing the metrics of a reply", has="items"),
    "PullAppMessagesRequest": Pin("asking for a reply", has="message_ids"),
    "PullAppMessagesResponse": Pin("asking for a reply", has="messages_list message_object_trees"),
    "PullObjectRequest": Pin("pulling an object of a reply", has="node run_id object_id"),
    "RegisterNodeRequest": Pin("sites that join", has="public_key name"),
    "RunNotRunningException": Pin("ending a round when the run is stopped", has="with_traceback"),
    "RuntimeVersionHttpInterceptor": Pin("`hqde-fl nodes up`", "component_name"),
    "UnregisterNodeRequest": Pin("sites that are revoked", has="node_id"),
    "error_from_proto": Pin("errors of clients on real nodes", "error_proto"),
    "flower_superlink": Pin("the SuperLink, which reads a renewed certificate", ""),
    "flwr_clientapp": Pin("ClientApps that a SuperNode forks"),
    "flower_supernode": Pin("the SuperNode, whose log may be JSON", ""),
    "get_all_nested_objects": Pin("`hqde-fl audit`", "obj"),
    "inflate_object_from_contents": Pin(
        "`hqde-fl audit`", "object_id object_contents keep_object_contents objects"
    ),
    "iterate_object_tree": Pin("`hqde-fl audit`", "tree"),
    "no_object_id_recompute": Pin("`hqde-fl audit`", ""),
    "public_key_to_bytes": Pin("`hqde-fl nodes up`", "public_key"),
    "read_flower_config": Pin("`--superlink NAME`", ""),
    "recorddict_from_proto": Pin("clients on the inline engine", "recorddict_proto"),
    "recorddict_to_proto": Pin("clients on the inline engine", "recorddict"),
    "sql_mixin": Pin("how long a SuperLink waits for a locked database", has="SQLITE_PRAGMAS"),
    "start_client_internal": Pin(
        "a node's late replies", has="_pull_and_store_message _push_messages"
    ),
    "set_message_id": Pin("matching replies on the inline and Ray engines", "message key"),
}


@pytest.mark.parametrize("name", PINS)
def test_a_name_is_as_it_is_used(name: str) -> None:
    pin = PINS[name]
    home = for_both_ends if name in for_both_ends.__all__ else for_engines
    value: Any = getattr(home, name)
    if pin.parameters is not None:
        assert list(inspect.signature(value).parameters) == pin.parameters.split(), pin.breaks
    names = value.DESCRIPTOR.fields_by_name if hasattr(value, "DESCRIPTOR") else dir(value)
    assert set(pin.has.split()) <= set(names), pin.breaks
    assert pin.value is None or value == pin.value, pin.breaks


def test_every_name_is_pinned() -> None:
    assert not set(for_both_ends.__all__) & set(for_engines.__all__)
    assert PINS.keys() == {*for_both_ends.__all__, *for_engines.__all__}


def test_no_other_module_imports_what_flower_does_not_document() -> None:
    using = {
        path for path in files(ROOT) if private_flower(ast.parse(path.read_text(encoding="utf-8")))
    }
    assert using == HOMES


@pytest.mark.parametrize(
    ("attribute", "home"),
    [
        ("_message_id", "flower_internals.py"),
        ("_runtime_client", "superlink_requests.py"),
        ("event_hooks", "superlink_requests.py"),
        ("_unary_unary", "superlink_requests.py"),
    ],
)
def test_an_undocumented_attribute_is_used_in_one_module(attribute: str, home: str) -> None:
    using = [
        path.name
        for path in files(ROOT)
        if re.search(rf"[.\"]{attribute}\b", path.read_text(encoding="utf-8"))
    ]
    assert using == [home]


@pytest.mark.slow
def test_a_ray_worker_loads_no_client_of_a_deployment() -> None:
    code = (
        "import sys, hqde_fl.simulations.engines.flower_internals, "
        "hqde_fl.simulations.engines.ray.worker; "
        "print([m for m in sys.modules if m.startswith(('flwr.superlink', 'flwr.supernode'))])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_messages_come_from_the_node_that_the_task_identity_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    identity = for_both_ends.TaskIdentity
    for name in ("_run_id", "_task_id", "_node_id"):
        monkeypatch.setattr(identity, name, None)  # so that the values of before come back
    identity.run_id, identity.task_id, identity.node_id = 5, 6, 7
    metadata = Message(RecordDict(), 8, "train").metadata
    assert (metadata.run_id, metadata.src_task_id, metadata.src_node_id) == (5, 6, 7)
    assert for_both_ends.Run.create_empty(run_id=9).run_id == 9


def test_a_message_keeps_the_id_that_it_is_given() -> None:
    InlineGrid(ClientApp(), 1, {})  # sets the identity that a message needs
    message = Message(RecordDict(), 8, "train")
    set_message_id(message, "key")
    assert message.metadata.message_id == "key"
    assert Message(RecordDict(), reply_to=message).metadata.reply_to_message_id == "key"


@pytest.mark.parametrize("name", ["ControlHttpClient", "FleetHttpClient"])
def test_a_client_is_made_from_an_address(name: str) -> None:
    make = getattr(for_engines, name).from_server_address
    assert list(inspect.signature(make).parameters) == CLIENT.split()


def test_the_grid_is_built_as_expected() -> None:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    client = grid._runtime_client
    assert isinstance(client._client, httpx.Client)
    assert list(client._client.event_hooks) == ["request", "response"]
    assert grid.node.node_id == 1
    for name in ("PullMessages", "PullObject", "ConfirmMessageReceived"):
        assert list(inspect.signature(getattr(client, name)).parameters) == ["request"]
    GuardedGrid(grid)
    assert len(client._client.event_hooks["response"]) == 1
    grid.close()


def test_a_reply_is_asked_for_as_flowers_client_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    client, calls = grid._runtime_client, []

    def call(**fields: Any) -> Any:
        calls.append(fields)
        return Announcements()

    monkeypatch.setattr(client, "_unary_unary", call)
    client.PullMessages(PullAppMessagesRequest(message_ids=["x"]))
    Link(grid).reply("x")
    theirs, ours = calls
    assert theirs.pop("response_type") is PullAppMessagesResponse
    assert ours.pop("response_type") is Announcements
    assert ours == theirs
    grid.close()


@pytest.mark.parametrize(
    ("message", "fields"),
    [
        (PullObjectResponse, {"object_found", "object_available", "object_content"}),
        (ListNodesResponse, {"nodes_info"}),
    ],
)
def test_answers_have_the_fields_that_are_read(message: Any, fields: set[str]) -> None:
    assert fields <= set(message.DESCRIPTOR.fields_by_name)


@pytest.mark.parametrize(
    "kind", [Message, RecordDict, ArrayRecord, Array, ArrayChunk, ConfigRecord, MetricRecord]
)
def test_objects_are_inflated_from_their_content_and_children(kind: Any) -> None:
    inflate: Callable[..., Any] = kind.inflate
    assert list(inspect.signature(inflate).parameters) == ["object_content", "children"]


def test_only_flowers_deployment_grid_is_guarded() -> None:
    inline = InlineGrid(ClientApp(), 1, {})
    assert guard(inline) is inline
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    assert isinstance(guard(grid), GuardedGrid)
    grid.close()
