"""Offsets of many policies at once: the matrix of win rates against the Elo matrix (A.6).

K - 1 offsets cannot meet K(K-1)/2 expected win rates, so the error does not vanish as it does
for one pair. What is left over is a finding about the reward model, and is kept. Only
differences of offsets matter: the caller names the reference, whose offset is 0.
"""

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from charm_rm.core.joint_fit import TOLERANCE, JointProblem, fit_offsets, pose_problem
from charm_rm.core.uncertainty import Codes
from charm_rm.core.win_rates import Floats, WinRateKind, tie_width, win_rate_matrix

HARD_START = 0.1  # temperature of the fit that hard rates start from, in score spreads
GAIN = 1e-5  # fall of the root mean square that is worth another sweep
MAX_SWEEPS = 50
EVEN = 1e-11  # losses that differ by less are the same but for rounding
CENTRINGS = 20  # of rows and columns in turn; without gaps the first is exact


@dataclass(frozen=True, eq=False)
class JointOffsets:
    """The result of `solve_joint_offsets`, with the settings that led to it.

    Matrices have shape (n_policies, n_policies): the row is the policy, the column its
    opponent. All but ``expected`` are NaN for pairs that were left out.

    Attributes:
        offsets: Score points to add to each policy's scores, shape (n_policies,).
        win_rates_before: Empirical win rates (Eq. 3) without the offsets.
        win_rates_after: The same with them.
        expected: Win rates that Elo predicts (Eq. 2).
        residuals: ``win_rates_after - expected``; antisymmetric.
        rmse_before: Root mean square of ``win_rates_before - expected`` off the diagonal.
        rmse: Root mean square of ``residuals`` off the diagonal.
        gradient_norm: Euclidean norm of the gradient of the mean squared residual by the
            offsets in log-odds (score points over ``temperature``); NaN for ``"hard"``.
        n_iterations: Evaluations of the matrix for ``"sigmoid"``, sweeps over the policies for
            ``"hard"``.
        converged: Whether ``gradient_norm`` is at most 1e-12; for ``"hard"``, whether the last
            sweep lowered ``rmse`` by less than 1e-5.
        reference: Index of the policy whose offset is 0.
        win_rate_kind: Which win rate was fitted.
        temperature: Score points per unit of log-odds.
        min_shared: Prompts that a pair had to share to count.
    """

    offsets: Floats
    win_rates_before: Floats
    win_rates_after: Floats
    expected: Floats
    residuals: Floats
    rmse_before: float
    rmse: float
    gradient_norm: float
    n_iterations: int
    converged: bool
    reference: int
    win_rate_kind: WinRateKind
    temperature: float
    min_shared: int


class _Solution(NamedTuple):
    offsets: Floats  # score points, before the gauge
    gradient_norm: float
    n_iterations: int
    converged: bool


