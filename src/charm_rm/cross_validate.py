"""Cross-validation: what a calibration is worth on prompts that it was not fitted on.

Every method is fitted on some prompts and measured on the others, so that each prompt is measured
once; other corrections that people ask about stand beside. The reward model itself is not fitted
here: prompts that it was trained on are no honest test of it.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, get_args

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.audit import LEVEL
from charm_rm.calibrate_scores import length_matrix, require_spread
from charm_rm.core.elo import draw_elo, expected_win_rate
from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.significance import widen_unanimous
from charm_rm.core.win_rates import Floats, WinRateKind, win_rate_matrix, wins
from charm_rm.corrections import FITTED_TO_ELO, SIGMOID_ONLY, Method, Task, list_methods
from charm_rm.data.arena import EloErrors, EloTable, require_ratings
from charm_rm.data.scores import (
    MIN_PROMPTS,
    prompt_categories,
    require_comparable,
    require_two_policies,
    score_matrix,
)
from charm_rm.data.tables import not_found
from charm_rm.temperature import place_labels

N_RESAMPLES = 1000


@dataclass(frozen=True)
class HeldOut:
    """How one method fares on prompts that it was not fitted on.

    Attributes:
        method: Name of the method.
        win_rate: Kind of win rate that was fitted and measured.
        signed_mismatch: Of the over-valued policy against the reference, all held-out prompts.
        mismatch_low: Lower end of its 95% interval: prompts and ratings drawn again, the fits held.
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
    elo_errors: EloErrors
    n_folds: int
    n_prompts: int
    temperature: float
    seed: int
    rows: tuple[HeldOut, ...]
    warnings: tuple[str, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """The table as the document that ``charm calibrate --cross-validate --json`` prints.

        Example:
            >>> CrossValidation("a", "b", "none", 5, 403, 1.0, 0, ()).to_json()["n_folds"]
            5
        """
        return asdict(self)


def cross_validate(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    over_valued: str,
    reference: str,
    n_folds: int = 5,
    temperature: float = 1.0,
    labels: pl.DataFrame | None = None,
    responses: pl.DataFrame | None = None,
    seed: int = 0,
) -> CrossValidation:
    """Held-out mismatch of each way to calibrate, for sigmoid and hard win rates.

    Methods: none; one offset (Eq. 4), and its closed form for normal margins; an offset per
    category, plain and shrunk; joint offsets (A.6); z-scores; scores less their trend in response
    length; and scores over the temperature that fits labels, alone and with one offset (for the
    sigmoid only: no temperature moves a hard win rate). Each where the data have what it needs.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        over_valued: The policy to calibrate.
        reference: The trusted opponent.
        n_folds: Parts that the prompts are dealt into.
        temperature: Score points per unit of log-odds, for all but the fitted temperature.
        labels: As `charm_rm.data.preferences.read_labels` returns them; a temperature is fitted to
            those of the prompts that are not measured.
        responses: The responses that were scored, for their lengths in characters; without them
            the lengths are ``n_tokens`` of the scores, where they have it.
        seed: Of the dealing.

    Returns:
        One row per method and kind of win rate.

    Raises:
        DataError: If the two are the same, a policy is unknown, unrated, without spread or on fewer
            than 30 prompts with the reference, as are the labels, or a response is missing.
        ValueError: If there are fewer than two folds, fewer prompts than folds, or the labels of
            some folds fit no temperature.

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
    require_two_policies(over_valued, reference)
    matrix = score_matrix(scores)
    require_ratings(elo, matrix.policies)
    if over_valued not in matrix.policies:
        raise not_found("policy", over_valued, names=matrix.policies, where="scores")
    require_comparable(matrix, reference)
    require_spread(matrix)
    n_prompts = int(matrix.prompts.max()) + 1
    if not 2 <= n_folds <= n_prompts:
        raise ValueError(f"folds must be 2 to {n_prompts}, the number of prompts; got {n_folds}")
    measured = responses is not None or "n_tokens" in scores.columns
    task = Task(
        values=matrix.values,
        prompts=matrix.prompts,
        elo=elo.ratings(matrix.policies)[:, 0],
        elo_factor=elo.error_factor(matrix.policies),
        over_valued=matrix.policies.index(over_valued),
        reference=matrix.policies.index(reference),
        categories=_category_codes(scores, matrix.prompt_ids),
        lengths=length_matrix(scores, matrix, responses=responses) if measured else None,
        labels=None if labels is None else place_labels(matrix, labels),
        kind="sigmoid",
        temperature=temperature,
    )
    folds = (np.random.default_rng(seed).permutation(n_prompts) % n_folds)[matrix.prompts]
    return CrossValidation(
        over_valued=over_valued,
        reference=reference,
        elo_errors=elo.errors,
        n_folds=n_folds,
        n_prompts=len(np.unique(matrix.prompts[np.isfinite(task.margins)])),
        temperature=temperature,
        seed=seed,
        rows=tuple(_measure_all(task, folds, seed=seed)),
        warnings=_warnings(task, folds),
    )


def _warnings(task: Task, folds: NDArray[np.int64]) -> tuple[str, ...]:
    """Whether no fit sees enough prompts of any category to give it an offset of its own."""
    if task.categories is None:
        return ()
    used = np.isfinite(task.margins)
    prompts = np.unique(np.stack([task.categories, folds, task.prompts])[:, used], axis=1)
    in_fold = np.zeros((prompts[0].max() + 1, folds.max() + 1), dtype=np.int64)
    np.add.at(in_fold, (prompts[0], prompts[1]), 1)
    most = int((in_fold.sum(axis=1, keepdims=True) - in_fold).max())
    if most >= MIN_PROMPTS or len(in_fold) == 1:
        return ()
    return (
        f"no category has {MIN_PROMPTS} prompts to fit on (at most {most}), so they share one "
        "offset: 'by category' is 'one offset' here; name a column of fewer categories with --by",
    )


def _measure_all(task: Task, folds: NDArray[np.int64], *, seed: int) -> Iterator[HeldOut]:
    """Every method, by the sigmoid and then by the hard win rate."""
    moved: dict[str, Floats] = {}
    for kind in get_args(WinRateKind):
        for name, method in list_methods(task).items():
            if kind == "hard" and method in SIGMOID_ONLY:
                continue
            if kind == "sigmoid" or method in FITTED_TO_ELO:
                moved[name] = _hold_out(replace(task, kind=kind), method, folds=folds)
            calibrated = replace(task, values=moved[name], kind=kind)
            yield _measure(calibrated, method=name, seed=seed)


def _hold_out(task: Task, method: Method, *, folds: NDArray[np.int64]) -> Floats:
    """Calibrated scores, those of each fold by the fit on the other folds."""
    moved = np.empty_like(task.values)
    for fold in range(folds.max() + 1):
        moved[folds == fold] = method(task, folds != fold)[folds == fold]
    return moved


def _measure(task: Task, *, method: str, seed: int) -> HeldOut:
    """The held-out scores of one method against Elo."""
    outcomes = wins(task.margins, kind=task.kind, temperature=task.temperature)
    low, high = _interval(outcomes, task, seed=seed)
    rates = win_rate_matrix(task.values, kind=task.kind, temperature=task.temperature)
    expected = expected_win_rate(task.elo[:, None], task.elo)
    pairs = ~np.eye(len(task.elo), dtype=bool) & np.isfinite(rates)
    others = [at for at in range(len(task.elo)) if at not in (task.over_valued, task.reference)]
    against = signed_mismatch(rates[:, task.reference], expected[:, task.reference])
    return HeldOut(
        method=method,
        win_rate=task.kind,
        signed_mismatch=float(signed_mismatch(np.nanmean(outcomes), task.target)),
        mismatch_low=low,
        mismatch_high=high,
        category_mismatch=_by_categories(outcomes, task),
        others_mismatch=float(np.abs(against[others]).mean()) if others else None,
        matrix_rmse=float(np.sqrt(np.mean((rates - expected)[pairs] ** 2))),
    )


def _interval(outcomes: Floats, task: Task, *, seed: int) -> tuple[float, float]:
    rng = np.random.default_rng(seed)
    blocks = resample_counts(int(task.prompts.max()) + 1, n_resamples=N_RESAMPLES, rng=rng)
    rates = [resampled_means(outcomes[:, None], counts[:, task.prompts]) for counts in blocks]
    stream = np.random.default_rng([seed, 1])  # as an audit draws them
    drawn = draw_elo(task.elo, task.elo_factor, n_draws=N_RESAMPLES, rng=stream).T
    targets = expected_win_rate(drawn[task.over_valued], drawn[task.reference])
    mismatch = signed_mismatch(np.concatenate(rates)[:, 0], targets)
    n_prompts = len(np.unique(task.prompts[np.isfinite(outcomes)]))
    low, high = percentile_interval(mismatch, n_prompts=n_prompts, level=LEVEL)
    return widen_unanimous(
        (float(low), float(high)), outcomes, expected=task.target, n_prompts=n_prompts
    )


def _by_categories(outcomes: Floats, task: Task) -> float | None:
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
    by_prompt = prompt_categories(scores)
    labels = np.array([by_prompt[prompt_id] for prompt_id in prompt_ids], dtype=str)
    return np.unique(labels, return_inverse=True)[1]
