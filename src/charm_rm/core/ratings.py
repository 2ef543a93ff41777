"""Ratings from battles: Bradley-Terry by Newton's method, on counts per pair of models.

One solver serves the fit, the fit with style control and every resample. Battles count as
independent: votes of one judge or on one prompt lean together, and make the true uncertainty
larger than any given here.
"""

from dataclasses import dataclass

import numpy as np
from scipy.linalg import LinAlgError, cho_factor, cho_solve
from scipy.special import expit

from charm_rm.core.battles import (
    BattleCounts,
    Floats,
    bounded_groups,
    connected_groups,
    undecided_models,
)
from charm_rm.core.elo import ELO_SCALE

LOG_ODDS = float(ELO_SCALE / np.log(10.0))  # Elo points per unit of log-odds
RIDGE = 0.01  # of separable data: a normal prior of 10 log-odds, 1737 Elo points, on each rating
TOLERANCE = 1e-9  # last Newton step, in log-odds; the error left is its square
MAX_STEPS = 100
UNBOUNDED = 30.0  # log-odds between two models that met: no finite data holds them so far apart


@dataclass(frozen=True)
class Ratings:
    """Fitted ratings, with the settings that they depend on.

    Attributes:
        elo: Ratings in Elo points, shape (n_models,).
        covariance: Their covariance in squared Elo points, shape (n_models, n_models), with the
            anchor (or the mean of all) held fixed.
        style: Effect of each style feature, in log-odds per unit, shape (n_features,).
        style_error: Its standard errors, same shape.
        anchor: The model held at ``origin``; None where the mean of all models is.
        origin: Elo points of the anchor, or of the mean.
        ridge: Weight of the prior that keeps separable data finite; 0 where none was needed.
        gradient: Largest component of the gradient at the end, in battles.
    """

    elo: Floats
    covariance: Floats
    style: Floats
    style_error: Floats
    anchor: int | None
    origin: float
    ridge: float
    gradient: float

    @property
    def standard_error(self) -> Floats:
        """Standard errors of the ratings in Elo points, shape (n_models,); 0 for the anchor.

        Example:
            >>> from charm_rm.core.battles import count_battles
            >>> counts = count_battles([0] * 4, [1] * 4, outcomes=[1, 1, 1, 0], n_models=2)
            >>> fit_ratings(counts, anchor=1).standard_error.round(1)
            array([200.6,   0. ])
        """
        return np.asarray(np.sqrt(np.maximum(np.diag(self.covariance), 0.0)))


def fit_ratings(
    counts: BattleCounts, *, anchor: int | None = None, origin: float = 1000.0
) -> Ratings:
    """Maximum-likelihood ratings: P(a beats b) = 1 / (1 + 10^((R_b - R_a) / 400)), ties half.

    With style features f the log-odds gain a term ``style @ f``, fitted jointly. The covariance
    is the sandwich H^-1 (sum of (outcome - P)^2 x x') H^-1, which also holds with ties, where the
    inverse Hessian H^-1 is too wide. Where a model has no battle but ties, the sum is 0 and says
    nothing of how outcomes vary: its battles then enter with the variance P (1 - P) of wins and
    losses, the most that there can be. Separable data have no finite maximum: then, and only then,
    ``RIDGE`` / 2 times the squared log-odds ratings are subtracted from the log-likelihood,
    ``ridge`` says so, and the covariance is H^-1, that of the posterior under this prior.

    Args:
        counts: The battles, of at least two models.
        anchor: Model whose rating is given; by default the mean of all models is.
        origin: Elo points of the anchor, or of the mean.

    Returns:
        The ratings; converged, with the gradient that was left.

    Raises:
        ValueError: If the battles do not link all models, the anchor is not one of them, the
            style features depend on each other, or the fit does not converge.

    Example:
        >>> from charm_rm.core.battles import count_battles
        >>> counts = count_battles([0, 0, 0, 0], [1, 1, 1, 1], outcomes=[1, 1, 1, 0], n_models=2)
        >>> fit_ratings(counts, anchor=1).elo.round(2)  # 400 log10(3) above the anchor
        array([1190.85, 1000.  ])
    """
    _check_fit(counts, anchor)
    ridge = RIDGE if bounded_groups(counts).any() else 0.0
    solution = _solve(counts, ridge=ridge, start=_level(counts))
    if solution is None:  # a style feature decides every battle
        ridge = RIDGE
        solution = _solve(counts, ridge=ridge, start=_level(counts))
    if solution is None:
        raise ValueError(f"ratings did not converge in {MAX_STEPS} steps; check the battles")
    rate, gradient, hessian = _derivatives(counts, solution, ridge=ridge)
    inverse = np.linalg.inv(hessian)
    noise = _information(counts, _noise(counts, rate))
    covariance = inverse if ridge else inverse @ noise @ inverse
    n, gauge = counts.n_models, _gauge(counts.n_models, anchor)
    return Ratings(
        elo=origin + LOG_ODDS * gauge @ solution[:n],
        covariance=LOG_ODDS**2 * gauge @ covariance[:n, :n] @ gauge.T,
        style=solution[n:],
        style_error=np.sqrt(np.diag(covariance)[n:]),
        anchor=anchor,
        origin=origin,
        ridge=ridge,
        gradient=float(np.abs(gradient).max()),
    )


