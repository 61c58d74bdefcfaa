"""Settings of ``HQDEStrategy``, in groups of what belongs together."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from functools import cached_property
from threading import TIMEOUT_MAX
from typing import Any, Literal, final, get_args

from hqde_fl.codec import Codec, Identity
from hqde_fl.codec.formats import register
from hqde_fl.distributed.auto_executor import AutoExecutor
from hqde_fl.errors import ConfigError, UnknownNameError
from hqde_fl.privacy.central import CentralDP
from hqde_fl.privacy.ledger import Ledger
from hqde_fl.privacy.secagg import SecureAggregation
from hqde_fl.protocol.screening import Screening
from hqde_fl.rules import Aggregator, Executor, Mean
from hqde_fl.rules.tolerance import silence_warning
from hqde_fl.seeding import Seeds
from hqde_fl.selection import Ensemble, Selector, Uniform
from hqde_fl.strategies.callbacks import Callback
from hqde_fl.strategies.confidence import Confidence, HeldOut
from hqde_fl.strategies.optimizers import SGD, ServerOptimizer
from hqde_fl.strategies.private_plan import PrivatePlan
from hqde_fl.strategies.secure_checks import check_secure_aggregation, check_secure_noise
from hqde_fl.strategies.server_data import RootTraining, check_root_training
from hqde_fl.updates.roles import Roles

Buffers = Literal["merge", "local"]
"""Ways to treat the statistics of clients' batch normalisation; see ``Aggregation``."""

DensityPolicy = Literal["free", "always", "never"]
"""The rounds whose diagnostics describe the density matrix of the updates; see ``Reporting``."""


@final
@dataclass(frozen=True)
class Aggregation:
    """Settings by which the updates of a round become the next model.

    Parameters
    ----------
    rule : Aggregator
        How the updates are merged; by default their mean, weighted by the numbers of examples, as
        in FedAvg.
    server_optimizer : ServerOptimizer
        How the aggregated update moves the model; by default it is added as it is.
    quorum : int
        Least number of accepted replies, >= 0: with fewer the model is kept, in an ensemble that of
        the member concerned. 0, the default: as many as the rule needs.
    held_out : HeldOut, optional
        Function from a client's model (a state dict) to its quality on examples of the server, in
        [0, 1]. Rules with ``confidence="held-out"`` need it, no other rule accepts it.
    confidence_metric : str
        Name of the metric in a client's reply that rules with ``confidence="reported"`` take as its
        confidence, clipped to [0, 1]; one that ends in ``loss`` becomes e^(-loss). Empty, the
        default: ``"train-loss"``.
    buffers : "merge" or "local"
        ``"merge"``, the default: statistics of the clients' data, such as the running mean and
        variance of batch normalisation, are merged without loss: under ``Mean`` alone their
        weighted mean, else their coordinate-wise median. ``"local"``: each client of
        ``ensemble_app`` keeps its own (FedBN, Li et al., 2021, arXiv:2102.07623), and the server's
        model those that it began with, so that only the clients' own evaluation is meaningful.
    executor : Executor
        Where the rule works. ``AutoExecutor``, the default: in this process if the updates fit into
        its memory, else on the Ray that it is connected to.
    privacy : CentralDP, optional
        Central differential privacy: updates are clipped, and noise is added to their sum. It
        takes a rule with a bounded sensitivity, such as ``Mean()``, clients drawn by ``Poisson`` or
        ``Uniform`` among ``Participation.min_available_nodes``, and no evaluation on clients.
        Statistics and counters stay those of the initial model. By default None.
    root_training : RootTraining, optional
        Function (state dict, round, examples) -> state dict that trains a model on data of the
        server's own, as the clients train it on theirs; ``examples`` is how many a typical client
        claims. Rules that need a reference update, such as ``FLTrust``, need it, no other rule
        accepts it.
    control_variates : bool
        SCAFFOLD (Karimireddy et al., 2020, arXiv:1910.06378, option II): send the server's control
        variate with the model, and merge the changes of the clients' by the rule. Clients of
        ``ensemble_app`` need ``Training(control_variates=True)``; the replies of others are
        rejected. By default False.
    secure_aggregation : SecureAggregation, optional
        Secure aggregation: the server learns the sums of small random buckets of clients, and the
        rule merges the means of these buckets. Clients of ``ensemble_app`` need the same settings.
        Rules with ``weighted=True`` weigh buckets by their examples. By default None.
    """

    rule: Aggregator = field(default_factory=lambda: Mean(weighted=True))
    server_optimizer: ServerOptimizer = field(default_factory=SGD)
    quorum: int = 0
    held_out: HeldOut | None = None
    confidence_metric: str = ""
    buffers: Buffers = "merge"
    executor: Executor = field(default_factory=AutoExecutor)
    privacy: CentralDP | None = None
    root_training: RootTraining | None = None
    control_variates: bool = False
    secure_aggregation: SecureAggregation | None = None

    def __post_init__(self) -> None:
        if self.control_variates and self.privacy is not None:
            raise ConfigError(
                "Aggregation.control_variates must be False with differential privacy: control "
                "variates would leave the server without noise"
            )
        if self.control_variates and (needs := self.rule.needs & {"reference", "history"}):
            raise ConfigError(
                "Aggregation.control_variates needs a rule that compares updates with each other "
                f"alone, found {self.rule}, which needs {', '.join(sorted(needs))}"
            )
        if self.buffers not in (known := get_args(Buffers)):
            raise UnknownNameError("way to treat buffers", str(self.buffers), known)
        if self.buffers == "local" and self.held_out is not None:
            raise ConfigError(
                "Aggregation.held_out needs buffers='merge', found 'local': the server would "
                "measure models without their statistics"
            )
        if self.quorum < 0:
            raise ConfigError(f"Aggregation.quorum must be >= 0, found {self.quorum}")
        _ = self.confidence  # raises for options that the rule does not use or lacks
        check_root_training(self.rule, self.root_training)

    @property
    def confidence(self) -> Confidence:
        """The source of the confidence in each client that the rule needs."""
        return Confidence.for_rule(self.rule, self.confidence_metric, self.held_out)