def solve_joint_offsets(
    scores: Floats,
    elo: ArrayLike,
    *,
    reference: int,
    kind: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    min_shared: int = 1,
) -> JointOffsets:
    """Offsets D that minimise the mean over i != j of (P_ij(D) - Q_ij)^2 (A.6).

    P_ij(D) is the win rate of Eq. 3 on the prompts that i and j share, with D_i - D_j added to
    the margins; Q_ij is that of Eq. 2. The mean runs over all ordered pairs. As P_ji is
    1 - P_ij, each unordered pair counts twice, and the minimum is that of the sum over i < j.
    Every pair weighs the same, however many prompts it has.

    Sigmoid rates are fitted to a vanishing gradient (`charm_rm.core.joint_fit.fit_offsets`). The
    reference only shifts the result.

    Hard rates are a staircase without a gradient, so they are fitted by order statistics. With
    the others held, the best offset of one policy lies in a gap between its sorted margins, and
    all gaps are tried, and of equally good ones the nearest is taken; the policies take turns
    until none improves. They start from a sigmoid fit whose temperature is a tenth of the score
    spread, and those that are farthest off there come first. That is a minimum along each
    coordinate, which need not be the global one. Offsets stop in the middle of a gap, or on a
    tie where scores on a grid have equal margins there and no gap is as good.

    Args:
        scores: Score points, shape (n_prompts, n_policies); NaN where a response is missing.
        elo: Ratings in Elo points, shape (n_policies,).
        reference: Index of the policy whose offset is 0.
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds; ``"hard"`` has none and ignores it.
        min_shared: Pairs that share fewer prompts are left out.

    Returns:
        The offsets, and the matrices without and with them. For two policies the offset is that
        of `charm_rm.core.offsets.solve_offset`.

    Raises:
        ValueError: If an argument is invalid, or the policies fall into groups without shared
            prompts, between which no offset is determined.

    Example:
        >>> scores = np.array([[3.0, 1.0, 0.0], [2.0, 0.5, 0.5], [1.0, 2.0, 0.0]])
        >>> joint = solve_joint_offsets(scores, [1100.0, 1000.0, 1000.0], reference=1)
        >>> joint.offsets.round(3), joint.converged
        (array([-0.12 ,  0.   ,  1.009]), True)
        >>> round(joint.rmse_before, 3), round(joint.rmse, 3)
        (0.163, 0.002)
    """
    if kind not in ("sigmoid", "hard"):
        raise ValueError(f"win rate must be 'sigmoid' or 'hard', got {kind!r}")
    values = np.asarray(scores, dtype=np.float64)
    unit = temperature if kind == "sigmoid" else HARD_START * _margin_spread(values)
    problem = pose_problem(values, elo, temperature=unit, min_shared=min_shared)
    if not 0 <= reference < len(problem.elo):
        raise ValueError(
            f"reference must be the index of a policy, 0 to {len(problem.elo) - 1}, got {reference}"
        )
    fit = fit_offsets(problem)
    solution = _Solution(
        fit.offsets * unit, fit.gradient_norm, fit.n_evaluations, fit.gradient_norm <= TOLERANCE
    )
    if kind == "hard":
        solution = _settle_in_gaps(values, problem, start=solution.offsets)
    offsets = solution.offsets - solution.offsets[reference]
    used = np.where(problem.n_shared > 0, 1.0, np.nan)
    np.fill_diagonal(used, 1.0)
    before = used * win_rate_matrix(values, kind=kind, temperature=temperature)
    after = used * win_rate_matrix(values + offsets, kind=kind, temperature=temperature)
    return JointOffsets(
        offsets=offsets,
        win_rates_before=before,
        win_rates_after=after,
        expected=problem.expected,
        residuals=after - problem.expected,
        rmse_before=_rmse(before, problem),
        rmse=_rmse(after, problem),
        gradient_norm=solution.gradient_norm,
        n_iterations=solution.n_iterations,
        converged=solution.converged,
        reference=reference,
        win_rate_kind=kind,
        temperature=temperature,
        min_shared=min_shared,
    )


def _settle_in_gaps(scores: Floats, problem: JointProblem, *, start: Floats) -> _Solution:
    """Coordinate descent over the gaps of the staircase, from a smooth fit."""
    spread, offsets = _margin_spread(scores), start.copy()
    rows = np.ascontiguousarray(scores.T)
    # An order of the policies that does not come from how they are numbered, or turned round.
    left = win_rate_matrix(scores + start, kind="hard") - problem.expected
    order = np.argsort(-np.sum(left**2, axis=1, where=problem.n_shared > 0), kind="stable")
    rmse, converged, n_sweeps = np.inf, False, 0
    while not converged and n_sweeps < MAX_SWEEPS:
        for policy in order:
            offsets[policy] = _best_gap(
                rows, problem, offsets=offsets, policy=policy, spread=spread
            )
        previous, rmse = rmse, _rmse(win_rate_matrix(scores + offsets, kind="hard"), problem)
        converged, n_sweeps = rmse >= previous - GAIN, n_sweeps + 1
    return _Solution(offsets, float("nan"), n_sweeps, converged)


