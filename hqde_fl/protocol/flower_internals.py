"""Flower's undocumented names that servers and clients both need.

Those that only the engines, the audit and a deployment need are in
``hqde_fl.simulations.engines.flower_internals``. No other module of the project imports anything
that Flower does not document; ``tests/deployment/test_superlink_requests.py`` pins every name of
both. Importing this module costs nothing: ``flwr.app`` loads all of it anyway.
"""

from flwr.app import Message
from flwr.app.message.message import make_message
from flwr.common import log
from flwr.common.constant import ErrorCode
from flwr.proto.node_pb2 import NodeInfo
from flwr.supercore.run import Run
from flwr.supercore.task_identity import TaskIdentity

__all__ = [
    "ErrorCode",
    "NodeInfo",
    "Run",
    "TaskIdentity",
    "log",
    "make_message",
    "set_message_id",
]


def set_message_id(message: Message, key: str) -> None:
    """Set the id of a message, as Flower's own Grids do."""
    message.metadata.__dict__["_message_id"] = key
