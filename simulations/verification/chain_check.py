"""Check what a run's files say of each other: the chain of hashes, checkpoints, the final model."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from flwr.app import ArrayRecord

from hqde_fl.errors import CheckpointError, ConfigError, DataError
from hqde_fl.protocol.records import to_record
from hqde_fl.simulations.checkpoint.store import Store
from hqde_fl.simulations.recording.file_names import MODEL
from hqde_fl.simulations.recording.recorded_run import Run
from hqde_fl.simulations.recording.round_chain import (
    CHAIN_HASH,
    MODEL_HASH,
    START,
    chain_hash,
    model_hash,
)
from hqde_fl.simulations.recording.weights_file import read_weights


@dataclass(frozen=True)
class Mismatch:
    """Something in a run that does not fit.

    Parameters
    ----------
    round : int
        The round.
    what : str
        What does not fit, in a few words.
    """

    round: int
    what: str


def clients_by_round(run: Run) -> Mapping[int, list[Mapping[str, Any]]]:
    """Return round -> the lines of its clients, in order."""
    lines: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for line in run.clients:
        lines[line.get("server-round", line["round"])].append(line)  # the former behind edges
    return lines


def check_chain(run: Run) -> Iterator[Mismatch]:
    """Yield the rounds whose lines do not fit their hash or the line before, in order.

    Raises
    ------
    ConfigError
        If the run has no rounds, or no chain, as it was recorded by an earlier version.
    """
    if not run.rounds:
        raise ConfigError(f"{run.path} has no rounds yet")
    if not any(CHAIN_HASH in line for line in run.rounds):
        raise ConfigError(
            f"{run.path} has no chain of hashes: it was recorded by an earlier version"
        )
    clients, previous = clients_by_round(run), START
    for place, line in enumerate(run.rounds):
        number = line["round"]
        if number != place:
            yield Mismatch(number, f"stands where round {place} should")
        if line.get(CHAIN_HASH) != chain_hash(previous, line, clients.get(number, [])):
            yield Mismatch(number, f"{CHAIN_HASH} does not fit its lines or those before")
        previous = line.get(CHAIN_HASH, START)
    ended, rounds = run.manifest["status"] == "finished", run.manifest["experiment"]["rounds"]
    last = run.rounds[-1]["round"]
    surplus = clients.keys() - {line["round"] for line in run.rounds}
    if not ended:  # it was ended between the clients' lines and the round's
        surplus -= {last + 1}
    if surplus:
        yield Mismatch(min(surplus), "has clients, but no line of its own")
    if ended and "ended-early" not in run.manifest and last != rounds:
        yield Mismatch(last, f"is the last one, of {rounds}, though the run has finished")
    if ended and dict(run.manifest.get("final", {})) != dict(run.final):
        yield Mismatch(last, "its metrics are not the final ones in manifest.json")


def check_models(run: Run) -> Iterator[Mismatch]:
    """Yield the rounds whose checkpoint, or final model, is not the model of their line."""
    store, lines = Store(run.path), {line["round"]: line for line in run.rounds}
    for number in store.numbers():
        try:
            arrays = store.snapshot(number).state.arrays()
        except CheckpointError as error:
            yield Mismatch(number, f"its checkpoint: {error}")
            continue
        if not _is_model_of(lines.get(number), arrays):
            yield Mismatch(number, f"its checkpoint's model has another {MODEL_HASH}")
    if run.manifest["status"] == "finished" and run.rounds:
        try:
            final = to_record(read_weights(run.path / MODEL)[0])
        except DataError as error:
            yield Mismatch(run.rounds[-1]["round"], str(error))
            return
        if not _is_model_of(run.rounds[-1], final):
            yield Mismatch(run.rounds[-1]["round"], f"{MODEL} has another {MODEL_HASH}")


def _is_model_of(line: Mapping[str, Any] | None, arrays: ArrayRecord) -> bool:
    return line is not None and line.get(MODEL_HASH) == model_hash(arrays)
