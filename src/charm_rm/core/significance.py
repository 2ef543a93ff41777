"""What standard errors say: intervals, p-values, false discoveries, and what a sample can show."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import ndtri, stdtr, stdtrit

from charm_rm.core.win_rates import Floats

EVEN = 1e-9  # share of a coin's standard deviation below which outcomes vary by rounding alone


def student_interval(
    estimate: ArrayLike,
    *,
    standard_error: ArrayLike,
    n_prompts: ArrayLike = np.inf,
    level: float = 0.95,
) -> tuple[Floats, Floats]:
    """Interval estimate -+ t * standard error, t the quantile of Student's t at (1 + level)/2.

    t has n - 1 degrees of freedom; without n it is the normal quantile. The standard error of a
    mean of n values is itself an estimate, which few values know badly.

    Args:
        estimate: Estimates.
        standard_error: Their standard errors.
        n_prompts: Prompts n that the standard errors are from, at least 2. All broadcast.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper ends, of the broadcast shape.

    Raises:
        ValueError: If ``level`` is not strictly between 0 and 1, or there are fewer than two
            prompts.

    Example:
        >>> low, high = student_interval(0.25, standard_error=0.1, n_prompts=[30, np.inf])
        >>> low.round(3), high.round(3)
        (array([0.045, 0.054]), array([0.455, 0.446]))
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    freedom = np.subtract(n_prompts, 1.0)
    if np.any(freedom < 1.0):
        raise ValueError("an interval needs at least two prompts")
    quantile = stdtrit(freedom, 0.5 * (1.0 + level))
    reach = quantile * np.asarray(standard_error, dtype=np.float64)
    return np.asarray(np.subtract(estimate, reach)), np.asarray(np.add(estimate, reach))


