"""Calibrated preference data: on each prompt, which response the offset scores prefer.

The candidates are the policies that have an offset, and the reference, or those that are named. Of
two, the chosen response is the one with the higher score after the offset (paper, section 4.2);
of more, the best is set against the worst (A.6), or every two. A tie gives no pair: it teaches
nothing. Scores that are calibrated already (`charm_rm.calibrate_scores`) need no offsets.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import polars as pl

from charm_rm.core.win_rates import tie_width
from charm_rm.data.offsets import Calibration, apply_offsets
from charm_rm.data.tables import DataError, not_found

KEY = ["prompt_id", "sample"]
Selection = Literal["best-worst", "all"]


@dataclass(frozen=True)
class PreferencePairs:
    """Preference pairs, and what became of the prompts.

    Attributes:
        frame: ``prompt_id, sample``, with texts ``prompt, chosen, rejected`` (message lists),
            ``chosen_policy, rejected_policy, chosen_score, rejected_score`` (calibrated, score
            points), ``margin`` (their difference, above 0), ``flipped, category``.
        n_shared: Prompts (and samples) that at least two candidates have scores for.
        n_ties: Pairs dropped because the calibrated scores are equal.
        n_outside: Pairs dropped because their margin lies outside the wanted band.
        n_equal_texts: Pairs dropped because both responses are the same text.
        n_capped: Pairs dropped because their prompt has enough.
        n_flipped: Pairs whose two responses stand the other way round without the offsets.
        flips: Of these, how many each policy has a part in.
        chosen_share: Share of its pairs in which each policy is chosen; 0 where it has none.
    """

    frame: pl.DataFrame
    n_shared: int
    n_ties: int
    n_outside: int
    n_equal_texts: int
    n_capped: int
    n_flipped: int
    flips: dict[str, int]
    chosen_share: dict[str, float]


def build_pairs(
    scores: pl.DataFrame,
    calibration: Calibration | None = None,
    *,
    policies: Sequence[str] | None = None,
    responses: pl.DataFrame | None = None,
    uncalibrated: bool = False,
    select: Selection = "best-worst",
    min_margin: float = 0.0,
    max_margin: float = float("inf"),
    per_prompt: int | None = None,
) -> PreferencePairs:
    """Preference pairs from calibrated scores; with two candidates, the higher of the two.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        calibration: The offsets; scores with a ``raw_score`` are calibrated without them.
        policies: The candidates; by default the policies of the offsets and the reference, and
            without offsets all.
        responses: As `charm_rm.data.responses.read_responses` returns them; without them the pairs
            have ids and policies, but no texts.
        uncalibrated: Let the raw scores decide: the twin that shows what a calibration changes.
        select: ``"best-worst"``: the highest against the lowest score of each prompt;
            ``"all"``: every two candidates.
        min_margin: Smallest margin of a pair in score points, itself included.
        max_margin: Largest margin of a pair, itself included.
        per_prompt: Most pairs of one prompt and sample, those of the largest margin first.

    Returns:
        The pairs, sorted by prompt, sample and margin, and their counts.

    Raises:
        DataError: If the scores lack a candidate, are of another reward model, or are not
            calibrated although they should be; if there is a single candidate, the candidates
            share no prompt, a scored response is not among the responses, or no pair is left.
        ValueError: If ``select`` is unknown, the margin band is empty, or ``per_prompt`` is not
            positive.

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
    if not min_margin <= max_margin:
        raise ValueError(f"no margin is at least {min_margin} and at most {max_margin}")
    if per_prompt is not None and per_prompt < 1:
        raise ValueError(f"at most {per_prompt} pairs per prompt leaves none; give 1 or more")
    if select not in ("best-worst", "all"):
        raise ValueError(f"select must be 'best-worst' or 'all', got {select!r}")
    chosen = _choose_policies(scores, calibration, wanted=policies)
    candidates = _candidates(scores, calibration, policies=chosen, uncalibrated=uncalibrated)
    paired = _best_worst(candidates) if select == "best-worst" else _all_pairs(candidates)
    decided = paired.filter(pl.col("margin") > tie_width(paired["margin"].to_numpy()))
    inside = decided.filter(pl.col("margin").is_between(min_margin, max_margin))
    written = inside
    if responses is not None:
        with_texts = _add_texts(inside, responses)
        written = with_texts.filter(pl.col("chosen") != pl.col("rejected"))
    frame = written.sort(*KEY, "margin", descending=[False, False, True], maintain_order=True)
    if per_prompt is not None:
        frame = frame.group_by(KEY, maintain_order=True).head(per_prompt)
    if frame.is_empty():
        raise _no_pair(paired, decided, inside, band=(min_margin, max_margin))
    flipped = frame.filter("flipped")
    names = candidates["policy"].unique().sort().to_list()
    return PreferencePairs(
        frame=frame,
        n_shared=candidates.select(KEY).n_unique(),
        n_ties=len(paired) - len(decided),
        n_outside=len(decided) - len(inside),
        n_equal_texts=len(inside) - len(written),
        n_capped=len(written) - len(frame),
        n_flipped=len(flipped),
        flips={name: _n_with(flipped, name) for name in names},
        chosen_share={
            name: int((frame["chosen_policy"] == name).sum()) / max(1, _n_with(frame, name))
            for name in names
        },
    )


