"""Search for the attack that hurts most, on some seeds, and measure it on others.

Candidates come from Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). A
candidate that is far from the best one on the first seed is not tried on the others. What the
search found is then run on seeds that it never saw, beside every fixed attack: choosing the worst
of many noisy runs would otherwise make any attack look worse than it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from hqde_fl.errors import ConfigError, RunError
from hqde_fl.seeding import Seeds
from hqde_fl.simulations.attack_search.candidates import Candidate, fixed_candidates, suggested
from hqde_fl.simulations.attack_search.evaluation import Evaluator
from hqde_fl.simulations.attack_search.families import FAMILIES, AttackFamily
from hqde_fl.simulations.experiment.experiment import Experiment
from hqde_fl.simulations.recording.atomic_files import replace_file
from hqde_fl.simulations.recording.directory_lock import directory_lock
from hqde_fl.simulations.statistics.samples import Sample

OUTCOME = "attack-search.json"
MARGIN = 0.05
"""A candidate is dropped if the first seed's metric is better by more than this than the mean under
the worst attack so far."""
STARTUP_CANDIDATES = 20
"""Candidates that are drawn at random before the estimator chooses."""

OnCandidate = Callable[[int, Candidate, float | None, float], None]
"""Called with the number of the candidate, the candidate, its mean metric, and the worst so far."""


@dataclass(frozen=True)
class SearchSettings:
    """The settings of a search.

    Parameters
    ----------
    budget : int
        Number of candidates beside the fixed attacks, >= 1.
    minutes : float
        Time after which no further candidate begins, > 0.
    training_seeds, held_out_seeds : tuple[int, ...]
        Seeds of the runs that guide the search, and of those that are reported; no seed is both.
    seed : int
        Seed of the search itself.
    """

    budget: int = 200
    minutes: float = 15.0
    training_seeds: tuple[int, ...] = (1, 2)
    held_out_seeds: tuple[int, ...] = (11, 12, 13, 14, 15)
    seed: int = 0

    def __post_init__(self) -> None:
        if self.budget < 1:
            raise ConfigError(f"--budget must be >= 1, found {self.budget}")
        if not self.minutes > 0:
            raise ConfigError(f"--minutes must be > 0, found {self.minutes:g}")
        if not self.training_seeds or len(self.held_out_seeds) < 2:
            raise ConfigError("a search needs at least 1 training seed and 2 held-out seeds")
        for seeds in (self.training_seeds, self.held_out_seeds):
            if len(set(seeds)) < len(seeds):
                raise ConfigError(f"a search needs different seeds, found {list(seeds)}")
        if both := set(self.training_seeds) & set(self.held_out_seeds):
            raise ConfigError(f"seeds must not be both training and held-out, found {sorted(both)}")


@dataclass(frozen=True)
class AttackScores:
    """An attack with what it left of the metric.

    Parameters
    ----------
    label : str
        The attack in words.
    faults : str
        The attack as JSON: fault, who, when.
    training, held_out : tuple[float, ...]
        The final metric for each training seed, and each held-out one.
    """

    label: str
    faults: str
    training: tuple[float, ...]
    held_out: tuple[float, ...]


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search.

    Parameters
    ----------
    rule : str
        The rule.
    metric : str
        The primary metric.
    clean : tuple[float, ...]
        The final metric without attackers, for each held-out seed.
    fixed : tuple[AttackScores, ...]
        The fixed attacks, the worst on the training seeds first.
    found : AttackScores
        The worst attack on the training seeds, which may be a fixed one.
    candidates, failed : int
        Numbers of candidates, and of those whose runs failed.
    """

    rule: str
    metric: str
    clean: tuple[float, ...]
    fixed: tuple[AttackScores, ...]
    found: AttackScores
    candidates: int
    failed: int

    @property
    def difference(self) -> Sample:
        """The metric under the attack found, less that under the worst fixed one, by seed."""
        pairs = zip(self.found.held_out, self.fixed[0].held_out, strict=True)
        return Sample(tuple(found - fixed for found, fixed in pairs))


def attack_search(
    experiment: Experiment,
    f: int,
    out: Path,
    settings: SearchSettings,
    *,
    jobs: int = 1,
    families: Sequence[AttackFamily] = FAMILIES,
    on_candidate: OnCandidate = lambda number, candidate, value, worst: None,
) -> SearchOutcome:
    """Search for the attack under which an experiment ends worst.

    Parameters
    ----------
    experiment : Experiment
        The experiment; its faults are replaced.
    f : int
        The number of attackers.
    out : Path
        Directory for ``attack-search.json`` and ``runs.jsonl``. A search that was interrupted there
        goes on: runs that are in it are not run again.
    settings : SearchSettings
        The settings.
    jobs : int, default=1
        Number of runs at once.
    families : Sequence[AttackFamily]
        The attacks to try.
    on_candidate : Callable
        Called after each candidate.

    Raises
    ------
    ConfigError
        If Optuna is not installed (the extra ``search``), or the directory is in use.
    RunError
        If no run finished under any attack.
    """
    study = _study(settings.seed)
    out.mkdir(parents=True, exist_ok=True)
    with (
        directory_lock(out, ConfigError(f"another search is running in {out}")) as lock,
        Evaluator(experiment, f, out, jobs, lock) as evaluator,
    ):
        search = _Search(evaluator, settings, families, on_candidate)
        fixed = search.fixed()
        search.run(study, experiment.rounds, jobs)
        outcome = search.outcome(fixed, str(experiment.parts.rule))
    difference = outcome.difference
    table = asdict(outcome) | {
        "settings": asdict(settings),
        "f": f,
        "difference": {"mean": difference.mean, "interval": difference.interval},
        "experiment": experiment.to_table(),
    }
    replace_file(out / OUTCOME, (json.dumps(table, indent=1) + "\n").encode())
    return outcome