@final
@dataclass(frozen=True)
class Communication:
    """Settings by which models and updates travel and replies are accepted.

    Parameters
    ----------
    codec : Codec
        How clients are asked to pack their updates. Clients of ``ensemble_app`` and others with a
        ``CodecMod`` do; the rest send full weights, and both may take part in one round.
        ``Identity``, the default, asks for nothing.
    downlink : Codec
        How changes of the model are packed for clients that hold an earlier version, as those of
        ``ensemble_app`` and others with a ``DownlinkMod`` report; all clients then train from the
        model as it can be reconstructed. ``Identity``, the default, sends everyone the exact model
        in full.
    screening : Screening
        Limits on the content of a reply; by default those of ``Screening()``.
    deadline : float
        Seconds that a round waits for replies, in (0, ``threading.TIMEOUT_MAX``], by default 3600;
        later replies are late. The evaluation that follows has as many again.
    """

    codec: Codec = field(default_factory=Identity)
    downlink: Codec = field(default_factory=Identity)
    screening: Screening = field(default_factory=Screening)
    deadline: float = 3600.0

    def __post_init__(self) -> None:
        if not 0 < self.deadline <= TIMEOUT_MAX:
            raise ConfigError(
                f"Communication.deadline must be in (0, {TIMEOUT_MAX:g}], found {self.deadline}"
            )
        for codec in (self.codec, self.downlink):
            register(codec)
        if self.downlink.stateful:
            raise ConfigError(
                "Communication.downlink must be a codec without memory (a downlink feeds its "
                f"errors back by itself), found {self.downlink}"
            )


@final
@dataclass(frozen=True)
class Participation:
    """Settings by which nodes take part in a round.

    Parameters
    ----------
    selector : Selector
        Chooses the clients that train; by default all of them.
    fraction_evaluate : float
        Fraction of the nodes, in [0, 1], that evaluate the model after each round. 0: none.
    min_available_nodes : int
        Number of connected nodes that a round waits for, by default 1.
    wait_for_nodes : float
        Seconds to wait for them, by default 600; then ``CohortError``.
    identify : bool
        True to ask nodes for their partition ids first (``ensemble_app`` answers), so that a run is
        reproducible on engines whose node ids are random; by default False.
    without : frozenset[int]
        Partition ids of clients that take no part. They are left out after the clients of a round
        were chosen; by default nobody is.
    """

    selector: Selector = field(default_factory=Uniform)
    fraction_evaluate: float = 1.0
    min_available_nodes: int = 1
    wait_for_nodes: float = 600.0
    identify: bool = False
    without: frozenset[int] = frozenset()

    def __post_init__(self) -> None:
        if not 0 <= self.fraction_evaluate <= 1:
            raise ConfigError(
                f"Participation.fraction_evaluate must be in [0, 1], found {self.fraction_evaluate}"
            )


@final
@dataclass(frozen=True)
class Reporting:
    """Settings of what is reported of a run.

    Parameters
    ----------
    callbacks : Sequence[Callback]
        Called by ``HQDEStrategy.start``. Inside another strategy, whose ``start`` runs the rounds,
        nothing calls them.
    density : "free", "always" or "never"
        When a round's diagnostics hold purity, entropy, mean correlation and fidelity to the last
        round of the updates' density matrix. ``"free"``, the default: where the rule measures the
        updates' inner products anyway, for up to 256 clients. ``"always"``: where it does not, by
        one more pass over the updates, O(n^2 d).
    ledger : Ledger
        With differential privacy: keeps what was released; by default in memory only.
    """

    callbacks: Sequence[Callback] = ()
    density: DensityPolicy = "free"
    ledger: Ledger = field(default_factory=Ledger, compare=False)

    def __post_init__(self) -> None:
        if self.density not in (known := get_args(DensityPolicy)):
            raise ConfigError(f"density must be among {', '.join(known)}, found {self.density!r}")