def _no_pair(
    paired: pl.DataFrame, decided: pl.DataFrame, inside: pl.DataFrame, *, band: tuple[float, float]
) -> DataError:
    """Why nothing is left: each frame is what the last one kept."""
    if decided.is_empty():
        return DataError(
            f"scores: all {len(paired)} pairs are exact ties, which teach nothing; "
            "give finer scores"
        )
    if inside.is_empty():
        margins = decided["margin"].to_numpy()
        most = "or more" if np.isinf(band[1]) else f"to {band[1]:g}"
        return DataError(
            f"scores: none of {len(decided)} pairs has a margin of {band[0]:g} {most} "
            f"score points; margins are {margins.min():.4g} to {margins.max():.4g}, so "
            "move the band"
        )
    return DataError(
        f"responses: both texts are equal in all {len(inside)} pairs; give responses that differ"
    )


def _n_with(frame: pl.DataFrame, policy: str) -> int:
    return int(((frame["chosen_policy"] == policy) | (frame["rejected_policy"] == policy)).sum())


def _choose_policies(
    scores: pl.DataFrame, calibration: Calibration | None, *, wanted: Sequence[str] | None
) -> list[str]:
    """The candidates by name, each of which has scores."""
    known = scores["policy"].unique().sort().to_list()
    if wanted is not None:
        policies = sorted(set(wanted))
    elif calibration is not None:
        moved = {entry.policy for entry in calibration.offsets}
        policies = sorted({*moved, calibration.reference})
    else:
        policies = known
    for policy in policies:
        if policy not in known:
            raise not_found("policy", policy, names=known, where="scores")
    if len(policies) < 2:
        raise DataError(
            f"scores: only the policy {policies[0]!r}; a pair needs two, so name another"
        )
    return policies


def _candidates(
    scores: pl.DataFrame,
    calibration: Calibration | None,
    *,
    policies: list[str],
    uncalibrated: bool,
) -> pl.DataFrame:
    """Rows of the candidates on prompts that at least two of them have; ``used`` decides."""
    rows = scores.filter(pl.col("policy").is_in(policies))
    if calibration is not None:
        rows = apply_offsets(rows, calibration)
    shared = rows.filter(pl.len().over(KEY) > 1)
    if shared.is_empty():
        raise DataError(
            f"scores: {', '.join(repr(policy) for policy in policies)} share no prompt; "
            "score responses of all to the same prompts"
        )
    raw = "raw_score" if "raw_score" in rows.columns else "score"
    if calibration is None and raw == "score" and not uncalibrated:
        raise DataError(
            "scores: as the reward model gave them; give --offsets, or --uncalibrated for pairs by "
            "the raw scores"
        )
    calibrated = "calibrated_score" if calibration is not None else "score"
    category = ["category"] if "category" in rows.columns else []
    return shared.select(
        *KEY,
        "policy",
        pl.col(raw).alias("score"),
        pl.col(raw if uncalibrated else calibrated).alias("used"),
        *category,
    )


def _best_worst(candidates: pl.DataFrame) -> pl.DataFrame:
    """Highest against lowest of each prompt; of equals, the first by name."""
    ranked = candidates.sort(*KEY, "used", "policy", descending=[False, False, True, False])
    groups = ranked.group_by(KEY, maintain_order=True)
    return _columns(groups.first().join(groups.last(), on=KEY, suffix="_rejected"))


def _all_pairs(candidates: pl.DataFrame) -> pl.DataFrame:
    """Every two candidates of each prompt, the higher one first."""
    wanted = (pl.col("used") > pl.col("used_rejected")) | (
        (pl.col("used") == pl.col("used_rejected")) & (pl.col("policy") < pl.col("policy_rejected"))
    )
    return _columns(candidates.join(candidates, on=KEY, suffix="_rejected").filter(wanted))


def _columns(joined: pl.DataFrame) -> pl.DataFrame:
    return joined.select(
        *KEY,
        pl.col("policy").alias("chosen_policy"),
        pl.col("policy_rejected").alias("rejected_policy"),
        pl.col("used").alias("chosen_score"),
        pl.col("used_rejected").alias("rejected_score"),
        (pl.col("used") - pl.col("used_rejected")).alias("margin"),
        (pl.col("score") < pl.col("score_rejected")).alias("flipped"),
        *(["category"] if "category" in joined.columns else []),
    )


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
