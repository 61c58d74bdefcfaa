"""The tables of an experiment's file, with the types and defaults of their keys.

A bound of a parameter is stated here only if no part states it: parts refuse their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from hqde_fl.clients.training import Training
from hqde_fl.errors import ConfigError
from hqde_fl.monitor.exporters.prometheus import host_and_port
from hqde_fl.privacy.central import AccountantName
from hqde_fl.selection import Ensemble
from hqde_fl.selection.ensemble import Assignment, Mode
from hqde_fl.simulations.experiment.components import (
    CodecComponent,
    Component,
    OptionalComponent,
    OptionalTable,
    Table,
    as_table,
)
from hqde_fl.strategies.edges.groups import BY_NODE
from hqde_fl.strategies.settings import Buffers, DensityPolicy


def kebab(name: str) -> str:
    """Return a parameter's name as files write it: ``batch-size`` for ``batch_size``."""
    return name.replace("_", "-")


class Section(BaseModel):
    """A frozen, strictly typed table with keys in kebab-case that refuses unknown keys."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, alias_generator=kebab
    )


class ClientsSection(Section):
    """``[clients]``: their number, their data, and how they train.

    Parameters
    ----------
    count : int
        The number of clients. ``"registered"`` is short for ``registered = true``.
    registered : bool
        On real nodes, whoever is registered and online trains: a round begins when as many are
        online as the rule and the quorum need, and waits for the replies of all that it asked.
        ``count`` is then the number that the experiment is checked for.
    without : list
        Partition ids of clients that never take part. They are left out after the clients of a
        round were chosen, so that the others take part, train and draw random numbers as with them.
    members : int
        The number of models of the ensemble, >= 1; 1 is ordinary federated learning.
    assignment : str
        The assignment of members to clients: ``"all"``: every client trains every member;
        ``"round-robin"``: in turn, one further each round; ``"random"``: drawn in each round.
    members_per_client : int
        The number of members that a client trains in a round; 0: all of them with ``"all"``, else
        one.
    mode : str
        ``"independent"``: members stay different models and vote; ``"fedavg"``: after each round
        every member becomes the mean of those that were trained.
    bagging : bool
        Train each member on a bootstrap sample of the client's examples.
    partition : Component
        The division of the training data among the clients.
    divide_among : str
        The clients among whom the data are divided: ``"all"``, or ``"honest"``, those without a
        fault: a faulty client then has the same examples as one of them. Published experiments with
        attackers mostly give these no data of their own.
    epochs : int
        Passes over the client's data in a round, >= 1.
    steps : int
        Batches that a client trains on in a round instead of ``epochs`` passes, >= 0; 0: the
        passes. 1 is FedSGD, or distributed SGD. Every round begins a new pass over the client's
        data, unless ``keep-optimizer`` is set: then it goes on where the client stopped.
    batch_size : int
        Examples in a step, >= 1.
    optimizer : str
        The clients' optimiser, whose state is cleared in every round unless ``keep-optimizer`` is
        set: ``hqde-fl list optimizers``.
    keep_optimizer : bool
        Keep the state of each client's optimiser, such as its momentum, from one of its rounds to
        the next, and with ``steps`` the place in its data.
    lr : float
        The learning rate, > 0.
    lr_schedule : Component
        The factor of the learning rate in each round: ``hqde-fl list schedules``. None if empty.
    momentum : float
        The momentum of SGD, in [0, 1).
    dampening : float
        The dampening of SGD's momentum, in [0, 1]: m = momentum m + (1 - dampening) gradient, with
        m = 0 at first.
    weight_decay : float
        The weight of the L2 penalty, >= 0; decoupled with AdamW.
    proximal_mu : float
        The weight of FedProx's mu / 2 ||w - w_global||^2, >= 0.
    clip_grad_norm : float
        The norm to which the gradient of each batch is clipped, >= 0; 0: never.
    control_variates : bool
        SCAFFOLD: clients and server keep control variates, which correct the clients' gradients.
    threads : int
        Threads of torch in a client, >= 0; 0 keeps the process's number. Another number changes
        the last bits of a result.
    device : str
        A torch device, or ``"auto"`` for a GPU if the process has one, else the CPU.
    regularization_noise : Table
        Noise on the clients' gradients; none if empty.
    entanglement_noise : Table
        Noise in the clients' updates that cancels over all clients; none if empty.
    local_dp : Table
        Local differential privacy: each client clips its update and adds noise of its own; none if
        empty.
    dp_sgd : Table
        Example-level differential privacy: each client trains by DP-SGD; none if empty.
    vote : Component
        The combination of the members' predictions.
    voters : int
        The number of members whose predictions the server combines, chosen anew after each round
        by their accuracy and disagreement on ``strategy.held-out`` examples; 0: all.
    speed : Component
        The speed of each client, in virtual time; if empty, training takes none.
    bandwidth : Component
        The connection of each client, in virtual time; if empty, messages take none. With neither
        there is no virtual time.
    drop_out : Component
        The clients that drop out of a round: a probability, or a component; nobody if empty.
    """

    count: int = Field(10, ge=1, le=1_000_000)
    registered: bool = False
    without: tuple[int, ...] = Field((), strict=False)
    members: int = Field(Ensemble.members, le=1_000_000)
    assignment: Assignment = Ensemble.assignment
    members_per_client: int = Ensemble.members_per_client
    mode: Mode = Ensemble.mode
    bagging: bool = False
    partition: Component = Field({"name": "iid"})
    divide_among: Literal["all", "honest"] = "all"
    epochs: int = Training.epochs
    steps: int = Training.steps
    batch_size: int = Training.batch_size
    optimizer: str = Training.optimizer
    keep_optimizer: bool = Training.keep_optimizer
    lr: float = Training.lr
    lr_schedule: OptionalComponent = Field({})
    momentum: float = Training.momentum
    dampening: float = Training.dampening
    weight_decay: float = Training.weight_decay
    proximal_mu: float = Training.proximal_mu
    clip_grad_norm: float = Training.clip_grad_norm
    control_variates: bool = Training.control_variates
    threads: int = Training.threads
    device: str = Training.device
    regularization_noise: OptionalTable = Field({})
    entanglement_noise: OptionalTable = Field({})
    local_dp: OptionalTable = Field({})
    dp_sgd: OptionalTable = Field({})
    vote: Component = Field({"name": "soft-vote"})
    voters: int = Field(0, ge=0)
    speed: OptionalComponent = Field({})
    bandwidth: OptionalComponent = Field({})
    drop_out: OptionalComponent = Field({})

    def check_nodes(self, *, real_nodes: bool) -> None:
        """Raise ``ConfigError`` if the clients are those registered, and none are real nodes."""
        if self.registered and not real_nodes:
            raise ConfigError(
                "clients.count = 'registered' needs real nodes (--superlink), found an engine that "
                "simulates them"
            )

    @model_validator(mode="before")
    @classmethod
    def _whoever_is_registered(cls, table: Any) -> Any:
        """Return the table with ``count = "registered"`` as ``registered = true``."""
        if isinstance(table, Mapping) and table.get("count") == "registered":
            return {**{k: v for k, v in table.items() if k != "count"}, "registered": True}
        return table

    @field_validator("drop_out", mode="before")
    @classmethod
    def _drop_out_table(cls, value: Any) -> Any:
        """Return the table of random drop-outs for a probability, and any other value unchanged."""
        if isinstance(value, bool) or not isinstance(value, int | float):
            return value
        return {"name": "random", "probability": value}


class StrategySection(Section):
    """``[strategy]``: the clients of a round, and how their updates become the next model.

    Parameters
    ----------
    selector : Component
        The choice of the clients that train in a round.
    fraction_train : float
        The fraction of the clients that train in a round, in (0, 1], at least one: the selector's
        ``fraction``.
    fraction_evaluate : float
        The fraction of the clients, in [0, 1], that evaluate the model after each round.
    quorum : int
        The least number of accepted replies, >= 0: with fewer the model is kept. 0: as many as the
        rule needs.
    deadline : float
        Seconds that a round waits for replies, > 0; later replies are late. The evaluation by
        clients that follows has as many again. Virtual seconds where ``clients.speed`` or
        ``clients.bandwidth`` is set.
    rule : Component
        The aggregation rule.
    codec : Component
        How clients pack their updates.
    downlink : Component
        How changes of the model are packed for clients that hold an earlier version.
    server_optimizer : Component
        How the aggregated update moves the model.
    server_lr_schedule : Component
        The factor of the server optimiser's learning rate in each step of the model, of which a
        round makes one unless it keeps the model: ``hqde-fl list schedules``. None if empty.
    exploration_noise : Table
        Noise that the server adds to the aggregated update; none if empty.
    screening : Table
        Limits on the content of a reply.
    density : str
        When a round's diagnostics describe the density matrix of the updates: ``"free"``: where the
        rule measures inner products anyway; ``"always"``; ``"never"``.
    held_out : int
        The number of test examples that the server sets aside to judge models: those of clients,
        for rules with ``confidence = "held-out"``, and the members, for ``clients.voters``.
    held_out_measure : str
        A function (model, data, task) -> quality in [0, 1] that judges them, as ``module:function``
        or ``file.py:function``; empty: e^(-mean loss).
    root_examples : int
        The number of test examples that the server sets aside to train on itself, for rules that
        compare clients with the server, such as ``fltrust``; the paper takes 100. With another rule
        they are set aside all the same, so that a sweep tests all rules on the same examples.
    confidence_metric : str
        The metric in a client's reply that rules with ``confidence = "reported"`` take as its
        confidence; empty: ``"train-loss"``.
    buffers : str
        ``"merge"``: statistics such as those of batch normalisation are merged; ``"local"``: each
        client keeps its own (FedBN).
    executor : Component
        Where the rule works: in the server's process, or in tasks on Ray.
    secure_aggregation : Table
        Secure aggregation: the server learns the sums of random buckets of clients, whose means
        the rule merges; none if empty.
    """

    selector: Component = Field({"name": "uniform"})
    fraction_train: float = 1.0
    fraction_evaluate: float = 0.0
    quorum: int = 0
    deadline: float = 600.0
    rule: Component = Field({"name": "mean", "weighted": True})
    codec: CodecComponent = Field({"name": "identity"})
    downlink: CodecComponent = Field({"name": "identity"})
    server_optimizer: Component = Field({"name": "sgd"})
    server_lr_schedule: OptionalComponent = Field({})
    exploration_noise: OptionalTable = Field({})
    screening: Table = Field({})
    density: DensityPolicy = "free"
    held_out: int = Field(0, ge=0)
    held_out_measure: str = ""
    root_examples: int = Field(0, ge=0)
    confidence_metric: str = ""
    buffers: Buffers = "merge"
    executor: Component = Field({"name": "auto"})
    secure_aggregation: OptionalTable = Field({})


class EdgesSection(Section):
    """``[edges]``: groups of clients that merge among themselves before the server merges them.

    ``strategy.rule`` is then the rule of the server, whose clients are the edges; so are
    ``strategy.quorum`` and ``strategy.server-optimizer``. All else in ``[strategy]`` is about the
    edges and their clients.

    Parameters
    ----------
    groups : int, list of lists of int, or "node"
        The number of edges, among which the clients are dealt by their partition ids, or the
        partition ids of each edge's clients. 0: no edges. ``"node"``: on real nodes, ``edge-id`` in
        a node's own config names its edge; simulated clients are dealt among ``count`` edges.
    count : int
        The number of edges, for ``groups = "node"``.
    rounds : int
        Rounds that an edge runs among its clients before it replies to the server, >= 1.
    rule : Component
        The edges' aggregation rule.
    codec : Component
        How edges pack their updates.
    downlink : Component
        How changes of the model are packed for edges.
    bandwidth : Component
        The connection of each edge to the server, in virtual time; if empty, its messages take
        none.
    nodes : bool
        On real nodes: each edge is a node with a SuperLink and nodes of its own, which are its
        clients. Else all edges are in the server, and the clients are its nodes.
    """

    groups: int | list[list[int]] | Literal["node"] = 0
    count: int = 0
    rounds: int = 1
    rule: Component = Field({"name": "mean", "weighted": True})
    codec: CodecComponent = Field({"name": "identity"})
    downlink: CodecComponent = Field({"name": "identity"})
    bandwidth: OptionalComponent = Field({})
    nodes: bool = False

    @field_validator("groups", mode="before")
    @classmethod
    def _number_or_lists(cls, value: Any) -> Any:
        """Raise ``ConfigError`` unless they are a number, a list of lists of numbers or "node"."""
        if value == BY_NODE:
            return value
        lists = isinstance(value, list) and all(isinstance(group, list) for group in value)
        numbers = [client for group in value for client in group] if lists else [value]
        if any(type(number) is not int for number in numbers):
            raise ConfigError(
                "edges.groups needs to be an integer or a list of lists of integers, or 'node', "
                f"found {value!r}"
            )
        return value

    def check_nodes(self, *, real_nodes: bool) -> None:
        """Raise ``ConfigError`` if edges are to be nodes, and the nodes are simulated."""
        if self.nodes and not real_nodes:
            raise ConfigError(
                "edges.nodes needs real nodes (--engine flower --superlink DIR), found simulated "
                "ones: without it, their edges are in the server"
            )


class EngineSection(Section):
    """``[engine]``: where the experiment runs. ``engine = "inline"`` is short for its name.

    Parameters
    ----------
    name : str
        The engine: ``hqde-fl list engines``.
    address : str
        ``HOST:PORT`` of a Ray cluster to join; empty: that of ``RAY_ADDRESS``, or a Ray of its own.
    runtime_env : Table
        Ray's ``runtime_env`` for the workers.
    resources : tuple of tables
        What each client is given of a machine, one table for each group of clients.
    files : tuple of str
        For real nodes: further files that the run brings along, as paths or patterns (``**`` for
        any folders) relative to the experiment's folder. Modules of own parts go by themselves.
    """

    name: str = "ray"
    address: str = ""
    runtime_env: Table = Field({})
    resources: tuple[Table, ...] = Field((), strict=False)
    files: tuple[str, ...] = Field((), strict=False)

    @model_validator(mode="before")
    @classmethod
    def _named(cls, table: Any) -> Any:
        """Return the table with a name for a string, and any other value unchanged."""
        return as_table(table)


class MetricsSection(Section):
    """``[metrics]``: measurements beyond those that every run records.

    Parameters
    ----------
    honest_mean : bool
        Measure the distance of each aggregate from the mean of the honest updates.
    functions : tuple of str
        Further metrics of the task, functions (outputs, targets) -> mean over the batch, as
        ``module:function`` or ``file.py:function``. A function that returns a dict makes a metric
        of each of its keys, called as the key is.
    primary : str
        The metric that ranks runs and names the worst case; empty: the task's.
    target : float
        A value of the primary metric: how long it took to reach it is recorded; 0 for none.
    every : int
        Rounds between two evaluations of the model on the server, >= 1; the first and the last
        model always are.
    higher_is_better : Table
        Metric -> true if higher values are better, false if lower ones are; metrics that are not in
        it go by their name.
    """

    honest_mean: bool = False
    functions: tuple[str, ...] = Field((), strict=False)
    primary: str = ""
    target: float = 0.0
    every: int = Field(1, ge=1)
    higher_is_better: dict[str, bool] = Field({})


class StoppingSection(Section):
    """``[stopping]``: when a run ends before its last round, by a metric on the validation set.

    If ``patience``, ``target`` or ``keep-best`` is set, the run directory gets the best model,
    ``best.safetensors``.

    Parameters
    ----------
    metric : str
        The metric that is followed on the validation set, such as ``"accuracy"``; empty: the
        primary one.
    patience : int
        Evaluations in a row without an improvement after which the run ends, >= 0; 0: never.
    min_delta : float
        The difference to the best value, >= 0, by which a value has to be better to be an
        improvement.
    target : float
        The run ends once the metric is as good as this value; 0: never.
    keep_best : bool
        Keep the best model in any case.
    """

    metric: str = ""
    patience: int = Field(0, ge=0)
    min_delta: float = Field(0.0, ge=0)
    target: float = 0.0
    keep_best: bool = False

    @property
    def follows(self) -> bool:
        """True if a metric is followed."""
        return bool(self.patience or self.target or self.keep_best)


class CheckpointSection(Section):
    """``[checkpoint]``: the number of rounds between two checkpoints, and of checkpoints kept.

    Parameters
    ----------
    every : int
        Rounds between two checkpoints; 0 writes none.
    keep : int
        Checkpoints that are kept; 0: all, from which ``hqde-fl verify`` can compute any round again
        at once.
    """

    every: int = Field(1, ge=0)
    keep: int = Field(3, ge=0)


class MonitorSection(Section):
    """``[monitor]``: the record of resources and time, ``monitor.jsonl`` and ``monitor.parquet``.

    Parameters
    ----------
    enabled : bool
        Keep one. Cells of a sweep do only if the file has a ``[monitor]`` table.
    interval : float
        Seconds between two samples of CPU, memory, GPUs, disk and network.
    prometheus : str
        ``HOST:PORT`` at which Prometheus may fetch the run's metrics while it goes on; port 0 is a
        free one. Empty: nowhere.
    opentelemetry : bool
        Send traces and metrics to an OpenTelemetry collector, as the ``OTEL_...`` environment
        variables say.
    """

    enabled: bool = True
    interval: float = Field(1.0, ge=0.05, le=3600.0)  # as PerformanceMonitor
    prometheus: str = ""
    opentelemetry: bool = False

    @field_validator("prometheus")
    @classmethod
    def _address(cls, value: str) -> str:
        """Raise ``ConfigError`` unless it is empty or an address."""
        if value:
            host_and_port(value)
        return value


class PrivacySection(Section):
    """``[privacy]``: differential privacy; without keys there is none.

    Central differential privacy, in which the server clips each client's update and adds noise to
    their sum, is on if ``noise-multiplier`` or ``target-epsilon`` is above 0.

    Parameters
    ----------
    noise_multiplier : float
        The standard deviation of the noise on the sum of the updates, in clipping norms.
    target_epsilon : float
        The epsilon that the run may reach in ``rounds`` rounds: the noise multiplier is calibrated
        for it.
    max_epsilon : float
        With ``noise-multiplier``: the run stops before the round that would exceed this epsilon; 0:
        never.
    delta : float
        The delta of (epsilon, delta)-differential privacy, well below 1 / clients.
    clipping_norm : float
        The norm to which each client's update is clipped; with ``adaptive-clipping`` the first one.
    adaptive_clipping : Table
        Let the clipping norm follow a quantile of the updates' norms; a fixed norm if empty.
    accountant : str
        What computes epsilon: ``"pld"`` or ``"rdp"``.
    noise : Component
        The source of the noise: ``hqde-fl list noise-sources``.
    """

    noise_multiplier: float = 0.0
    target_epsilon: float = 0.0
    max_epsilon: float = 0.0
    delta: float = 1e-5
    clipping_norm: float = 1.0
    adaptive_clipping: OptionalTable = Field({})
    accountant: AccountantName = "pld"
    noise: Component = Field({"name": "secure-gaussian"})
