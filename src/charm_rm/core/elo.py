"""Elo ratings, and the win rates they predict.

Ratings are Bradley-Terry strengths on Chatbot Arena's scale: 400 points per factor of ten in
the odds of winning, a tie half a win. Only differences within one dated board mean anything.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

ELO_SCALE = 400.0  # Elo points per factor of ten in the odds of winning
NORMAL_95 = 1.959963984540054  # half width of a 95% normal interval, in standard errors


def expected_win_rate(elo: ArrayLike, opponent_elo: ArrayLike) -> NDArray[np.float64]:
    """Win rate that two Elo ratings predict (Eq. 2); a tie counts as half a win.

    The arguments broadcast: a column of ratings against a row gives the win-rate matrix.

    Args:
        elo: Ratings of the model, in Elo points.
        opponent_elo: Ratings of the model it meets, in Elo points.

    Returns:
        Probabilities in (0, 1), of the broadcast shape.

    Example:
        >>> round(float(expected_win_rate(1216, 1273)), 4)  # gemma-2-9b-it-SimPO, GPT-4o-mini
        0.4187
    """
    difference = np.subtract(opponent_elo, elo, dtype=np.float64)
    return np.asarray(1.0 / (1.0 + 10.0 ** (difference / ELO_SCALE)))


def elo_standard_error(elo_low: ArrayLike, elo_high: ArrayLike) -> NDArray[np.float64]:
    """Standard error of a rating from its published 95% interval; 0 where none is published.

    Args:
        elo_low: Lower ends, in Elo points; NaN where the board gives no interval.
        elo_high: Upper ends, same shape.

    Returns:
        Standard errors in Elo points, same shape.

    Raises:
        ValueError: If an upper end lies below its lower end.

    Example:
        >>> elo_standard_error([1211.0, np.nan], [1222.0, np.nan]).round(2)
        array([2.81, 0.  ])
    """
    width = np.subtract(elo_high, elo_low, dtype=np.float64)
    if np.any(width < 0):
        raise ValueError("an Elo interval has its upper end below its lower end")
    return np.asarray(np.nan_to_num(width / (2 * NORMAL_95), nan=0.0))


def covariance_factor(covariance: ArrayLike) -> NDArray[np.float64]:
    """Factor F of a covariance, F F^T, from its eigenvectors times the roots of its eigenvalues.

    Row i of F is the error of rating i, spread over independent standard normals: the covariance
    of two ratings is the dot product of their rows. So a row can leave the table, or move in it,
    and what it says of the others still holds.

    Args:
        covariance: Of the ratings, in squared Elo points, shape (n_models, n_models).

    Returns:
        F in Elo points, shape (n_models, n_factors), the largest part first; parts under 1e-12
        of it, which are rounding, are left out.

    Raises:
        ValueError: If the matrix is not finite, not symmetric, or has a negative eigenvalue.

    Example:
        >>> factor = covariance_factor([[4.0, 4.0], [4.0, 4.0]])
        >>> factor.shape, (factor @ factor.T).round(6).tolist()
        ((2, 1), [[4.0, 4.0], [4.0, 4.0]])
    """
    matrix = np.asarray(covariance, dtype=np.float64)
    largest = float(np.abs(matrix).max(initial=0.0))
    if not np.isfinite(largest) or not np.allclose(matrix, matrix.T, rtol=0, atol=1e-8 * largest):
        raise ValueError("a covariance must be finite and symmetric")
    values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
    if values[0] < -1e-8 * largest:
        raise ValueError(f"a covariance has no negative eigenvalue, got {values[0]:g}")
    kept = np.flatnonzero(values > 1e-12 * values[-1])[::-1]
    return np.asarray(vectors[:, kept] * np.sqrt(values[kept]))


def draw_elo(
    elo: ArrayLike, errors: ArrayLike, *, n_draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ratings drawn from their uncertainty: normals around the published values.

    Args:
        elo: Ratings in Elo points, shape (n_models,).
        errors: Standard errors of independent ratings in Elo points, shape (n_models,); or a
            factor of their covariance as `covariance_factor` gives it, shape
            (n_models, n_factors). 0 keeps a rating fixed.
        n_draws: How many sets of ratings to draw.
        rng: Source of randomness.

    Returns:
        Ratings in Elo points, shape (n_draws, n_models).

    Example:
        >>> draw_elo([1200.0], [0.0], n_draws=2, rng=np.random.default_rng(0)).tolist()
        [[1200.0], [1200.0]]
        >>> together = draw_elo([0.0, 9.0], [[3.0], [3.0]], n_draws=2, rng=np.random.default_rng(0))
        >>> np.diff(together).ravel()
        array([9., 9.])
    """
    factor = np.asarray(errors, dtype=np.float64)
    if factor.ndim == 1:
        factor = np.diag(factor)
    noise = rng.standard_normal((n_draws, factor.shape[1]))
    return np.asarray(np.asarray(elo, dtype=np.float64) + noise @ factor.T)
