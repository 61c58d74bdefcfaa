"""The differential privacy that clients of an experiment provide for themselves."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Self, TypeVar

from hqde_fl.catalogue import NOISE_SOURCES
from hqde_fl.clients.fresh_model import FreshModel
from hqde_fl.clients.private_model import check_private_model
from hqde_fl.clients.task import Task
from hqde_fl.clients.task_check import MAX_EXAMPLES, before_the_run, check_training, sample
from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.privacy.example_level import DPSGD
from hqde_fl.privacy.local import LocalDP
from hqde_fl.privacy.noise_source import NoiseSource
from hqde_fl.registry import Registry
from hqde_fl.simulations.experiment.components import as_table, build_component, errors_named
from hqde_fl.simulations.experiment.sections import ClientsSection, StrategySection
from hqde_fl.strategies.settings import Buffers
from hqde_fl.updates.roles import roles_of

LOCAL = Registry("privacy", LocalDP, {"local-dp": LocalDP})
EXAMPLE = Registry("privacy", DPSGD, {"dp-sgd": DPSGD})

T = TypeVar("T", LocalDP, DPSGD)


@dataclass(frozen=True)
class ClientPrivacy:
    """What clients do for the privacy of their data.

    Parameters
    ----------
    local : LocalDP, optional
        Each client clips its update and adds noise to it.
    examples : DPSGD, optional
        Each client trains by DP-SGD.
    """

    local: LocalDP | None
    examples: DPSGD | None

    @classmethod
    def build(cls, clients: ClientsSection) -> Self:
        """Return what ``clients.local-dp`` and ``clients.dp-sgd`` configure.

        Raises
        ------
        ConfigError
            If a table does not describe it.
        """
        return cls(
            _build(LOCAL, clients.local_dp, "clients.local-dp"),
            _build(EXAMPLE, clients.dp_sgd, "clients.dp-sgd"),
        )

    def check(
        self, clients: ClientsSection, strategy: StrategySection, confidence_from: str
    ) -> None:
        """Raise ``ConfigError`` if the server would be told of the data what no noise protects.

        Parameters
        ----------
        clients, strategy : ClientsSection, StrategySection
            The tables of the experiment.
        confidence_from : str
            Where the rule takes its confidence in a client from.
        """
        for key, on in (("local-dp", self.local), ("dp-sgd", self.examples)):
            if on is None:
                continue
            if strategy.fraction_evaluate > 0:
                raise ConfigError(
                    f"clients.{key} needs strategy.fraction-evaluate = 0, as metrics on clients' "
                    f"data have no noise, found {strategy.fraction_evaluate:g}"
                )
            if confidence_from == "reported":
                raise ConfigError(
                    f"clients.{key} needs a rule without confidence = 'reported': clients report "
                    "no loss, which would have no noise"
                )
        if self.local is not None and (clients.speed or clients.bandwidth):
            raise ConfigError(
                "clients.local-dp keeps the number of examples from the server: it needs no "
                "virtual time (clients.speed, clients.bandwidth)"
            )
        if self.examples is not None and clients.bagging:
            raise ConfigError(
                "clients.dp-sgd needs clients.bagging = false: a bootstrap sample repeats examples"
            )

    def facts(self, rounds: int) -> dict[str, dict[str, Any]]:
        """Return what the manifest says of it; empty if there is none.

        Parameters
        ----------
        rounds : int
            The number of rounds, in all of which a client may take part.
        """
        facts: dict[str, dict[str, Any]] = {}
        if (local := self.local) is not None:
            facts["local-dp"] = {
                "protects": "all of a client's data, from everybody else",
                "delta": local.delta,
                "epsilon-of-an-update": local.epsilon,
                "epsilon-at-most": min(
                    local.composed_epsilon(rounds), local.max_epsilon or math.inf
                ),
                "noise": _origin(local.noise),
            }
        if (examples := self.examples) is not None:
            facts["dp-sgd"] = {
                "protects": "each example of a client, from everybody else",
                "delta": examples.delta,
                "epsilon-at-most": examples.target_epsilon or None,
                "noise-multiplier": examples.noise_multiplier or None,
                "noise": _origin(examples.noise),
            }
        return facts


def _origin(noise: NoiseSource) -> str:
    return "seeded" if noise.seeded else "from a secure generator"


def check_private_training(
    task: Task, model: FreshModel, training: Training, *, local: bool, buffers: Buffers
) -> None:
    """Raise ``ConfigError`` if a task's model does not go with the clients' privacy.

    Local differential privacy lets no statistics out; with DP-SGD the model is trained on a few
    examples of the test set, and not changed but for its buffers.
    """
    roles = roles_of(model.built).roles
    statistics = [name for name, role in roles.items() if role == "statistics"]
    if local and statistics and buffers == "merge":
        raise ConfigError(
            "clients.local-dp needs strategy.buffers = 'local', as statistics of the data would "
            f"have no noise, found {statistics[0]!r} and 'merge'"
        )
    if training.dp_sgd is None or task.test is None:
        return
    with before_the_run("clients.dp-sgd, tried on the test set"):
        examples = sample(task.test(), MAX_EXAMPLES)
        check_private_model(task, model, examples)
        check_training(task, model, training, examples)


def with_trainings(training: Training, trainings: int) -> Training:
    """Return settings of training in which a target epsilon is for so many trainings.

    Unchanged without such a target, and if the settings themselves say how many.
    """
    settings = training.dp_sgd
    if settings is None or settings.trainings:
        return training
    return replace(training, dp_sgd=replace(settings, trainings=trainings))


def _build(registry: Registry[T], table: Mapping[str, Any], key: str) -> T | None:
    """Return what a table configures, or None for an empty one."""
    if not table:
        return None
    own = {name: value for name, value in table.items() if name != "noise"}
    with errors_named(key):
        settings = build_component(registry, {"name": next(iter(registry)), **own}, key)
    if "noise" not in table:
        return settings
    source = as_table(table["noise"])
    if not isinstance(source, Mapping):
        raise ConfigError(f"{key}.noise needs a name or a table, found {source!r}")
    with errors_named(f"{key}.noise"):
        return replace(settings, noise=build_component(NOISE_SOURCES, source, f"{key}.noise"))
