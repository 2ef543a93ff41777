"""Joint offsets of hard win rates in resamples: what takes the place of a derivative.

Hard win rates are staircases, so the delta method of `charm_rm.core.uncertainty` has nothing to
differentiate, and to fit every resample step by step would take minutes. Here the staircases are
joined by straight lines from the middle of each step to the next, the slopes of the pairs are
taken once over as much of the margins as a standard error spans, and all resamples walk to their
solutions together.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charm_rm.core.elo import NORMAL_95, expected_win_rate
from charm_rm.core.joint_fit import pose_problem
from charm_rm.core.win_rates import Floats, tie_width

MEMORY = 1 << 25  # elements of the cumulated counts held at once
MAX_EVALUATIONS = 100  # of all pairs; most resamples need ten
NEAR = 0.01  # of its standard error by which an offset may be off


def solve_resampled_joint_hard_offsets(
    scores: Floats,
    counts: Floats,
    *,
    elo: Floats,
    elo_centre: ArrayLike,
    offsets: ArrayLike,
    reference: int,
    min_shared: int = 1,
) -> Floats:
    """Joint hard offsets (A.6) of many resamples of the prompts, each with ratings of its own.

    Each resample solves sum_j s_ij (P_ij - Q_ij) = 0 for all i, the gradient of A.6 with the
    slopes s_ij of the whole sample: (2 z e) / (width of the margins between the rates P_ij -+ z e),
    e the standard error of P_ij and z = 1.96 (Woodruff 1952). The solutions are
    shifted so that a resample which is the sample gets ``offsets``.

    Args:
        scores: As for `charm_rm.core.joint.solve_joint_offsets`, shape (n_rows, n_policies).
        counts: How often each row is in each resample, shape (n_resamples, n_rows).
        elo: Ratings of each resample in Elo points, shape (n_resamples, n_policies).
        elo_centre: Ratings of the sample, shape (n_policies,).
        offsets: The hard solution of the sample, in score points, shape (n_policies,).
        reference: Index of the policy whose offset is 0.
        min_shared: As for the solution.

    Returns:
        Offsets in score points, shape (n_resamples, n_policies); 0 for the reference.

    Raises:
        ValueError: If an argument is invalid.

    Example:
        >>> scores = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
        >>> counts = np.array([[1.0, 1.0, 1.0, 1.0], [2.0, 2.0, 0.0, 0.0]])
        >>> solve_resampled_joint_hard_offsets(
        ...     scores,
        ...     counts,
        ...     elo=np.full((2, 2), 1000.0),
        ...     elo_centre=[1000.0, 1000.0],
        ...     offsets=[-2.5, 0.0],
        ...     reference=1,
        ... ).round(2)
        array([[-2.5,  0. ],
               [-1.5,  0. ]])
    """
    ratings, centre = np.asarray(elo_centre, np.float64), np.asarray(offsets, np.float64)
    stairs = _build_stairs(scores, ratings, min_shared=min_shared)
    whole = np.ones((1, len(scores)))
    slopes = _take_slopes(stairs, _cumulate(stairs, whole), centre=centre)
    start = _walk(stairs, whole, elo=ratings[None], slopes=slopes, start=centre)
    step = max(1, MEMORY // stairs.knots.size)
    found = [
        _walk(stairs, counts[at : at + step], elo=elo[at : at + step], slopes=slopes, start=centre)
        for at in range(0, len(counts), step)
    ]
    moved = centre + np.concatenate(found) - start
    return np.asarray(moved - moved[:, [reference]])


@dataclass(frozen=True)
class _Stairs:
    """Hard win rates of all pairs as functions of the difference of their offsets.

    Attributes:
        first: The pair's policy whose wins count, shape (n_pairs,).
        second: Its opponent, same shape.
        order: Rows by their margin, ascending, those without one last, (n_pairs, n_rows).
        knots: Middles of the gaps between margins, one before the first and one after each row
            (after the last of equals, infinite for rows without a margin), (n_pairs, n_rows + 1).
        ends: How many rows lie below each knot, same shape.
        known: Rows with a margin, shape (n_pairs,).
        n_policies: Number of policies.
    """

    first: NDArray[np.int64]
    second: NDArray[np.int64]
    order: NDArray[np.int64]
    knots: Floats
    ends: NDArray[np.int64]
    known: NDArray[np.int64]
    n_policies: int


class _Slopes(NamedTuple):
    """What the slopes of the pairs' win rates make of residuals, by the offsets."""

    jacobian: Floats  # +-slope of each pair at its two policies, (n_pairs, n_policies)
    inverse: Floats  # of the Hessian J^T J, the common shift made stiff, (n_policies, n_policies)
    scale: Floats  # least standard error of a policy in any of its pairs, (n_policies,)


def _build_stairs(scores: Floats, elo: Floats, *, min_shared: int) -> _Stairs:
    shared = pose_problem(scores, elo, min_shared=min_shared).n_shared
    first, second = np.nonzero(np.triu(shared))
    margins = (scores[:, first] - scores[:, second]).T
    order = np.argsort(margins, axis=1, kind="stable")  # NaN goes last
    ascending = np.take_along_axis(margins, order, axis=1)
    n_rows, known = ascending.shape[1], np.isfinite(ascending).sum(axis=1)
    knots = np.full((len(first), n_rows + 1), np.inf)
    ends = np.broadcast_to(known[:, None], knots.shape).copy()
    width = tie_width(margins)
    for pair, n in enumerate(known):
        own = ascending[pair, :n]
        last = np.append(np.flatnonzero(np.diff(own) > width), n - 1)  # of each run of equals
        beyond = (own[-1] - own[0]) / (last.size - 1) if last.size > 1 else 2.0
        edges = np.concatenate([[own[0] - beyond], own[last], [own[-1] + beyond]])
        run = np.repeat(np.arange(last.size), np.diff(last, prepend=-1))
        middles = 0.5 * (edges[:-1] + edges[1:])
        knots[pair, : n + 1] = middles[np.concatenate([[0], run + 1])]
        ends[pair, : n + 1] = np.concatenate([[0], last[run] + 1])
    return _Stairs(first, second, order, knots, ends, known, scores.shape[1])


