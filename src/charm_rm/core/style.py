"""Style in preferences: how much more often chosen responses have a pattern, and style's spread.

The preference ratio of a pattern (Table 6) is the number of chosen responses that contain it over
the number of rejected ones; 1 is no preference. The style spread (6.3) is the variance of three
mean z-scores, of concise, detailed and markdown responses; 0 is no preference.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import chndtr, chndtrinc

from charm_rm.core.significance import student_interval
from charm_rm.core.uncertainty import Codes, clustered_covariance
from charm_rm.core.win_rates import Floats


@dataclass(frozen=True)
class Ratios:
    """Ratios of chosen to rejected, one per column, with their intervals.

    Attributes:
        value: Ratios, shape (n_columns,); infinite where only the chosen side has any, NaN where
            neither has.
        low: Lower ends.
        high: Upper ends; infinite where the data bound nothing.
    """

    value: Floats
    low: Floats
    high: Floats


def preference_ratios(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    prompts: Codes | None = None,
    level: float = 0.95,
) -> Ratios:
    """Chosen responses that contain a pattern over rejected ones that do (Table 6).

    The interval is that of Bonett and Price (2006) for a ratio of proportions in pairs. Of the n
    pairs with the pattern on either side, x are on the chosen and y on the rejected one; it
    divides Wilson's bounds of x/n and y/n, whose quantile is z A / (B + C), A^2 = (n_1 + 2) /
    ((x + 1)(y + 1)) with n_1 the pairs with the pattern on one side only, B^2 = (1 - (x + 1)/(n +
    2))/(x + 1), and C^2 the same of y. Unlike exp(log(x/y) -+ z se) it covers where x or y is
    small, and is there where one is 0. With several pairs of a prompt, A^2 is multiplied by what
    they add to the variance of log(x/y): sum_g e_g^2 over sum_i e_i^2, e_i = c_i/x - r_i/y.

    Args:
        chosen: Whether the chosen response of each pair contains it, shape (n_pairs, n_columns).
        rejected: The same of the rejected response.
        prompts: Which prompt each pair belongs to, shape (n_pairs,); by default each to its own.
        level: Share of samples whose interval holds the true ratio.

    Returns:
        The ratios, shape (n_columns,).

    Raises:
        ValueError: If the shapes differ, there is no pair, or ``level`` is not inside (0, 1).

    Example:
        >>> chosen = np.repeat([[1], [1], [0], [0]], [20, 40, 20, 20], axis=0)
        >>> rejected = np.repeat([[1], [0], [1], [0]], [20, 40, 20, 20], axis=0)
        >>> found = preference_ratios(chosen, rejected)
        >>> found.value, found.low.round(3), found.high.round(3)
        (array([1.5]), array([1.1]), array([2.045]))
    """
    ours, theirs = _check_sides(chosen, rejected)
    n_chosen, n_rejected = ours.sum(axis=0), theirs.sum(axis=0)
    either = np.maximum(ours, theirs).sum(axis=0)
    one_side = np.abs(ours - theirs).sum(axis=0)
    a = _clustering(ours, theirs, prompts) * (one_side + 2.0) / (n_chosen + 1.0)
    b, c = ((1.0 - (x + 1.0) / (either + 2.0)) / (x + 1.0) for x in (n_chosen, n_rejected))
    quantile = student_interval(0.0, standard_error=1.0, level=level)[1]
    z = quantile * np.sqrt(a / (n_rejected + 1.0)) / (np.sqrt(b) + np.sqrt(c))
    low_x, high_x = _wilson_bounds(n_chosen, either, z=z)
    low_y, high_y = _wilson_bounds(n_rejected, either, z=z)
    with np.errstate(divide="ignore", invalid="ignore"):
        value, low, high = n_chosen / n_rejected, low_x / high_y, high_x / low_y
    nowhere = either == 0
    return Ratios(value, np.where(nowhere, 0.0, low), np.where(nowhere, np.inf, high))


def mean_ratios(
    chosen: ArrayLike,
    rejected: ArrayLike,
    *,
    prompts: Codes | None = None,
    level: float = 0.95,
) -> Ratios:
    """Mean over chosen responses divided by mean over rejected ones, such as mean lengths.

    The interval is exp(log ratio -+ t se) by the delta method: se^2 = G/(G-1) sum_g e_g^2, e_i =
    c_i / sum c - r_i / sum r, summed over the pairs of each of G prompts.

    Args:
        chosen: A count of the chosen response of each pair, shape (n_pairs, n_columns).
        rejected: The same of the rejected response.
        prompts: As for `preference_ratios`.
        level: Share of samples whose interval holds the true ratio.

    Returns:
        The ratios, shape (n_columns,); where a mean is 0, from 0 to infinity.

    Raises:
        ValueError: If the shapes differ, there are fewer than two prompts, or ``level`` is not
            inside (0, 1).

    Example:
        >>> found = mean_ratios([[30.0], [10.0], [20.0]], [[10.0], [10.0], [10.0]])
        >>> found.value, found.low.round(2), found.high.round(2)
        (array([2.]), array([0.58]), array([6.93]))
    """
    ours, theirs = _check_sides(chosen, rejected)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = ours.sum(axis=0) / theirs.sum(axis=0)
    codes = np.arange(len(ours)) if prompts is None else prompts
    return _log_interval(value, _influence(ours, theirs), codes, level=level)


def ratio_changes(
    before: tuple[ArrayLike, ArrayLike],
    after: tuple[ArrayLike, ArrayLike],
    *,
    prompts: tuple[Codes, Codes],
    level: float = 0.95,
) -> Ratios:
    """Ratio of chosen to rejected after a calibration, divided by the ratio before it.

    The interval is that of `mean_ratios`; prompts that both sets of pairs have are one observation.

    Args:
        before: Counts, or whether there is any, of chosen and rejected responses, each of shape
            (n_pairs, n_columns).
        after: The same after it; the number of pairs may differ.
        prompts: Which prompt each pair belongs to, before and after, in one numbering.
        level: Share of samples whose interval holds the true value.

    Returns:
        The changes, shape (n_columns,); 1 is none. NaN, from 0 to infinity, where a side has none.

    Raises:
        ValueError: If the shapes differ, there are fewer than two prompts, or ``level`` is not
            inside (0, 1).

    Example:
        >>> side, other = [[1], [1], [0], [1]], [[0], [1], [1], [0]]
        >>> codes = np.arange(4)
        >>> ratio_changes((side, other), (other, side), prompts=(codes, codes)).value.round(3)
        array([0.444])
    """
    old, new = _check_sides(*before), _check_sides(*after)
    with np.errstate(divide="ignore", invalid="ignore"):
        value = new[0].sum(axis=0) / new[1].sum(axis=0) / (old[0].sum(axis=0) / old[1].sum(axis=0))
    influence = np.concatenate([-_influence(*old), _influence(*new)])
    value = np.where(np.isfinite(influence).all(axis=0), value, np.nan)
    return _log_interval(value, influence, np.concatenate(prompts), level=level)


@dataclass(frozen=True)
class Spreads:
    """Style spread of chosen and of rejected responses (6.3).

    Attributes:
        means: Mean z-scores, shape (2, n_styles): chosen, rejected.
        value: Variance of each row of means, shape (2,).
        low: Lower ends, shape (2,); 0 where the data do not show a difference of styles.
        high: Upper ends, shape (2,).
    """

    means: Floats
    value: Floats
    low: Floats
    high: Floats


def style_spreads(
    scores: ArrayLike, *, groups: Codes | None = None, level: float = 0.95
) -> Spreads:
    """Variance of the mean z-scores of the styles, chosen and rejected apart (6.3).

    All scores are z-scored together, z = (s - mean) / sd; the variance is that of the population,
    sum_k (m_k - m)^2 / K. Its interval comes from V, the covariance of the centred means d by the
    delta method (which carries the errors of mean and sd): |d|^2 / c is taken for noncentral
    chi-square with tr(V) / c degrees of freedom, c = d'Vd / |d|^2 but at least tr(V) / K, and
    solved for the noncentrality. So it knows that means vary by noise even if styles do not
    matter, which a percentile interval does not.

    Args:
        scores: Score points, shape (n_items, 2, n_styles): chosen, then rejected responses.
        groups: Group of each item, shape (n_items,), whose sizes are fixed by the benchmark; by
            default all are of one.
        level: Share of samples whose interval holds the true variance.

    Returns:
        Means and variances; the ends are NaN where a group has a single item.

    Raises:
        ValueError: If the shape is another, a score is not finite, all are equal, or ``level`` is
            not inside (0, 1).

    Example:
        >>> item = [[1.0, 2.0, 3.0], [0.0, 0.0, 0.0]]
        >>> found = style_spreads([item, item, item])
        >>> found.means.round(3)
        array([[ 0.   ,  0.866,  1.732],
               [-0.866, -0.866, -0.866]])
        >>> found.value.round(3)
        array([0.5, 0. ])
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    values = np.asarray(scores, dtype=np.float64)
    if (
        values.ndim != 3
        or values.shape[1] != 2
        or values.size == 0
        or not np.isfinite(values).all()
    ):
        raise ValueError(f"need finite scores of shape (n_items, 2, n_styles), got {values.shape}")
    if not values.std() > 1e-14 * np.abs(values).max():
        raise ValueError("all scores are equal, so they have no z-scores")
    z = (values - values.mean()) / values.std()
    means = z.mean(axis=0)
    n_items = len(values)
    sizes = np.mean(z**2, axis=(1, 2)) - 1.0
    moved = (z - means) - z.mean(axis=(1, 2))[:, None, None] - 0.5 * sizes[:, None, None] * means
    codes = np.zeros(n_items, dtype=np.int64) if groups is None else groups
    value, ends = means.var(axis=1), []
    for side in (0, 1):
        covariance = _stratified_covariance(moved[:, side] / n_items, codes)
        ends.append(_spread_interval(means[side] - means[side].mean(), covariance, level=level))
    low, high = np.transpose(ends)
    return Spreads(means=means, value=value, low=low, high=high)


