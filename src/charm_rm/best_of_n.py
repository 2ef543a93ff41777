"""Best of n: on each prompt, the response that the reward model scores highest.

Chosen among the samples of each policy, or among those of all policies. Offsets matter for the
second alone: they move all responses of a policy together, and so never change which of its own
comes first (see `charm_rm.data.offsets`). What is expected of the best is expected in the eyes of
this reward model; nobody else has looked.
"""

from dataclasses import dataclass

import numpy as np
import polars as pl

from charm_rm.core.order_statistics import best_of_n_kl, expected_maximum
from charm_rm.core.win_rates import tie_width
from charm_rm.data.offsets import Calibration, apply_offsets
from charm_rm.data.tables import DataError

RESPONSE = ["prompt_id", "policy", "sample"]


@dataclass(frozen=True)
class CurvePoint:
    """What the best of n responses is expected to score.

    Attributes:
        policy: Whose samples are drawn; None where all policies are drawn from.
        n: Responses drawn.
        kl: Divergence from the policy (of all policies: from their mixture) in nats, see
            `charm_rm.core.order_statistics.best_of_n_kl`.
        expected_score: Mean over prompts of the expected highest score, in score points.
        n_prompts: Prompts that it is the mean of: the same for every n.
    """

    policy: str | None
    n: int
    kl: float
    expected_score: float
    n_prompts: int


@dataclass(frozen=True)
class BestOfN:
    """The chosen responses, and what choosing does to the score.

    Attributes:
        frame: One row per prompt (and policy): ``prompt_id``, with texts ``prompt`` (messages),
            then ``policy, sample``, with texts ``response``, then ``score`` and, with offsets,
            ``calibrated_score`` (score points), ``reward_model, category`` (if the scores have
            it), ``n_candidates``, ``margin`` (over the next, score points; null for the only
            one) and, with offsets, ``changed``: another response is chosen without them.
        curve: For 1, 2, 4, ... responses and all that at least half of the prompts have.
        n_ties: Rows where several responses are highest; the first by policy and sample is chosen.
        n_changed: Rows where the offsets change what is chosen.
        chosen: How often each policy is chosen, most often first.
        chosen_without: The same without the offsets.
    """

    frame: pl.DataFrame
    curve: tuple[CurvePoint, ...]
    n_ties: int
    n_changed: int
    chosen: dict[str, int]
    chosen_without: dict[str, int]


def choose_best_of_n(
    scores: pl.DataFrame,
    calibration: Calibration | None = None,
    *,
    per_policy: bool = False,
    n: int | None = None,
    responses: pl.DataFrame | None = None,
) -> BestOfN:
    """The highest scored response to each prompt, of all policies or of each.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        calibration: Offsets to add first; a policy without one keeps its scores.
        per_policy: Choose among the samples of each policy, not among all responses.
        n: Take the first ``n`` samples of each policy; by default all.
        responses: As `charm_rm.data.responses.read_responses` returns them, for the texts.

    Returns:
        The chosen responses, sorted by prompt (and policy), and the curve.

    Raises:
        DataError: If there is nothing to choose from, the offsets are of another reward model, or
            a chosen response is not among the responses.
        ValueError: If ``n`` is not positive, or no policy has so many samples.

    Example:
        >>> rows = {"prompt_id": ["p"] * 3, "policy": ["a", "a", "b"], "sample": [0, 1, 0]}
        >>> scores = pl.DataFrame(rows | {"score": [1.0, 3.0, 2.0], "reward_model": ["rm"] * 3})
        >>> best = choose_best_of_n(scores)
        >>> best.frame.select("policy", "sample", "margin").row(0)
        ('a', 1, 1.0)
        >>> [round(point.expected_score, 3) for point in best.curve]  # of 1, 2 and 3
        [2.0, 2.667, 3.0]
    """
    group = ["prompt_id", "policy"] if per_policy else ["prompt_id"]
    rows = _first_samples(scores, n)
    if calibration is not None:
        rows = apply_offsets(rows, calibration)
    used = "score" if calibration is None else "calibrated_score"
    sizes = rows.select(pl.len().over(group))
    if (sizes.to_series() == 1).all():
        whose = "of each policy, so there is nothing to choose" if per_policy else "to choose from"
        raise DataError(
            f"scores: every prompt has one response {whose}; score more samples or policies"
        )
    best = _pick(rows, group, used=used)
    without = _pick(rows, group, used="score")
    best = best.with_columns(changed=_differ(best, without))
    n_ties = int((best["n_highest"] > 1).sum())
    frame = best.select(
        *RESPONSE,
        "score",
        *([used] if calibration is not None else []),
        "reward_model",
        *(["category"] if "category" in best.columns else []),
        "n_candidates",
        "margin",
        *(["changed"] if calibration is not None else []),
    )
    return BestOfN(
        frame=frame if responses is None else _add_texts(frame, responses),
        curve=_curve(rows, used=used, per_policy=per_policy),
        n_ties=n_ties,
        n_changed=int(best["changed"].sum()),
        chosen=_count_policies(best),
        chosen_without=_count_policies(without),
    )


