"""Run an experiment under candidates of an attack search, several at once, and keep the results."""

from __future__ import annotations

import hashlib
import json
import queue
import shutil
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any, Self, final

from hqde_fl.errors import ConfigError, HQDEError, RunError
from hqde_fl.simulations.attack_search.candidates import Candidate
from hqde_fl.simulations.console.interruption import uninterrupted
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.recorded_run import Run, read_lines
from hqde_fl.simulations.recording.run_directory import append_lines
from hqde_fl.simulations.sweep.worker import CellWorker

EXPERIMENT = "experiment.json"
"""The file with the experiment whose runs are in the directory, and f."""
RESULTS = "runs.jsonl"
"""The file with a line for every run: candidate, seed, and the final metric or an error."""


@final
class Evaluator:
    """Runs an experiment under attacks in worker processes, and remembers the results in a file.

    Parameters
    ----------
    experiment : Experiment
        The experiment without its faults; engine inline.
    f : int
        The number of attackers.
    out : Path
        Directory of the results; those of an earlier search in it are used again.
    jobs : int
        Number of runs at once.
    lock : int
        File descriptor that the processes hold open, so that the directory stays locked.
    """

    def __init__(self, experiment: Experiment, f: int, out: Path, jobs: int, lock: int) -> None:
        self._table, self._f, self._out = experiment.to_table(), f, out
        self._runs: dict[tuple[str, int], Future[float | None]] = {}
        self._sizes: dict[int, list[int]] = {}
        self._not_finite: set[tuple[str, int]] = set()
        self._require_same()
        self._closing = False
        self._workers = [CellWorker(out / f"worker-{index}.log", lock) for index in range(jobs)]
        self._idle: queue.SimpleQueue[CellWorker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(jobs, "run")
        self._writing = threading.Lock()
        task = self._experiment(Candidate({"name": "zero"}), 0).checked_task()
        objective = task.objective
        self.metric, self.higher_is_better = objective.primary, objective.higher_is_better()
        self.worst = objective.bounds()[0 if self.higher_is_better else 1]
        for line in read_lines(out / RESULTS):
            if line["error"] is None:  # what failed may have been interrupted
                known: Future[float | None] = Future()
                place = line["candidate"], line["seed"]
                known.set_result(self._counted(line["value"], place))
                self._runs[place] = known

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closing = True
        with uninterrupted():
            self._threads.shutdown(wait=False, cancel_futures=True)
            for worker in self._workers:
                worker.close()
            self._threads.shutdown()

    def _require_same(self) -> None:
        """Raise ``ConfigError`` if the directory holds the search of another experiment."""
        own = {key: value for key, value in self._table.items() if key not in ("seed", "faults")}
        text = json.dumps({**own, "f": self._f}, sort_keys=True, indent=1) + "\n"
        file = self._out / EXPERIMENT
        if file.exists() and file.read_text() != text:
            raise ConfigError(
                f"{self._out} holds the search of another experiment or number of attackers: "
                "choose another --out"
            )
        replace_file(file, text.encode())

    def value(self, candidate: Candidate | None, seed: int) -> Future[float | None]:
        """Return the primary metric after the last round of a run, when it is there.

        Parameters
        ----------
        candidate : Candidate or None
            The attack; None for none.
        seed : int
            The run's seed.

        Returns
        -------
        Future[float or None]
            None if the run failed. A metric that is not finite counts as ``worst``, the worst value
            that it can have.
        """
        key = _key(candidate)
        if (key, seed) not in self._runs:  # two at once would use the same directory
            self._runs[key, seed] = self._threads.submit(self._run, candidate, seed, key)
        return self._runs[key, seed]

    def was_tried(self, candidate: Candidate, seed: int) -> bool:
        """Return True if ``value`` was asked for a run, now or in an earlier search."""
        return (candidate.key, seed) in self._runs

    def values(self, candidate: Candidate | None, seeds: Iterable[int]) -> list[float | None]:
        """Return the final metric for each seed, in order; see ``value``."""
        return [future.result() for future in [self.value(candidate, seed) for seed in seeds]]

    def not_finite(self, candidate: Candidate | None, seeds: Iterable[int]) -> int:
        """Return the number of runs under a candidate whose metric was not finite."""
        key = _key(candidate)
        return sum((key, seed) in self._not_finite for seed in seeds)

    def faults(self, candidate: Candidate, seed: int) -> list[dict[str, Any]]:
        """Return the ``[[faults]]`` of a candidate under a seed."""
        return candidate.faults(self._f, self._sizes_of(candidate, seed))

    def _counted(self, value: float | None, place: tuple[str, int]) -> float:
        """Return a metric, or the worst value that it can have if it is not finite."""
        if value is None:
            self._not_finite.add(place)
            return self.worst
        return value

    def _run(self, candidate: Candidate | None, seed: int, key: str) -> float | None:
        name = hashlib.sha256(f"{key} {seed}".encode()).hexdigest()[:16]
        out, value, error = self._out / name, None, None
        worker = self._idle.get_nowait()  # there are as many as threads
        try:
            experiment = self._experiment(candidate, seed)
            error = worker.run(experiment, out, lambda line: None)
            if error is None:
                value = self._final(Run.load(out))
        except HQDEError as problem:
            error = str(problem)
        finally:
            self._idle.put(worker)
            shutil.rmtree(out, ignore_errors=True)
        if self._closing:  # its process was ended
            return None
        line = {"candidate": key, "seed": seed, "value": value, "error": error}
        with self._writing:
            append_lines(self._out / RESULTS, [line])
        return self._counted(value, (key, seed)) if error is None else None

    def _final(self, run: Run) -> float | None:
        """Return the metric after a run's last round, None if it is not finite.

        Raises ``RunError`` if the server did not measure it.
        """
        if self.metric not in run.final:
            raise RunError(f"the server measured no {self.metric!r}: has the task a test set?")
        return run.final[self.metric]

    def _experiment(self, candidate: Candidate | None, seed: int) -> Experiment:
        own: dict[str, Any] = {
            "seed": seed,
            "faults": [],
            "engine": {"name": "inline"},
            "checkpoint": {"every": 0},
            "monitor": {"enabled": False},
            "callbacks": [],
        }
        if candidate is not None:
            own["faults"] = self.faults(candidate, seed)
        return Experiment.parse({**self._table, **own})

    def _sizes_of(self, candidate: Candidate, seed: int) -> Sequence[int]:
        """Return the clients' numbers of examples under a seed, if the candidate asks for them."""
        if candidate.who == "drawn":
            return ()
        if seed not in self._sizes:
            experiment = Experiment.parse({**self._table, "seed": seed, "faults": []})
            task, count = experiment.load_task(), experiment.clients.count
            self._sizes[seed] = [_size(task.partition(client, count)) for client in range(count)]
        return self._sizes[seed]


def _key(candidate: Candidate | None) -> str:
    return "none" if candidate is None else candidate.key


def _size(data: Any) -> int:
    """Return the number of examples of a data set, which has to have one."""
    try:
        return len(data)
    except TypeError:
        raise ConfigError(
            "the attack search orders clients by their numbers of examples, found data without one"
        ) from None