def resample_ratings(
    counts: BattleCounts, ratings: Ratings, *, n_resamples: int, rng: np.random.Generator
) -> Floats:
    """Ratings of bootstrap resamples of the battles, each fitted to convergence.

    Every battle gets an exponential weight instead of a count (the Bayesian bootstrap, Rubin
    1981). Summed over the equal battles of a pair that is one gamma draw; and as no weight is 0,
    a resample never loses the one battle that links or bounds a model.

    Args:
        counts: The battles.
        ratings: As `fit_ratings` found them, for the start, the anchor and the ridge.
        n_resamples: Number of resamples.
        rng: Source of randomness.

    Returns:
        Ratings in Elo points, shape (n_resamples, n_models).

    Raises:
        ValueError: If ``n_resamples`` is not positive, or a resample does not converge.

    Example:
        >>> from charm_rm.core.battles import count_battles
        >>> counts = count_battles([0] * 9, [1] * 9, outcomes=[1] * 5 + [0] * 4, n_models=2)
        >>> rng = np.random.default_rng(0)
        >>> resample_ratings(counts, fit_ratings(counts), n_resamples=4, rng=rng).shape
        (4, 2)
    """
    if n_resamples < 1:
        raise ValueError(f"need at least one resample, got {n_resamples}")
    start = np.concatenate([(ratings.elo - ratings.elo.mean()) / LOG_ODDS, ratings.style])
    gauge = _gauge(counts.n_models, ratings.anchor)
    samples = np.empty((n_resamples, counts.n_models))
    for at in range(n_resamples):
        wins, ties, losses = (
            rng.standard_gamma(side) for side in (counts.wins, counts.ties, counts.losses)
        )
        drawn = BattleCounts(
            counts.n_models, counts.first, counts.second, wins, ties, losses, counts.features
        )
        solution = _solve(drawn, ridge=ratings.ridge, start=start)
        if solution is None:
            raise ValueError(f"resample {at} did not converge in {MAX_STEPS} steps")
        samples[at] = ratings.origin + LOG_ODDS * gauge @ solution[: counts.n_models]
    return samples


def _solve(counts: BattleCounts, *, ridge: float, start: Floats) -> Floats | None:
    """Newton's method with steps that can't overshoot; None where there is no finite maximum.

    Along a step that changes no battle's log-odds by more than d, the curvature of the
    log-likelihood changes by a factor of at most exp(d). Going log(1 + d) / d of the way
    therefore always climbs, without a line search; and near the maximum that is all of it.

    Cholesky's method also because it stays on one thread at these sizes: beside other work,
    `numpy.linalg.solve` of 100 models on two threads takes twenty times as long.
    """
    parameters = start
    for _ in range(MAX_STEPS):
        _, gradient, hessian = _derivatives(counts, parameters, ridge=ridge)
        try:
            step = np.asarray(cho_solve(cho_factor(hessian), gradient), dtype=np.float64)
        except LinAlgError:  # flat in some direction, to rounding
            return None
        change = float(np.abs(_log_odds(counts, step)).max())
        if change < TOLERANCE:
            return np.asarray(parameters + step)
        parameters = parameters + step * (np.log1p(change) / change)
        if not ridge and np.abs(_log_odds(counts, parameters)).max() > UNBOUNDED:
            return None
    return None