def _cumulate(stairs: _Stairs, counts: Floats) -> NDArray[np.float32]:
    """Counts of the rows below each place in the order, (n_resamples, n_pairs, n_rows + 1)."""
    drawn = counts.astype(np.float32)[:, stairs.order]
    drawn *= np.arange(drawn.shape[2]) < stairs.known[:, None]
    total = np.zeros((*drawn.shape[:2], drawn.shape[2] + 1), dtype=np.float32)
    np.cumsum(drawn, axis=2, out=total[:, :, 1:])
    return total


def _rates(
    stairs: _Stairs, cumulated: NDArray[np.float32], *, offsets: Floats, rows: NDArray[np.int64]
) -> Floats:
    """Win rates of the pairs in some resamples, joined by straight lines, (n_rows, n_pairs)."""
    at = offsets[:, stairs.second] - offsets[:, stairs.first]  # margins below it lose
    low, high = np.zeros(at.shape, np.int64), np.broadcast_to(stairs.known, at.shape).copy()
    pairs = np.arange(at.shape[1])
    while np.any(high - low > 1):  # bisects to the last knot at or below
        middle = (low + high) // 2
        below = stairs.knots[pairs, middle] <= at
        low, high = np.where(below, middle, low), np.where(below, high, middle)
    left, right = stairs.knots[pairs, low], stairs.knots[pairs, high]
    share = np.clip(
        np.divide(at - left, right - left, out=np.zeros(at.shape), where=right > left), 0, 1
    )
    at_row = rows[:, None]
    below = cumulated[at_row, pairs, stairs.ends[pairs, low]]
    upto = cumulated[at_row, pairs, stairs.ends[pairs, high]]
    total = cumulated[at_row, pairs, stairs.known]
    lost = below + share * (upto - below)
    return np.asarray(1.0 - np.divide(lost, total, out=np.full(at.shape, 0.5), where=total > 0))


def _take_slopes(stairs: _Stairs, cumulated: NDArray[np.float32], *, centre: Floats) -> _Slopes:
    rate = _rates(stairs, cumulated, offsets=centre[None], rows=np.zeros(1, np.int64))[0]
    n, k = stairs.known, stairs.n_policies
    error = np.sqrt(np.maximum(rate * (1.0 - rate), 0.25 / n) / n)
    pairs = np.empty(len(n))
    for pair, (middle, reach) in enumerate(zip(1.0 - rate, NORMAL_95 * error, strict=True)):
        levels = stairs.ends[pair, : n[pair] + 1] / n[pair]
        low, high = np.clip([middle - reach, middle + reach], 0.0, 1.0)
        at = np.interp([low, high], levels, stairs.knots[pair, : n[pair] + 1])
        pairs[pair] = (high - low) / max(at[1] - at[0], np.finfo(float).tiny)
    jacobian = np.zeros((len(n), k))
    jacobian[np.arange(len(n)), stairs.first] = pairs
    jacobian[np.arange(len(n)), stairs.second] = -pairs
    hessian = jacobian.T @ jacobian
    inverse = np.linalg.inv(hessian + np.abs(hessian).max())  # a shift leaves the gradient at 0
    scale = np.full(k, np.inf)
    np.minimum.at(scale, stairs.first, error / pairs)
    np.minimum.at(scale, stairs.second, error / pairs)
    return _Slopes(jacobian, inverse, scale)


def _walk(
    stairs: _Stairs, counts: Floats, *, elo: Floats, slopes: _Slopes, start: Floats
) -> Floats:
    """Newton steps of all resamples until each is near its solution.

    What is solved is the gradient of a convex function, as every win rate rises with its offset. So
    along a step its slope rises, and a step is halved until the slope at its end is at most half
    of what it was, and up.
    """
    cumulated = _cumulate(stairs, counts)
    expected = expected_win_rate(elo[:, stairs.first], elo[:, stairs.second])

    def gradient(at: Floats, rows: NDArray[np.int64]) -> Floats:
        return np.asarray(
            (_rates(stairs, cumulated, offsets=at, rows=rows) - expected[rows]) @ slopes.jacobian
        )

    offsets, left = np.tile(start, (len(counts), 1)), np.arange(len(counts))
    first = gradient(offsets, left)
    steps, lengths = -first @ slopes.inverse, np.ones((len(counts), 1))
    falls = np.einsum("ij,ij->i", first, steps)
    for _ in range(MAX_EVALUATIONS):
        left = left[np.any(np.abs(steps[left]) > NEAR * slopes.scale, axis=1)]
        if left.size == 0:
            break
        trial = offsets[left] + lengths[left] * steps[left]
        new = gradient(trial, left)
        rise = np.einsum("ij,ij->i", new, steps[left])
        good = rise <= 0.5 * np.abs(falls[left])
        taken = left[good]
        offsets[taken], lengths[taken] = trial[good], 1.0
        steps[taken] = -new[good] @ slopes.inverse
        falls[taken] = np.einsum("ij,ij->i", new[good], steps[taken])
        lengths[left[~good]] *= 0.5
    return offsets
