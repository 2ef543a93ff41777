"""The score offset that makes a reward model agree with Elo on one pair of policies (Eq. 4).

The win rate rises with the offset, so the offset is a root, not the end of a descent. Here are
the root itself, its twin for the hard win rate, and both for many resamples at once.
"""

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import expit, logit

from charm_rm.core.win_rates import Floats, WinRateKind, check_margins, check_temperature, tie_width

N_NEWTON_STEPS = 60
EVEN = 1e-12  # win rates that differ by less are the same but for rounding
RESIDUAL = 1e-11  # win rate left at the root of a resample, as a share of the rarer outcome
BLOCK = 1 << 19  # elements of a work array that still stay in cache


def solve_offset(margins: Floats, target: float, *, temperature: float = 1.0) -> float:
    """Offset at which the sigmoid win rate equals ``target`` (Eq. 4).

    The win rate rises strictly with the offset, from 0 to 1, so exactly one offset meets the
    target. There the squared error of Eq. 4 is zero: no gradient descent is needed.

    Args:
        margins: Score of the over-valued model minus score of the reference model on the
            same prompt, in score points, shape (n_prompts,).
        target: Win rate to reach, usually from `charm_rm.core.elo.expected_win_rate`.
        temperature: Score points per unit of log-odds.

    Returns:
        The offset in score points; negative for an over-valued model. The win rate there is
        ``target`` to within 1e-10.

    Raises:
        ValueError: If ``margins`` is empty or not finite, ``target`` is not inside (0, 1), or
            ``temperature`` is not positive.

    Example:
        >>> round(solve_offset(np.array([2.0]), 0.5), 6)
        -2.0
    """
    _check_target(target)
    check_temperature(temperature)
    scaled = check_margins(margins) / temperature
    # Were every margin as large as the largest, logit(target) - max would be the root. The
    # real margins are smaller, so the root lies above it; and below the twin bound from the
    # smallest. One unit on each side keeps the bracket open when all margins agree.
    low = logit(target) - scaled.max() - 1.0
    high = logit(target) - scaled.min() + 1.0
    # A tolerance on the offset of 1e-14 is one of 2.5e-15 on the win rate, whose slope is at
    # most 1/4; rtol cannot go below a few rounding errors.
    root = brentq(
        lambda offset: expit(scaled + offset).mean() - target,
        low,
        high,
        xtol=1e-14,
        rtol=1e-15,
        maxiter=1000,
    )
    return float(root) * temperature


def solve_hard_offset(margins: Floats, target: float) -> float:
    """Offset at which the hard win rate is as near to ``target`` as it can be.

    The hard win rate is a staircase in the offset. Without equal margins its steps are 1/N, so
    the nearest step is within 1/(2N). With equal margins a step can be wider: the rate
    then stays at the nearest reachable value, which may mean to stop exactly on the margin
    (those prompts become ties, half a win each); so it is too where ``target`` lies half-way
    between two steps, which the tie meets exactly. Otherwise the offset lies in the middle of its
    step, as far as possible from making new ties. Margins that differ by rounding are equal
    (`charm_rm.core.win_rates.tie_width`).

    Args:
        margins: As for `solve_offset`, shape (n_prompts,).
        target: Win rate to reach, strictly between 0 and 1.

    Returns:
        The offset in score points.

    Raises:
        ValueError: If ``margins`` is empty or not finite, or ``target`` is not inside (0, 1).

    Example:
        >>> solve_hard_offset(np.array([1.0, 2.0, 3.0, 4.0]), 0.5)
        -2.5
    """
    values = check_margins(margins)
    _check_target(target)
    once = np.ones((1, values.size))
    return float(solve_resampled_hard_offsets(values, once, targets=np.array([target]))[0])


def reach_win_rate(
    margins: Floats, target: float, *, kind: WinRateKind, temperature: float = 1.0
) -> float:
    """Offset at which the win rate of either kind comes to its target (Eq. 4).

    Args:
        margins: As for `solve_offset`, shape (n_prompts,).
        target: Win rate to reach, strictly between 0 and 1.
        kind: ``"sigmoid"`` (`solve_offset`) or ``"hard"`` (`solve_hard_offset`).
        temperature: Score points per unit of log-odds; ``"hard"`` has none and ignores it.

    Returns:
        The offset in score points.

    Raises:
        ValueError: If ``kind`` is neither, or as for the function that it names.

    Example:
        >>> reach_win_rate(np.array([1.0, 2.0, 3.0, 4.0]), 0.5, kind="hard")
        -2.5
    """
    if kind == "sigmoid":
        return solve_offset(margins, target, temperature=temperature)
    if kind == "hard":
        return solve_hard_offset(margins, target)
    raise ValueError(f"win rate must be 'sigmoid' or 'hard', got {kind!r}")


