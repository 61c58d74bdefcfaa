"""A SuperNode that has nothing to receive sends the replies that came late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from flwr.supercore.object_store import ObjectStoreFactory
from flwr.supernode.nodestate import NodeStateFactory

from hqde_fl.simulations.deploy.late_replies import send_late_replies
from hqde_fl.simulations.engines.flower_internals import start_client_internal


@pytest.fixture
def supernode(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Flower's module, changed as ``supernode_program`` changes it."""
    module: Any = start_client_internal
    monkeypatch.setattr(module, "_pull_and_store_message", module._pull_and_store_message)
    send_late_replies()
    return module


def pulled(supernode: Any, state: Any) -> int | None:
    """Return what a SuperNode gets to hear that receives no message."""
    names = ("object_store", "get_run", "get_fab", "pull_object", "confirm_message_received")
    unused = dict.fromkeys(names)
    result: int | None = supernode._pull_and_store_message(
        state=state, receive=lambda: None, node_config={}, trusted_entities=None, **unused
    )
    return result


def message(name: str, answers: str = "") -> Any:
    """Return what Flower's state of a node reads of a message, or of a reply."""
    facts = {"message_id": name, "reply_to_message_id": answers, "run_id": 1}
    return SimpleNamespace(metadata=SimpleNamespace(**facts))


def test_a_late_reply_is_sent_once(supernode: Any) -> None:
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    assert pulled(supernode, state) is None
    state.store_message(message("a"))
    assert pulled(supernode, state) is None  # it waits for its ClientApp
    reply = message("b", "a")
    state.store_message(reply)
    assert pulled(supernode, state) is not None
    assert list(state.get_messages_legacy(is_reply=True)) == [reply]
    assert pulled(supernode, state) is None


def test_without_a_message_it_is_noticed_which_clientapps_are_not_heard_of(
    supernode: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = NodeStateFactory(objectstore_factory=ObjectStoreFactory()).state()
    noticed = []
    monkeypatch.setattr(state, "_cleanup_expired_task_tokens_locked", lambda: noticed.append(True))
    pulled(supernode, state)
    assert noticed
