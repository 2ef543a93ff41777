"""Corrections that change every score, to set beside an offset: z-scores, and length calibration.

An offset is one number; these are not, so their result is a table of scores and no offsets file.
None of them knows of Elo: what they do to a mismatch, also to that of the policies that nobody
asked about, is measured before and after.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import polars as pl

from charm_rm.audit import Audit, audit_scores
from charm_rm.core.alternatives import remove_length_trend, standardize_scores
from charm_rm.core.win_rates import Floats, WinRateKind
from charm_rm.data.arena import EloTable
from charm_rm.data.scores import ScoreMatrix, require_two_policies, score_matrix
from charm_rm.data.tables import DataError, not_found

ScoreMethod = Literal["z-score", "length"]
SUFFIXES = {"z-score": "z-scores", "length": "less length trend"}  # to the reward model's name


@dataclass(frozen=True)
class Standing:
    """How the policies stand to their Elo, by one table of scores.

    Attributes:
        win_rate: Of the over-valued policy against the reference, of the kind asked for.
        hard_win_rate: Its share of prompts won, ties half.
        signed_mismatch: Eq. 5 with its sign, from ``win_rate``.
        mismatch_low: Lower end of its 95% interval, the calibration held.
        mismatch_high: Upper end.
        others_mismatch: Mean Mismatch Degree of the other policies; None where there are none.
    """

    win_rate: float
    hard_win_rate: float
    signed_mismatch: float
    mismatch_low: float
    mismatch_high: float
    others_mismatch: float | None


@dataclass(frozen=True)
class CalibratedScores:
    """Calibrated scores, and what the calibration did.

    Attributes:
        frame: The scores that went in, ``score`` calibrated, ``raw_score`` as it was, and the
            method added to the name of the reward model: offsets of the raw scores do not fit.
        method: ``"z-score"`` or ``"length"``.
        reward_model: The new name.
        elo: Board and date of the ratings.
        over_valued: The policy that is looked at.
        reference: The trusted opponent.
        win_rate: Kind of win rate of the mismatches.
        temperature: Score points per unit of log-odds.
        before: By the raw scores.
        after: By the calibrated ones.
    """

    frame: pl.DataFrame
    method: ScoreMethod
    reward_model: str
    elo: Mapping[str, str]
    over_valued: str
    reference: str
    win_rate: WinRateKind
    temperature: float
    before: Standing
    after: Standing

    def to_json(self) -> dict[str, Any]:
        """What the calibration did, without the scores.

        Example:
            >>> side = Standing(0.7, 0.8, 0.5, 0.4, 0.6, None)
            >>> frame = pl.DataFrame({"score": [0.5, -0.5]})
            >>> settings = ("a", "b", "sigmoid", 1.0)
            >>> found = CalibratedScores(frame, "length", "rm", {}, *settings, side, side)
            >>> found.to_json()["n_scores"]
            2
        """
        document = asdict(replace(self, frame=pl.DataFrame()))
        del document["frame"]
        return document | {"n_scores": len(self.frame)}


def calibrate_scores(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    over_valued: str,
    reference: str,
    method: ScoreMethod,
    responses: pl.DataFrame | None = None,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> CalibratedScores:
    """Scores of all policies as z-scores, or less their trend in response length.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores; they measure, and calibrate nothing.
        over_valued: The policy that is looked at.
        reference: The trusted opponent.
        method: ``"z-score"`` (`charm_rm.core.alternatives.standardize_scores`) or ``"length"``
            (`charm_rm.core.alternatives.remove_length_trend`).
        responses: The responses that were scored, for their lengths in characters; without them
            ``"length"`` takes ``n_tokens`` of the scores.
        win_rate: ``"sigmoid"`` or ``"hard"``, for the audits.
        temperature: Score points per unit of log-odds, for the audits; of z-scores, standard
            deviations.
        n_resamples: Bootstrap resamples of the audits.
        seed: Of the bootstraps.

    Returns:
        The scores and both audits.

    Raises:
        DataError: If the scores can't be audited, a policy is unknown or has no spread, both are
            the same, or the length of a response is not known.
        ValueError: If a setting is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, float((i * (at + 3)) % 11 + 5 * at), "rm")
        ...     for i in range(60)
        ...     for at, policy in enumerate(("gpt4_0613", "vicuna-7b"))
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> found = calibrate_scores(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     read_elo("table7"),
        ...     over_valued="vicuna-7b",
        ...     reference="gpt4_0613",
        ...     method="z-score",
        ...     n_resamples=10,
        ... )
        >>> found.frame["reward_model"][0], found.frame.columns[-1]
        ('rm, z-scores', 'raw_score')
    """
    if method not in get_args(ScoreMethod):
        raise ValueError(f"method must be one of {', '.join(SUFFIXES)}, got {method!r}")
    require_two_policies(over_valued, reference)
    matrix = score_matrix(scores)
    if over_valued not in matrix.policies:
        raise not_found("policy", over_valued, names=matrix.policies, where="scores")
    if method == "length":
        lengths = length_matrix(scores, matrix, responses=responses)
        values = remove_length_trend(matrix.values, lengths)
    else:
        require_spread(matrix)
        values = standardize_scores(matrix.values)
    frame = _put_back(scores, matrix, values=values, suffix=SUFFIXES[method])
    settings: dict[str, Any] = {
        "reference": reference,
        "win_rate": win_rate,
        "temperature": temperature,
        "n_resamples": n_resamples,
        "seed": seed,
    }
    before, after = (audit_scores(table, elo, **settings) for table in (scores, frame))
    return CalibratedScores(
        frame=frame,
        method=method,
        reward_model=after.reward_model,
        elo=elo.to_json(),
        over_valued=over_valued,
        reference=reference,
        win_rate=win_rate,
        temperature=temperature,
        before=_standing(before, over_valued),
        after=_standing(after, over_valued),
    )


def _standing(audit: Audit, over_valued: str) -> Standing:
    entry = next(entry for entry in audit.policies if entry.policy == over_valued)
    named = (over_valued, audit.reference)
    others = [other.mismatch_degree for other in audit.policies if other.policy not in named]
    return Standing(
        win_rate=entry.win_rate,
        hard_win_rate=entry.hard_win_rate,
        signed_mismatch=entry.signed_mismatch,
        mismatch_low=entry.mismatch_low,
        mismatch_high=entry.mismatch_high,
        others_mismatch=float(np.mean(others)) if others else None,
    )


def length_matrix(
    scores: pl.DataFrame, matrix: ScoreMatrix, *, responses: pl.DataFrame | None = None
) -> Floats:
    """Length of every scored response, in the layout of the score matrix.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        matrix: The matrix of these scores.
        responses: As `charm_rm.data.responses.read_responses` returns them: lengths are in
            characters. Without them they are the column ``n_tokens``: tokens of the whole
            conversation as it was scored, the prompt and the template included.

    Returns:
        Lengths, shape (n_rows, n_policies); NaN where there is no response.

    Raises:
        DataError: If a response is missing, or there is no length of a score.

    Example:
        >>> rows = {"prompt_id": ["p"] * 2, "policy": ["a", "b"], "sample": [0, 0]}
        >>> scores = pl.DataFrame(rows | {"score": [1.0, 2.0], "n_tokens": [7, 9]})
        >>> length_matrix(scores, score_matrix(scores))
        array([[7., 9.]])
    """
    key = ["prompt_id", "policy", "sample"]
    if responses is not None:
        n_chars = responses.select(*key, pl.col("response").str.len_chars().alias("n_tokens"))
        scores = scores.drop("n_tokens", strict=False).join(n_chars, on=key, how="left")
    if "n_tokens" not in scores.columns:
        raise DataError(
            "scores: no column 'n_tokens', so no lengths; give the responses with --responses"
        )
    unknown = scores.filter(pl.col("n_tokens").is_null())
    if not unknown.is_empty():
        prompt_id, policy = unknown.select("prompt_id", "policy").row(0)
        raise DataError(
            f"scores: no length of the response of {policy!r} to prompt {prompt_id!r} "
            f"({len(unknown)} missing); give the responses that the scores were made from"
        )
    lengths = scores.with_columns(pl.col("n_tokens").cast(pl.Float64).alias("score"))
    return score_matrix(lengths, matrix.policies).values


def require_spread(matrix: ScoreMatrix) -> None:
    """Scores of each policy that are not all equal, as z-scores need them.

    Args:
        matrix: The scores.

    Raises:
        DataError: If all scores of a policy are equal.

    Example:
        >>> rows = {"prompt_id": ["p", "q"], "policy": ["a"] * 2, "sample": [0, 0]}
        >>> require_spread(score_matrix(pl.DataFrame(rows | {"score": [1.0, 2.0]})))
    """
    flat = np.nanmin(matrix.values, axis=0) == np.nanmax(matrix.values, axis=0)
    if flat.any():
        policy = matrix.policies[int(np.argmax(flat))]
        raise DataError(
            f"scores: all of {policy!r} are equal, so they have no z-scores; leave it out"
        )


def _put_back(
    scores: pl.DataFrame, matrix: ScoreMatrix, *, values: Floats, suffix: str
) -> pl.DataFrame:
    """The table with calibrated scores in the place of the raw ones, which it keeps."""
    rows, columns = np.nonzero(np.isfinite(values))
    calibrated = pl.DataFrame(
        {
            "prompt_id": np.array(matrix.prompt_ids, dtype=object)[rows].tolist(),
            "policy": np.array(matrix.policies, dtype=object)[columns].tolist(),
            "sample": np.array(matrix.samples)[rows],
            "_calibrated": values[rows, columns],
        }
    )
    key = ["prompt_id", "policy", "sample"]
    return (
        scores.with_columns(
            pl.concat_str("reward_model", pl.lit(f", {suffix}")).alias("reward_model"),
            pl.col("raw_score" if "raw_score" in scores.columns else "score").alias("raw_score"),
        )
        .join(calibrated, on=key, how="left", maintain_order="left")
        .with_columns(pl.col("_calibrated").alias("score"))
        .drop("_calibrated")
    )
