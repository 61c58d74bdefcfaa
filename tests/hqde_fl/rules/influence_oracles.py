"""Each client's share of every rule's aggregate, as plain loops over float64 rows.

A final rule is a function (rows, cohort) -> weights, one for each row and none negative; a
pre-aggregation is a function (rows, cohort) -> matrix, whose rows mix the updates. Weights need not
sum to one: ``chain`` divides by their sum, as the rules do.

Where values tie for the last places of a coordinate, they share these equally.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from hqde_fl.rules import Cohort
from hqde_fl.seeding import Seeds
from tests.hqde_fl.rules.oracles import (
    Rows,
    inner,
    krum_order,
    mad_scores,
    sign_guard_norms,
    squared_distance,
)

Weights = list[float]
Final = Callable[[Rows, Cohort], Weights]
Mixing = Callable[[Rows, Cohort], list[Weights]]


# Small helpers


def norm(x: np.ndarray) -> float:
    return math.sqrt(inner(x, x))


def cosine(x: np.ndarray, y: np.ndarray) -> float:
    size = norm(x) * norm(y)
    return min(1.0, max(-1.0, inner(x, y) / size)) if size > 0 else 0.0


def lower_median(values: Sequence[float]) -> float:
    return sorted(values)[(len(values) - 1) // 2]


def mixed(weights: Sequence[float], rows: Rows) -> np.ndarray:
    return sum((w * row for w, row in zip(weights, rows, strict=True)), 0 * rows[0])


def normalised(weights: Sequence[float]) -> Weights:
    total = math.fsum(weights)
    return [w / total for w in weights]


def indicator(chosen: Sequence[int], n: int) -> Weights:
    return [1 / len(chosen) if i in chosen else 0.0 for i in range(n)]


def by_coordinate(rows: Rows, kept: Callable[[list[float]], Sequence[float]]) -> Weights:
    """Every coordinate is divided among the rows whose value is kept, in these proportions."""
    weights = [0.0] * len(rows)
    for j in range(len(rows[0])):
        chosen = kept([float(row[j]) for row in rows])
        for i, is_kept in enumerate(chosen):
            weights[i] += is_kept / sum(chosen)
    return weights


# Coordinate-wise rules


def median(rows: Rows, cohort: Cohort) -> Weights:
    def kept(values: list[float]) -> list[bool]:
        ordered = sorted(values)
        low, high = ordered[(len(values) - 1) // 2], ordered[len(values) // 2]
        return [low <= v <= high for v in values]

    return by_coordinate(rows, kept)


def trimmed_mean(f: int) -> Final:
    def kept(values: list[float]) -> list[bool]:
        inside = sorted(values)[f : len(values) - f]
        return [inside[0] <= v <= inside[-1] for v in values]

    return lambda rows, cohort: by_coordinate(rows, kept)


def around_median(count: int) -> Callable[[list[float]], list[float]]:
    def kept(values: list[float]) -> list[float]:
        ordered = sorted(values)
        middle = (ordered[(len(values) - 1) // 2] + ordered[len(values) // 2]) / 2
        apart = [abs(v - middle) for v in values]
        reach = sorted(apart)[count - 1]
        left = count - sum(a < reach for a in apart)
        return [1.0 if a < reach else left / apart.count(reach) * (a == reach) for a in apart]

    return kept


def meamed(f: int) -> Final:
    return lambda rows, cohort: by_coordinate(rows, around_median(len(rows) - f))


def voting_on_coordinates(rows: Rows, cohort: Cohort) -> Weights:
    def kept(values: list[float]) -> list[bool]:
        net = sum((v > 0) - (v < 0) for v in values)
        return [net == 0 or v * net > 0 for v in values]

    return by_coordinate(rows, kept)


# Means of chosen rows


def mean(rows: Rows, cohort: Cohort) -> Weights:
    return [1.0] * len(rows)


def weighted_mean(cap: float) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        examples = list(cohort.num_examples or ())
        limit = cap * lower_median([e for e in examples if e > 0])
        return [min(e, limit) for e in examples]

    return weights


def multi_krum(f: int, m: int = 0) -> Final:
    return lambda rows, cohort: indicator(krum_order(rows, f)[: m or len(rows) - f], len(rows))


def krum(f: int) -> Final:
    return multi_krum(f, m=1)


def bulyan(f: int) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        left, chosen = list(range(len(rows))), []
        while len(chosen) < len(rows) - 2 * f:
            chosen.append(left.pop(krum_order([rows[i] for i in left], f)[0]))
        counts = by_coordinate([rows[i] for i in chosen], around_median(len(chosen) - 2 * f))
        return [counts[chosen.index(i)] if i in chosen else 0.0 for i in range(len(rows))]

    return weights


def mda(f: int) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        def size(subset: tuple[int, ...]) -> tuple[float, float]:
            pairs = itertools.combinations(subset, 2)
            apart = [squared_distance(rows[i], rows[j]) for i, j in pairs]
            return max(apart, default=0.0), math.fsum(apart)

        subsets = itertools.combinations(range(len(rows)), len(rows) - f)
        return indicator(min(subsets, key=size), len(rows))

    return weights


def nearest(rows: Rows, centre: int, count: int) -> list[int]:
    """The row itself and the ``count - 1`` nearest others."""
    return sorted(
        range(len(rows)), key=lambda i: (i != centre, squared_distance(rows[i], rows[centre]))
    )[:count]


def monna(f: int, trusted: int) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        centre = cohort.ids.index(trusted)
        return indicator(nearest(rows, centre, len(rows) - f), len(rows))

    return weights


def dnc(f: int, removal: float) -> Final:
    """By the d x d covariance."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n = len(rows)
        centred = np.stack(rows) - mixed([1 / n] * n, rows)
        vector = np.linalg.eigh(centred.T @ centred)[1][:, -1]
        kept = sorted(range(n), key=lambda i: inner(centred[i], vector) ** 2)
        return indicator(kept[: max(1, n - math.ceil(f * removal))], n)

    return weights


