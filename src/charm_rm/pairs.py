"""Calibrated preference data: on each prompt, which response the offset scores prefer.

The chosen response is the one with the higher score after the offset (paper, section 4.2). An exact
tie gives no pair: a pair whose chosen equals its rejected teaches nothing.
"""

from dataclasses import dataclass

import polars as pl

from charm_rm.data.offsets import Calibration, apply_offsets
from charm_rm.data.tables import DataError, not_found

KEY = ["prompt_id", "sample"]


@dataclass(frozen=True)
class PreferencePairs:
    """Preference pairs of two policies, and what became of the prompts.

    Attributes:
        frame: ``prompt_id, sample``, with texts ``prompt, chosen, rejected`` (message lists),
            ``chosen_policy, rejected_policy, chosen_score, rejected_score`` (calibrated, score
            points), ``margin`` (their difference, above 0), ``flipped, category``.
        n_shared: Prompts (and samples) that both policies have scores for.
        n_ties: Of these, dropped because the calibrated scores are equal.
        n_equal_texts: Dropped because both responses are the same text.
        n_flipped: Pairs in which the offset changed which response is chosen.
        chosen_share: Share of the pairs in which each policy is chosen.
    """

    frame: pl.DataFrame
    n_shared: int
    n_ties: int
    n_equal_texts: int
    n_flipped: int
    chosen_share: dict[str, float]


def build_pairs(
    scores: pl.DataFrame,
    calibration: Calibration,
    *,
    responses: pl.DataFrame | None = None,
    uncalibrated: bool = False,
) -> PreferencePairs:
    """Preference pairs from calibrated scores: the higher of ``s^O + offset`` and ``s^R``.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        calibration: The offset of one policy against the reference.
        responses: As `charm_rm.data.responses.read_responses` returns them; without them the pairs
            have ids and policies, but no texts.
        uncalibrated: Leave the offset out: the twin that shows what the offset changes.

    Returns:
        The pairs, sorted by prompt_id, and their counts.

    Raises:
        DataError: If the scores lack a policy, are of another reward model, the policies share no
            prompt, or a scored response is not among the responses.

    Example:
        >>> from charm_rm.data.offsets import Offset
        >>> rows = {
        ...     "prompt_id": ["p", "p"],
        ...     "policy": ["a", "b"],
        ...     "sample": [0, 0],
        ...     "score": [1.0, 0.5],
        ...     "reward_model": ["rm", "rm"],
        ... }
        >>> offset = Offset("a", None, -1.0, *[0.0] * 2, 1, *[0.5] * 5, *[0.0] * 4)
        >>> calibration = Calibration("rm", {}, "b", "sigmoid", 1.0, (offset,), (), {})
        >>> pairs = build_pairs(pl.DataFrame(rows), calibration)
        >>> pairs.frame.select("chosen_policy", "margin", "flipped").row(0)
        ('b', 0.5, True)
    """
    policies = [calibration.offsets[0].policy, calibration.reference]
    wide = _side_by_side(apply_offsets(scores, calibration), policies)
    used = "score" if uncalibrated else "calibrated_score"
    decided = wide.filter(pl.col(f"{used}_0") != pl.col(f"{used}_1"))
    first = pl.col(f"{used}_0") > pl.col(f"{used}_1")
    high, low = (
        pl.max_horizontal(f"{used}_0", f"{used}_1"),
        pl.min_horizontal(f"{used}_0", f"{used}_1"),
    )
    raw_first = pl.col("score_0") > pl.col("score_1")
    raw_tie = pl.col("score_0") == pl.col("score_1")
    frame = decided.select(
        *KEY,
        pl.when(first)
        .then(pl.lit(policies[0]))
        .otherwise(pl.lit(policies[1]))
        .alias("chosen_policy"),
        pl.when(first)
        .then(pl.lit(policies[1]))
        .otherwise(pl.lit(policies[0]))
        .alias("rejected_policy"),
        high.alias("chosen_score"),
        low.alias("rejected_score"),
        (high - low).alias("margin"),
        ((raw_first != first) & ~raw_tie).alias("flipped"),
        *(["category"] if "category" in decided.columns else []),
    )
    n_equal = 0
    if responses is not None:
        with_texts = _add_texts(frame, responses)
        frame = with_texts.filter(pl.col("chosen") != pl.col("rejected"))
        n_equal = len(with_texts) - len(frame)
    frame = frame.sort(KEY)
    return PreferencePairs(
        frame=frame,
        n_shared=len(wide),
        n_ties=len(wide) - len(decided),
        n_equal_texts=n_equal,
        n_flipped=int(frame["flipped"].sum()),
        chosen_share={
            policy: float((frame["chosen_policy"] == policy).mean() or 0.0)  # type: ignore[arg-type]
            for policy in policies
        },
    )


def _side_by_side(scores: pl.DataFrame, policies: list[str]) -> pl.DataFrame:
    """One row per prompt that both policies have, columns ending in _0 and _1."""
    known = scores["policy"].unique().sort().to_list()
    for policy in policies:
        if policy not in known:
            raise not_found("policy", policy, known, where="scores")
    sides = [
        scores.filter(pl.col("policy") == policy).select(
            *KEY,
            pl.col("score").alias(f"score_{at}"),
            pl.col("calibrated_score").alias(f"calibrated_score_{at}"),
            *(["category"] if at == 0 and "category" in scores.columns else []),
        )
        for at, policy in enumerate(policies)
    ]
    wide = sides[0].join(sides[1], on=KEY, how="inner")
    if wide.is_empty():
        raise DataError(
            f"scores: {policies[0]!r} and {policies[1]!r} share no prompt; "
            "score responses of both to the same prompts"
        )
    return wide


def _add_texts(frame: pl.DataFrame, responses: pl.DataFrame) -> pl.DataFrame:
    """Prompt, chosen and rejected as message lists, TRL's conversational format."""
    turn = pl.concat_list(pl.struct(role=pl.lit("assistant"), content=pl.col("response")))
    texts = responses.select(*KEY, "policy", "prompt", turn.alias("turn"))
    for side in ("chosen", "rejected"):
        columns = [*KEY, "policy", pl.col("turn").alias(side)]
        columns += ["prompt"] if side == "chosen" else []
        frame = frame.join(
            texts.select(columns),
            left_on=[*KEY, f"{side}_policy"],
            right_on=[*KEY, "policy"],
            how="left",
        )
        missing = frame.filter(pl.col(side).is_null())
        if not missing.is_empty():
            raise DataError(
                f"responses: none of {missing[f'{side}_policy'][0]!r} to prompt "
                f"{missing['prompt_id'][0]!r}, which is scored ({len(missing)} missing); "
                "give the responses that the scores were made from"
            )
    texts_first = ["prompt_id", "sample", "prompt", "chosen", "rejected"]
    return frame.select(*texts_first, pl.exclude(texts_first))