def _spread_interval(centred: Floats, covariance: Floats, *, level: float) -> tuple[float, float]:
    n_styles = len(centred)
    centring = np.eye(n_styles) - 1.0 / n_styles
    spread = centring @ covariance @ centring
    square, noise = float(centred @ centred), float(np.trace(spread))
    if not np.isfinite(noise):
        return float("nan"), float("nan")
    if noise <= 1e-20:
        return square / n_styles, square / n_styles
    along = float(centred @ spread @ centred) / square if square > 0.0 else 0.0
    c = max(along, noise / n_styles)
    tails = np.array([0.5 * (1.0 + level), 0.5 * (1.0 - level)])
    below = chndtr(square / c, noise / c, 0.0)
    low, high = np.where(below > tails, chndtrinc(square / c, noise / c, tails), 0.0)
    return float(c * low / n_styles), float(max(c * high, square) / n_styles)


def _stratified_covariance(influence: Floats, groups: Codes) -> Floats:
    """Covariance of column sums, of independent rows within groups of fixed sizes."""
    codes = np.unique(groups, return_inverse=True)[1]
    sizes = np.bincount(codes).astype(np.float64)
    if sizes.min() < 2:
        return np.full((influence.shape[1], influence.shape[1]), np.nan)
    sums = np.zeros((len(sizes), influence.shape[1]))
    np.add.at(sums, codes, influence)
    centred = influence - (sums / sizes[:, None])[codes]
    weights = (sizes / (sizes - 1.0))[codes]
    return np.asarray((weights[:, None] * centred).T @ centred)


