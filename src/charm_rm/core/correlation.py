"""Correlation of one value per policy with another, such as mean scores with ratings."""

import numpy as np
from numpy.typing import ArrayLike

from charm_rm.core.intervals import percentile_interval
from charm_rm.core.win_rates import Floats


def correlation(values: ArrayLike, others: ArrayLike, *, ranks: bool = False) -> float | None:
    """Pearson's r of two rows of values, or of their ranks (Spearman's); ties share a rank.

    Args:
        values: One per policy, shape (n_policies,).
        others: One per policy, same shape.
        ranks: Whether to take the ranks.

    Returns:
        A value in [-1, 1]; None where all ``values`` or all ``others`` are equal.

    Example:
        >>> correlation([0.0, 1.0, 3.0], [2.0, 4.0, 5.0], ranks=True)
        1.0
    """
    pair = [_ranks(side) if ranks else np.asarray(side, np.float64) for side in (values, others)]
    found = _by_row(*(side[None] for side in pair))
    return float(found[0]) if np.isfinite(found[0]) else None


def resampled_correlation_interval(
    values: Floats, others: Floats, *, level: float = 0.95
) -> tuple[float, float] | tuple[None, None]:
    """Interval of Pearson's r over resamples, the policies being the ones there are.

    Args:
        values: One per policy in each resample, shape (n_resamples, n_policies).
        others: The same of the other values.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper end; None where a resample has no correlation.

    Raises:
        ValueError: If ``level`` is not strictly between 0 and 1.

    Example:
        >>> values = np.array([[0.0, 1.0, 2.0], [0.0, 2.0, 1.0]])
        >>> low, high = resampled_correlation_interval(values, np.array([[1.0, 2.0, 3.0]] * 2))
        >>> round(low, 3), round(high, 3)
        (0.5, 1.0)
    """
    samples = _by_row(values, others)
    if not np.isfinite(samples).all():
        return None, None
    low, high = percentile_interval(samples, level=level)
    return float(low), float(high)


def _ranks(values: ArrayLike) -> Floats:
    _, at, n = np.unique(np.asarray(values, np.float64), return_inverse=True, return_counts=True)
    return np.asarray((n.cumsum() - 0.5 * (n - 1.0))[at])


def _by_row(values: Floats, others: Floats) -> Floats:
    """Pearson's r of each row; NaN where it has none."""
    one = values - values.mean(axis=1, keepdims=True)
    other = others - others.mean(axis=1, keepdims=True)
    norm = np.sqrt((one**2).sum(axis=1) * (other**2).sum(axis=1))
    r = np.divide((one * other).sum(axis=1), norm, out=np.full(len(one), np.nan), where=norm > 0)
    return np.asarray(np.clip(r, -1.0, 1.0))
