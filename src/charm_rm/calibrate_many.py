"""Calibration of many offsets: one per category of prompts, or one per policy, all at once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.audit import LEVEL
from charm_rm.calibrate import PairedMargins, describe_offset, pair_policies
from charm_rm.core.categories import CategoryOffsets, solve_category_offsets
from charm_rm.core.elo import draw_elo
from charm_rm.core.intervals import percentile_interval, resample_counts
from charm_rm.core.joint import JointOffsets, solve_joint_offsets
from charm_rm.core.joint_bootstrap import solve_resampled_joint_hard_offsets
from charm_rm.core.significance import student_interval
from charm_rm.core.uncertainty import Codes, joint_offset_standard_errors
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.offsets import Calibration, Offset
from charm_rm.data.scores import MIN_PROMPTS, ScoreMatrix, prompt_categories, score_matrix
from charm_rm.data.tables import list_some, not_found


def calibrate_categories(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    over_valued: str,
    reference: str,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    min_prompts: int = MIN_PROMPTS,
    shrink: bool = True,
    made_by: Mapping[str, Any] | None = None,
) -> Calibration:
    """One offset per category of prompts (6.2), drawn toward the global one by its uncertainty.

    Elo tables rate models over all prompts, so every category has the same target. The shrinkage
    is that of `charm_rm.core.categories.solve_category_offsets`.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them, with a ``category``.
        elo: Ratings that hold both policies.
        over_valued: The policy whose scores the offsets move.
        reference: The trusted opponent, which stays.
        win_rate: Which win rate is to meet the target.
        temperature: Score points per unit of log-odds.
        min_prompts: Categories with fewer prompts share one offset.
        shrink: False for the paper's plain roots.
        made_by: What to record of how this came about.

    Returns:
        The calibration, one offset per category that the two policies share prompts of; intervals
        are by the delta method.

    Raises:
        DataError: As for `calibrate_pair`, or if a prompt has no category, or two.
        ValueError: If a setting is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (
        ...         str(i),
        ...         policy,
        ...         0,
        ...         float(i % 5) * (1 + (policy == "vicuna-7b")),
        ...         "rm",
        ...         "abc"[i % 3],
        ...     )
        ...     for i in range(120)
        ...     for policy in ("vicuna-7b", "gpt4_0613")
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model", "category"]
        >>> found = calibrate_categories(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     read_elo("table7"),
        ...     over_valued="vicuna-7b",
        ...     reference="gpt4_0613",
        ... )
        >>> [(entry.category, entry.n_prompts) for entry in found.offsets]
        [('a', 40), ('b', 40), ('c', 40)]
    """
    pair = pair_policies(scores, elo, over_valued=over_valued, reference=reference)
    by_prompt = prompt_categories(scores)
    labels = [by_prompt[prompt_id] for prompt_id in pair.prompt_ids]
    names = sorted(set(labels))
    codes = np.array([names.index(label) for label in labels], dtype=np.int64)
    found = solve_category_offsets(
        pair.margins,
        pair.target,
        categories=codes,
        kind=win_rate,
        temperature=temperature,
        target_error=pair.target_error,
        prompts=pair.prompts,
        min_prompts=min_prompts,
        shrink=shrink,
    )
    entries = [
        _describe_category(pair, found, groups=found.group_of[codes], code=code, name=name)
        for code, name in enumerate(names)
    ]
    merged = list_some([names[code] for code in found.merged])
    note = f"under {min_prompts} prompts each, so these categories share one offset: {merged}"
    return Calibration(
        reward_model=scores["reward_model"][0],
        elo=elo.to_json(),
        reference=reference,
        win_rate=win_rate,
        temperature=temperature,
        offsets=tuple(entries),
        warnings=(note,) if merged else (),
        made_by=dict(made_by or {}),
    )


def _describe_category(
    pair: PairedMargins, found: CategoryOffsets, *, groups: Codes, code: int, name: str
) -> Offset:
    """The offset of one category, on the prompts of its group."""
    group = found.group_of[code]
    rows = groups == group
    known = np.isfinite(found.own_errors)
    # what is known of a group under min_prompts comes from the spread of so many others
    n = found.n_prompts[group] if known[group] else known.sum()
    low, high = student_interval(
        found.offsets[group],
        standard_error=found.standard_errors[group],
        n_prompts=max(2, n),
    )
    return describe_offset(
        replace(pair, margins=pair.margins[rows], prompts=pair.prompts[rows]),
        offset=float(found.offsets[group]),
        ends=(float(low), float(high)),
        category=name,
        kind=found.win_rate_kind,
        temperature=found.temperature,
    )


def calibrate_jointly(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    reference: str,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    n_resamples: int = 1000,
    seed: int = 0,
    made_by: Mapping[str, Any] | None = None,
) -> Calibration:
    """Offsets of all policies in the scores at once, against the whole Elo matrix (A.6).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        reference: The policy whose offset is 0.
        win_rate: ``"sigmoid"``, fitted to a vanishing gradient, with intervals by the delta method;
            or ``"hard"``, fitted by order statistics, with intervals by the bootstrap.
        temperature: Score points per unit of log-odds.
        n_resamples: Bootstrap resamples of prompts and ratings; ``"hard"`` alone needs them.
        seed: Of the bootstrap.
        made_by: What to record of how this came about.

    Returns:
        The calibration: an offset for every policy but the reference, the rates and mismatches
        being those against the reference, and the residuals in ``joint``.

    Raises:
        DataError: If there is a single policy, one has no Elo, the reference is unknown, or a
            policy shares fewer than 30 prompts with the reference.
        ValueError: If a setting is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> policies = ("vicuna-7b", "vicuna-13b", "gpt4_0613")
        >>> rows = [
        ...     (str(i), policy, 0, float((i * (at + 2)) % 7), "rm")
        ...     for i in range(40)
        ...     for at, policy in enumerate(policies)
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> found = calibrate_jointly(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     read_elo("table7"),
        ...     reference="gpt4_0613",
        ... )
        >>> [entry.policy for entry in found.offsets], found.joint["converged"]
        (['vicuna-13b', 'vicuna-7b'], True)
    """
    matrix = score_matrix(scores)
    require_ratings(elo, matrix.policies)
    if reference not in matrix.policies:
        raise not_found("reference", reference, names=matrix.policies, where="scores")
    others = {name: at for at, name in enumerate(matrix.policies) if name != reference}
    pairs = [pair_policies(scores, elo, over_valued=name, reference=reference) for name in others]
    ratings, factor = elo.ratings(matrix.policies)[:, 0], elo.error_factor(matrix.policies)
    found = solve_joint_offsets(
        matrix.values,
        ratings,
        reference=matrix.policies.index(reference),
        kind=win_rate,
        temperature=temperature,
    )
    if win_rate == "hard":
        settings = {"n_resamples": n_resamples, "seed": seed}
        low, high = _resample_jointly(matrix, ratings, found=found, factor=factor, **settings)
    else:
        low, high = _joint_interval(matrix, ratings, found=found, elo_covariance=factor @ factor.T)
    entries = [
        describe_offset(
            pair,
            offset=float(found.offsets[at]),
            ends=(float(low[at]), float(high[at])),
            category=None,
            kind=win_rate,
            temperature=temperature,
        )
        for pair, at in zip(pairs, others.values(), strict=True)
    ]
    return Calibration(
        reward_model=scores["reward_model"][0],
        elo=elo.to_json(),
        reference=reference,
        win_rate=win_rate,
        temperature=temperature,
        offsets=tuple(entries),
        warnings=() if found.converged else ("the joint fit did not converge",),
        made_by={"seed": seed, **(made_by or {})},
        joint=_describe_joint(matrix, found),
    )


def _describe_joint(matrix: ScoreMatrix, found: JointOffsets) -> dict[str, Any]:
    """What joint offsets leave over, as the offsets file has it."""
    return {
        "policies": list(matrix.policies),
        "rmse_before": found.rmse_before,
        "rmse": found.rmse,
        "gradient_norm": _finite(found.gradient_norm),
        "converged": found.converged,
        "residuals": [[_finite(x) for x in row] for row in found.residuals],
    }


def _joint_interval(
    matrix: ScoreMatrix, ratings: Floats, *, found: JointOffsets, elo_covariance: Floats
) -> tuple[Floats, Floats]:
    """Ends of the intervals of joint sigmoid offsets, by the delta method."""
    errors = joint_offset_standard_errors(
        matrix.values,
        ratings,
        offsets=found.offsets,
        reference=found.reference,
        temperature=found.temperature,
        elo_covariance=elo_covariance,
        prompts=matrix.prompts,
    )
    n_prompts = _shared_prompts(matrix, found.reference)
    return student_interval(found.offsets, standard_error=errors, n_prompts=n_prompts)


def _resample_jointly(
    matrix: ScoreMatrix,
    ratings: Floats,
    *,
    found: JointOffsets,
    factor: Floats,
    n_resamples: int,
    seed: int,
) -> tuple[Floats, Floats]:
    """Ends of the intervals of joint hard offsets: ratings and prompts drawn again together."""
    if n_resamples < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {n_resamples}")
    rng = np.random.default_rng(seed)
    drawn = draw_elo(ratings, factor, n_draws=n_resamples, rng=rng)
    blocks, at = [], 0
    for block in resample_counts(int(matrix.prompts.max()) + 1, n_resamples=len(drawn), rng=rng):
        blocks.append(
            solve_resampled_joint_hard_offsets(
                matrix.values,
                block[:, matrix.prompts],
                elo=drawn[at : at + len(block)],
                elo_centre=ratings,
                offsets=found.offsets,
                reference=found.reference,
            )
        )
        at += len(block)
    n_prompts = _shared_prompts(matrix, found.reference)
    return percentile_interval(np.concatenate(blocks), n_prompts=n_prompts, level=LEVEL)


def _shared_prompts(matrix: ScoreMatrix, reference: int) -> NDArray[np.int64]:
    """Prompts that each policy shares with the reference, shape (n_policies,)."""
    known = np.isfinite(matrix.values)
    shared = known & known[:, [reference]]
    return np.array([len(np.unique(matrix.prompts[column])) for column in shared.T])


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
