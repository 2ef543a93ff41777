"""Cross-validation: what a calibration is worth on prompts that it was not fitted on.

Every method is fitted on some prompts and measured on the others, so that each prompt is measured
once; alternatives that people ask about stand in the same table. The reward model itself is not
fitted here: prompts that it was trained on are no honest test of it.
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.audit import LEVEL
from charm_rm.core.alternatives import probit_offset, remove_length_trend
from charm_rm.core.categories import solve_category_offsets
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.offsets import solve_hard_offset, solve_offset
from charm_rm.core.win_rates import Floats, WinRateKind, win_rate_matrix, wins
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.scores import require_shared_prompts, score_matrix
from charm_rm.data.tables import DataError, not_found

N_RESAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """How one method fares on prompts that it was not fitted on.

    Attributes:
        method: Name of the method.
        win_rate: Kind of win rate that was fitted and measured.
        signed_mismatch: Of the over-valued policy against the reference, all held-out prompts.
        mismatch_low: Lower end of its 95% interval over prompts, the fits held.
        mismatch_high: Upper end.
        category_mismatch: Mean Mismatch Degree over categories, weighted by their prompts; None
            without categories.
        others_mismatch: Mean Mismatch Degree of the other policies against the reference; None
            where there are none.
        matrix_rmse: Root mean square of win rate minus expected win rate over all pairs.
    """

    method: str
    win_rate: WinRateKind
    signed_mismatch: float
    mismatch_low: float
    mismatch_high: float
    category_mismatch: float | None
    others_mismatch: float | None
    matrix_rmse: float


@dataclass(frozen=True)
class CrossValidation:
    """The result of `cross_validate`, with the settings that led to it."""

    over_valued: str
    reference: str
    n_folds: int
    n_prompts: int
    temperature: float
    seed: int
    rows: tuple[HeldOut, ...]

    def to_json(self) -> dict[str, Any]:
        """The table as the document that ``charm calibrate --cross-validate --json`` prints."""
        return asdict(self)


@dataclass(frozen=True)
class _Task:
    """Scores and what each method needs to know beside them.

    Attributes:
        values: Score points, shape (n_rows, n_policies).
        elo: Elo points, shape (n_policies,).
        over_valued: Column of the over-valued policy.
        reference: Column of the reference.
        categories: Code of each row, shape (n_rows,); None without categories.
        kind: Win rate that is fitted.
        temperature: Score points per unit of log-odds.
    """

    values: Floats
    elo: Floats
    over_valued: int
    reference: int
    categories: NDArray[np.int64] | None
    kind: WinRateKind
    temperature: float

    @property
    def margins(self) -> Floats:
        """Of the pair, on all rows, shape (n_rows,); NaN where one has no score."""
        return np.asarray(self.values[:, self.over_valued] - self.values[:, self.reference])

    @property
    def target(self) -> float:
        """Expected win rate of the pair."""
        return float(expected_win_rate(self.elo[self.over_valued], self.elo[self.reference]))


# A method takes the task and which rows to fit on, and returns what to add to every score.
Method = Callable[[_Task, NDArray[np.bool_]], Floats]


def cross_validate(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    over_valued: str,
    reference: str,
    n_folds: int = 5,
    temperature: float = 1.0,
    seed: int = 0,
) -> CrossValidation:
    """Held-out mismatch of each way to calibrate, for sigmoid and hard win rates.

    Methods: no calibration; one offset (Eq. 4); its closed form for normal margins; an offset per
    category, plain and shrunk, where the scores have categories; joint offsets of all policies
    (A.6); every policy's scores as z-scores; and scores less their trend in response length,
    where the scores have ``n_tokens`` (it sees all prompts, as it fits no Elo).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        over_valued: The policy to calibrate.
        reference: The trusted opponent.
        n_folds: Parts that the prompts are dealt into.
        temperature: Score points per unit of log-odds.
        seed: Of the dealing.

    Returns:
        One row per method and kind of win rate.

    Raises:
        DataError: If a policy is unknown or has no Elo, or the two share fewer than 30 prompts.
        ValueError: If there are fewer than two folds, or fewer prompts than folds.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, float((i * (at + 3)) % 11), "rm")
        ...     for i in range(60)
        ...     for at, policy in enumerate(("vicuna-7b", "gpt4_0613"))
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> found = cross_validate(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     read_elo("table7"),
        ...     over_valued="vicuna-7b",
        ...     reference="gpt4_0613",
        ... )
        >>> [row.method for row in found.rows[:3]]
        ['none', 'one offset', 'one offset, probit']
    """
    matrix = score_matrix(scores)
    require_ratings(elo, matrix.policies)
    for policy in (over_valued, reference):
        if policy not in matrix.policies:
            raise not_found("policy", policy, matrix.policies, where="scores")
    n_prompts = int(matrix.prompts.max()) + 1
    if not 2 <= n_folds <= n_prompts:
        raise ValueError(f"folds must be 2 to {n_prompts}, the number of prompts; got {n_folds}")
    task = _Task(
        values=matrix.values,
        elo=elo.ratings(matrix.policies)[:, 0],
        over_valued=matrix.policies.index(over_valued),
        reference=matrix.policies.index(reference),
        categories=_category_codes(scores, matrix.prompt_ids),
        kind="sigmoid",
        temperature=temperature,
    )
    shared = len(np.unique(matrix.prompts[np.isfinite(task.margins)]))
    require_shared_prompts(shared, policy=over_valued, reference=reference)
    folds = (np.random.default_rng(seed).permutation(n_prompts) % n_folds)[matrix.prompts]
    methods = _methods(task, _lengths(scores, matrix.policies))
    rows = [
        _measure(name, replace(task, kind=kind), method, folds, matrix.prompts, seed)
        for kind in ("sigmoid", "hard")
        for name, method in methods.items()
    ]
    return CrossValidation(
        over_valued=over_valued,
        reference=reference,
        n_folds=n_folds,
        n_prompts=shared,
        temperature=temperature,
        seed=seed,
        rows=tuple(rows),
    )


def _methods(task: _Task, lengths: Floats | None) -> dict[str, Method]:
    found: dict[str, Method] = {
        "none": lambda task, _: np.zeros_like(task.values),
        "one offset": _one_offset,
        "one offset, probit": _probit,
        "joint": _joint,
        "z-scores": _z_scores,
    }
    if task.categories is not None:
        found["by category"] = lambda task, fit: _by_category(task, fit, shrink=False)
        found["by category, shrunk"] = lambda task, fit: _by_category(task, fit, shrink=True)
    if lengths is not None:
        shift = remove_length_trend(task.values, lengths) - task.values
        found["less length trend"] = lambda _task, _fit: shift
    return found


def _one_offset(task: _Task, fit: NDArray[np.bool_]) -> Floats:
    margins = task.margins[fit]
    margins = margins[np.isfinite(margins)]
    if task.kind == "hard":
        return _on_policy(task, solve_hard_offset(margins, task.target))
    return _on_policy(task, solve_offset(margins, task.target, temperature=task.temperature))


def _probit(task: _Task, fit: NDArray[np.bool_]) -> Floats:
    margins = task.margins[fit]
    return _on_policy(
        task,
        probit_offset(
            margins[np.isfinite(margins)], task.target, kind=task.kind, temperature=task.temperature
        ),
    )


def _by_category(task: _Task, fit: NDArray[np.bool_], *, shrink: bool) -> Floats:
    if task.categories is None:
        raise ValueError("there are no categories")
    used = fit & np.isfinite(task.margins)
    found = solve_category_offsets(
        task.margins[used],
        task.target,
        categories=task.categories[used],
        kind=task.kind,
        temperature=task.temperature,
        shrink=shrink,
    )
    # a category that no fitted prompt has takes the global offset
    group = np.full(task.categories.max() + 1, -1)
    group[: len(found.group_of)] = found.group_of
    by_code = np.where(group >= 0, found.offsets[group], found.global_offset)
    return _on_policy(task, by_code[task.categories])


def _joint(task: _Task, fit: NDArray[np.bool_]) -> Floats:
    found = solve_joint_offsets(
        task.values[fit],
        task.elo,
        reference=task.reference,
        kind=task.kind,
        temperature=task.temperature,
    )
    return np.broadcast_to(found.offsets, task.values.shape)


def _z_scores(task: _Task, fit: NDArray[np.bool_]) -> Floats:
    """Mean and spread of each policy are those of the fitted prompts."""
    mean, spread = np.nanmean(task.values[fit], axis=0), np.nanstd(task.values[fit], axis=0)
    return np.asarray((task.values - mean) / spread - task.values)


def _on_policy(task: _Task, offset: float | Floats) -> Floats:
    shift = np.zeros_like(task.values)
    shift[:, task.over_valued] = offset
    return shift


def _measure(
    name: str,
    task: _Task,
    method: Method,
    folds: NDArray[np.int64],
    prompts: NDArray[np.int64],
    seed: int,
) -> HeldOut:
    """One method on all folds: each row is moved as the fit on the other folds says."""
    moved = np.empty_like(task.values)
    for fold in range(folds.max() + 1):
        moved[folds == fold] = (task.values + method(task, folds != fold))[folds == fold]
    calibrated = replace(task, values=moved)
    outcomes = wins(calibrated.margins, kind=task.kind, temperature=task.temperature)
    low, high = _interval(outcomes, task.target, prompts, seed)
    rates = win_rate_matrix(moved, kind=task.kind, temperature=task.temperature)
    expected = expected_win_rate(task.elo[:, None], task.elo)
    pairs = ~np.eye(len(task.elo), dtype=bool) & np.isfinite(rates)
    others = [at for at in range(len(task.elo)) if at not in (task.over_valued, task.reference)]
    against = signed_mismatch(rates[:, task.reference], expected[:, task.reference])
    return HeldOut(
        method=name,
        win_rate=task.kind,
        signed_mismatch=float(signed_mismatch(np.nanmean(outcomes), task.target)),
        mismatch_low=low,
        mismatch_high=high,
        category_mismatch=_by_categories(outcomes, task),
        others_mismatch=float(np.nanmean(np.abs(against[others]))) if others else None,
        matrix_rmse=float(np.sqrt(np.mean((rates - expected)[pairs] ** 2))),
    )


def _interval(
    outcomes: Floats, target: float, prompts: NDArray[np.int64], seed: int
) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    blocks = resample_counts(int(prompts.max()) + 1, n_resamples=N_RESAMPLES, rng=rng)
    rates = [resampled_means(outcomes[:, None], counts[:, prompts])[:, 0] for counts in blocks]
    mismatch = signed_mismatch(np.concatenate(rates), target)
    low, high = percentile_interval(mismatch, n_prompts=len(np.unique(prompts)), level=LEVEL)
    return float(low), float(high)


def _by_categories(outcomes: Floats, task: _Task) -> float | None:
    if task.categories is None:
        return None
    known = np.isfinite(outcomes)
    n = np.bincount(task.categories[known])
    total = np.bincount(task.categories[known], weights=outcomes[known])
    degrees = np.abs(signed_mismatch(total[n > 0] / n[n > 0], task.target))
    return float(np.average(degrees, weights=n[n > 0]))


def _category_codes(scores: pl.DataFrame, prompt_ids: tuple[str, ...]) -> NDArray[np.int64] | None:
    if "category" not in scores.columns:
        return None
    known = scores.select("prompt_id", "category").unique(subset="prompt_id", keep="first")
    by_prompt = dict(known.iter_rows())
    labels = [by_prompt[prompt_id] for prompt_id in prompt_ids]
    if any(label is None for label in labels):
        raise DataError("scores: some prompts have no category; charm categorize fills them in")
    return np.unique(np.array(labels, dtype=str), return_inverse=True)[1]


def _lengths(scores: pl.DataFrame, policies: tuple[str, ...]) -> Floats | None:
    """Tokens of each response, in the layout of the score matrix."""
    if "n_tokens" not in scores.columns or scores["n_tokens"].null_count():
        return None
    lengths = scores.with_columns(pl.col("n_tokens").cast(pl.Float64).alias("score"))
    return score_matrix(lengths, policies).values
