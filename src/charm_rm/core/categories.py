"""One offset per prompt category (6.2), where small categories borrow from all prompts.

The paper solves Eq. 4 in each category by itself, so that a category of few prompts gets an
offset that is mostly noise. Here each offset is drawn toward that of all prompts, by as much as
its own uncertainty and the spread between categories call for; ``shrink=False`` gives the
paper's version. Categories are integer codes: this module knows no names.
"""

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import numpy as np
from scipy.optimize import brentq

from charm_rm.core.offsets import reach_win_rate
from charm_rm.core.uncertainty import Codes, offset_standard_error
from charm_rm.core.win_rates import Floats, WinRateKind, check_margins, wins


@dataclass(frozen=True, eq=False)
class CategoryOffsets:
    """The result of `solve_category_offsets`, with the settings that led to it.

    A group is a category, or all small categories together. Arrays over groups have shape
    (n_groups,); ``offsets[group_of[categories]]`` is the offset of every row.

    Attributes:
        offsets: Score points to add to the policy's scores in each group.
        standard_errors: Of ``offsets``, in score points.
        own_offsets: Root of Eq. 4 in each group by itself.
        own_errors: Their standard errors, from the prompts alone; NaN for a group under
            ``min_prompts``, which has the global offset.
        weights: Share of ``own_offsets`` in ``offsets``; the rest is ``global_offset``.
        n_prompts: Prompts in each group.
        win_rates_before: Win rate in each group without an offset.
        win_rates_after: Win rate with ``offsets``.
        group_of: Group of each category code, shape (n_codes,); -1 for a code without rows.
        merged: Codes of the small categories, which share the last group or ``others``.
        global_offset: Root of Eq. 4 over all prompts.
        global_error: Its standard error, in score points.
        between_variance: Variance of offsets between categories, in score points squared: 0 where
            they differ by no more than their errors, NaN where it was not asked for.
        target: Win rate that was aimed at.
        win_rate_kind: Which win rate.
        temperature: Score points per unit of log-odds.
        min_prompts: Size under which a category is small.
    """

    offsets: Floats
    standard_errors: Floats
    own_offsets: Floats
    own_errors: Floats
    weights: Floats
    n_prompts: Codes
    win_rates_before: Floats
    win_rates_after: Floats
    group_of: Codes
    merged: tuple[int, ...]
    global_offset: float
    global_error: float
    between_variance: float
    target: float
    win_rate_kind: WinRateKind
    temperature: float
    min_prompts: int


class _Root(NamedTuple):
    offset: float
    error: float  # from the prompts; NaN for too few of them
    target_part: float  # how far one standard error of the target moves the offset
    n_prompts: int


