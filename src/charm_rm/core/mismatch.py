"""Mismatch Degree: how far a reward model's win rate lies from the Elo-expected one (Eq. 5)."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def signed_mismatch(win_rate: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """Eq. 5 with its sign: positive where the reward model over-values the policy.

    The difference is divided by the larger of ``expected`` and ``1 - expected``, so the value
    does not depend on which of the two models is called the policy, but for its sign.

    Args:
        win_rate: Empirical win rates, probabilities.
        expected: Elo-expected win rates, probabilities strictly between 0 and 1. Broadcasts.

    Returns:
        Values in [-1, 1], of the broadcast shape.

    Raises:
        ValueError: If an expected win rate is not strictly between 0 and 1.

    Example:
        >>> round(float(signed_mismatch(0.790, 0.4187)), 3)  # the paper's worked pair
        0.639
    """
    target = np.asarray(expected, dtype=np.float64)
    if not np.all((target > 0.0) & (target < 1.0)):
        raise ValueError("expected win rates must lie strictly between 0 and 1")
    return np.asarray(np.subtract(win_rate, target) / np.maximum(target, 1.0 - target))


def mismatch_degree(win_rate: ArrayLike, expected: ArrayLike) -> NDArray[np.float64]:
    """Mismatch Degree of Eq. 5: the absolute value of `signed_mismatch`.

    Args:
        win_rate: Empirical win rates, probabilities.
        expected: Elo-expected win rates, probabilities strictly between 0 and 1. Broadcasts.

    Returns:
        Values in [0, 1], of the broadcast shape; 0 where both rates agree.

    Raises:
        ValueError: If an expected win rate is not strictly between 0 and 1.

    Example:
        >>> round(float(mismatch_degree(233 / 995, 0.289)), 3)  # Table 8, under-valued
        0.077
    """
    return np.abs(signed_mismatch(win_rate, expected))