def caf(f: int) -> Final:
    """By the d x d covariance."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n = len(rows)
        c, best, least = [1.0] * n, [1.0] * n, math.inf
        while math.fsum(c) > n - 2 * f:
            mu = mixed(normalised(c), rows)
            covariance = sum(w * np.outer(x - mu, x - mu) for w, x in zip(c, rows, strict=True))
            values, vectors = np.linalg.eigh(covariance / math.fsum(c))
            if values[-1] < least:
                best, least = c, values[-1]
            along = [inner(vectors[:, -1], x - mu) ** 2 for x in rows]
            farthest = max(a for a, w in zip(along, c, strict=True) if w > 0)
            if f == 0 or farthest <= 0:
                break
            c = [w * max(0.0, 1 - a / farthest) for w, a in zip(c, along, strict=True)]
        return best

    return weights


# Means of whole rows, weighted by where they lie


def geometric_median_weights(rows: Rows) -> Weights:
    """Weiszfeld, long enough; where more than half of the rows coincide, those rows."""
    same = [[np.array_equal(x, y) for y in rows] for x in rows]
    most = max(same, key=sum)
    if 2 * sum(most) > len(rows):
        return normalised([float(s) for s in most])
    weights = [1 / len(rows)] * len(rows)
    for _ in range(3000):
        z = mixed(weights, rows)
        apart = [norm(row - z) for row in rows]
        smallest = 1e-6 * sorted(apart)[len(rows) // 2]
        before, weights = weights, normalised([1 / max(a, smallest) for a in apart])
        if max(abs(w - b) for w, b in zip(weights, before, strict=True)) < 1e-13:
            break
    return weights


def geometric_median(rows: Rows, cohort: Cohort) -> Weights:
    return geometric_median_weights(rows)


def centered_clipping(
    tau: float, iterations: int, relative: bool, centre: np.ndarray | None = None
) -> Final:
    """Return the share of v that each row added; later steps scale down the earlier ones'."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n, total = len(rows), [0.0] * len(rows)
        v = 0 * rows[0] if centre is None else centre
        for _ in range(iterations):
            apart = [norm(row - v) for row in rows]
            longest = tau * lower_median(apart) if relative else tau
            step = [min(1.0, longest / a) / n for a in apart]
            total = [w * (1 - math.fsum(step)) + s for w, s in zip(total, step, strict=True)]
            v = v + mixed(step, [row - v for row in rows])
        return total

    return weights