def _study(seed: int) -> Any:
    try:
        import optuna
    except ImportError as error:
        raise ConfigError(
            "the attack search needs Optuna: pip install 'hqde-fl[search]'"
        ) from error
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sampler = optuna.samplers.TPESampler(
        seed=Seeds(seed).integer("attack-search") % 2**32, n_startup_trials=STARTUP_CANDIDATES
    )
    return optuna.create_study(sampler=sampler)


class _Search:
    """The state of a search: the worst attack so far, and how many have been tried."""

    def __init__(
        self,
        evaluator: Evaluator,
        settings: SearchSettings,
        families: Sequence[AttackFamily],
        on_candidate: OnCandidate,
    ) -> None:
        self._evaluator, self._settings, self._tell = evaluator, settings, on_candidate
        self._families = families
        self._sign = 1.0 if evaluator.higher_is_better else -1.0
        self._worst: tuple[float, Candidate] | None = None
        self.candidates = self.failed = 0

    def fixed(self) -> list[Candidate]:
        """Run the fixed attacks on the training seeds, and return those that can be carried out."""
        seeds = self._settings.training_seeds
        pending = [
            (candidate, [self._evaluator.value(candidate, seed) for seed in seeds])
            for candidate in fixed_candidates(self._families)
        ]
        works = []
        for candidate, futures in pending:
            value = self._mean([future.result() for future in futures])
            self._note(candidate, value)
            if value is not None:
                works.append(candidate)
        if not works:
            raise RunError("no run finished under any fixed attack: run one by itself to see why")
        return works

    def run(self, study: Any, rounds: int, jobs: int) -> None:
        """Try candidates until the budget or the time is used up, ``jobs`` at once."""
        settings = self._settings
        end = time.monotonic() + 60 * settings.minutes
        left = settings.budget
        while left and time.monotonic() < end:
            trials = [study.ask() for _ in range(min(jobs, left))]
            left -= len(trials)
            drawn = [suggested(trial, rounds, self._families) for trial in trials]
            values = self._raced(drawn)
            for trial, candidate, value in zip(trials, drawn, values, strict=True):
                self._note(candidate, value)
                if value is None:
                    study.tell(trial, state=_failed_state())
                else:
                    study.tell(trial, self._sign * value)

    def outcome(self, fixed: Sequence[Candidate], rule: str) -> SearchOutcome:
        """Run the worst attack found, and the fixed ones, on the held-out seeds."""
        assert self._worst is not None
        clean = self._futures(None)
        found, others = self._futures(self._worst[1]), [self._futures(each) for each in fixed]
        measured = [
            self._measured(candidate, futures)
            for candidate, futures in zip(fixed, others, strict=True)
        ]
        ordered = sorted(measured, key=lambda each: self._sign * fmean(each.training))
        return SearchOutcome(
            rule,
            self._evaluator.metric,
            self._finite(clean),
            tuple(ordered),
            self._measured(self._worst[1], found),
            self.candidates,
            self.failed,
        )

    def _raced(self, drawn: Sequence[Candidate]) -> list[float | None]:
        """Return each candidate's mean metric, over the first seed only if that is good enough."""
        first, *others = self._settings.training_seeds
        begun = [self._evaluator.value(candidate, first) for candidate in drawn]
        further: list[list[Future[float | None]]] = []
        for candidate, future in zip(drawn, begun, strict=True):
            value = future.result()
            goes_on = value is not None and (
                self._worst is None or self._sign * value <= self._worst[0] + MARGIN
            )
            seeds = others if goes_on else ()
            further.append([self._evaluator.value(candidate, seed) for seed in seeds])
        return [
            self._mean([future.result(), *(each.result() for each in more)])
            for future, more in zip(begun, further, strict=True)
        ]

    def _note(self, candidate: Candidate, value: float | None) -> None:
        """Count a candidate, and keep it if it was tried on all seeds and is the worst so far."""
        self.candidates += 1
        self.failed += value is None
        seeds = self._settings.training_seeds
        if value is not None and all(self._evaluator.was_tried(candidate, s) for s in seeds):
            signed = self._sign * value
            if self._worst is None or signed < self._worst[0]:
                self._worst = signed, candidate
        worst = float("nan") if self._worst is None else self._sign * self._worst[0]
        self._tell(self.candidates, candidate, value, worst)

    def _futures(self, candidate: Candidate | None) -> list[Future[float | None]]:
        return [self._evaluator.value(candidate, s) for s in self._settings.held_out_seeds]

    def _measured(
        self, candidate: Candidate, futures: Sequence[Future[float | None]]
    ) -> AttackScores:
        training = self._evaluator.values(candidate, self._settings.training_seeds)
        return AttackScores(
            candidate.label,
            candidate.key,
            tuple(value for value in training if value is not None),
            self._finite(futures),
        )

    def _finite(self, futures: Sequence[Future[float | None]]) -> tuple[float, ...]:
        """Return the values of runs; raise ``RunError`` if one of them failed."""
        values = [future.result() for future in futures]
        if None in values:
            raise RunError(
                f"a run on held-out seed {self._settings.held_out_seeds[values.index(None)]} "
                "failed: runs.jsonl has its error"
            )
        return tuple(value for value in values if value is not None)

    @staticmethod
    def _mean(values: Sequence[float | None]) -> float | None:
        """Return the mean of the values of runs; None if one of them failed."""
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None


def _failed_state() -> Any:
    from optuna.trial import TrialState

    return TrialState.FAIL