def _derivatives(
    counts: BattleCounts, parameters: Floats, *, ridge: float
) -> tuple[Floats, Floats, Floats]:
    """Expected win rates of the rows, gradient and negative Hessian of the log-likelihood."""
    n, battles = counts.n_models, counts.battles
    rate = expit(_log_odds(counts, parameters))
    surprise = counts.points - battles * rate
    gradient = -ridge * parameters
    gradient[:n] += np.bincount(counts.first, surprise, n) - np.bincount(counts.second, surprise, n)
    gradient[n:] += counts.features.T @ surprise
    hessian = _information(counts, battles * rate * (1.0 - rate))
    # All ratings may shift together: one more term makes that direction stiff, and moves no other.
    hessian[:n, :n] += np.trace(hessian[:n, :n]) / n**2
    hessian[np.diag_indices_from(hessian)] += ridge
    return rate, gradient, hessian


def _log_odds(counts: BattleCounts, parameters: Floats) -> Floats:
    elo = parameters[: counts.n_models]
    style = counts.features @ parameters[counts.n_models :]
    return np.asarray(elo[counts.first] - elo[counts.second] + style)


def _information(counts: BattleCounts, weights: Floats) -> Floats:
    """Sum over the rows of weight times x x', where x is +1 and -1 at the models, then features."""
    n, z = counts.n_models, counts.features
    met = np.bincount(counts.first * n + counts.second, weights, n * n).reshape(n, n)
    met += met.T
    total = np.empty((n + z.shape[1],) * 2)
    total[:n, :n] = np.diag(met.sum(axis=1)) - met
    weighted = z * weights[:, None]
    for at, column in enumerate(weighted.T, start=n):
        cross = np.bincount(counts.first, column, n) - np.bincount(counts.second, column, n)
        total[:n, at] = total[at, :n] = cross
    total[n:, n:] = z.T @ weighted
    return total


def _noise(counts: BattleCounts, rate: Floats) -> Floats:
    """Sum of squared (outcome - expected win rate) over the battles of each row."""
    won, tied, lost = counts.wins, counts.ties, counts.losses
    squares = won * (1 - rate) ** 2 + tied * (0.5 - rate) ** 2 + lost * rate**2
    undecided = undecided_models(counts)
    unknown = undecided[counts.first] | undecided[counts.second]
    return np.where(unknown, counts.battles * rate * (1.0 - rate), squares)


def _gauge(n_models: int, anchor: int | None) -> Floats:
    """Matrix that moves the anchor, or the mean of all, to 0."""
    fixed = np.full(n_models, 1.0 / n_models) if anchor is None else np.eye(n_models)[anchor]
    return np.asarray(np.eye(n_models) - fixed)


def _check_fit(counts: BattleCounts, anchor: int | None) -> None:
    groups = connected_groups(counts)
    if groups.any():
        parts = [np.flatnonzero(groups == group).tolist() for group in range(groups.max() + 1)]
        raise ValueError(f"{len(parts)} groups of models never met: {parts}; rate them apart")
    if anchor is not None and not 0 <= anchor < counts.n_models:
        raise ValueError(f"anchor must be a model from 0 to {counts.n_models - 1}, got {anchor}")
    if counts.features.size:
        _, _, hessian = _derivatives(counts, _level(counts), ridge=0.0)
        unit = np.sqrt(np.diag(hessian))
        if np.linalg.cond(hessian / np.outer(unit, unit)) > 1e12:
            raise ValueError("style features depend on each other or on the models; leave one out")


def _level(counts: BattleCounts) -> Floats:
    """Parameters of equal models, where style has no effect."""
    return np.zeros(counts.n_models + counts.features.shape[1])
