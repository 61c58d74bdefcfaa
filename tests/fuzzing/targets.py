"""Targets of fuzzing: each reader of bytes from elsewhere, with inputs to begin with.

A target takes any bytes, and raises nothing: the reader's own error is what it is for. Where a
checksum stands before the reader, the target puts the right one there, as an attacker would.
``benchmarks/fuzzing.py`` runs the targets, ``test_corpus.py`` what it has found.
"""

from __future__ import annotations

import json
import struct
import tomllib
import tracemalloc
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import torch
from flwr.app import Array, ConfigRecord, Message, RecordDict

from hqde_fl.codec import EntropyCoded, Identity, Quantized, Rotated, TopK, decode_payload
from hqde_fl.codec.payload import seal
from hqde_fl.errors import CheckpointError, CodecError, ConfigError
from hqde_fl.monitor.schema import from_line
from hqde_fl.protocol.held_entries import claimed_digest, lacks_entries
from hqde_fl.protocol.npy import MalformedError, decode_array
from hqde_fl.protocol.records import from_record, layout_of
from hqde_fl.protocol.screening import Accepted, Rejected, Screening, SentModel, screen
from hqde_fl.rules import Mean
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.audit import HOSTILE
from hqde_fl.simulations.audit.grid import LIMITS, AuditGrid
from hqde_fl.simulations.audit.honest_clients import initial_model
from hqde_fl.simulations.audit.message_objects import to_objects
from hqde_fl.simulations.checkpoint import container
from hqde_fl.simulations.checkpoint.value_tree import ValueTree
from hqde_fl.simulations.engines.deployment.inflate import inflate
from hqde_fl.simulations.engines.deployment.limits import ReplyError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.strategies.hqde import HQDEStrategy
from hqde_fl.updates.weights_bytes import weights_from_bytes, weights_to_bytes

CORPUS = Path(__file__).parent / "corpus"
"""Folder with a folder of inputs for each target."""
VALUES = 64
"""Numbers that a payload is to have."""

_ID = 64  # characters of the id of an object
_SEED_BYTES = 1 << 14  # of an input to begin with, at most


@dataclass(frozen=True)
class Target:
    """A reader of bytes.

    Parameters
    ----------
    run : Callable[[bytes], None]
        Reads an input; raises only for a defect of the reader.
    seeds : Callable[[], Iterator[bytes]]
        Yields inputs to begin with.
    """

    run: Callable[[bytes], None]
    seeds: Callable[[], Iterator[bytes]]


def uploads(data: bytes) -> None:
    """Read objects that a node uploaded, and screen the reply that they form."""
    objects, sent = dict(_objects(data)), _sent()
    try:
        content = inflate(next(iter(objects), ""), objects, LIMITS)
    except ReplyError:
        return
    if isinstance(content, RecordDict):
        reply = Message(content, dst_node_id=1, message_type="train")
        assert isinstance(screen(reply, sent, Screening()), Accepted | Rejected)
        lacks_entries(content)
        claimed_digest(content)


def _objects(data: bytes) -> Iterator[tuple[str, bytes]]:
    """Yield the objects in an input: the id, the number of bytes, the bytes."""
    while len(data) > _ID + 4:
        (size,) = struct.unpack_from("<I", data, _ID)
        key, data = data[:_ID].decode("latin1"), data[_ID + 4 :]
        yield key, data[:size]
        data = data[size:]


def _uploads() -> Iterator[bytes]:
    strategy = HQDEStrategy(Mean())
    for row in (None, *HOSTILE.values()):
        grid = AuditGrid(row)
        messages = strategy.configure_train(1, initial_model(), ConfigRecord(), grid)
        message = next(m for m in messages if m.metadata.dst_node_id == grid.culprit)
        grid._number(message)
        for reply in grid._replies_to(message):
            upload = to_objects(reply) if isinstance(reply, Message) else reply
            if upload.size < _SEED_BYTES:
                first = {upload.root: upload.objects.get(upload.root, b"")}
                yield b"".join(
                    key.encode()[:_ID].ljust(_ID) + struct.pack("<I", len(content)) + content
                    for key, content in {**first, **upload.objects}.items()
                )


@cache
def _sent() -> SentModel:
    AuditGrid(None)  # sets the identity of this process, which messages need
    layout = layout_of(initial_model())
    return SentModel(layout, *layout.flatten(from_record(initial_model())))


def payloads(data: bytes) -> None:
    """Decode a codec's payload whose checksum is right."""
    with suppress(CodecError):
        values = decode_payload(seal(data, VALUES), VALUES)
        assert values.shape == (VALUES,)
        assert bool(torch.isfinite(values).all())


def _payloads() -> Iterator[bytes]:
    numbers = torch.from_numpy(Seeds(0).numpy("fuzzing").normal(size=VALUES).astype(np.float32))
    for codec in (
        Identity(),
        Quantized(1),
        Quantized(4),
        Quantized(8, unbiased=False),
        EntropyCoded(4),
        Rotated(Quantized(4)),
        TopK(0.1),
        TopK(0.1, inner=EntropyCoded(4)),
    ):
        payload, _ = codec.encode(numbers, {}, Seeds(0).numpy("fuzzing codec"))
        yield payload[len(seal(b"", VALUES)) :]


