"""The names of Flower's that have no documentation, and on which the deployment rests.

Another version of Flower that moves one of them fails here, by name, before it fails in a run.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import httpx
import pytest
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.app.message.arraychunk import ArrayChunk
from flwr.proto.message_pb2 import PullObjectResponse
from flwr.proto.node_pb2 import NodeInfo
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.superlink.grid import HttpGrid

from hqde_fl.simulations.engines.deployment.announcements import Announcements
from hqde_fl.simulations.engines.deployment.guarded_grid import GuardedGrid, guard
from hqde_fl.simulations.engines.deployment.link import Link
from hqde_fl.simulations.engines.inline import InlineGrid

NAMES = {
    "flwr.cli.flower_config": ["read_flower_config"],
    "flwr.common.constant": [
        "ErrorCode.MESSAGE_UNAVAILABLE",
        "ErrorCode.NODE_UNAVAILABLE",
        "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE",
    ],
    "flwr.common.serde_utils": ["error_from_proto"],
    "flwr.proto.control_pb2": ["ListNodesRequest"],
    "flwr.proto.fleet_pb2": ["DeactivateNodeRequest"],
    "flwr.proto.message_pb2": ["ConfirmMessageReceivedRequest", "Message", "ObjectTree"],
    "flwr.proto.recorddict_pb2": ["ConfigRecord", "MetricRecord"],
    "flwr.proto.runtime_pb2": ["PullAppMessagesRequest", "PullAppMessagesResponse"],
    "flwr.supercore.constant": ["HEAD_BODY_DIVIDER"],
    "flwr.supercore.control": ["ControlHttpClient.ListNodes"],
    "flwr.supercore.inflatable.inflatable_object": ["InflatableObject"],
    "flwr.supercore.interceptors.http.runtime_version": ["RuntimeVersionHttpInterceptor"],
    "flwr.supercore.primitives.asymmetric": ["public_key_to_bytes"],
    "flwr.supercore.run": ["Run", "RunNotRunningException"],
    "flwr.supernode.fleet_http_client": ["FleetHttpClient"],
    "flwr.supernode.node_auth_http_interceptor": ["NodeAuthHttpInterceptor"],
    "flwr.superlink.grid": ["HttpGrid._runtime_client", "HttpGrid.close", "HttpGrid.get_nodes"],
}


@pytest.mark.parametrize(("module", "name"), [(m, n) for m, ns in NAMES.items() for n in ns])
def test_a_name_is_where_it_was(module: str, name: str) -> None:
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    assert found is not None


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
        (NodeInfo, {"node_id", "public_key", "status", "last_activated_at"}),
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
    from flwr.clientapp import ClientApp

    inline = InlineGrid(ClientApp(), 1, {})
    assert guard(inline) is inline
    grid = HttpGrid("127.0.0.1:1", insecure=True, token="secret")
    assert isinstance(guard(grid), GuardedGrid)
    grid.close()
