"""The least-squares problem behind joint offsets (A.6): its derivatives, and the descent.

Every pair of policies is an edge of a graph, its residual the edge's, and the Jacobian of the
residuals an incidence matrix times slopes. So J^T J is a weighted graph Laplacian, and with
the second derivatives on the edges so is the exact Hessian: K x K systems, however many pairs.
Offsets are in log-odds here (score points over the temperature), and sum to 0.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike
from scipy.sparse.csgraph import connected_components
from scipy.special import expit

from charm_rm.core.elo import ELO_SCALE, expected_win_rate
from charm_rm.core.laplacian import MIN_DAMPING, laplacian, solve_laplacian
from charm_rm.core.win_rates import Floats, check_temperature

TOLERANCE = 1e-12  # gradient norm at which a minimum counts as reached
STEP = 1e-11  # Newton step, in log-odds, below which nothing is left to gain
START_STEP = 1e-6  # step, in log-odds, that is small enough to start from
MAX_EVALUATIONS = 100  # of the start, and of the descent
LOST = 1e-12  # share of the squared error under which a change of it is rounding
BLOCK = 1 << 18  # elements of a work array that still stay in cache


class JointProblem(NamedTuple):
    """Scores and ratings of K policies on N prompts, made ready for the fit.

    Attributes:
        scores: In log-odds, shape (K, N): a policy's scores lie together; 0 where missing.
        known: 1 where there is a score, else 0, shape (K, N).
        n_shared: Prompts that a pair shares, shape (K, K); 0 on the diagonal and for pairs left
            out.
        expected: Win rates that Elo predicts (Eq. 2), row against column, shape (K, K).
        elo: Ratings in Elo points, shape (K,).
    """

    scores: Floats
    known: Floats
    n_shared: Floats
    expected: Floats
    elo: Floats

    @property
    def n_pairs(self) -> int:
        """Number of ordered pairs: (i, j) and (j, i) both count.

        Example:
            >>> pose_problem(np.zeros((1, 3)), [1000.0, 1000.0, 1000.0]).n_pairs
            6
        """
        return int(np.count_nonzero(self.n_shared))


class JointMoments(NamedTuple):
    """Residuals of all pairs and the derivatives of their win rates, shape (K, K) each.

    The derivatives are by the offset of the row's policy. Entries are 0 on the diagonal and for
    pairs left out.

    Attributes:
        residuals: P - Q, empirical minus expected win rate; antisymmetric.
        slopes: dP/dD, symmetric.
        bends: d2P/dD2, antisymmetric.
    """

    residuals: Floats
    slopes: Floats
    bends: Floats


class SquaredError(NamedTuple):
    """Mean squared residual over the ordered pairs, with its derivatives by the offsets.

    Attributes:
        value: The mean of (P_ij - Q_ij)^2 over i != j.
        gradient: Shape (K,); its entries sum to 0.
        hessian: Shape (K, K); its rows sum to 0.
    """

    value: float
    gradient: Floats
    hessian: Floats


class JointFit(NamedTuple):
    """A minimum of the squared error.

    Attributes:
        offsets: In log-odds, shape (K,).
        gradient_norm: Euclidean norm of the gradient there.
        n_evaluations: How often the win-rate matrix was computed.
    """

    offsets: Floats
    gradient_norm: float
    n_evaluations: int


def pose_problem(
    scores: Floats, elo: ArrayLike, *, temperature: float = 1.0, min_shared: int = 1
) -> JointProblem:
    """The problem that scores and ratings state, checked.

    Args:
        scores: Score points, shape (n_prompts, n_policies); NaN where a response is missing.
        elo: Ratings in Elo points, shape (n_policies,).
        temperature: Score points per unit of log-odds.
        min_shared: Pairs that share fewer prompts are left out.

    Returns:
        The problem.

    Raises:
        ValueError: If there are fewer than two policies, the shapes do not fit together, a score
            or rating is infinite, or ``temperature`` is not positive; or if the policies fall
            into groups without shared prompts, between which no offset is determined.

    Example:
        >>> pose_problem(np.array([[1.0, 0.0], [np.nan, 2.0]]), [1000.0, 1000.0]).n_shared
        array([[0., 1.],
               [1., 0.]])
    """
    values, ratings = np.asarray(scores, np.float64), np.asarray(elo, np.float64)
    if values.ndim != 2 or values.shape[1] < 2 or ratings.shape != values.shape[1:]:
        raise ValueError(
            "need scores of shape (n_prompts, n_policies) for at least two policies, and one Elo "
            f"rating for each, got shapes {values.shape} and {ratings.shape}"
        )
    if np.isinf(values).any() or not np.isfinite(ratings).all():
        raise ValueError("scores must be finite, or NaN where missing, and Elo ratings finite")
    check_temperature(temperature)
    groups = shared_groups(values, min_shared=min_shared)
    if len(groups) > 1:
        raise ValueError(
            f"policies {' and '.join(map(str, groups))} share fewer than {max(1, min_shared)} "
            "prompts with each other, so no offset between them is determined; score them on the "
            "same prompts, or solve each group by itself"
        )
    known = np.isfinite(values.T).astype(np.float64)
    n_shared = known @ known.T
    n_shared[n_shared < max(1, min_shared)] = 0.0
    np.fill_diagonal(n_shared, 0.0)
    log_odds = np.ascontiguousarray(np.nan_to_num(values.T, nan=0.0)) / temperature
    expected = expected_win_rate(ratings[:, None], ratings)
    return JointProblem(log_odds, known, n_shared, expected, ratings)


def shared_groups(scores: Floats, *, min_shared: int = 1) -> list[list[int]]:
    """Groups of policies that shared prompts link, directly or through other policies.

    Args:
        scores: Score points, shape (n_prompts, n_policies); NaN where a response is missing.
        min_shared: Prompts that make a link.

    Returns:
        Indices of the policies of each group, ascending; a single group if all are linked.

    Example:
        >>> shared_groups(np.array([[1.0, np.nan, 2.0], [np.nan, 0.0, np.nan]]))
        [[0, 2], [1]]
    """
    known = np.isfinite(scores).astype(np.float64)
    n_groups, labels = connected_components(known.T @ known >= max(1, min_shared), directed=False)
    return [np.flatnonzero(labels == group).tolist() for group in range(n_groups)]


def joint_moments(problem: JointProblem, *, offsets: Floats) -> JointMoments:
    """Residuals P(D) - Q of all pairs (Eqs. 2 and 3), and the derivatives of P by the offsets.

    Half the pairs come from sums over the shared prompts, the others from P_ji = 1 - P_ij.

    Args:
        problem: From `pose_problem`.
        offsets: D in log-odds, shape (K,).

    Returns:
        The moments.

    Example:
        >>> problem = pose_problem(np.zeros((1, 2)), [1000.0, 1000.0])
        >>> joint_moments(problem, offsets=np.array([1.0, 0.0])).residuals.round(3)
        array([[ 0.   ,  0.231],
               [-0.231,  0.   ]])
    """
    moved = problem.scores + offsets[:, None]
    n_policies, n_prompts = moved.shape
    sums = np.zeros((3, n_policies, n_policies))
    step = max(1, BLOCK // n_prompts)
    for row in range(n_policies - 1):
        for at in range(row + 1, n_policies, step):
            others = slice(at, at + step)
            soft = expit(moved[row] - moved[others])
            shared = problem.known[row] * problem.known[others]
            slope = soft * (1.0 - soft)
            # einsum, not dot products: those wake BLAS threads, slow on a busy machine
            sums[0, row, others] = np.einsum("jn,jn->j", shared, soft)
            sums[1, row, others] = np.einsum("jn,jn->j", shared, slope)
            sums[2, row, others] = np.einsum("jn,jn->j", shared, slope * (1.0 - 2.0 * soft))
    used = np.triu(problem.n_shared > 0)
    means = np.divide(sums, problem.n_shared, out=np.zeros_like(sums), where=used)
    upper = np.where(used, means[0] - problem.expected, 0.0)
    return JointMoments(upper - upper.T, means[1] + means[1].T, means[2] - means[2].T)


def squared_error(problem: JointProblem, *, offsets: Floats) -> SquaredError:
    """Mean over i != j of r_ij^2, r = P(D) - Q, with gradient and Hessian (A.6).

    With M ordered pairs, slopes s and bends b, the gradient by D_i is 4/M sum_j r_ij s_ij. The
    Hessian is 4/M times the Laplacian of the graph whose edges weigh s_ij^2 + r_ij b_ij;
    without the second term that is Gauss and Newton's 2/M J^T J.

    Args:
        problem: From `pose_problem`.
        offsets: D in log-odds, shape (K,).

    Returns:
        The squared error and its derivatives.

    Example:
        >>> problem = pose_problem(np.zeros((1, 2)), [1000.0, 1000.0])
        >>> error = squared_error(problem, offsets=np.array([1.0, 0.0]))
        >>> round(error.value, 4), error.gradient.round(4)
        (0.0534, array([ 0.0909, -0.0909]))
    """
    residuals, slopes, bends = joint_moments(problem, offsets=offsets)
    scale = 4.0 / problem.n_pairs
    return SquaredError(
        value=float((residuals**2).sum()) / problem.n_pairs,
        gradient=scale * (residuals * slopes).sum(axis=1),
        hessian=scale * laplacian(slopes**2 + residuals * bends),
    )


def fit_offsets(problem: JointProblem) -> JointFit:
    """Offsets D at which the mean of (P_ij(D) - Q_ij)^2 is smallest (A.6).

    The squared error can have several minima, so the start matters. It is where every policy
    wins as often as expected, sum_j P_ij = sum_j Q_ij: these equations are the gradient of a
    convex function and have one root. From there Newton's method descends, damped as by
    Levenberg and Marquardt where the Hessian is not positive or a step fails Armijo's test.

    Args:
        problem: From `pose_problem`.

    Returns:
        The minimum, its offsets summing to 0.

    Example:
        >>> scores = np.array([[2.0, 0.0], [2.0, 0.0]])
        >>> fit_offsets(pose_problem(scores, [1000.0, 1000.0])).offsets.round(6)
        array([-1.,  1.])
    """
    start, n_evaluations = _meet_expected_wins(problem)
    fit = _descend(problem, start)
    return fit._replace(n_evaluations=n_evaluations + fit.n_evaluations)


def _meet_expected_wins(problem: JointProblem) -> tuple[Floats, int]:
    """Root of sum_j (P_ij - Q_ij) = 0 by Newton's method, with the evaluations it took.

    Along any line the slope of a convex function rises, so the line search needs no values: a
    full step may fall short of the lowest point, and one that goes beyond is bisected until
    the slope there is half of what it was.
    """
    mean = problem.scores.sum(axis=1) / problem.known.sum(axis=1)
    offsets = np.log(10.0) / ELO_SCALE * problem.elo - mean
    offsets -= offsets.mean()
    reach = 2.0 * float(np.abs(problem.scores).max()) + 1.0
    surplus, jacobian = _surplus(problem, offsets)
    n_evaluations = 1
    while n_evaluations < MAX_EVALUATIONS:
        step = solve_laplacian(jacobian, -surplus)
        if not np.abs(step).max() <= reach:  # edges so weak that no step along them can be trusted
            step = solve_laplacian(jacobian, -surplus, damping=1e-10)
            step *= min(1.0, reach / float(np.abs(step).max()))
        if np.abs(step).max() <= START_STEP:
            break
        slope, low, high, at = float(surplus @ step), 0.0, 1.0, 1.0
        while n_evaluations < MAX_EVALUATIONS:
            surplus, jacobian = _surplus(problem, offsets + at * step)
            n_evaluations += 1
            here = float(surplus @ step)
            if abs(here) <= 0.5 * abs(slope) or (at == 1.0 and here < 0.0):
                break
            low, high = (at, high) if here < 0.0 else (low, at)
            at = 0.5 * (low + high)
        offsets = offsets + at * step
    return offsets, n_evaluations


def _surplus(problem: JointProblem, offsets: Floats) -> tuple[Floats, Floats]:
    """Wins of each policy beyond the expected ones, and their Jacobian by the offsets."""
    residuals, slopes, _ = joint_moments(problem, offsets=offsets)
    return residuals.sum(axis=1), laplacian(slopes)


def _descend(problem: JointProblem, offsets: Floats) -> JointFit:
    """Damped Newton steps until gradient and step are small, or rounding ends all progress."""
    state, damping, n_evaluations = squared_error(problem, offsets=offsets), 0.0, 1
    norm, before = float(np.linalg.norm(state.gradient)), np.inf
    while n_evaluations < MAX_EVALUATIONS:
        near = norm <= TOLERANCE
        step = solve_laplacian(state.hessian, -state.gradient, damping=damping)
        size = float(np.abs(step).max())
        if near and (size <= STEP or size > 0.5 * before):
            break
        trial = squared_error(problem, offsets=offsets + step)
        n_evaluations += 1
        if _is_better(trial, state, step=step):
            damping = 0.1 * damping if damping > MIN_DAMPING else 0.0
            offsets, state, before = offsets + step, trial, size
            norm = float(np.linalg.norm(state.gradient))
        elif near:
            break
        else:
            damping = max(MIN_DAMPING, 10.0 * damping)
    return JointFit(offsets, norm, n_evaluations)


def _is_better(trial: SquaredError, state: SquaredError, *, step: Floats) -> bool:
    """Armijo's test; where the fall is lost in rounding, the value need only stay what it is."""
    fall = float(state.gradient @ step)
    if trial.value <= state.value + 1e-4 * fall:
        return True
    lost = abs(trial.value - state.value) <= LOST * state.value
    smaller = np.linalg.norm(trial.gradient) < np.linalg.norm(state.gradient)
    return lost and (bool(smaller) or abs(fall) <= LOST * state.value)