def _best_gap(
    rows: Floats, problem: JointProblem, *, offsets: Floats, policy: int, spread: float
) -> float:
    """Offset of one policy that minimises its squared residuals, the others held.

    Where the offset passes a breakpoint, the policy wins one prompt more against one opponent.
    The k-th breakpoint of an opponent so changes its squared residual from ((k - 1)/n - q)^2 to
    (k/n - q)^2; the running sum over all breakpoints in order is the loss in every gap. Where c
    breakpoints of an opponent are equal, the offset may also stop on them, as ties.
    """
    opponents = np.flatnonzero(problem.n_shared[policy])
    levels = rows[opponents] + offsets[opponents, None] - rows[policy]
    breaks = np.sort(levels, axis=1)  # NaN goes last
    n_shared = problem.n_shared[policy, opponents, None]
    aim = problem.expected[policy, opponents, None]
    won = np.arange(1.0, rows.shape[1] + 1.0)
    change = (won / n_shared - aim) ** 2 - ((won - 1.0) / n_shared - aim) ** 2
    known = np.isfinite(breaks)
    at = breaks[known]
    order = np.argsort(at, kind="stable")  # merges the sorted rows
    at = np.concatenate([[at.min() - spread], at[order], [at.max() + spread]])
    loss = np.concatenate([[0.0], np.cumsum(change[known][order])])
    low, high = at[:-1], at[1:]
    width = tie_width(levels)
    wide = high - low > width  # the others are no gaps but rounding
    best = np.flatnonzero(wide & (loss <= loss[wide].min() + EVEN))
    here = np.maximum(0.0, np.maximum(low[best] - offsets[policy], offsets[policy] - high[best]))
    nearest = best[np.argmin(here)]
    if np.any(np.diff(breaks, axis=1) <= width):
        owners = np.nonzero(known)[0][order]
        tie_loss = _tie_losses(loss, owners, first=wide[:-1], n_shared=n_shared[:, 0])
        if tie_loss.min() < loss[nearest] - EVEN:
            ties = at[1:-1][tie_loss <= tie_loss.min() + EVEN]
            return float(ties[np.argmin(np.abs(ties - offsets[policy]))])
    return float(0.5 * (low[nearest] + high[nearest]))


def _tie_losses(
    loss: Floats, owners: Codes, *, first: NDArray[np.bool_], n_shared: Floats
) -> Floats:
    """Loss of an offset that stops on a breakpoint; infinite where no opponent has several there.

    The rate on a tie is half-way between the steps, so with c equal breakpoints its squared
    residual lies c^2 / (4 n^2) below the mean of those on both sides. ``first`` marks the first
    of each run of equal breakpoints, ``owners`` their opponents; all have shape (n_breaks,), but
    for the ``loss`` in each gap.
    """
    run = np.cumsum(first) - 1
    cell, size = np.unique(run * len(n_shared) + owners, return_counts=True)
    run_of, owner = np.divmod(cell, len(n_shared))
    gain = np.bincount(run_of, 0.25 * (size / n_shared[owner]) ** 2)
    begin = np.flatnonzero(first)
    end = np.append(begin[1:], first.size)
    tied = 0.5 * (loss[begin] + loss[end]) - gain
    tied[np.bincount(run_of, size > 1) == 0] = np.inf
    return np.asarray(tied[run])


def _margin_spread(scores: Floats) -> float:
    """Standard deviation of the scores less the means of their prompts and policies; or 1 for 0.

    So it is the same whatever points a policy, or a prompt, has been given.
    """
    known = np.isfinite(scores)
    centred = np.where(known, scores, 0.0)
    for _ in range(CENTRINGS):
        for axis in (0, 1):
            n_known = np.maximum(known.sum(axis=axis, keepdims=True), 1)
            centred = np.where(
                known, centred - centred.sum(axis=axis, keepdims=True) / n_known, 0.0
            )
    spread = float(np.sqrt(np.mean(centred[known] ** 2)))
    return spread if spread > tie_width(scores) else 1.0


def _rmse(rates: Floats, problem: JointProblem) -> float:
    residuals = (rates - problem.expected)[problem.n_shared > 0]
    return float(np.sqrt(np.mean(residuals**2)))