@final
@dataclass(frozen=True)
class StrategySettings:
    """All settings of an ``HQDEStrategy``.

    Parameters
    ----------
    aggregation : Aggregation
        How the updates of a round become the next model.
    communication : Communication
        How models and updates travel, and which replies are accepted.
    participation : Participation
        Which nodes take part in a round.
    ensemble : Ensemble
        The members of the ensemble and their assignment to clients; by default one model.
    reporting : Reporting
        What is reported of a run.
    seeds : Seeds
        Root of all that the server draws at random.
    roles : Roles, optional
        The roles of a model's entries; inferred if not given.
    """

    aggregation: Aggregation
    communication: Communication
    participation: Participation
    ensemble: Ensemble
    reporting: Reporting
    seeds: Seeds
    roles: Roles | None = None

    def parts(self) -> dict[str, Any]:
        """Return a strategy's parts by name: the fields of three groups, and ``ensemble``.

        The groups are ``aggregation``, ``communication`` and ``participation``.
        """
        groups = (self.aggregation, self.communication, self.participation)
        parts = {part.name: getattr(group, part.name) for group in groups for part in fields(group)}
        return {**parts, "ensemble": self.ensemble}

    def check_control_variates(self) -> None:
        """Raise ``ConfigError`` if members with a control variate of their own are averaged."""
        if self.aggregation.control_variates and self.ensemble.mode == "fedavg":
            raise ConfigError(
                "Aggregation.control_variates needs Ensemble.mode = 'independent': a control "
                "variate belongs to one model, and 'fedavg' averages the members"
            )

    def check_secure_aggregation(self) -> None:
        """Raise ``ConfigError`` if a part needs more of single clients than the sum of a bucket."""
        if self.aggregation.secure_aggregation is not None:
            check_secure_aggregation(
                self.aggregation.rule,
                self.participation.selector,
                {
                    "Aggregation.control_variates": self.aggregation.control_variates,
                    "Aggregation.privacy": self.aggregation.privacy,
                    "Communication.codec": self.communication.codec != Identity(),
                },
            )
            if self.aggregation.secure_aggregation.noise_multiplier:
                check_secure_noise(self.ensemble.members, self.participation.fraction_evaluate)

    @property
    def keeps_histories(self) -> bool:
        """True if what is measured of the clients is kept from round to round."""
        selector, rule = self.participation.selector, self.aggregation.rule
        of_selector = selector.uses_history or selector.uses_sketches
        return of_selector or rule.confidence_from == "efficiency"

    @cached_property
    def plan(self) -> PrivatePlan | None:
        """The differential privacy of the run; None if there is none.

        Raises ``ConfigError`` if it does not go together with another setting, because private
        numbers would be released without noise.
        """
        if (privacy := self.aggregation.privacy) is None:
            return None
        if self.aggregation.quorum:
            raise ConfigError(
                "Aggregation.quorum must be 0 with differential privacy, as the number of replies "
                "is private (a round without any releases the noise alone), "
                f"found {self.aggregation.quorum}"
            )
        if fraction := self.participation.fraction_evaluate:
            raise ConfigError(
                "Participation.fraction_evaluate must be 0 with differential privacy, as metrics "
                f"on clients' data have no noise, found {fraction:g}"
            )
        if self.reporting.density == "always":
            raise ConfigError(
                "Reporting.density must be 'free' or 'never' with differential privacy, as it "
                "describes the updates without noise, found 'always'"
            )
        return PrivatePlan.of(
            privacy,
            self.participation.selector,
            self.participation.min_available_nodes,
            self.aggregation.rule,
            self.ensemble.members,
        )

    def silence_warning(self, clients: int) -> str | None:
        """Return a warning if f silent clients, or fewer, void a round; f is the rule's.

        None if they do not, if the rule has no f, or if it needs more updates than clients.

        Parameters
        ----------
        clients : int
            Number of clients selected for a round.
        """
        if self.aggregation.secure_aggregation is not None:
            return None  # a client that is silent takes no part, and its bucket may go on
        cohort = self.ensemble.min_cohort(clients)
        cohort_name = "" if cohort == clients else " of each member"
        return silence_warning(self.aggregation.rule, cohort, cohort_name)

    def member_seeds(self, member: int) -> Seeds:
        """Return the seeds of all that the server draws at random for one member of an ensemble.

        Where there is one model, they are ``seeds`` itself.
        """
        several = self.ensemble.members > 1
        return Seeds(self.seeds.integer("member", member)) if several else self.seeds
