"""A SuperNode that is killed in the middle of its first upload. Run as a process of its own::

    python -m tests.deployment.dying_node ADDRESS FOLDER PARTITION

It holds a node's key and speaks TLS, answers who it is, and dies when half of its update is there.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from pathlib import Path

from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict

from tests.deployment.superlink import HEARTBEAT, Node, Upload


def main(address: str, folder: Path, partition: int) -> None:
    key = load_ssh_private_key((folder / "node.key").read_bytes(), None)
    node = Node(address, key, (folder / "ca.crt").read_bytes())
    threading.Thread(target=beat, args=(node,), daemon=True).start()
    print("connected", flush=True)
    while True:
        asked = node.instruction()
        if asked.metadata.message_type.startswith("query"):
            identity = ConfigRecord({"partition-id": partition})
            node.hand_in(Upload.of(Message(RecordDict({"identity": identity}), reply_to=asked)))
            continue
        arrays = asked.content.array_records["arrays"]
        shifted = {name: Array(array.numpy() + 1) for name, array in arrays.items()}
        metrics = MetricRecord({"num-examples": 1})
        content = RecordDict({"arrays": ArrayRecord(shifted), "metrics": metrics})
        upload = Upload.of(Message(content, reply_to=asked))
        session = node.announce(upload)
        for object_id, part in list(upload.objects.items())[: len(upload.objects) // 2]:
            node.push(object_id, part, session)
        os.kill(os.getpid(), signal.SIGKILL)


def beat(node: Node) -> None:
    while True:
        node.beat()
        time.sleep(HEARTBEAT / 2)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