def solve_category_offsets(
    margins: Floats,
    target: float,
    *,
    categories: Codes,
    kind: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    target_error: float = 0.0,
    prompts: Codes | None = None,
    min_prompts: int = 30,
    others: int | None = None,
    shrink: bool = True,
) -> CategoryOffsets:
    """Offsets D + w_c (D_c - D), w_c = t^2 / (t^2 + v_c), of the categories c (6.2).

    D_c is the root of Eq. 4 in category c, v_c its variance by the delta method
    (`charm_rm.core.uncertainty.offset_standard_error`), D the root over all prompts, and t^2 the
    variance between categories (`between_category_variance`). It is the mean of a normal prior
    around D and the category's own root, weighted by their precisions: empirical Bayes (Efron
    and Morris 1975).

    The squared standard error is w_c v_c + (1 - w_c)^2 (var(D) + 2 (D_c - D)^2), and what an error
    of the target adds. The last square counts the way that an offset was drawn as possible
    error, because t^2 is uncertain too (Morris 1983 has 2 / (k - 3) of it, which needs k > 3
    categories). Of 2 to 6 normal categories, whatever their t^2, 95% intervals then cover 94 to
    99%; with the square counted once, 92 to 99%.

    The offset of a single category is the global one. A group that is too small even after
    merging takes the global offset, shrunk or not; its squared standard error is t^2 + var(D), as
    its own offset may lie as far from D as those of other categories do.

    Args:
        margins: Score of the over-valued policy minus score of the reference on the same
            prompt, in score points, shape (n_rows,).
        target: Win rate to reach in every category, usually from Eq. 2.
        categories: Category of each row, as codes from 0, shape (n_rows,).
        kind: ``"sigmoid"`` or ``"hard"``.
        temperature: Score points per unit of log-odds.
        target_error: Standard error of ``target``, the same for all categories.
        prompts: Which prompt each row belongs to, as integers; by default each row is one.
        min_prompts: Categories with fewer prompts are merged into one group; at least 2.
        others: Code of a category that takes in the small ones, whatever its own size; by
            default they form a group of their own.
        shrink: Whether to draw offsets toward the global one; False is the paper's version.

    Returns:
        The offsets by group, and the group of each category.

    Raises:
        ValueError: If an argument is invalid, or there are fewer than two prompts.

    Example:
        >>> margins = np.concatenate([np.linspace(0.0, 4.0, 90), np.linspace(1.0, 6.0, 40)])
        >>> codes = np.repeat([0, 1], [90, 40])
        >>> found = solve_category_offsets(margins, 0.5, categories=codes)
        >>> found.own_offsets.round(2), found.offsets.round(2)
        (array([-2. , -3.5]), array([-2.01, -3.44]))
        >>> solve_category_offsets(margins, 0.5, categories=codes, min_prompts=50).merged
        (1,)
    """
    values, codes, units = _check_rows(
        margins, categories, prompts=prompts, min_prompts=min_prompts
    )
    group_of, merged = _group_categories(codes, units, min_prompts=min_prompts, others=others)
    groups = group_of[codes]
    solve = partial(
        _solve_root, target=target, kind=kind, temperature=temperature, target_error=target_error
    )
    whole = solve(values, units, min_prompts=0)
    rows = [groups == group for group in range(groups.max() + 1)]
    parts = [solve(values[row], units[row], min_prompts=min_prompts) for row in rows]
    own, errors, target_parts, n_prompts = np.array(parts).T
    between = between_category_variance(own, standard_errors=errors, centre=whole.offset)
    variance = between if shrink else np.nan
    weights = _own_weights(errors, variance)
    offsets = whole.offset + weights * (own - whole.offset)
    by_target = weights * target_parts + (1.0 - weights) * whole.target_part
    before, after = (
        _group_means(wins(margins, kind=kind, temperature=temperature), groups)
        for margins in (values, values + offsets[groups])
    )
    return CategoryOffsets(
        offsets=offsets,
        standard_errors=np.hypot(
            _drawn_errors(own, errors, weights=weights, whole=whole, between=between), by_target
        ),
        own_offsets=own,
        own_errors=errors,
        weights=weights,
        n_prompts=n_prompts.astype(np.int64),
        win_rates_before=before,
        win_rates_after=after,
        group_of=group_of,
        merged=merged,
        global_offset=whole.offset,
        global_error=float(np.hypot(whole.error, whole.target_part)),
        between_variance=variance,
        target=target,
        win_rate_kind=kind,
        temperature=temperature,
        min_prompts=min_prompts,
    )


def between_category_variance(offsets: Floats, *, standard_errors: Floats, centre: float) -> float:
    """Variance t^2 between categories: the root of sum_c (D_c - D)^2 / (v_c + t^2) = k - 1.

    This is the estimator of Paule and Mandel (1982) for k estimates D_c with variances v_c,
    taken around the offset D of all prompts, which is where the estimates are shrunk to. The
    sum falls with t^2; where it is below k - 1 at 0 already, the categories differ by no more
    than their errors, and t^2 is 0.

    Args:
        offsets: D_c in score points, shape (n_categories,).
        standard_errors: Their standard errors, in score points; NaN leaves a category out.
        centre: D, in score points.

    Returns:
        The variance in score points squared; 0 for fewer than two categories.

    Raises:
        ValueError: If a standard error is negative.

    Example:
        >>> own, errors = np.array([-1.0, 1.0]), np.array([0.5, 0.5])
        >>> round(between_category_variance(own, standard_errors=errors, centre=0.0), 6)
        1.75
    """
    known = np.isfinite(standard_errors)
    distances = (offsets[known] - centre) ** 2
    if np.any(standard_errors[known] < 0.0):
        raise ValueError("a standard error is negative")
    variances = np.maximum(standard_errors[known] ** 2, np.finfo(np.float64).tiny)
    excess = len(distances) - 1.0
    if excess < 1.0 or np.sum(distances / variances) <= excess:
        return 0.0
    # at this bound the sum is below k - 1 even without the v_c
    bound = float(distances.sum()) / excess
    return float(
        brentq(lambda between: np.sum(distances / (variances + between)) - excess, 0.0, bound)
    )


