"""The temperature of a reward model from labelled pairs: score points per unit of log-odds.

A temperature says how much a margin means. It moves no policy against another and changes no
side of a pair, so it is no calibration by itself: it is what the sigmoid win rate (Eq. 3) needs
before a mismatch can be read from it.
"""

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.special import expit, stdtrit

from charm_rm.core.uncertainty import Codes, clustered_covariance
from charm_rm.core.win_rates import Floats, check_margins, check_temperature


def fit_temperature(margins: Floats, *, outcomes: ArrayLike = 1.0) -> float:
    """Temperature T that minimises -mean(y log s(m/T) + (1 - y) log s(-m/T)), s the sigmoid.

    That is the maximum-likelihood fit of Eq. 1 to labelled pairs, with the scores read as
    log-odds times T (Guo et al. 2017). The log-loss is convex in 1/T, and its minimum the root
    of mean((s(m/T) - y) m).

    Args:
        margins: Score of one response minus score of the other, in score points, shape
            (n_pairs,).
        outcomes: Label y: 1 where the first response is preferred, 0 where the second is, 0.5
            for a tie, or anything between; shape (n_pairs,), or one for all. By default margins
            are chosen minus rejected.

    Returns:
        T in score points per unit of log-odds.

    Raises:
        ValueError: If ``margins`` is empty or not finite, or an outcome is not in [0, 1]; if the
            margins point against the labels or not at all, so that no finite T is best; or if
            every pair is ordered as labelled, so that no T above 0 is.

    Example:
        >>> margins = np.array([2.0, 2.0, 2.0, -2.0])
        >>> round(fit_temperature(margins), 4)  # right in three of four: log-odds log(3)
        1.8205
    """
    values, labels = _check_labels(margins, outcomes)
    unit = float(np.abs(values).max()) or 1.0
    scaled = values / unit

    def slope(inverse: float) -> float:
        return float(np.mean((expit(inverse * scaled) - labels) * scaled))

    if slope(0.0) >= 0.0:
        raise ValueError(
            "the margins do not point toward the labels on average, so no temperature fits; "
            "check which response was preferred"
        )
    if np.all((1.0 - labels) * np.maximum(scaled, 0) + labels * np.maximum(-scaled, 0) == 0.0):
        raise ValueError(
            f"all {values.size} pairs are ordered as labelled, so the best temperature is 0; "
            "add pairs that the scores get wrong"
        )
    high = 1.0
    while slope(high) < 0.0:
        high *= 2.0
    return unit / float(brentq(slope, 0.0, high, xtol=1e-14, rtol=1e-14))


def temperature_interval(
    margins: Floats,
    temperature: float,
    *,
    outcomes: ArrayLike = 1.0,
    prompts: Codes | None = None,
    level: float = 0.95,
) -> tuple[float, float]:
    """Interval of a fitted temperature, from 1/T -+ t sqrt(G/(G-1) sum_g u_g^2) / A.

    u_g sums (s(m/T) - y) m over the pairs of prompt g, A is the sum of m^2 s (1 - s), and t the
    quantile of Student's t with G - 1 degrees of freedom: the sandwich, by prompt, for the
    parameter 1/T in which the fit is a logistic regression. The pairs of one prompt share its
    responses, so they are one observation.

    Args:
        margins: As for `fit_temperature`, shape (n_pairs,).
        temperature: T as fitted to them.
        outcomes: Labels, as for the fit.
        prompts: Which prompt each pair belongs to, as integers, shape (n_pairs,); by default
            each pair is a prompt of its own.
        level: Share of samples whose interval holds the true value.

    Returns:
        Lower and upper end in score points per unit of log-odds; the upper is infinite where
        the labels do not show that the scores point toward them at all.

    Raises:
        ValueError: If an argument is invalid, or there are fewer than two prompts.

    Example:
        >>> margins = np.array([2.0, 2.0, 2.0, -2.0] * 20)
        >>> low, high = temperature_interval(margins, fit_temperature(margins))
        >>> round(low, 2), round(high, 2)
        (1.24, 3.44)
    """
    values, labels = _check_labels(margins, outcomes)
    check_temperature(temperature)
    if not 0.0 < level < 1.0:
        raise ValueError(f"level must lie strictly between 0 and 1, got {level}")
    rate = expit(values / temperature)
    covariance = clustered_covariance(((rate - labels) * values)[:, None], prompts)
    information = float(np.sum(values**2 * rate * (1.0 - rate)))
    n_prompts = values.size if prompts is None else np.unique(prompts).size
    reach = -float(stdtrit(n_prompts - 1.0, 0.5 * (1.0 - level)))
    error = reach * float(np.sqrt(covariance[0, 0])) / information
    inverse = 1.0 / temperature
    return 1.0 / (inverse + error), 1.0 / (inverse - error) if inverse > error else np.inf


def _check_labels(margins: Floats, outcomes: ArrayLike) -> tuple[Floats, Floats]:
    values = check_margins(margins)
    labels = np.broadcast_to(np.asarray(outcomes, dtype=np.float64), values.shape)
    if not np.all((labels >= 0.0) & (labels <= 1.0)):
        raise ValueError("outcomes must lie between 0 and 1")
    return values, labels
