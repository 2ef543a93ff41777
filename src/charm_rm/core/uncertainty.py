"""Standard errors by the delta method, and what follows from them.

The delta method carries the variance of means over prompts, and that of the ratings, through
the derivative of whatever is computed from them. It costs one pass where the bootstrap of
`charm_rm.core.intervals` costs a thousand; both agree within a few percent on a hundred
prompts or more. Prompts are the unit: several samples of one prompt are one observation.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import LinAlgError
from scipy.special import expit, ndtri

from charm_rm.core.elo import ELO_SCALE, expected_win_rate
from charm_rm.core.joint_fit import (
    JointProblem,
    joint_moments,
    pose_problem,
    squared_error,
)
from charm_rm.core.laplacian import grounded_inverse, laplacian
from charm_rm.core.offsets import reach_win_rate, solve_resampled_hard_offsets
from charm_rm.core.win_rates import Floats, WinRateKind, check_margins, soft_wins, wins

N_POINTS = 41  # of a normal, through a staircase
Codes = NDArray[np.integer]


def mean_covariance(values: Floats, *, prompts: Codes | None = None) -> Floats:
    """Covariance of column means: G/(G-1) sum_g e_g e_g^T, e_g the residuals of prompt g.

    e_g sums, per column, (value - mean) / (number of values) over the rows of prompt g. With one
    row per prompt and no gaps that is the sample covariance over the number of prompts.

    Args:
        values: Shape (n_rows, n_columns); NaN where a value is missing.
        prompts: Which prompt each row belongs to, as integers, shape (n_rows,); by default each
            row is a prompt of its own.

    Returns:
        Covariances of the means, shape (n_columns, n_columns); the square roots of the diagonal
        are standard errors.

    Raises:
        ValueError: If a column is empty, ``prompts`` has another length, or there are fewer than
            two prompts.

    Example:
        >>> mean_covariance(np.array([[0.0, 1.0], [2.0, 1.0]]))
        array([[1., 0.],
               [0., 0.]])
    """
    table = np.asarray(values, dtype=np.float64)
    known = np.isfinite(table)
    n_known = known.sum(axis=0)
    if np.any(n_known == 0):
        raise ValueError(f"column {int(np.argmin(n_known))} holds no value, so it has no mean")
    mean = np.where(known, table, 0.0).sum(axis=0) / n_known
    return clustered_covariance(np.where(known, (table - mean) / n_known, 0.0), prompts)


def clustered_covariance(influence: Floats, prompts: Codes | None = None) -> Floats:
    """Covariance of column sums whose rows belong to prompts: G/(G-1) sum_g e_g e_g^T.

    Args:
        influence: What each row adds to the sums, shape (n_rows, n_columns); in expectation 0.
        prompts: Which prompt each row belongs to, as for `mean_covariance`.

    Returns:
        Covariances, shape (n_columns, n_columns).

    Raises:
        ValueError: If ``prompts`` has another length, or there are fewer than two prompts.

    Example:
        >>> clustered_covariance(np.array([[1.0], [1.0], [-2.0]]), np.array([0, 0, 1]))
        array([[16.]])
    """
    sums = influence
    if prompts is not None:
        if np.shape(prompts) != influence.shape[:1]:
            raise ValueError(
                f"one prompt code per row is needed: {len(influence)} rows, "
                f"codes of shape {np.shape(prompts)}"
            )
        codes = np.unique(prompts, return_inverse=True)[1]
        sums = np.zeros((int(codes.max(initial=-1)) + 1, influence.shape[1]))
        np.add.at(sums, codes, influence)
    n_prompts = len(sums)
    if n_prompts < 2:
        raise ValueError(f"a standard error needs at least two prompts, got {n_prompts}")
    return np.asarray(n_prompts / (n_prompts - 1) * (sums.T @ sums))


def win_rate_standard_error(
    margins: Floats,
    *,
    kind: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    prompts: Codes | None = None,
) -> float:
    """Standard error of a win rate (Eq. 3): that of the mean of its outcomes.

    Args:
        margins: Score points, shape (n_rows,).
        kind: ``"sigmoid"`` or ``"hard"`` (ties half).
        temperature: Score points per unit of log-odds.
        prompts: Which prompt each margin belongs to, as for `mean_covariance`.

    Returns:
        The standard error, as a probability.

    Raises:
        ValueError: If an argument is invalid, or there are fewer than two prompts.

    Example:
        >>> round(win_rate_standard_error(np.array([1.0, -1.0, 1.0, 1.0]), kind="hard"), 3)
        0.25
    """
    outcomes = wins(check_margins(margins), kind=kind, temperature=temperature)
    return float(np.sqrt(mean_covariance(outcomes[:, None], prompts=prompts)[0, 0]))


def expected_win_rate_standard_error(
    elo: ArrayLike,
    opponent_elo: ArrayLike,
    *,
    elo_error: ArrayLike,
    opponent_error: ArrayLike,
    covariance: ArrayLike = 0.0,
) -> Floats:
    """Standard error of Eq. 2: ln(10)/400 P(1 - P) sqrt(a^2 + b^2 - 2c).

    Args:
        elo: Ratings in Elo points.
        opponent_elo: Ratings of the opponents. All arguments broadcast.
        elo_error: Standard errors a of ``elo``, in Elo points.
        opponent_error: Standard errors b of ``opponent_elo``.
        covariance: Covariance c of the two ratings, in Elo points squared. Boards publish none;
            0 takes the errors as independent.

    Returns:
        Standard errors as probabilities, of the broadcast shape.

    Raises:
        ValueError: If a covariance is larger than the errors allow.

    Example:
        >>> error = expected_win_rate_standard_error(1216, 1273, elo_error=3, opponent_error=2)
        >>> round(float(error), 5)
        0.00505
    """
    cross = np.asarray(covariance, dtype=np.float64)
    product = np.multiply(elo_error, opponent_error, dtype=np.float64)
    if np.any(np.abs(cross) > product * (1.0 + 1e-12)):
        raise ValueError("the covariance of two ratings exceeds the product of their errors")
    variance = np.square(elo_error) + np.square(opponent_error) - 2.0 * cross
    rate = expected_win_rate(elo, opponent_elo)
    return np.asarray(np.log(10.0) / ELO_SCALE * rate * (1.0 - rate) * np.sqrt(variance))


def mismatch_standard_error(
    win_rate: ArrayLike,
    expected: ArrayLike,
    *,
    win_rate_error: ArrayLike,
    expected_error: ArrayLike = 0.0,
) -> Floats:
    """Standard error of the signed mismatch M = (P - Q) / max(Q, 1 - Q) (Eq. 5).

    dM/dP is 1 / max(Q, 1 - Q); dM/dQ is -P / Q^2 where Q exceeds a half and
    -(1 - P) / (1 - Q)^2 where it does not. At Q = 1/2 the larger of the two holds.

    Args:
        win_rate: Empirical win rates P.
        expected: Elo-expected win rates Q, strictly between 0 and 1. All arguments broadcast.
        win_rate_error: Standard errors of P.
        expected_error: Standard errors of Q; P and Q are independent.

    Returns:
        Standard errors, of the broadcast shape.

    Raises:
        ValueError: If an expected win rate is not strictly between 0 and 1.

    Example:
        >>> round(float(mismatch_standard_error(0.79, 0.4187, win_rate_error=0.0102)), 4)
        0.0175
    """
    rate, target = np.asarray(win_rate, np.float64), np.asarray(expected, np.float64)
    if not np.all((target > 0.0) & (target < 1.0)):
        raise ValueError("expected win rates must lie strictly between 0 and 1")
    above, below = rate / target**2, (1.0 - rate) / (1.0 - target) ** 2
    slope = np.where(target > 0.5, above, np.where(target < 0.5, below, np.maximum(above, below)))
    own = np.asarray(win_rate_error, np.float64) / np.maximum(target, 1.0 - target)
    return np.asarray(np.hypot(own, slope * np.asarray(expected_error, np.float64)))


def offset_standard_error(
    margins: Floats,
    target: float,
    *,
    kind: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    target_error: float = 0.0,
    prompts: Codes | None = None,
) -> float:
    """Standard error of the offset of Eq. 4: sqrt(var(P) + var(Q)) / (dP/dD).

    The offset is the root of P(D) = Q, so by the implicit function theorem an error of either
    side moves it by that error over the slope. For sigmoid rates the slope is
    mean(s (1 - s)) / temperature at the root. Hard rates have none, so the error of the rate goes
    through the staircase itself: the standard deviation of the offsets at 41 targets that lie
    around Q as a normal with that error would. Both are within 10% of the bootstrap on real scores.

    Args:
        margins: Score points, shape (n_rows,).
        target: Win rate Q that the offset reaches.
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds.
        target_error: Standard error of Q, as from `expected_win_rate_standard_error`.
        prompts: Which prompt each margin belongs to, as for `mean_covariance`.

    Returns:
        The standard error in score points.

    Raises:
        ValueError: If an argument is invalid, or there are fewer than two prompts.

    Example:
        >>> round(offset_standard_error(np.array([1.0, 2.0, 3.0, 4.0]), 0.5), 3)
        0.723
    """
    offset = reach_win_rate(margins, target, kind=kind, temperature=temperature)
    moved = np.asarray(margins, dtype=np.float64) + offset
    own = win_rate_standard_error(moved, kind=kind, temperature=temperature, prompts=prompts)
    error = float(np.hypot(own, target_error))
    if kind == "hard":
        edge = 0.5 / moved.size
        targets = np.clip(target + error * _normal_points(), edge, 1.0 - edge)
        once = np.ones((targets.size, moved.size))
        return float(
            solve_resampled_hard_offsets(check_margins(margins), once, targets=targets).std()
        )
    soft = soft_wins(moved, temperature=temperature)
    return error * temperature / float(np.mean(soft * (1.0 - soft)))


def joint_offset_standard_errors(
    scores: Floats,
    elo: ArrayLike,
    *,
    offsets: ArrayLike,
    reference: int,
    temperature: float = 1.0,
    min_shared: int = 1,
    elo_covariance: Floats | None = None,
    prompts: Codes | None = None,
) -> Floats:
    """Standard errors of joint offsets (A.6): H^-1 (V + B S B) H^-1, the reference held.

    The offsets are the root of the gradient of the squared error. H is its Hessian, V the
    covariance of the gradient over prompts, S that of the ratings, and B the gradient's
    derivative by the ratings, a Laplacian with weights s_ij dQ_ij/dElo_i.

    Args:
        scores: As for `charm_rm.core.joint.solve_joint_offsets`, (n_rows, n_policies).
        elo: Ratings in Elo points, shape (n_policies,).
        offsets: The sigmoid solution, in score points, shape (n_policies,).
        reference: Index of the policy whose offset is 0.
        temperature: Score points per unit of log-odds, as for the solution.
        min_shared: As for the solution.
        elo_covariance: Of the ratings, in Elo points squared, shape (n_policies, n_policies);
            a diagonal matrix of squared standard errors for independent ones. By default the
            ratings are exact.
        prompts: Which prompt each row belongs to, as for `mean_covariance`.

    Returns:
        Standard errors in score points, shape (n_policies,); 0 for the reference.

    Raises:
        ValueError: If an argument is invalid, there are fewer than two prompts, or the Hessian is
            not positive definite.

    Example:
        >>> scores = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
        >>> errors = joint_offset_standard_errors(
        ...     scores, [1000.0, 1000.0], offsets=[-2.5, 0.0], reference=1
        ... )
        >>> errors.round(3)
        array([0.723, 0.   ])
    """
    problem = pose_problem(scores, elo, temperature=temperature, min_shared=min_shared)
    at = np.asarray(offsets, dtype=np.float64) / temperature
    try:
        inverse = grounded_inverse(squared_error(problem, offsets=at).hessian, ground=reference)
    except LinAlgError as error:
        raise ValueError(
            "the win rates hardly move with the offsets, which so have no standard errors: margins "
            "or ratings lie too far apart; raise the temperature, or take hard win rates"
        ) from error
    # the inverse meets what each prompt does, not its square: that would halve the digits
    covariance = clustered_covariance(_gradient_influence(problem, at) @ inverse, prompts)
    if elo_covariance is not None:
        rate = problem.expected
        by_elo = np.log(10.0) / ELO_SCALE * rate * rate.T
        slopes = joint_moments(problem, offsets=at).slopes
        lever = inverse @ (4.0 / problem.n_pairs * laplacian(slopes * by_elo))
        covariance = covariance + lever @ np.asarray(elo_covariance, np.float64) @ lever.T
    return np.asarray(temperature * np.sqrt(np.maximum(np.diag(covariance), 0.0)))


def _normal_points() -> Floats:
    """The middles of equally likely parts of a standard normal, spread to a variance of 1."""
    points = ndtri((np.arange(N_POINTS) + 0.5) / N_POINTS)
    return np.asarray(points / points.std())


def _gradient_influence(problem: JointProblem, offsets: Floats) -> Floats:
    """What each prompt adds to the gradient of the squared error, shape (N, K); sums to 0.

    The gradient is 4/M sum_j r_ij s_ij; a prompt moves residual and slope off their means.
    """
    residuals, slopes, _ = joint_moments(problem, offsets=offsets)
    moved = problem.scores + offsets[:, None]
    weights = np.divide(
        4.0 / problem.n_pairs,
        problem.n_shared,
        out=np.zeros_like(problem.n_shared),
        where=problem.n_shared > 0,
    )
    influence = np.zeros_like(moved)
    for row, expected in enumerate(problem.expected):
        side = np.where(expected > 0.5, -1.0, 1.0)[:, None]  # the loser's rate keeps its digits
        soft = expit(side * (moved[row] - moved))
        shared = problem.known[row] * problem.known
        n_shared = np.maximum(problem.n_shared[row], 1.0)
        rate = np.einsum("jn,jn->j", shared, soft) / n_shared
        lift = side * shared * (soft - rate[:, None])
        tilt = shared * (soft * (1.0 - soft) - slopes[row][:, None])
        influence[row] = weights[row] * slopes[row] @ lift + weights[row] * residuals[row] @ tilt
    return influence.T