def _first_samples(scores: pl.DataFrame, n: int | None) -> pl.DataFrame:
    if n is None:
        return scores
    if n < 1:
        raise ValueError(f"the best of {n} samples is none; give 1 or more")
    rank = pl.col("sample").rank("ordinal").over("prompt_id", "policy")
    numbered = scores.with_columns(_rank=rank)
    most = int(numbered["_rank"].to_numpy().max())
    if n > most:
        raise ValueError(f"the best of {n} samples is asked for, but no policy has over {most}")
    return numbered.filter(pl.col("_rank") <= n).drop("_rank")


def _pick(rows: pl.DataFrame, group: list[str], *, used: str) -> pl.DataFrame:
    """The highest of each group; of those that are equal but for rounding, the first."""
    two = pl.col(used).top_k(2)
    sized = rows.with_columns(
        n_candidates=pl.len().over(group),
        _gap=pl.col(used).max().over(group) - pl.col(used),
    ).join(rows.group_by(group).agg(margin=two.max() - two.min()), on=group)
    width = tie_width(sized["_gap"].to_numpy())
    highest = sized.filter(pl.col("_gap") <= width).with_columns(n_highest=pl.len().over(group))
    chosen = highest.sort(RESPONSE).unique(group, keep="first", maintain_order=True)
    tied, alone = pl.col("n_highest") > 1, pl.col("n_candidates") == 1
    return chosen.with_columns(
        margin=pl.when(alone).then(None).when(tied).then(0.0).otherwise("margin")
    )


def _differ(one: pl.DataFrame, other: pl.DataFrame) -> pl.Series:
    """Whether two choices, of the same groups in the same order, name different responses."""
    return (one["policy"] != other["policy"]) | (one["sample"] != other["sample"])


def _curve(rows: pl.DataFrame, *, used: str, per_policy: bool) -> tuple[CurvePoint, ...]:
    if not per_policy:
        return _curve_of(rows, used, policy=None)
    policies = rows.sort("policy").partition_by("policy", as_dict=True, maintain_order=True)
    return tuple(
        point
        for (policy,), own in policies.items()
        for point in _curve_of(own, used, policy=str(policy))
    )


def _curve_of(rows: pl.DataFrame, used: str, *, policy: str | None) -> tuple[CurvePoint, ...]:
    """Prompts with fewer responses than half of all prompts have are left out for every n."""
    groups = rows.group_by("prompt_id", maintain_order=True).agg(used)[used].to_list()
    sizes = sorted(len(group) for group in groups)
    most = sizes[(len(sizes) - 1) // 2]
    whole = [np.array(group) for group in groups if len(group) >= most]
    steps = sorted({*(2**power for power in range(most.bit_length())), most})
    return tuple(
        CurvePoint(
            policy=policy,
            n=step,
            kl=float(best_of_n_kl(step)),
            expected_score=float(np.mean([expected_maximum(group, step) for group in whole])),
            n_prompts=len(whole),
        )
        for step in steps
    )


def _count_policies(chosen: pl.DataFrame) -> dict[str, int]:
    counts = chosen.group_by("policy").len().sort(["len", "policy"], descending=[True, False])
    return dict(counts.iter_rows())


def _add_texts(frame: pl.DataFrame, responses: pl.DataFrame) -> pl.DataFrame:
    joined = frame.join(
        responses.select(*RESPONSE, "prompt", "response"),
        on=RESPONSE,
        how="left",
        maintain_order="left",
    )
    missing = joined.filter(pl.col("response").is_null())
    if not missing.is_empty():
        raise DataError(
            f"responses: no sample {missing['sample'][0]} of {missing['policy'][0]!r} to prompt "
            f"{missing['prompt_id'][0]!r}, which is chosen ({len(missing)} missing); "
            "give the responses that the scores were made from"
        )
    first = ["prompt_id", "prompt", "policy", "sample", "response"]
    return joined.select(*first, pl.exclude(first))