def _solve_root(
    margins: Floats,
    prompts: Codes,
    *,
    target: float,
    kind: WinRateKind,
    temperature: float,
    target_error: float,
    min_prompts: int,
) -> _Root:
    """Root of Eq. 4 on some rows, with what its error is made of."""
    offset = reach_win_rate(margins, target, kind=kind, temperature=temperature)
    n_prompts = np.unique(prompts).size
    if n_prompts < min_prompts:
        return _Root(offset, np.nan, 0.0, n_prompts)
    error, both = (
        offset_standard_error(
            margins,
            target,
            kind=kind,
            temperature=temperature,
            target_error=of_target,
            prompts=prompts,
        )
        for of_target in (0.0, target_error)
    )
    return _Root(offset, error, float(np.sqrt(max(both**2 - error**2, 0.0))), n_prompts)


def _own_weights(errors: Floats, between_variance: float) -> Floats:
    """Share of each group's own root; all of it where the variance between groups is NaN."""
    known = np.isfinite(errors)
    if np.isnan(between_variance):
        return known.astype(np.float64)
    total = between_variance + np.nan_to_num(errors) ** 2
    return np.divide(between_variance, total, out=np.zeros_like(total), where=known & (total > 0))


def _drawn_errors(
    own: Floats, errors: Floats, *, weights: Floats, whole: _Root, between: float
) -> Floats:
    """Standard errors from the prompts, of roots drawn toward the global one."""
    known = np.isfinite(errors)
    drawn = np.where(known, own - whole.offset, 0.0)
    variances = np.where(known, weights * np.nan_to_num(errors) ** 2, between)
    variances += (1.0 - weights) ** 2 * (whole.error**2 + 2.0 * drawn**2)
    return np.asarray(np.sqrt(variances))


def _group_categories(
    codes: Codes, prompts: Codes, *, min_prompts: int, others: int | None
) -> tuple[Codes, tuple[int, ...]]:
    """Group of each code, large categories first in their order, and the codes that were small."""
    present = np.unique(codes)
    sizes = np.array([np.unique(prompts[codes == code]).size for code in present])
    joined = present[(sizes < min_prompts) | (present == others)]
    small = present[(sizes < min_prompts) & (present != others)]
    if small.size == 0:
        joined = small
    group_of = np.full(int(present.max()) + 1, -1)
    alone = np.setdiff1d(present, joined)
    group_of[alone] = np.arange(alone.size)
    group_of[joined] = alone.size
    return group_of, tuple(small.tolist())


def _group_means(outcomes: Floats, groups: Codes) -> Floats:
    return np.asarray(np.bincount(groups, weights=outcomes) / np.bincount(groups))


def _check_rows(
    margins: Floats, categories: Codes, *, prompts: Codes | None, min_prompts: int
) -> tuple[Floats, Codes, Codes]:
    values, codes = check_margins(margins), np.asarray(categories)
    units = np.arange(values.size) if prompts is None else np.asarray(prompts)
    if codes.shape != values.shape or units.shape != values.shape:
        raise ValueError(
            f"need one category and one prompt code per margin, got {values.size} margins, "
            f"{codes.size} categories and {units.size} prompts"
        )
    if not np.issubdtype(codes.dtype, np.integer) or codes.min() < 0:
        raise ValueError("categories must be integer codes from 0; leave out rows without one")
    if min_prompts < 2:
        raise ValueError(f"min_prompts must be at least 2, got {min_prompts}")
    return values, codes, units
