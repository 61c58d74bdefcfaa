"""Stops at single parts: quantum-inspired rules, noise, QUBO, trees, votes, the monitor."""

from __future__ import annotations

import time
from itertools import combinations

import torch
from torch import Tensor

from hqde_fl.monitor.performance_monitor import PerformanceMonitor
from hqde_fl.noise import EntanglementNoise, ExplorationNoise
from hqde_fl.prediction import AdaptiveVote, CircularVote, EntanglementVote, SuperpositionVote
from hqde_fl.privacy.analytic_gaussian import gaussian_epsilon
from hqde_fl.rules import (
    Adaptive,
    Aggregate,
    Aggregator,
    Cohort,
    Entanglement,
    Mean,
    Superposition,
    Tree,
    Voting,
    aggregate,
)
from hqde_fl.rules.density_matrix import diagnostics
from hqde_fl.rules.executor import SerialExecutor
from hqde_fl.rules.gram import measure_geometry
from hqde_fl.seeding import Seeds
from hqde_fl.selection.qubo_problem import SubsetProblem
from hqde_fl.selection.swap_annealing import SwapAnnealing
from hqde_fl.simulations.tour.stop import TourFigure, TourStop
from hqde_fl.updates import Updates

SEEDS = Seeds(0)
CLIENTS = 10


def drawn_updates(attackers: int = 0) -> Updates:
    """Return ten similar updates, of which some are turned round."""
    common = torch.randn(500, generator=SEEDS.torch("tour", "common"))
    own = 0.5 * torch.randn(CLIENTS, 500, generator=SEEDS.torch("tour", "own"))
    rows = common + own
    rows[:attackers] *= -1
    return Updates(rows)


def merged(rule: Aggregator, attackers: int = 0) -> Aggregate:
    """Return the aggregate of the drawn updates."""
    return aggregate(rule, drawn_updates(attackers), Cohort.of(CLIENTS))


def superposition() -> TourFigure:
    """Weigh clients by squared amplitudes, which sum to one."""
    total = float(merged(Superposition()).influence.sum())
    return TourFigure(total, f"Born's weights |a|^2 of ten clients sum to {total:.6f}")


def entanglement() -> TourFigure:
    """Weigh clients by their measured correlation; one sends the opposite."""
    weight = float(merged(Entanglement(), attackers=1).influence[0])
    return TourFigure(weight, f"the client that sends the opposite weighs {weight:.3f}, not .100")


def voting() -> TourFigure:
    """Let clients vote as phases on a circle; three send the opposite."""
    clean, attacked = merged(Voting()).delta, merged(Voting(), attackers=3).delta
    cosine = float(torch.cosine_similarity(clean, attacked, dim=0))
    return TourFigure(cosine, f"cosine {cosine:.2f} to the vote without attackers")


def adaptive() -> TourFigure:
    """Choose among the three by the measured uncertainty."""
    numbers = merged(Adaptive()).diagnostics
    entropy = float(numbers["adaptive-entropy"])
    return TourFigure(entropy, f"entropy {entropy:.2f} of 1: {numbers['adaptive-choice']}")


def coherence() -> TourFigure:
    """Measure the density matrix of the clients' updates."""
    geometry = measure_geometry(drawn_updates(), SerialExecutor())
    numbers, _ = diagnostics(geometry, range(CLIENTS))
    purity = numbers["density-purity"]
    text = f"purity {purity:.3f}, entropy {numbers['density-entropy']:.3f}"
    return TourFigure(purity, text + f", correlation {numbers['density-correlation']:.3f}")


def noise() -> TourFigure:
    """Draw noise that cancels over the clients, noise that explores, and price private noise."""
    ids = list(range(CLIENTS))
    kinds = EntanglementNoise(scale=0.1)
    rows = [kinds.client_noise(own, ids, 1000, 1, SEEDS) for own in ids]
    left = float(torch.stack([row.double() for row in rows]).sum(dim=0).abs().max())
    explored = ExplorationNoise(scale=0.1).add_noise(torch.ones(1000), 1, SEEDS)
    spread = float(explored.std())
    epsilon = gaussian_epsilon(1.0, 1e-5)
    text = f"entangled noise sums to {left:.0f}, exploration has deviation {spread:.2f}"
    return TourFigure(left, f"{text}, private noise as large as C costs epsilon {epsilon:.2f}")


def qubo() -> TourFigure:
    """Choose four of ten by a QUBO, and compare with all 210 sets of four."""
    rng = SEEDS.numpy("tour", "qubo")
    gains, pairs = rng.random(CLIENTS), rng.random((CLIENTS, CLIENTS))
    problem = SubsetProblem(gains, (pairs + pairs.T) / 2, 4)
    reached = problem.value(SwapAnnealing().solve(problem, rng))
    best = max(problem.value(list(chosen)) for chosen in combinations(range(CLIENTS), 4))
    return TourFigure(
        reached / best, f"annealing reaches {reached / best:.3f} of the best of 210 sets"
    )


def tree() -> TourFigure:
    """Merge up a tree with fanout four, and compare with one mean."""
    flat, up = merged(Mean()).delta, merged(Tree(fanout=4)).delta
    error = float((flat - up).abs().max())
    return TourFigure(
        error, f"ceil(log_4 10) = 2 levels; largest difference to one mean {error:.1e}"
    )


def prediction() -> TourFigure:
    """Combine three members' predictions by every vote."""
    scores = torch.randn(3, 200, 4, generator=SEEDS.torch("tour", "scores"))
    scores[:, :, 0] += 1.5
    probabilities = scores.softmax(dim=-1)
    votes: dict[str, Tensor] = {
        vote.__class__.__name__: vote.combine(probabilities)
        for vote in (SuperpositionVote(), EntanglementVote(), CircularVote(), AdaptiveVote())
    }
    right = {name: float((p.argmax(dim=-1) == 0).double().mean()) for name, p in votes.items()}
    text = ", ".join(f"{name.removesuffix('Vote').lower()} {v:.2f}" for name, v in right.items())
    return TourFigure(min(right.values()), f"right on 200 examples: {text}")


def monitor() -> TourFigure:
    """Sample this process's processors and memory while it works."""
    with PerformanceMonitor(interval=0.05) as measured:
        end = time.monotonic() + 0.5
        while time.monotonic() < end:
            torch.randn(200, 200) @ torch.randn(200, 200)
    samples = len(measured.records())
    return TourFigure(samples, f"{samples} samples in half a second of work")


STOPS = (
    TourStop(
        "Superposition", "Amplitudes weigh clients by agreement.", "quantum.md", superposition
    ),
    TourStop("Entanglement", "Measured correlations weigh clients.", "quantum.md", entanglement),
    TourStop("Voting", "Updates are phases; their circular mean counts.", "quantum.md", voting),
    TourStop("Adaptive choice", "Entropy chooses among the three.", "quantum.md", adaptive),
    TourStop("Coherence", "A density matrix describes the clients.", "quantum.md", coherence),
    TourStop("Quantum noise", "Four kinds of noise, one of them private.", "privacy.md", noise),
    TourStop("QUBO selection", "Quality and diversity choose a set.", "selection.md", qubo),
    TourStop("Tree", "Means are carried up with their weights.", "rules.md", tree),
    TourStop("Prediction", "Members are combined by four votes.", "ensembles.md", prediction),
    TourStop("PerformanceMonitor", "A thread samples resources.", "monitoring.md", monitor),
)
