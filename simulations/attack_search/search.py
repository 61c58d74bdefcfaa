"""Search for the attack that hurts most, on some seeds, and measure it on others.

Candidates come from Optuna's tree-structured Parzen estimator (Bergstra et al., NeurIPS 2011). A
candidate that is far from the best one on the first seed is not tried on the others. What the
search found is then run on seeds that it never saw, beside every fixed attack: choosing the worst
of many noisy runs would otherwise make any attack look worse than it is.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass
from math import inf, isfinite
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
from hqde_fl.simulations.recording.strict_json import to_json_value
from hqde_fl.simulations.statistics.samples import Sample

OUTCOME, FOUND = "attack-search.json", "found.toml"
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
        Number of candidates that are drawn, >= 1. The fixed attacks are run besides.
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
            raise ConfigError(
                "a search needs at least 1 training seed (--seeds) and 2 held-out seeds "
                f"(--held-out), found {len(self.training_seeds)} and {len(self.held_out_seeds)}"
            )
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
        The final metric for each training seed, and each held-out one. One that is not finite is in
        it as the worst value that the metric can have.
    not_finite : int
        The number of these runs whose metric was not finite.
    """

    label: str
    faults: str
    training: tuple[float, ...]
    held_out: tuple[float, ...]
    not_finite: int = 0


@dataclass(frozen=True)
class SearchOutcome:
    """The outcome of a search.

    Parameters
    ----------
    rule : str
        The rule.
    metric : str
        The primary metric.
    higher_is_better : bool
        Whether higher values of it are better.
    clean : tuple[float, ...]
        The final metric without attackers, for each held-out seed; empty if a run failed.
    fixed : tuple[AttackScores, ...]
        The fixed attacks, the worst on the training seeds first.
    found : AttackScores
        The worst attack on the training seeds, which may be a fixed one.
    found_faults : tuple[dict, ...]
        The ``[[faults]]`` of the attack found, under the first held-out seed.
    tied : tuple[str, ...]
        Other attacks, in words, that left as much on the training seeds as the one found.
    left_out : tuple[str, ...]
        The attacks, in words, that are left out because a run on a held-out seed failed.
    candidates, failed : int
        Numbers of attacks tried, the fixed ones included, and of those whose runs failed.
    """

    rule: str
    metric: str
    higher_is_better: bool
    clean: tuple[float, ...]
    fixed: tuple[AttackScores, ...]
    found: AttackScores
    found_faults: tuple[dict[str, Any], ...]
    tied: tuple[str, ...]
    left_out: tuple[str, ...]
    candidates: int
    failed: int

    @property
    def difference(self) -> Sample | None:
        """The metric under the attack found, less that under the worst fixed one, by seed.

        None without a fixed attack, and if one of the values is infinite.
        """
        if not self.fixed:
            return None
        pairs = zip(self.found.held_out, self.fixed[0].held_out, strict=True)
        differences = tuple(found - fixed for found, fixed in pairs)
        return Sample(differences) if all(map(isfinite, differences)) else None


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
        Directory for ``attack-search.json``, ``found.toml`` and ``runs.jsonl``. A search that was
        interrupted there goes on: runs that are in it are not run again.
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
        If no run finished under any fixed attack, or no attack finished on all held-out seeds.
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
    table = to_json_value(asdict(outcome)) | {
        "settings": asdict(settings),
        "f": f,
        "difference": difference and {"mean": difference.mean, "interval": difference.interval},
        "experiment": experiment.to_table(),
    }
    replace_file(out / OUTCOME, (json.dumps(table, indent=1, allow_nan=False) + "\n").encode())
    replace_file(out / FOUND, found_toml(outcome, settings).encode())
    return outcome


