"""Uncertainty by the paired bootstrap: whole prompts are drawn again, with all their scores.

Prompts are the unit, so a prompt that is hard for every policy stays so in every resample.
Counts stand for resamples, which turns most statistics into one matrix product.
"""

from collections.abc import Iterator

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtr, stdtrit

from charm_rm.core.win_rates import Floats

BLOCK = 1 << 22  # counts held at once


def resample_counts(
    n_prompts: int, *, n_resamples: int, rng: np.random.Generator
) -> Iterator[NDArray[np.float64]]:
    """Blocks of bootstrap resamples, as counts of how often each prompt was drawn.

    Args:
        n_prompts: Number of prompts; each resample draws as many, with replacement.
        n_resamples: Number of resamples over all blocks.
        rng: Source of randomness.

    Yields:
        Counts of shape (n_in_block, n_prompts), whose rows sum to ``n_prompts``.

    Raises:
        ValueError: If there are no prompts or no resamples.

    Example:
        >>> blocks = list(resample_counts(3, n_resamples=2, rng=np.random.default_rng(0)))
        >>> np.concatenate(blocks).sum(axis=1)
        array([3., 3.])
    """
    if n_prompts < 1 or n_resamples < 1:
        raise ValueError(
            f"need at least one prompt and one resample, got {n_prompts} and {n_resamples}"
        )
    step = max(1, BLOCK // n_prompts)
    for at in range(0, n_resamples, step):
        n_rows = min(step, n_resamples - at)
        drawn = rng.integers(0, n_prompts, size=(n_rows, n_prompts))
        drawn += n_prompts * np.arange(n_rows)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=n_rows * n_prompts)
        yield counts.reshape(n_rows, n_prompts).astype(np.float64)


def resampled_means(values: Floats, counts: Floats) -> Floats:
    """Mean of each column in each resample, over the rows that have it.

    Args:
        values: Shape (n_prompts, n_columns); NaN where a value is missing.
        counts: How often each row is in each resample, shape (n_resamples, n_prompts).

    Returns:
        Means, shape (n_resamples, n_columns); NaN where a resample holds no value.

    Example:
        >>> resampled_means(np.array([[1.0], [3.0], [np.nan]]), np.array([[1.0, 3.0, 2.0]]))
        array([[2.5]])
    """
    known = np.isfinite(values)
    total = counts @ np.where(known, values, 0.0)
    n_known = counts @ known.astype(np.float64)
    return np.divide(total, n_known, out=np.full_like(total, np.nan), where=n_known > 0)


def percentile_interval(
    samples: Floats, *, n_prompts: ArrayLike = np.inf, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Equal-tailed interval of the resampled values, as wide as few prompts demand.

    The ends are the quantiles at q and 1 - q, q = Phi(t sqrt(n/(n - 1))), t the quantile of
    Student's t with n - 1 degrees of freedom at (1 - level)/2. A plain percentile interval is too
    narrow twice: resamples spread by the variance over n, not n - 1, and the normal quantile is
    not Student's (Hesterberg 2015, section 5.3). Of B resamples, the k-th smallest stands at
    k/(B + 1), so that the coverage does not depend on B.

    Args:
        samples: Resampled values, shape (n_resamples,) or (n_resamples, n_columns); NaN
            (a resample without data) is left out.
        n_prompts: Prompts n behind each column, at least 2; without it q is (1 - level)/2.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper ends, each of shape () or (n_columns,).

    Raises:
        ValueError: If ``level`` is not strictly between 0 and 1, or there are fewer than two
            prompts.

    Example:
        >>> low, high = percentile_interval(np.arange(1.0, 100.0), level=0.9)
        >>> round(float(low), 6), round(float(high), 6)
        (5.0, 95.0)
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    n = np.broadcast_to(np.asarray(n_prompts, dtype=np.float64), samples.shape[1:])
    if np.any(n < 2.0):
        raise ValueError("an interval needs at least two prompts")
    tails = ndtr(stdtrit(n - 1.0, 0.5 * (1.0 - level)) / np.sqrt(1.0 - 1.0 / n))
    columns = samples.reshape(len(samples), -1).T
    ends = [
        np.nanquantile(column, [tail, 1.0 - tail], method="weibull")
        for column, tail in zip(columns, np.ravel(tails), strict=True)
    ]
    low, high = np.transpose(ends).reshape(2, *n.shape)
    return np.asarray(low), np.asarray(high)
