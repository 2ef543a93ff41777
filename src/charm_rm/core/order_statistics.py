"""The best of n scores: what it is expected to be, and how far it leads from the policy.

Pure functions of arrays: no files, no printing, no models. Both need only scores that were drawn
alike: n samples of one policy to one prompt.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def expected_maximum(scores: NDArray[np.float64], k: int) -> NDArray[np.float64]:
    """Mean of the highest of ``k`` scores, over all ways to draw ``k`` of the n without repeats.

    With the scores in rising order, the i-th is the highest of ``C(i-1, k-1)`` of the ``C(n, k)``
    draws. The mean is an unbiased estimate of the expected best of ``k`` new samples, whatever
    their distribution, and uses all n scores.

    Args:
        scores: Score points, shape (..., n); each row is n samples.
        k: How many are drawn, 1 to n.

    Returns:
        Score points, shape (...).

    Raises:
        ValueError: If ``k`` is not 1 to n, or a score is not finite.

    Example:
        >>> float(expected_maximum(np.array([3.0, 1.0, 2.0]), 2))  # 3, 3 and 2
        2.6666666666666665
    """
    n = scores.shape[-1]
    if not 1 <= k <= n:
        raise ValueError(f"the best of {k} needs 1 to n scores a row; there are {n}")
    if not np.isfinite(scores).all():
        raise ValueError("a score is NaN or infinite; give finite scores")
    # C(i-1, k-1) / C(n, k), from the highest down: k / n, then by the factor (i - k) / (i - 1).
    i = np.arange(n, 1, -1)
    falling = np.concatenate([[k / n], k / n * np.cumprod(np.maximum(i - k, 0) / (i - 1))])
    means: NDArray[np.float64] = np.sort(scores, axis=-1) @ falling[::-1]
    return means


def best_of_n_kl(n: Any) -> NDArray[np.float64]:
    """Kullback-Leibler divergence of best-of-n from the policy, ``log n - (n - 1) / n``, in nats.

    It is exact where no two samples have equal scores, and an upper bound otherwise.

    Args:
        n: Samples that the best is chosen from, at least 1; any shape.

    Returns:
        Nats, of the same shape.

    Raises:
        ValueError: If ``n`` is below 1.

    Example:
        >>> round(float(best_of_n_kl(16)), 3)
        1.835
    """
    samples = np.asarray(n, dtype=np.float64)
    if not (samples >= 1).all():
        raise ValueError(f"the best of n needs n of at least 1, got {n}")
    return np.asarray(np.log(samples) - (samples - 1.0) / samples)