def solve_resampled_offsets(
    margins: Floats, counts: Floats, *, targets: Floats, temperature: float = 1.0
) -> Floats:
    """Roots of Eq. 4 for many resamples of the same prompts, each with its own target.

    Newton's method on the log-odds of the win rate, where the curve is close to a line, kept
    inside a bracket that shrinks; all resamples of a block advance together.

    Args:
        margins: Score points, shape (n_prompts,).
        counts: How often each prompt is in each resample, shape (n_resamples, n_prompts).
        targets: Win rates to reach, shape (n_resamples,), each strictly between 0 and 1.
        temperature: Score points per unit of log-odds.

    Returns:
        Offsets in score points, shape (n_resamples,).

    Raises:
        ValueError: If ``margins`` is not finite, a target is not inside (0, 1), or
            ``temperature`` is not positive.

    Example:
        >>> once_each = np.ones((1, 2))
        >>> targets = np.array([0.5])
        >>> solve_resampled_offsets(np.array([1.0, 3.0]), once_each, targets=targets).round(6)
        array([-2.])
    """
    check_temperature(temperature)
    scaled = check_margins(margins) / temperature
    if not np.all((targets > 0.0) & (targets < 1.0)):
        raise ValueError("target win rates must lie strictly between 0 and 1")
    centre = solve_offset(scaled, float(np.median(targets)))
    step = max(1, BLOCK // scaled.size)
    roots = [
        _newton_block(scaled, counts[at : at + step], targets=targets[at : at + step], start=centre)
        for at in range(0, len(targets), step)
    ]
    return np.concatenate(roots) * temperature


def solve_resampled_hard_offsets(margins: Floats, counts: Floats, *, targets: Floats) -> Floats:
    """`solve_hard_offset` for many resamples of the same prompts, each with its own target.

    Args:
        margins: Score points, shape (n_prompts,).
        counts: How often each prompt is in each resample, shape (n_resamples, n_prompts).
        targets: Win rates to reach, shape (n_resamples,).

    Returns:
        Offsets in score points, shape (n_resamples,).

    Raises:
        ValueError: If ``margins`` is empty or not finite.

    Example:
        >>> counts = np.array([[1.0, 1.0], [2.0, 0.0]])
        >>> targets = np.array([0.5, 0.1])
        >>> solve_resampled_hard_offsets(np.array([1.0, 3.0]), counts, targets=targets)
        array([-2., -3.])
    """
    values, per_value = _distinct(check_margins(margins), counts)
    n = per_value.sum(axis=1)
    losses = np.concatenate([np.zeros((len(n), 1)), per_value.cumsum(axis=1)], axis=1)
    rates = 1.0 - losses / n[:, None]  # in the gap below each value, and above the last
    rows = np.arange(len(n))
    gap = np.argmin(np.abs(rates - targets[:, None]), axis=1)
    residual = np.abs(rates[rows, gap] - targets)
    # A prompt that was not drawn parts one step into several gaps: take the whole step.
    last = rates.shape[1] - 1 - np.argmax((rates == rates[rows, gap][:, None])[:, ::-1], axis=1)
    edges = _step_edges(values)
    offsets = -0.5 * (edges[gap] + edges[last + 1])
    tie_rates = 0.5 * (rates[:, :-1] + rates[:, 1:])
    tie = np.argmin(np.abs(tie_rates - targets[:, None]), axis=1)
    nearer = np.abs(tie_rates[rows, tie] - targets) < residual - EVEN
    # Half-way between two steps neither is nearer, and to take the first would break symmetry.
    tied = (residual > 0.5 / n - EVEN) & nearer
    return np.asarray(np.where(tied, -values[tie], offsets))


def _distinct(margins: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Margins that differ by more than rounding, ascending, and their counts per resample."""
    order = np.argsort(margins, kind="stable")
    ascending = margins[order]
    first = np.flatnonzero(np.diff(ascending, prepend=-np.inf) > tie_width(margins))
    return ascending[first], np.add.reduceat(counts[:, order], first, axis=1)


def _newton_block(
    margins: Floats, counts: Floats, *, targets: Floats, start: float
) -> NDArray[np.float64]:
    """Roots for one block of resamples, from a common start (temperature 1)."""
    total = counts.sum(axis=1)
    aim = logit(targets)
    low = aim - margins.max() - 1.0  # the bracket of solve_offset
    high = aim - margins.min() + 1.0
    offsets = np.clip(np.full(len(targets), start), low, high)
    for _ in range(N_NEWTON_STEPS):
        soft = expit(margins + offsets[:, None])
        rate = np.einsum("ij,ij->i", counts, soft) / total
        if np.all(np.abs(rate - targets) <= RESIDUAL * np.minimum(targets, 1.0 - targets)):
            break
        slope = np.einsum("ij,ij,ij->i", counts, soft, 1.0 - soft) / total
        low = np.where(rate < targets, offsets, low)
        high = np.where(rate > targets, offsets, high)
        with np.errstate(divide="ignore", invalid="ignore"):
            newton = offsets - (logit(rate) - aim) * rate * (1.0 - rate) / slope
        inside = (newton > low) & (newton < high)
        offsets = np.where(inside, newton, 0.5 * (low + high))
    return np.asarray(offsets)


def _step_edges(values: Floats) -> Floats:
    """The distinct margins, with one more edge beyond either end."""
    spread = values[-1] - values[0]
    beyond = spread / (len(values) - 1) if spread > 0 else 2.0
    return np.concatenate([[values[0] - beyond], values, [values[-1] + beyond]])


def _check_target(target: float) -> None:
    if not 0.0 < target < 1.0:
        raise ValueError(f"target win rate must lie strictly between 0 and 1, got {target}")
