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


def draw_elo(
    elo: ArrayLike, standard_error: ArrayLike, *, n_draws: int, rng: np.random.Generator
) -> NDArray[np.float64]:
    """Ratings drawn from their uncertainty: independent normals around the published values.

    Args:
        elo: Ratings in Elo points, shape (n_models,).
        standard_error: Their standard errors in Elo points, shape (n_models,); 0 keeps a
            rating fixed.
        n_draws: How many sets of ratings to draw.
        rng: Source of randomness.

    Returns:
        Ratings in Elo points, shape (n_draws, n_models).

    Example:
        >>> draw_elo([1200.0], [0.0], n_draws=2, rng=np.random.default_rng(0)).tolist()
        [[1200.0], [1200.0]]
    """
    centre = np.asarray(elo, dtype=np.float64)
    noise = rng.standard_normal((n_draws, centre.size))
    return np.asarray(centre + noise * np.asarray(standard_error, dtype=np.float64))
