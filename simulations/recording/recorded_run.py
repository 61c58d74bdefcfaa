"""Read a run directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

from hqde_fl.clients.objective import Objective
from hqde_fl.errors import ConfigError, HQDEError
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.detection import Detection
from hqde_fl.simulations.recording.file_names import CLIENTS, NODES, ROUNDS
from hqde_fl.simulations.recording.manifest import read_manifest
from hqde_fl.simulations.recording.strict_json import parse_json
from hqde_fl.strategies.outcomes import FILTERED
from hqde_fl.strategies.void_rounds import void_summary

NO_METRICS = "the server has no test set, and no client reported any"
"""Why a run has no final metrics."""


@dataclass(frozen=True)
class Run:
    """The contents of a run directory.

    Parameters
    ----------
    path : Path
        The directory.
    manifest : Mapping[str, Any]
        The experiment, the start, the end, the machine.
    rounds, clients : tuple[Mapping[str, Any], ...]
        The lines of ``rounds.jsonl`` and ``clients.jsonl``.
    """

    path: Path
    manifest: Mapping[str, Any]
    rounds: tuple[Mapping[str, Any], ...]
    clients: tuple[Mapping[str, Any], ...]

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a run directory; the run may still be going on.

        Raises
        ------
        ConfigError
            If there is no manifest, or a damaged line, which is named.
        """
        path = Path(path)
        return cls(path, read_manifest(path), read_lines(path / ROUNDS), read_lines(path / CLIENTS))

    @property
    def final(self) -> Mapping[str, float | None]:
        """The server's metrics of the last round that was evaluated, empty if there is none."""
        return next((dict(line["server"]) for line in reversed(self.rounds) if line["server"]), {})

    @property
    def complete(self) -> bool:
        """True if the run has finished after its last round, or ended early as it was to."""
        if self.manifest["status"] != "finished":
            return False
        rounds = self.manifest["experiment"]["rounds"]
        return len(self.rounds) == rounds + 1 or "ended-early" in self.manifest

    @cached_property
    def objective(self) -> Objective:
        """The primary metric of the run's task, and the direction of its metrics.

        In a directory without that entry the metric is the accuracy if the server measured one,
        else the loss.
        """
        recorded = self.manifest.get("objective")
        if isinstance(recorded, Mapping):
            return Objective(recorded["primary"], recorded["higher-is-better"])
        measured = any("accuracy" in line["server"] for line in self.rounds)
        return Objective("accuracy" if measured else "loss")

    @property
    def primary(self) -> float | None:
        """The primary metric after the last recorded round, or None if there is no finite one."""
        return self.final.get(self.objective.primary)

    @property
    def client_metrics(self) -> frozenset[str]:
        """The names of the metrics that clients reported in any round, but not times."""
        return frozenset(name for line in self.rounds for name in _client_means(line))

    @property
    def clients_final(self) -> Mapping[str, float | None]:
        """The means of the clients' metrics of the last round but times, empty without a round."""
        return _client_means(self.rounds[-1]) if self.rounds else {}

    @property
    def void_rounds(self) -> str | None:
        """One line about the rounds without an aggregate, or None if there are none."""
        void = [line["round"] for line in self.rounds if line.get("void")]
        return void_summary(void, len(self.rounds) - 1)

    @property
    def seconds(self) -> float:
        """Total wall time of the recorded rounds, in seconds."""
        return float(sum(line["seconds"] or 0.0 for line in self.rounds))

    @property
    def virtual_time(self) -> float | None:
        """Virtual seconds of the recorded rounds; None without a virtual clock."""
        return self.rounds[-1].get("virtual-time") if self.rounds else None

    @property
    def epsilon(self) -> float | None:
        """The epsilon that the recorded rounds have spent; None without differential privacy."""
        return self.rounds[-1].get("epsilon") if self.rounds else None

    @property
    def target(self) -> float | None:
        """The value of the primary metric that is to be reached; None if none is named."""
        return self.manifest["experiment"].get("metrics", {}).get("target") or None

    @property
    def time_to_target(self) -> float | None:
        """Virtual seconds until the target was reached; None if it was not, or without a clock."""
        if self.virtual_time is None or self.target_line is None:
            return None
        return self.target_line["virtual-time"] or 0.0

    @cached_property
    def target_line(self) -> Mapping[str, Any] | None:
        """The line of the first round after which the target was reached; None if it never was."""
        if (target := self.target) is None:
            return None
        name, sign = self.objective.primary, 1 if self.objective.higher_is_better() else -1
        for line in self.rounds:
            value = line["server"].get(name)
            if value is not None and sign * value >= sign * target:
                return line
        return None

    @cached_property
    def faulty(self) -> dict[int, str]:
        """Partition id -> name of its earliest fault, for clients faulty in any round."""
        return {int(client): name for client, name in self.manifest["faulty"].items()}

    @cached_property
    def sites(self) -> dict[int, str]:
        """Partition id -> name of its node, of real nodes that have a name; empty without any."""
        try:
            table = dict(parse_json((self.path / NODES).read_bytes()) or {})
            names = {int(number): str(entry["name"]) for number, entry in table.items()}
        except (OSError, ValueError, TypeError, KeyError):
            return {}
        return {number: name for number, name in names.items() if name}

    @cached_property
    def filters(self) -> bool:
        """True if the rule can filter clients, according to the manifest.

        In a directory without that entry it follows from the experiment or, if this version cannot
        read that, from whether any client was filtered.
        """
        if isinstance(filters := self.manifest.get("filters"), bool):
            return filters
        try:
            return Experiment.parse(self.manifest["experiment"]).parts.filters
        except HQDEError:  # of a version with other keys: its decisions show it
            return any(client["reason"] == FILTERED for client in self.clients)

    @cached_property
    def detection(self) -> Detection:
        """Counts of faulty and honest clients, filtered, judged and unjudged, over all rounds."""
        return Detection.of(self.clients, self.filters)


def _client_means(line: Mapping[str, Any]) -> dict[str, float | None]:
    means = {**line["clients-train"], **line["clients-evaluate"]}
    return {name: value for name, value in means.items() if not name.endswith("seconds")}


def read_lines(path: Path) -> tuple[Mapping[str, Any], ...]:
    """Return the records of a ``.jsonl`` file, none if there is no such file.

    A last line without a line break is left out.

    Raises
    ------
    ConfigError
        If a complete line is no record; the message gives its number.
    """
    if not path.exists():
        return ()
    data, records = path.read_bytes(), []
    # a line without its end was being written when the run was killed
    for number, line in enumerate(data[: data.rfind(b"\n") + 1].splitlines(), start=1):
        record = parse_json(line)
        if not isinstance(record, dict):
            raise ConfigError(f"{path}, line {number}: damaged, no record of a run")
        records.append(record)
    return tuple(records)