def _influence(chosen: Floats, rejected: Floats) -> Floats:
    """What each pair adds to the error of log(sum chosen / sum rejected); NaN where a sum is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(chosen / chosen.sum(axis=0) - rejected / rejected.sum(axis=0))


def _log_interval(value: Floats, influence: Floats, prompts: Codes, *, level: float) -> Ratios:
    known = np.isfinite(influence).all(axis=0)
    covariance = clustered_covariance(np.where(known, influence, 0.0), prompts)
    n_prompts = len(np.unique(prompts))
    centre = np.log(np.where(known, value, 1.0))
    low, high = student_interval(
        centre, standard_error=np.sqrt(np.diag(covariance)), n_prompts=n_prompts, level=level
    )
    return Ratios(value, np.where(known, np.exp(low), 0.0), np.where(known, np.exp(high), np.inf))


def _clustering(chosen: Floats, rejected: Floats, prompts: Codes | None) -> Floats:
    """Variance of the log ratio over what it were if every pair had a prompt of its own."""
    ones = np.ones(chosen.shape[1])
    if prompts is None or len(np.unique(prompts)) in (1, len(chosen)):
        return ones
    influence = np.nan_to_num(_influence(chosen, rejected), posinf=0.0, neginf=0.0)
    alone = (influence**2).sum(axis=0)
    together = np.diag(clustered_covariance(influence, prompts))
    return np.asarray(np.divide(together, alone, out=ones, where=alone > 0))


def _wilson_bounds(count: Floats, n: Floats, *, z: Floats) -> tuple[Floats, Floats]:
    safe = np.maximum(n, 1.0)
    reach = z * np.sqrt(z**2 + 4.0 * count * (1.0 - count / safe))
    middle = 2.0 * count + z**2
    low = np.maximum(middle - reach, 0.0) / (2.0 * (safe + z**2))
    return np.where(count > 0, low, 0.0), (middle + reach) / (2.0 * (safe + z**2))


def _check_sides(chosen: ArrayLike, rejected: ArrayLike) -> tuple[Floats, Floats]:
    ours, theirs = np.asarray(chosen, np.float64), np.asarray(rejected, np.float64)
    if ours.shape != theirs.shape or ours.ndim != 2 or len(ours) == 0:
        raise ValueError(
            f"need two tables of counts of one shape with pairs in it, got {ours.shape} and "
            f"{theirs.shape}"
        )
    return ours, theirs
