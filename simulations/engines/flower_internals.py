"""Flower's undocumented names that only the engines, the audit and a deployment need.

Those that clients need too are in ``hqde_fl.protocol.flower_internals``.

This module is also the one seam to Flower's transport: every request to a SuperLink goes through
``HttpGrid``, ``ControlHttpClient`` or ``FleetHttpClient``, over HTTP. Nothing in the project uses
the gRPC services Fleet and Control, which Flower 1.43 removes.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from flwr.app.message.arraychunk import ArrayChunk
from flwr.common.constant import (
    FAB_INCLUDE_PATTERNS,
    FAB_MAX_SIZE,
    FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE,
)
from flwr.common.serde import recorddict_from_proto, recorddict_to_proto
from flwr.common.serde_utils import error_from_proto
from flwr.proto.message_pb2 import ConfirmMessageReceivedRequest, ObjectTree, PullObjectRequest
from flwr.proto.message_pb2 import Message as ProtoMessage
from flwr.proto.message_pb2 import Metadata as ProtoMetadata
from flwr.proto.recorddict_pb2 import ConfigRecord as ProtoConfigRecord
from flwr.proto.recorddict_pb2 import MetricRecord as ProtoMetricRecord
from flwr.proto.runtime_pb2 import PullAppMessagesRequest, PullAppMessagesResponse
from flwr.supercore.constant import HEAD_BODY_DIVIDER
from flwr.supercore.inflatable.inflatable_object import (
    InflatableObject,
    get_all_nested_objects,
    iterate_object_tree,
    no_object_id_recompute,
)
from flwr.supercore.inflatable.inflatable_utils import inflate_object_from_contents
from flwr.supercore.run import RunNotRunningException

if TYPE_CHECKING:
    from flwr.cli.flower_config import read_flower_config
    from flwr.proto.control_pb2 import (
        ListNodesRequest,
        ListRunsRequest,
        RegisterNodeRequest,
        UnregisterNodeRequest,
    )
    from flwr.proto.fleet_pb2 import DeactivateNodeRequest
    from flwr.supercore import sql_mixin
    from flwr.supercore.control import ControlHttpClient
    from flwr.supercore.interceptors.http.runtime_version import RuntimeVersionHttpInterceptor
    from flwr.supercore.primitives.asymmetric import public_key_to_bytes
    from flwr.superlink.cli import flower_superlink
    from flwr.superlink.grid import HttpGrid
    from flwr.supernode import start_client_internal
    from flwr.supernode.cli import flower_supernode, flwr_clientapp
    from flwr.supernode.fleet_http_client import FleetHttpClient
    from flwr.supernode.node_auth_http_interceptor import NodeAuthHttpInterceptor

# Loaded on first use: they take 50 MB and half a second, and a Ray worker needs none of them.
_LAZY = {
    "ControlHttpClient": "flwr.supercore.control",
    "DeactivateNodeRequest": "flwr.proto.fleet_pb2",
    "FleetHttpClient": "flwr.supernode.fleet_http_client",
    "HttpGrid": "flwr.superlink.grid",
    "ListNodesRequest": "flwr.proto.control_pb2",
    "ListRunsRequest": "flwr.proto.control_pb2",
    "RegisterNodeRequest": "flwr.proto.control_pb2",
    "UnregisterNodeRequest": "flwr.proto.control_pb2",
    "NodeAuthHttpInterceptor": "flwr.supernode.node_auth_http_interceptor",
    "RuntimeVersionHttpInterceptor": "flwr.supercore.interceptors.http.runtime_version",
    "flower_superlink": "flwr.superlink.cli",
    "sql_mixin": "flwr.supercore.sql_mixin",
    "start_client_internal": "flwr.supernode.start_client_internal",
    "flower_supernode": "flwr.supernode.cli",
    "flwr_clientapp": "flwr.supernode.cli",
    "public_key_to_bytes": "flwr.supercore.primitives.asymmetric",
    "read_flower_config": "flwr.cli.flower_config",
}

__all__ = [
    "FAB_INCLUDE_PATTERNS",
    "FAB_MAX_SIZE",
    "FLWR_PRIVATE_MAX_ARRAY_CHUNK_SIZE",
    "HEAD_BODY_DIVIDER",
    "ArrayChunk",
    "ConfirmMessageReceivedRequest",
    "ControlHttpClient",
    "DeactivateNodeRequest",
    "FleetHttpClient",
    "HttpGrid",
    "InflatableObject",
    "ListNodesRequest",
    "ListRunsRequest",
    "NodeAuthHttpInterceptor",
    "ObjectTree",
    "ProtoConfigRecord",
    "ProtoMessage",
    "ProtoMetadata",
    "ProtoMetricRecord",
    "PullAppMessagesRequest",
    "PullAppMessagesResponse",
    "PullObjectRequest",
    "RegisterNodeRequest",
    "RunNotRunningException",
    "RuntimeVersionHttpInterceptor",
    "UnregisterNodeRequest",
    "error_from_proto",
    "flower_superlink",
    "flower_supernode",
    "flwr_clientapp",
    "get_all_nested_objects",
    "inflate_object_from_contents",
    "iterate_object_tree",
    "no_object_id_recompute",
    "public_key_to_bytes",
    "read_flower_config",
    "recorddict_from_proto",
    "recorddict_to_proto",
    "sql_mixin",
    "start_client_internal",
]


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        module: Any = import_module(home := _LAZY[name])
        value = module if home.endswith(f".{name}") else getattr(module, name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