def byzantine_filter_drops(
    scores: Sequence[float], trust: Sequence[float], gate: float = 0.5
) -> tuple[list[int], list[bool]]:
    """The rows dropped by HQDE's filter, and the outliers."""
    n, middle = len(scores), lower_median(scores)
    deviation = 1.4826 * lower_median([abs(s - middle) for s in scores])
    deviation = max(deviation, 0.25 * middle)
    excess = [(s - middle) / deviation - 3 for s in scores]
    outlier = [e > 0 for e in excess]
    suspects = [i for i in range(n) if outlier[i] or trust[i] < gate]
    suspects.sort(key=lambda i: (-max(excess[i], -1) if outlier[i] else 1, trust[i]))
    return suspects[: n // 3], outlier


def byzantine_filter_narrow(scores: Sequence[float]) -> list[bool]:
    """The rows whose score lies between two and three deviations above the median."""
    middle = lower_median(scores)
    deviation = max(1.4826 * lower_median([abs(s - middle) for s in scores]), 0.25 * middle)
    return [2 < (s - middle) / deviation <= 3 for s in scores]


def byzantine_filter(trust: Sequence[float] | None = None) -> Final:
    """The detector is ``mad``; parameters are the defaults."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n = len(rows)
        dropped, _ = byzantine_filter_drops(mad_scores(rows), trust or [1.0] * n)
        kept = [i for i in range(n) if i not in dropped]
        rest = [rows[i] for i in kept]
        inside = median(rest, cohort) if len(kept) < 3 else geometric_median_weights(rest)
        return [inside[kept.index(i)] if i in kept else 0.0 for i in range(n)]

    return weights


def sign_guard(low: float, high: float) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        lengths = [norm(row) for row in rows]
        middle = lower_median(lengths)
        by_norm = sign_guard_norms(rows, low, high)
        d = len(rows[0])
        signs = [
            np.array([(row > 0).sum() / d, (row == 0).sum() / d, (row < 0).sum() / d])
            for row in rows
        ]
        by_sign = mean_shift_cluster(signs)
        kept = [a and b for a, b in zip(by_norm, by_sign, strict=True)]
        if not any(kept):
            kept = by_norm
        pairs = zip(kept, lengths, strict=True)
        return [min(1.0, middle / length) if k else 0.0 for k, length in pairs]

    return weights


def mean_shift_cluster(points: Rows) -> list[bool]:
    """The largest set of points whose modes lie within the kernel's reach of one mode."""
    n = len(points)
    neighbour = [sorted(norm(x - y) for y in points)[n // 2] for x in points]
    reach = lower_median(neighbour)
    modes = list(points)
    for _ in range(200):
        near = [[i for i in range(n) if norm(points[i] - mode) <= reach] for mode in modes]
        moved = [sum(points[i] for i in rows) / len(rows) for rows in near]
        if all(np.array_equal(m, mode) for m, mode in zip(moved, modes, strict=True)):
            break
        modes = moved
    together = [[norm(x - y) <= reach + 1e-12 for y in modes] for x in modes]
    return max(together, key=sum)


def twin_groups(rows: Rows, closeness: float) -> list[list[int]]:
    n = len(rows)
    apart = [[math.sqrt(squared_distance(x, y)) for y in rows] for x in rows]
    typical = lower_median([sorted(row)[n // 2] for row in apart])
    groups = [[i] for i in range(n)]
    if n < 3 or typical == 0:
        return groups
    for i, j in itertools.combinations(range(n), 2):
        one = next(g for g in groups if i in g)
        other = next(g for g in groups if j in g)
        if one is not other and apart[i][j] <= closeness * typical:
            groups.remove(other)
            one += other
    return groups


def robust_trust(agreement: np.ndarray) -> np.ndarray:
    """t proportional to max(0, A t), from all alike, by half steps."""
    t = np.ones(len(agreement))
    for _ in range(100):
        support = np.maximum(0, [math.fsum(row * t) for row in agreement])
        if support.max() == 0:
            return 0 * t
        t = (t + support / support.max()) / 2
    return support / support.max()


def robust_steps(
    rows: Rows,
    past: Sequence[float] | None = None,
    *,
    closeness: float = 0.1,
    saturation: float = 0.5,
    full: float = 0.5,
    memory: float = 0.5,
    longest: float = 1.0,
    far: float = 4.0,
) -> tuple[Weights, list[float]]:
    """The clients' weights, and their trust to be remembered; defaults are those of the rule."""
    n = len(rows)
    groups = twin_groups(rows, closeness)
    votes = [mixed([1 / len(g)] * len(g), [rows[i] for i in g]) for g in groups]
    m = len(votes)
    cosines = np.array([[cosine(x, y) for y in votes] for x in votes])
    pairs = [cosines[i, j] for i in range(m) for j in range(m) if i != j]
    usual = float(np.quantile(pairs, saturation)) if pairs else 0.0
    agreement = np.clip(cosines / usual, -1, 1) if usual > 0 else cosines.copy()
    np.fill_diagonal(agreement, 0)
    now = robust_trust(agreement)
    trust = [0.0] * n
    for group, t in zip(groups, now, strict=True):
        for i in group:
            trust[i] = memory * (t if past is None else past[i]) + (1 - memory) * float(t)
    typical_length = lower_median([norm(row) for row in rows])
    earned = [math.fsum(trust[i] for i in g) / len(g) for g in groups]
    usual_trust = lower_median(earned)
    weights = [0.0] * n
    for group, vote, t in zip(groups, votes, earned, strict=True):
        length = norm(vote)
        weight = min(1.0, t / (full * usual_trust)) if usual_trust > 0 else 1.0
        if typical_length > 0:
            weight *= min(1.0, far * typical_length / length)
        weight *= min(1.0, longest * typical_length / length)
        for i in group:
            weights[i] = weight / len(group)
    return weights, trust


def robust(past: Sequence[float] | None = None, **parameters: float) -> Final:
    return lambda rows, cohort: robust_steps(rows, past, **parameters)[0]


# The quantum-inspired rules


def bounded(weights: Weights, rows: Rows, longest: float) -> Weights:
    """Give the weight that an update loses for its length to the geometric median of all."""
    if longest == 0:
        return weights
    lengths = [norm(row) for row in rows]
    limit = longest * lower_median(lengths)
    kept = [w * min(1.0, limit / k) for w, k in zip(normalised(weights), lengths, strict=True)]
    rest = 1 - math.fsum(kept)
    return [k + rest * g for k, g in zip(kept, geometric_median_weights(rows), strict=True)]


def superposition(temperature: float, longest: float, confident: str = "agreement") -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        z = mixed(geometric_median_weights(rows), rows)
        confidence = [cosine(row, z) for row in rows]
        if confident != "agreement":
            confidence = list(cohort.confidence or ())
        return bounded([math.exp(c / temperature) for c in confidence], rows, longest)

    return weights


def coupling(rows: Rows) -> np.ndarray:
    """Cosines cut off at the median absolute cosine of all pairs; zero on the diagonal."""
    n = len(rows)
    cosines = np.array([[cosine(x, y) for y in rows] for x in rows])
    typical = lower_median([abs(cosines[i, j]) for i, j in itertools.combinations(range(n), 2)])
    cut = np.clip(cosines, -typical, typical)
    np.fill_diagonal(cut, 0)
    return cut


def entanglement(by: str = "eigenvector", longest: float = 2.0) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        coupled = coupling(rows)
        if by == "row-mean":
            claims = [math.fsum(max(0.0, c) for c in row) for row in coupled]
        else:
            vector = np.linalg.eigh(coupled)[1][:, -1]
            for_it, against_it = int((vector > 1e-9).sum()), int((vector < -1e-9).sum())
            if for_it < against_it or (for_it == against_it and vector.sum() < 0):
                vector = -vector
            claims = [max(0.0, float(v)) for v in vector]
        return bounded(claims, rows, longest)

    return weights


def entanglement_at_random(strength: float, longest: float = 2.0) -> Final:
    """HQDE's original: softmax(diag(S E)), E drawn from the seed of the cohort."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n = len(rows)
        drawn = Seeds(cohort.seed).numpy("entanglement", n).standard_normal((n, n))
        rank = [sorted(cohort.ids).index(client) for client in cohort.ids]
        claims = []
        for i, x in enumerate(rows):
            total = cosine(x, x)
            for j, y in enumerate(rows):
                if j != i:
                    pair = drawn[rank[i], rank[j]] + drawn[rank[j], rank[i]]
                    total += cosine(x, y) * strength * pair / 2
            claims.append(math.exp(total))
        return bounded(claims, rows, longest)

    return weights


def voting_on_updates(longest: float = 2.0) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        claims = []
        for x in rows:
            products = [inner(x, y) for y in rows]
            net = sum((p > 0) - (p < 0) for p in products)
            away = sum(p == 0 for p in products)
            claims.append(max(0.0, math.atan2(net, away)))
        return bounded(claims, rows, longest)

    return weights


def normalised_entropy(rows: Rows) -> float:
    n = len(rows)
    values = np.linalg.eigvalsh(np.array([[cosine(x, y) for y in rows] for x in rows]) / n)
    return -math.fsum(v * math.log(v) for v in values.tolist() if v > 0) / math.log(n)


def adaptive(high: float = 0.5, low: float = 0.2) -> Final:
    def weights(rows: Rows, cohort: Cohort) -> Weights:
        uncertainty = normalised_entropy(rows)
        if uncertainty > high:
            return entanglement()(rows, cohort)
        if uncertainty > low:
            return superposition(0.25, 2.0)(rows, cohort)
        return voting_on_updates()(rows, cohort)

    return weights


# Pre-aggregations


def nnm(f: int) -> Mixing:
    def mixing(rows: Rows, cohort: Cohort) -> list[Weights]:
        n = len(rows)
        return [indicator(nearest(rows, i, n - f), n) for i in range(n)]

    return mixing


def scaled(factors: Sequence[float]) -> list[Weights]:
    return [[f if i == j else 0.0 for j in range(len(factors))] for i, f in enumerate(factors)]


def clipping(c: float) -> Mixing:
    return lambda rows, cohort: scaled([min(1.0, c / norm(row)) for row in rows])


def arc(f: int) -> Mixing:
    def mixing(rows: Rows, cohort: Cohort) -> list[Weights]:
        n = len(rows)
        longest_first = sorted((norm(row) for row in rows), reverse=True)
        return clipping(longest_first[2 * f * (n - f) // n])(rows, cohort)

    return mixing


def bucketing(s: int) -> Mixing:
    def mixing(rows: Rows, cohort: Cohort) -> list[Weights]:
        order = cohort.shuffled("bucketing")
        buckets = [order[k : k + s] for k in range(0, len(rows), s)]
        return [indicator(bucket, len(rows)) for bucket in buckets]

    return mixing


# Compositions


def chain(*before: Mixing, last: Final) -> Final:
    """The last rule's weights of the mixed rows, handed down to what they were mixed from."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        n = len(rows)
        share = np.eye(n)
        for mixing in before:
            matrix = np.array(mixing(rows, cohort))
            share, rows = matrix @ share, [mixed(row, rows) for row in matrix.tolist()]
            cohort = cohort.anonymous(len(rows))
        result = np.array(last(rows, cohort)) @ share
        return normalised(result.tolist())

    return weights


def tree(
    leaf: Final, root: Final, fanout: int, value: Callable[[Rows, Cohort], np.ndarray]
) -> Final:
    """Groups of at most ``fanout`` as even as possible, level by level; ``value`` is the leaf's."""

    def weights(rows: Rows, cohort: Cohort) -> Weights:
        order = cohort.shuffled("tree")
        rows = [rows[i] for i in order]
        share = np.eye(len(order))[order]
        while len(rows) > fanout:
            count = math.ceil(len(rows) / fanout)
            edges = [round(k * len(rows) / count) for k in range(count + 1)]
            groups = [list(range(a, b)) for a, b in itertools.pairwise(edges)]
            levels, values = [], []
            for group in groups:
                part = [rows[i] for i in group]
                inside = replace(cohort, ids=tuple(group), num_examples=None)
                levels.append(np.array(normalised(leaf(part, inside))) @ share[group])
                values.append(value(part, inside))
            rows, share = values, np.array(levels)
        top = np.array(normalised(root(rows, Cohort.of(len(rows)))))
        return (top @ share).tolist()

    return weights