def correlation_interval(
    correlation: ArrayLike, *, standard_error: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval tanh(artanh r -+ z * standard error / (1 - r^2)) of a correlation (Fisher's z).

    Args:
        correlation: Correlations r, strictly between -1 and 1.
        standard_error: Their standard errors, as
            `charm_rm.core.uncertainty.correlation_standard_error` gives. Broadcasts.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper ends inside (-1, 1), of the broadcast shape.

    Raises:
        ValueError: If a correlation is not inside (-1, 1), or ``level`` not inside (0, 1).

    Example:
        >>> low, high = correlation_interval(0.9, standard_error=0.05)
        >>> round(float(low), 3), round(float(high), 3)
        (0.743, 0.963)
    """
    r = np.asarray(correlation, dtype=np.float64)
    if not np.all(np.abs(r) < 1.0):
        raise ValueError("a correlation of -1 or 1, or beyond, has no interval")
    stretched = np.asarray(standard_error, dtype=np.float64) / (1.0 - r**2)
    low, high = student_interval(np.arctanh(r), standard_error=stretched, level=level)
    return np.tanh(low), np.tanh(high)


def two_sided_p_value(
    estimate: ArrayLike, *, standard_error: ArrayLike, n_prompts: ArrayLike = np.inf
) -> Floats:
    """Chance of an estimate as far from 0 or farther, were the truth 0: 2 T(-|x| / se).

    T is Student's distribution with n - 1 degrees of freedom; without n, the normal one.

    Args:
        estimate: Estimates, such as signed mismatches.
        standard_error: Their standard errors. All arguments broadcast.
        n_prompts: Prompts n that the standard errors are from.

    Returns:
        P-values, of the broadcast shape; NaN where estimate and standard error are both 0.

    Raises:
        ValueError: If a standard error is negative.

    Example:
        >>> two_sided_p_value([0.0, 0.2, 0.0], standard_error=[0.1, 0.1, 0.0]).round(4)
        array([1.    , 0.0455,    nan])
    """
    error = np.asarray(standard_error, dtype=np.float64)
    if np.any(error < 0.0):
        raise ValueError("a standard error is negative")
    with np.errstate(divide="ignore", invalid="ignore"):
        distance = -np.abs(np.divide(estimate, error))
    return np.asarray(2.0 * stdtr(np.subtract(n_prompts, 1.0), distance))


def unanimous_interval(
    outcome: ArrayLike, *, n_prompts: ArrayLike, level: float = 0.95
) -> tuple[Floats, Floats]:
    """Interval of a mean of n equal outcomes v: a share 1 - ((1 - level)/2)^(1/n) may be others.

    For hard wins or losses alone it is the exact interval of Clopper and Pearson (1934).

    Args:
        outcome: The outcome v of every prompt, in [0, 1].
        n_prompts: Prompts n, at least 1. Broadcasts.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper ends, of the broadcast shape.

    Raises:
        ValueError: If ``level`` is not strictly between 0 and 1.

    Example:
        >>> low, high = unanimous_interval([0.0, 1.0], n_prompts=30)
        >>> low.round(3), high.round(3)
        (array([0.   , 0.884]), array([0.116, 1.   ]))
    """
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    rate = np.asarray(outcome, np.float64)
    share = 1.0 - (0.5 * (1.0 - level)) ** (1.0 / np.asarray(n_prompts, np.float64))
    return np.asarray(rate - share * rate), np.asarray(rate + share * (1.0 - rate))


def win_rate_p_value(
    win_rate: ArrayLike,
    expected: ArrayLike,
    *,
    win_rate_error: ArrayLike,
    n_prompts: ArrayLike,
    expected_error: ArrayLike = 0.0,
) -> Floats:
    """Chance of a win rate as far from the expected one, were that the true one.

    It is 2 T(-|P - Q| / sqrt(r Q(1 - Q) + f^2)), r = e^2 / (P(1 - P)): the variance of the
    outcomes is taken in proportion to that of a coin, and at Q, where the hypothesis has it. Of
    decided outcomes that is the score test. A test by e itself calls a rate near 0 or 1 surely
    wrong, as its own variance is so small there: of 30 hard outcomes where Q is 0.04, in 31% of
    samples, this one in 2.6%.

    Args:
        win_rate: Empirical win rates P. All arguments broadcast.
        expected: Expected ones Q, strictly between 0 and 1.
        win_rate_error: Standard errors e of P.
        n_prompts: Prompts n that P is from; T has n - 1 degrees of freedom, and r is 1/n where P
            is 0 or 1, or all outcomes are equal.
        expected_error: Standard errors f of Q.

    Returns:
        P-values, of the broadcast shape.

    Raises:
        ValueError: If an expected win rate is not strictly between 0 and 1, or an error is
            negative.

    Example:
        >>> rate, error = np.array([0.5, 0.0]), np.array([0.09, 0.0])
        >>> win_rate_p_value(rate, 0.3, win_rate_error=error, n_prompts=30).round(3)
        array([0.022, 0.001])
    """
    rate, target = np.asarray(win_rate, np.float64), np.asarray(expected, np.float64)
    if not np.all((target > 0.0) & (target < 1.0)):
        raise ValueError("expected win rates must lie strictly between 0 and 1")
    if np.any(np.less(win_rate_error, 0.0)) or np.any(np.less(expected_error, 0.0)):
        raise ValueError("a standard error is negative")
    coin = rate * (1.0 - rate)
    ratio = np.divide(
        np.square(win_rate_error, dtype=np.float64),
        coin,
        out=np.broadcast_to(1.0 / np.asarray(n_prompts, np.float64), coin.shape).copy(),
        where=(coin > 0.0) & (np.asarray(win_rate_error) > EVEN * np.sqrt(coin)),
    )
    variance = ratio * target * (1.0 - target) + np.square(expected_error)
    return two_sided_p_value(rate - target, standard_error=np.sqrt(variance), n_prompts=n_prompts)


def benjamini_hochberg(p_values: ArrayLike) -> Floats:
    """P-values adjusted for their number m: min over j >= i of m p_(j) / j, p_(1) <= p_(2) ...

    Calling all those up to q a discovery keeps the expected share of false discoveries at most q
    (Benjamini and Hochberg 1995) if the tests are independent or positively dependent. Two-sided
    tests of policies against one reference are not proved to be; ``charm selftest`` counts their
    false discoveries.

    Args:
        p_values: Shape (n,); NaN for what was not tested.

    Returns:
        Adjusted p-values, shape (n,); NaN where ``p_values`` is, which does not count.

    Raises:
        ValueError: If a p-value is not in [0, 1].

    Example:
        >>> benjamini_hochberg([0.01, 0.04, np.nan, 0.03])
        array([0.03, 0.04,  nan, 0.04])
    """
    values = np.asarray(p_values, dtype=np.float64)
    tested = values[~np.isnan(values)]
    if np.any((tested < 0.0) | (tested > 1.0)):
        raise ValueError("p-values must lie between 0 and 1")
    order = np.argsort(tested)
    steps = tested[order] * tested.size / np.arange(1, tested.size + 1)
    adjusted = np.full(values.shape, np.nan)
    smallest = np.minimum.accumulate(steps[::-1])[::-1]
    adjusted[np.flatnonzero(~np.isnan(values))[order]] = smallest
    return adjusted


def detectable_mismatch(
    n_prompts: ArrayLike,
    *,
    outcome_sd: ArrayLike,
    expected: ArrayLike,
    expected_error: ArrayLike = 0.0,
    power: float = 0.8,
    level: float = 0.95,
) -> Floats:
    """Smallest Mismatch Degree that a sample shows: (z + z') sqrt(v/n + e^2) / max(Q, 1 - Q).

    z is the normal quantile of (1 + level)/2, z' that of the power; v the variance of the
    outcomes, e the error of Q. A mismatch of that size has the given chance to be found
    different from 0 by a two-sided test; where even a large sample cannot show it, the ratings
    are what is too uncertain.

    Args:
        n_prompts: Prompts that both policies answered. All array arguments broadcast.
        outcome_sd: Standard deviation of the outcomes on one prompt: at most 0.5.
        expected: Elo-expected win rates Q, strictly between 0 and 1.
        expected_error: Standard errors of Q.
        power: Chance to find it.
        level: Of the interval that must leave 0 out; 0.95 is a test at 5%.

    Returns:
        Mismatch Degrees, of the broadcast shape.

    Raises:
        ValueError: If there are no prompts, or a probability is not strictly between 0 and 1.

    Example:
        >>> detectable_mismatch([100, 805], outcome_sd=0.4, expected=0.42).round(3)
        array([0.193, 0.068])
    """
    n, target = np.asarray(n_prompts, np.float64), np.asarray(expected, np.float64)
    if not 0.0 < power < 1.0:
        raise ValueError(f"power must lie strictly between 0 and 1, got {power}")
    if not np.all((target > 0.0) & (target < 1.0)):
        raise ValueError("expected win rates must lie strictly between 0 and 1")
    if np.any(n < 1.0):
        raise ValueError("there must be at least one prompt")
    error = np.hypot(np.asarray(outcome_sd, np.float64) / np.sqrt(n), expected_error)
    return np.asarray((_quantile(level) + ndtri(power)) * error / np.maximum(target, 1.0 - target))


def _quantile(level: float) -> float:
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    return float(ndtri(0.5 * (1.0 + level)))
