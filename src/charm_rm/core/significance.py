"""What standard errors say: intervals, p-values, and false discoveries."""

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import stdtr, stdtrit

from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.win_rates import Floats

ROUNDING = 1e-12  # outcomes that differ by less are equal
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


def widen_unanimous(
    ends: tuple[float, float], outcomes: Floats, *, expected: float, n_prompts: int
) -> tuple[float, float]:
    """95% interval of a signed mismatch (Eq. 5), widened where all outcomes are equal.

    Equal outcomes have neither a standard error nor resamples that differ, but few of them say
    little: the interval then holds that of `unanimous_interval` too.

    Args:
        ends: Of the interval by other means.
        outcomes: Of the prompts, in [0, 1], shape (n_rows,); NaN is left out.
        expected: Elo-expected win rate Q, strictly between 0 and 1.
        n_prompts: Prompts that the outcomes are of.

    Returns:
        Its ends, or wider ones.

    Example:
        >>> low, high = widen_unanimous((0.0, 0.0), np.zeros(30), expected=0.5, n_prompts=30)
        >>> round(low, 3), round(high, 3)
        (-1.0, 0.0)
    """
    known = outcomes[np.isfinite(outcomes)]
    if np.ptp(known) > ROUNDING:
        return ends
    low, high = signed_mismatch(unanimous_interval(known[0], n_prompts=n_prompts), expected)
    return min(ends[0], float(low)), max(ends[1], float(high))


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
