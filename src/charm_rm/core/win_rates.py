"""Margins, and the win rates a reward model gives with them.

A margin is the score of one policy minus the score of its opponent on the same prompt. Pairing
on the prompt is the whole point: scores of different prompts are not comparable.
"""

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit

Floats = NDArray[np.float64]
WinRateKind = Literal["sigmoid", "hard"]
# A margin this small beside the large ones, or at all, is a rounding error: 0.3 - 0.2 - 0.1 is a
# tie. The large ones are the 0.9 quantile: a score of -1e10 for a failed response makes no ties.
TIE_SHARE = 1e-9
TIE_FLOOR = 1e-12
LARGE = 0.9
MIN_TEMPERATURE = 1e-15  # score points: far below what hard win rates call a tie


def sigmoid_win_rate(margins: Floats, *, temperature: float = 1.0) -> float:
    """Mean of sigmoid(margin / temperature): the empirical win rate of Eq. 3.

    It reads scores as log-odds. Where a reward model's scores span a fraction of a point, every
    such rate is near 0.5; give the temperature, or use `hard_win_rate`.

    Args:
        margins: Score of the policy minus score of its opponent on the same prompt, in score
            points, shape (n_prompts,).
        temperature: Score points per unit of log-odds.

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: If ``margins`` is empty or not finite, or ``temperature`` is not positive.

    Example:
        >>> round(sigmoid_win_rate(np.array([0.0, 2.0])), 4)
        0.6904
    """
    return float(soft_wins(check_margins(margins), temperature=temperature).mean())


def hard_win_rate(margins: Floats) -> float:
    """Share of prompts that the policy wins; a tie counts as half a win.

    Args:
        margins: As for `sigmoid_win_rate`, shape (n_prompts,).

    Returns:
        A probability in [0, 1].

    Raises:
        ValueError: If ``margins`` is empty or not finite.

    Example:
        >>> hard_win_rate(np.array([0.5, 0.0, -3.0, 1.0]))
        0.625
    """
    return float(hard_wins(check_margins(margins)).mean())


def soft_wins(margins: Floats, *, temperature: float = 1.0) -> Floats:
    """Win probability on each prompt, sigmoid(margin / temperature); NaN stays NaN.

    Args:
        margins: Any shape, in score points.
        temperature: Score points per unit of log-odds.

    Returns:
        Probabilities, same shape.

    Raises:
        ValueError: If ``temperature`` is not positive and finite.

    Example:
        >>> soft_wins(np.array([0.0, np.nan]))
        array([0.5, nan])
    """
    check_temperature(temperature)
    return np.asarray(expit(margins / temperature))


def hard_wins(margins: Floats) -> Floats:
    """Outcome on each prompt: 1 for a win, 0.5 for a tie, 0 for a loss; NaN stays NaN.

    Margins within `tie_width` of 0 are ties: differences of decimal scores are seldom exact.

    Args:
        margins: Any shape, in score points.

    Returns:
        Outcomes, same shape.

    Example:
        >>> hard_wins(np.array([2.0, 0.0, -1.0, np.nan]))
        array([1. , 0.5, 0. , nan])
    """
    signs = np.where(np.abs(margins) <= tie_width(margins), 0.0, np.sign(margins))
    return np.asarray(0.5 * (1.0 + np.where(np.isnan(margins), np.nan, signs)))


def tie_width(margins: Floats) -> float:
    """Score points by which two equal scores may differ through rounding.

    Args:
        margins: Any shape, in score points; NaN is left out.

    Returns:
        1e-9 of the 0.9 quantile of the sizes above 1e-12 (of up to ten, the largest), and at least
        1e-12.

    Example:
        >>> tie_width(np.array([-2.0, np.nan, 1.0]))
        2e-09
    """
    sizes = np.abs(margins)
    sizes = sizes[np.isfinite(sizes) & (sizes > TIE_FLOOR)]
    if sizes.size == 0:
        return TIE_FLOOR
    large = np.quantile(sizes, LARGE, method="higher")
    return float(max(TIE_SHARE * large, TIE_FLOOR))


def wins(margins: Floats, *, kind: WinRateKind, temperature: float = 1.0) -> Floats:
    """Outcome on each prompt by either reading of a margin; its mean is the win rate.

    Args:
        margins: Any shape, in score points.
        kind: ``"sigmoid"`` (Eq. 3) or ``"hard"``.
        temperature: Score points per unit of log-odds; ``"hard"`` has none and ignores it.

    Returns:
        Outcomes in [0, 1], same shape.

    Raises:
        ValueError: If ``kind`` is neither, or ``temperature`` is not positive.

    Example:
        >>> wins(np.array([0.2]), kind="hard")
        array([1.])
    """
    if kind == "sigmoid":
        return soft_wins(margins, temperature=temperature)
    if kind == "hard":
        return hard_wins(margins)
    raise ValueError(f"win rate must be 'sigmoid' or 'hard', got {kind!r}")


def win_rate_matrix(
    scores: Floats, *, kind: WinRateKind = "sigmoid", temperature: float = 1.0
) -> Floats:
    """Win rate of every policy (row) against every other (column), paired by prompt (Eq. 3).

    Args:
        scores: Score points, shape (n_prompts, n_policies); NaN where a response is missing.
            Each pair uses the prompts that both have.
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds.

    Returns:
        Probabilities, shape (n_policies, n_policies), 0.5 on the diagonal; NaN where two
        policies share no prompt. Entry [i, j] and entry [j, i] sum to 1.

    Raises:
        ValueError: If ``kind`` or ``temperature`` is invalid.

    Example:
        >>> win_rate_matrix(np.array([[1.0, 0.0], [2.0, 0.0]]), kind="hard")
        array([[0.5, 1. ],
               [0. , 0.5]])
    """
    rates = np.full((scores.shape[1], scores.shape[1]), np.nan)
    for row in range(scores.shape[1]):
        outcomes = wins(scores[:, [row]] - scores, kind=kind, temperature=temperature)
        shared = np.isfinite(outcomes)
        n_shared = shared.sum(axis=0)
        total = np.where(shared, outcomes, 0.0).sum(axis=0)
        rates[row] = np.divide(total, n_shared, out=rates[row], where=n_shared > 0)
    return rates


def check_temperature(temperature: float) -> None:
    """A temperature that margins can be divided by.

    Args:
        temperature: Score points per unit of log-odds.

    Raises:
        ValueError: If it is under 1e-15, where quotients overflow, or not finite.

    Example:
        >>> check_temperature(0.1)
    """
    if not 0.0 < temperature < np.inf:
        raise ValueError(f"temperature must be positive and finite, got {temperature}")
    if temperature < MIN_TEMPERATURE:
        raise ValueError(
            f"temperature must be at least {MIN_TEMPERATURE:g} score points, got {temperature}; "
            "hard win rates need none"
        )


def check_margins(margins: Floats) -> Floats:
    """Margins that are known to be finite and not empty.

    Args:
        margins: Score points, shape (n_prompts,).

    Returns:
        The same margins as float64.

    Raises:
        ValueError: If there are none, or one is NaN or infinite.

    Example:
        >>> check_margins(np.array([1.0]))
        array([1.])
    """
    values = np.asarray(margins, dtype=np.float64)
    n_unusable = np.count_nonzero(~np.isfinite(values))
    if n_unusable or values.size == 0:
        raise ValueError(
            f"need finite margins, got {values.size} with {n_unusable} NaN or infinite"
        )
    return values
