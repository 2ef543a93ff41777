"""Other ways to correct scores, to compare an offset with: z-score, length, probit.

None of them but `probit_offset` knows about Elo. The first two change what every score means,
the last is Eq. 4 in closed form under an assumption. (A temperature, the fourth that people ask
for, is in `charm_rm.core.temperature`.)
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import ndtri

from charm_rm.core.win_rates import Floats, WinRateKind, check_margins, check_temperature

PROBIT_SCALE = 1.702  # |sigmoid(x) - Phi(x / 1.702)| < 0.0095 for every x
N_STEPS = 200  # over the range of x, and over its ranks; between them the curve is straight
BISQUARE = 6.0  # residuals beyond so many median absolute residuals have no weight
Mask = NDArray[np.bool_]


def standardize_scores(scores: Floats, *, fit: Mask | None = None) -> Floats:
    """Scores z = (s - mean) / sd of each policy over its own prompts.

    Every policy then has the same mean, so what the reward model says of policies is gone, and
    win rates lie near 0.5 whatever Elo expects; only the order of prompts remains.

    Args:
        scores: Score points, shape (n_prompts, n_policies); NaN where a response is missing.
        fit: Prompts that mean and sd are taken over, shape (n_prompts,); by default all.

    Returns:
        Standard deviations from the policy's mean, same shape; NaN stays NaN.

    Raises:
        ValueError: If a policy has no score, or all its scores are equal.

    Example:
        >>> standardize_scores(np.array([[1.0, 10.0], [3.0, 30.0]]))
        array([[-1., -1.],
               [ 1.,  1.]])
    """
    values = np.asarray(scores, dtype=np.float64)
    known = np.isfinite(values) & _rows(fit, values)
    n_known = known.sum(axis=0)
    mean = np.where(known, values, 0.0).sum(axis=0) / np.maximum(n_known, 1)
    centred = values - mean
    spread = np.sqrt(np.where(known, centred**2, 0.0).sum(axis=0) / np.maximum(n_known, 1))
    flat = np.flatnonzero(spread <= 1e-14 * np.abs(mean))
    if flat.size:
        raise ValueError(f"scores of policy {flat[0]} have no spread, so no z-score")
    return np.asarray(centred / spread)


def remove_length_trend(
    scores: Floats,
    lengths: ArrayLike,
    *,
    span: float = 0.3,
    n_reweightings: int = 3,
    fit: Mask | None = None,
) -> Floats:
    """Scores s - f(length), f the LOWESS curve of all scores on the lengths of their responses.

    This is the length calibration of Huang et al. (2025), "Post-hoc Reward Calibration: A Case
    Study on Length Bias", ICLR, arXiv:2409.17407. The responses of all policies are pooled. The
    defaults are those of the authors' code for AlpacaEval, where lengths are in characters; for
    RewardBench it takes a span of 1.

    Args:
        scores: Score points, shape (n_prompts, n_policies) or any other; NaN where a response is
            missing.
        lengths: Length of each response in any unit, same shape.
        span: Share of the responses that each local line is fitted to.
        n_reweightings: Robust refits of the curve.
        fit: Rows that the curve is fitted to, shape (n_prompts,); by default all.

    Returns:
        Score points, same shape, around 0; NaN where a score or a length is missing.

    Raises:
        ValueError: If the shapes differ, or the smoothing is invalid.

    Example:
        >>> lengths = np.array([[100.0, 200.0], [300.0, 400.0], [500.0, 600.0]])
        >>> remove_length_trend(0.01 * lengths, lengths, span=1.0).round(6) + 0.0
        array([[0., 0.],
               [0., 0.],
               [0., 0.]])
    """
    values, sizes = np.asarray(scores, np.float64), np.asarray(lengths, np.float64)
    if values.shape != sizes.shape:
        raise ValueError(f"one length per score is needed: {values.shape}, {sizes.shape}")
    known = np.isfinite(values) & np.isfinite(sizes)
    used = known & _rows(fit, values)
    calibrated = np.full(values.shape, np.nan)
    trend = lowess(
        sizes[used], values[used], span=span, n_reweightings=n_reweightings, at=sizes[known]
    )
    calibrated[known] = values[known] - trend
    return calibrated


def lowess(
    x: Floats,
    y: Floats,
    *,
    span: float = 2 / 3,
    n_reweightings: int = 3,
    at: Floats | None = None,
) -> Floats:
    """Locally weighted linear regression of y on x, robustly refitted (Cleveland 1979).

    The line at x_0 weighs a point at distance d by (1 - (d/h)^3)^3, h being the distance of the
    farthest of the ``span * n`` nearest points; in the refits also by (1 - (r/6M)^2)^2, r being
    its residual and M the median of all |r|. Of more than 400 distinct x, lines are fitted
    at some 400 spread over the range and the ranks, with straight pieces between. (scipy has no
    LOWESS.)

    Args:
        x: Shape (n,).
        y: Shape (n,).
        span: Share of the points that each line is fitted to, in (0, 1].
        n_reweightings: Robust refits; 0 for least squares.
        at: Where the curve is wanted, shape (m,); by default at ``x``. Beyond the smallest and
            the largest x it goes on level.

    Returns:
        The curve there, shape (n,) or (m,).

    Raises:
        ValueError: If the shapes differ, a value is not finite, there is none, or ``span`` is not
            in (0, 1].

    Example:
        >>> x = np.arange(6.0)
        >>> lowess(x, np.array([0.0, 1.0, 2.0, 9.0, 4.0, 5.0]), span=1.0).round(3)
        array([0., 1., 2., 3., 4., 5.])
    """
    points, values = np.asarray(x, dtype=np.float64), np.asarray(y, dtype=np.float64)
    if points.ndim != 1 or points.shape != values.shape or points.size == 0:
        raise ValueError(f"need two rows of equal length, got {points.shape} and {values.shape}")
    if not (np.isfinite(points).all() and np.isfinite(values).all()):
        raise ValueError("x and y must be finite")
    if not 0.0 < span <= 1.0:
        raise ValueError(f"span must lie in (0, 1], got {span}")
    anchors = _anchors(points)
    widths = _bandwidths(points, anchors, n_near=max(2, int(span * points.size + 1e-10)))
    trust = np.ones(points.size)
    for refit in range(n_reweightings + 1):
        lines = [
            _local_line(points, values, trust=trust, anchor=anchor, width=width)
            for anchor, width in zip(anchors, widths, strict=True)
        ]
        curve = np.interp(points, anchors, lines)
        residuals = np.abs(values - curve)
        cutoff = BISQUARE * float(np.median(residuals))
        if refit == n_reweightings or cutoff <= 1e-12 * float(np.ptp(values)):
            break
        trust = np.maximum(1.0 - (residuals / cutoff) ** 2, 0.0) ** 2 * (residuals < cutoff)
    return np.asarray(curve if at is None else np.interp(at, anchors, lines))


def probit_offset(
    margins: Floats, target: float, *, kind: WinRateKind = "sigmoid", temperature: float = 1.0
) -> float:
    """Offset sqrt((1.702 T)^2 + v) Phi^-1(Q) - m, were margins normal with mean m, variance v.

    sigmoid(x / T) is within 0.0095 of Phi(x / (1.702 T)), and the mean of the latter over normal
    margins is Phi((m + D) / sqrt((1.702 T)^2 + v)). For hard rates T is 0 and the formula exact.

    Args:
        margins: Score of the over-valued policy minus score of the reference on the same
            prompt, in score points, shape (n_prompts,).
        target: Win rate Q to reach.
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points T per unit of log-odds; ``"hard"`` ignores it.

    Returns:
        The offset in score points: a closed form to set beside
        `charm_rm.core.offsets.solve_offset`, which assumes nothing of the margins.

    Raises:
        ValueError: If ``margins`` is empty or not finite, ``target`` is not inside (0, 1), or
            ``kind`` or ``temperature`` is invalid.

    Example:
        >>> round(probit_offset(np.array([1.0, 3.0]), 0.5), 6)
        -2.0
    """
    values = check_margins(margins)
    if not 0.0 < target < 1.0:
        raise ValueError(f"target win rate must lie strictly between 0 and 1, got {target}")
    once, aims = np.ones((1, values.size)), np.array([target])
    return float(
        solve_resampled_probit_offsets(
            values, once, targets=aims, kind=kind, temperature=temperature
        )[0]
    )


def solve_resampled_probit_offsets(
    margins: Floats,
    counts: Floats,
    *,
    targets: Floats,
    kind: WinRateKind = "sigmoid",
    temperature: float = 1.0,
) -> Floats:
    """`probit_offset` for many resamples of the same prompts, each with its own target.

    Args:
        margins: Score points, shape (n_prompts,).
        counts: How often each prompt is in each resample, shape (n_resamples, n_prompts).
        targets: Win rates to reach, shape (n_resamples,).
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds; ``"hard"`` ignores it.

    Returns:
        Offsets in score points, shape (n_resamples,).

    Raises:
        ValueError: If ``margins`` is empty or not finite, a target is not inside (0, 1), or
            ``kind`` or ``temperature`` is invalid.

    Example:
        >>> counts, targets = np.array([[1.0, 1.0], [0.0, 2.0]]), np.array([0.5, 0.5])
        >>> solve_resampled_probit_offsets(np.array([1.0, 3.0]), counts, targets=targets)
        array([-2., -3.])
    """
    values = check_margins(margins)
    if not np.all((targets > 0.0) & (targets < 1.0)):
        raise ValueError("target win rates must lie strictly between 0 and 1")
    if kind not in ("sigmoid", "hard"):
        raise ValueError(f"win rate must be 'sigmoid' or 'hard', got {kind!r}")
    check_temperature(temperature)
    smoothing = PROBIT_SCALE * temperature if kind == "sigmoid" else 0.0
    centred = values - values.mean()  # the variance below is a small difference of squares else
    total = counts.sum(axis=1)
    mean, square = counts @ centred / total, counts @ centred**2 / total
    spread = np.sqrt(smoothing**2 + np.maximum(square - mean**2, 0.0))
    return np.asarray(spread * ndtri(targets) - values.mean() - mean)


def _rows(fit: Mask | None, values: Floats) -> Mask:
    """Which values lie in the rows to fit on, in a shape that broadcasts to theirs."""
    if fit is None:
        return np.ones((1,) * values.ndim, dtype=bool)
    return np.asarray(fit, dtype=bool).reshape(-1, *(1,) * (values.ndim - 1))


def _anchors(x: Floats) -> Floats:
    """Points of x at which lines are fitted: all, or steps of equal length and of equal number."""
    points = np.unique(x)
    if points.size <= 2 * N_STEPS:
        return points
    by_length = np.searchsorted(points, np.linspace(points[0], points[-1], N_STEPS))
    by_number = np.quantile(x, np.linspace(0.0, 1.0, N_STEPS), method="nearest")
    return np.union1d(points[by_length], by_number)


def _bandwidths(x: Floats, anchors: Floats, *, n_near: int) -> Floats:
    """Distance from each anchor to its ``n_near``-th nearest point."""
    n_near = min(n_near, x.size)
    return np.array([np.partition(np.abs(x - at), n_near - 1)[n_near - 1] for at in anchors])


def _local_line(x: Floats, y: Floats, *, trust: Floats, anchor: float, width: float) -> float:
    """Value at the anchor of the line through its weighted neighbours."""
    distance = x - anchor
    if width > 0.0:
        ratio = np.abs(distance) / width
        rest = np.maximum(1.0 - ratio * ratio * ratio, 0.0)
        nearness = rest * rest * rest  # ten times as fast as powers of 3
    else:
        nearness = (distance == 0.0).astype(np.float64)
    weights = nearness * trust
    if not weights.any():  # all neighbours were set aside as outliers
        weights = nearness
    weights = weights / weights.sum()
    # sums, not dot products: those wake BLAS threads, which is slow on a busy machine
    centre, level = float((weights * distance).sum()), float((weights * y).sum())
    from_centre = distance - centre
    spread = float((weights * from_centre * from_centre).sum())
    if spread <= (1e-3 * float(np.ptp(x))) ** 2:
        return level
    return level - centre * float((weights * from_centre * y).sum()) / spread