def arrays(data: bytes) -> None:
    """Decode an array whose description does not come from its bytes."""
    dtype, shape = data[:8].split(b"\0")[0].decode("latin1"), tuple(data[8:11])
    array = Array(dtype, shape, "numpy.ndarray", data[11:])
    try:
        assert tuple(decode_array(array).shape) == shape
    except MalformedError:
        pass
    except (AssertionError, MemoryError, RecursionError):
        raise
    except Exception:  # of NumPy's and Python's parsers: screening takes all of them
        pass


def _arrays() -> Iterator[bytes]:
    for values in (np.zeros((2, 3, 1), np.float32), np.ones((1, 1, 1), ">i8"), np.ones((2, 0, 1))):
        array = Array(values)
        yield values.dtype.name.encode().ljust(8, b"\0") + bytes(values.shape) + array.data


def checkpoints(data: bytes) -> None:
    """Read a checkpoint whose checksum is right."""
    size = int.from_bytes(data[:2], "little")
    head, body = data[2 : 2 + size], data[2 + size :]
    start = container._START + container._ZEROS
    file = (len(start) + len(head)).to_bytes(8, "little") + start + head + body
    checksum = container._checksum([file]).encode()
    place = container._PLACE
    path = _folder() / "checkpoint"
    path.write_bytes(file[: place.start] + checksum + file[place.stop :])
    with suppress(CheckpointError):
        container.read(path, ValueTree(Target))


def _checkpoints() -> Iterator[bytes]:
    path = _folder() / "seed"
    value = {
        "tensor": torch.arange(6.0).reshape(2, 3),
        "half": torch.ones(2, dtype=torch.bfloat16),
        "array": np.arange(3),
        "scalar": np.float32(1),
        "rest": [1, 2.5, float("nan"), 1 << 70, "text", b"bytes", None, True, (1, {})],
    }
    container.write(path, ValueTree(), value)
    data = path.read_bytes()
    end = int.from_bytes(data[:8], "little") + 8
    head = data[container._PLACE.stop : end]
    yield len(head).to_bytes(2, "little") + head + data[end:]


@cache
def _temporary() -> TemporaryDirectory[str]:
    """Return this process's folder, which is removed when the process ends."""
    return TemporaryDirectory(prefix="fuzzing-")


def _folder() -> Path:
    return Path(_temporary().name)


def weights(data: bytes) -> None:
    """Read a file of weights."""
    with suppress(ValueError):
        weights_from_bytes(data)


def _weights() -> Iterator[bytes]:
    yield weights_to_bytes({"w": torch.ones(2, 3), "c": torch.ones(2, dtype=torch.complex64)})
    yield weights_to_bytes({"b": torch.zeros(0)}, {"round": 3, "name": "x"})


def experiments(data: bytes) -> None:
    """Check an experiment file; what it names is not imported."""
    try:
        document = tomllib.loads(data.decode())
    except (UnicodeDecodeError, tomllib.TOMLDecodeError):
        return
    if b":" in data or b".py" in data:
        return  # it would import modules, as it is meant to
    with suppress(ConfigError):
        Experiment.parse({"name": "fuzzing", **document})


def _experiments() -> Iterator[bytes]:
    for path in sorted((Path(__file__).parents[2] / "experiments").glob("*.toml")):
        text = path.read_text(encoding="utf-8").split("[sweep")[0]
        if len(text) < _SEED_BYTES and ":" not in text:
            yield text.encode()


def monitors(data: bytes) -> None:
    """Read a line of a monitor's records."""
    from_line(data)


def _monitors() -> Iterator[bytes]:
    span = {"kind": "span", "name": "train", "time": 1.5, "seconds": 2, "round": 1, "client": 3}
    yield json.dumps(span).encode()
    yield json.dumps({"kind": "start", "time": 1, "host": "a", "pid": 1, "interval": 1}).encode()


def runs(data: bytes) -> None:
    """Read the records of a run: a manifest, then lines of rounds, then lines of clients."""
    manifest, rounds, clients, *_ = (*data.split(b"\0"), b"", b"")
    folder = _folder() / "run"
    folder.mkdir(exist_ok=True)
    for name, content in [("manifest", manifest), ("rounds", rounds), ("clients", clients)]:
        (folder / f"{name}.json{'' if name == 'manifest' else 'l'}").write_bytes(content)
    with suppress(ConfigError):
        Run.load(folder)


def _runs() -> Iterator[bytes]:
    manifest = {"status": "finished", "experiment": {"rounds": 1}, "faulty": {"0": "crash"}}
    line = {"round": 0, "server": {"loss": 2.5}, "clients-train": {}, "clients-evaluate": {}}
    client = {"round": 1, "partition": 0, "reason": None, "influence": 0.5}
    parts: Sequence[object] = (manifest, line, client)
    yield b"\0".join(json.dumps(part).encode() + b"\n" for part in parts)


TARGETS = {
    "uploads": Target(uploads, _uploads),
    "payloads": Target(payloads, _payloads),
    "arrays": Target(arrays, _arrays),
    "checkpoints": Target(checkpoints, _checkpoints),
    "weights": Target(weights, _weights),
    "experiments": Target(experiments, _experiments),
    "monitors": Target(monitors, _monitors),
    "runs": Target(runs, _runs),
}
"""Name of a target -> the target."""


def kept_inputs(name: str) -> list[bytes]:
    """Return the inputs of a target that fuzzing found worth keeping."""
    return [path.read_bytes() for path in sorted((CORPUS / name).glob("*"))]


def peak_memory(target: Target, data: bytes) -> int:
    """Return the largest number of bytes that Python and NumPy hold while an input is read."""
    tracemalloc.start()
    try:
        target.run(data)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
