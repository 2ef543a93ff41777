"""Calibration of many offsets: one per category of prompts, or one per policy, all at once."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from charm_rm.calibrate import PairedMargins, describe_offset, pair_policies
from charm_rm.core.categories import solve_category_offsets
from charm_rm.core.elo import elo_standard_error
from charm_rm.core.joint import JointOffsets, solve_joint_offsets
from charm_rm.core.significance import student_interval
from charm_rm.core.uncertainty import joint_offset_standard_errors
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.offsets import Calibration
from charm_rm.data.scores import MIN_PROMPTS, ScoreMatrix, score_matrix
from charm_rm.data.tables import DataError, not_found


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
    labels = _row_categories(scores, pair)
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
    entries = []
    for code, name in enumerate(names):
        group = found.group_of[code]
        rows = found.group_of[codes] == group
        part = replace(pair, margins=pair.margins[rows], prompts=pair.prompts[rows])
        ends = student_interval(found.offsets[group], standard_error=found.standard_errors[group])
        entries.append(
            describe_offset(
                part,
                offset=float(found.offsets[group]),
                ends=(float(ends[0]), float(ends[1])),
                category=name,
                kind=win_rate,
                temperature=temperature,
            )
        )
    merged = ", ".join(names[code] for code in found.merged)
    note = f"under {min_prompts} prompts each, so these categories share one offset: {merged}"
    return Calibration(
        reward_model=scores["reward_model"][0],
        elo={"board": elo.board, "date": elo.date},
        reference=reference,
        win_rate=win_rate,
        temperature=temperature,
        offsets=tuple(entries),
        warnings=(note,) if merged else (),
        made_by=dict(made_by or {}),
    )


def calibrate_jointly(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    reference: str,
    temperature: float = 1.0,
    made_by: Mapping[str, Any] | None = None,
) -> Calibration:
    """Offsets of all policies in the scores at once, against the whole Elo matrix (A.6).

    Fitted are the sigmoid win rates: hard ones have no derivative, so no interval. A temperature
    well below the spread of the margins comes near them.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        reference: The policy whose offset is 0.
        temperature: Score points per unit of log-odds.
        made_by: What to record of how this came about.

    Returns:
        The calibration: an offset for every policy but the reference, the rates and mismatches
        being those against the reference, and the residuals in ``joint``. Intervals are by the
        delta method.

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
        raise not_found("reference", reference, matrix.policies, where="scores")
    ratings = elo.ratings(matrix.policies)
    found = solve_joint_offsets(
        matrix.values,
        ratings[:, 0],
        reference=matrix.policies.index(reference),
        temperature=temperature,
    )
    errors = _joint_errors(matrix, ratings, found)
    low, high = student_interval(found.offsets, standard_error=errors)
    entries = [
        describe_offset(
            pair_policies(scores, elo, over_valued=policy, reference=reference),
            offset=float(found.offsets[at]),
            ends=(float(low[at]), float(high[at])),
            category=None,
            kind="sigmoid",
            temperature=temperature,
        )
        for at, policy in enumerate(matrix.policies)
        if policy != reference
    ]
    return Calibration(
        reward_model=scores["reward_model"][0],
        elo={"board": elo.board, "date": elo.date},
        reference=reference,
        win_rate="sigmoid",
        temperature=temperature,
        offsets=tuple(entries),
        warnings=() if found.converged else ("the joint fit did not converge",),
        made_by=dict(made_by or {}),
        joint={
            "policies": list(matrix.policies),
            "rmse_before": found.rmse_before,
            "rmse": found.rmse,
            "gradient_norm": found.gradient_norm,
            "converged": found.converged,
            "residuals": [[_finite(x) for x in row] for row in found.residuals],
        },
    )


def _joint_errors(matrix: ScoreMatrix, ratings: Floats, found: JointOffsets) -> Floats:
    """Standard errors of joint offsets, in score points."""
    elo_errors = elo_standard_error(ratings[:, 1], ratings[:, 2])
    return joint_offset_standard_errors(
        matrix.values,
        ratings[:, 0],
        offsets=found.offsets,
        reference=found.reference,
        temperature=found.temperature,
        elo_covariance=np.diag(elo_errors**2),
        prompts=matrix.prompts,
    )


def _row_categories(scores: pl.DataFrame, pair: PairedMargins) -> list[str]:
    """Category of each row of the pair; one per prompt, none missing."""
    if "category" not in scores.columns:
        raise DataError("scores: no column 'category'; name the one to use with --by")
    known = scores.select("prompt_id", "category").unique()
    empty = known.filter(pl.col("category").is_null())
    if not empty.is_empty():
        raise DataError(
            f"scores: prompt {empty['prompt_id'][0]!r} has no category ({len(empty)} have none); "
            "fill them in, or drop those rows"
        )
    twice = known.filter(pl.col("prompt_id").is_duplicated()).sort("prompt_id")
    if not twice.is_empty():
        raise DataError(f"scores: prompt {twice['prompt_id'][0]!r} has two categories; keep one")
    by_prompt = dict(known.iter_rows())
    return [by_prompt[prompt_id] for prompt_id in pair.prompt_ids]


def _finite(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