def found_toml(outcome: SearchOutcome, settings: SearchSettings) -> str:
    """Return the attack found as TOML for an experiment's file, with a comment on what it is."""
    seed = settings.held_out_seeds[0]
    lines = [f"# The attack found: {outcome.found.label}"]
    if any("clients" in fault for fault in outcome.found_faults):
        lines.append(f"# The clients are those for seed = {seed}; another seed divides other data.")
    for fault in outcome.found_faults:
        lines += ["[[faults]]", *(f"{key} = {_toml(value)}" for key, value in fault.items())]
    return "\n".join(lines) + "\n"


def _toml(value: Any) -> str:
    """Return a value of a fault's table in one line of TOML."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{key} = {_toml(entry)}" for key, entry in value.items()) + " }"
    if isinstance(value, list | tuple):
        return "[" + ", ".join(map(_toml, value)) + "]"
    return json.dumps(value)


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
        self._tried: dict[str, tuple[float, Candidate]] = {}
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
                # what fails counts as harmless: left out of the model it would be drawn again
                study.tell(trial, inf if value is None else self._sign * value)

    def outcome(self, fixed: Sequence[Candidate], rule: str) -> SearchOutcome:
        """Run the worst attack found, and the fixed ones, on the held-out seeds.

        An attack with a run that fails there is left out; after the worst one comes the next.
        """
        ranked = sorted(self._tried.values(), key=lambda pair: pair[0])
        seeds = self._settings.held_out_seeds
        begun = [self._evaluator.value(each, s) for each in (None, *fixed) for s in seeds]
        for future in begun:
            future.result()
        left_out = [] if self._held_out(None) else ["no attack"]
        measured = [scores for each in fixed if (scores := self._measured(each, left_out))]
        for _, candidate in ranked:
            if (found := self._measured(candidate, left_out)) is not None:
                break
        else:
            raise RunError(
                "every attack had a run that failed on a held-out seed: runs.jsonl has its error"
            )
        value = self._tried[candidate.key][0]
        return SearchOutcome(
            rule,
            self._evaluator.metric,
            self._evaluator.higher_is_better,
            self._held_out(None) or (),
            tuple(sorted(measured, key=lambda each: self._sign * fmean(each.training))),
            found,
            tuple(self._evaluator.faults(candidate, seeds[0])),
            tuple(each.label for other, each in ranked if other == value and each != candidate),
            tuple(dict.fromkeys(left_out)),
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
            goes_on = value is not None and self._sign * value <= self._worst + MARGIN
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
            self._tried[candidate.key] = self._sign * value, candidate
        worst = self._sign * self._worst if self._tried else float("nan")
        self._tell(self.candidates, candidate, value, worst)

    @property
    def _worst(self) -> float:
        """The worst signed metric so far, infinite if no candidate was tried on all seeds."""
        return min((signed for signed, _ in self._tried.values()), default=inf)

    def _measured(self, candidate: Candidate, left_out: list[str]) -> AttackScores | None:
        """Return an attack's values; None if a run failed, after adding its name to those left out.

        All its runs on the training seeds have finished.
        """
        settings = self._settings
        held_out = self._held_out(candidate)
        if held_out is None:
            left_out.append(candidate.label)
            return None
        training = self._evaluator.values(candidate, settings.training_seeds)
        return AttackScores(
            candidate.label,
            candidate.key,
            tuple(value for value in training if value is not None),
            held_out,
            self._evaluator.not_finite(
                candidate, (*settings.training_seeds, *settings.held_out_seeds)
            ),
        )

    def _held_out(self, candidate: Candidate | None) -> tuple[float, ...] | None:
        """Return the metric of the runs on the held-out seeds; None if one of them failed."""
        values = self._evaluator.values(candidate, self._settings.held_out_seeds)
        known = tuple(value for value in values if value is not None)
        return known if len(known) == len(values) else None

    @staticmethod
    def _mean(values: Sequence[float | None]) -> float | None:
        """Return the mean of the values of runs; None if one of them failed."""
        known = [value for value in values if value is not None]
        return fmean(known) if len(known) == len(values) else None
