"""Verdicts of a generative judge: what it is asked, what they come to, and their scores (A.3).

Every battle is a policy against the reference on one prompt. The order in which the two answers
stand is drawn anew for each prompt, or both orders are asked. Ties and replies that are no verdict
are counted, and left out of the win rate, as in Table 8.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from scipy.special import logit

from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means
from charm_rm.core.win_rates import Floats
from charm_rm.data.prompts import Message
from charm_rm.data.tables import DataError, not_found
from charm_rm.judge_formats import JudgeFormat, ask_judge

Order = Literal["shuffled", "both"]
VERDICT_SCHEMA = {
    "prompt_id": pl.String,
    "sample": pl.Int64,
    "policy": pl.String,
    "reference": pl.String,
    "policy_first": pl.Boolean,
    "verdict": pl.String,
    "p_first": pl.Float64,
}
SUREST = 0.999  # a verdict's probability in scores: log-odds are finite
LEVEL = 0.95


@dataclass(frozen=True)
class Matchup:
    """Two answers to one prompt in one order.

    Attributes:
        prompt_id: Id of the prompt.
        sample: Which sample of both.
        policy: The policy that meets the reference.
        reference: The reference.
        policy_first: Whether the policy's answer is A.
        messages: What the judge is asked.
    """

    prompt_id: str
    sample: int
    policy: str
    reference: str
    policy_first: bool
    messages: tuple[Message, ...]


@dataclass(frozen=True)
class Share:
    """A share of verdicts.

    Attributes:
        value: The share.
        low: Lower end of its 95% interval, prompts drawn again; None for fewer than two prompts.
        high: Upper end.
        n: Verdicts that it is of.
    """

    value: float
    low: float | None
    high: float | None
    n: int


@dataclass(frozen=True)
class JudgeCounts:
    """What the verdicts on one policy come to; a row of Table 8.

    Attributes:
        policy: Its name.
        n_asked: Battles that the judge was asked about.
        n_won: Verdicts for the policy.
        n_lost: Verdicts for the reference.
        n_tied: Ties.
        n_invalid: Replies that are no verdict.
        win_rate: Won among won and lost; None where there are none.
        first_rate: Share of verdicts for the answer that stood first, of won and lost: 0.5 in a
            judge without position bias, for the order is random.
        consistency: Share of prompts asked in both orders, and decided in both, whose verdicts
            agree on the answer; None if there are none.
    """

    policy: str
    n_asked: int
    n_won: int
    n_lost: int
    n_tied: int
    n_invalid: int
    win_rate: Share | None
    first_rate: Share | None
    consistency: Share | None

    def to_json(self) -> dict[str, Any]:
        """The counts as one document."""
        return asdict(self)


def pair_up(
    responses: pl.DataFrame,
    *,
    reference: str,
    how: JudgeFormat,
    policies: Sequence[str] = (),
    order: Order = "shuffled",
    seed: int = 0,
) -> Iterator[Matchup]:
    """Every battle of the policies against the reference that the responses allow.

    Args:
        responses: As `charm_rm.data.responses.read_responses` returns them.
        reference: The policy that the others meet.
        how: The format of the question.
        policies: Those that meet it; by default all others.
        order: ``"shuffled"``: one order, drawn for each battle; ``"both"``: one question for each.
        seed: Of the drawn orders; they do not depend on which battles are asked beside.

    Returns:
        An iterator of battles, by policy, prompt and sample.

    Raises:
        DataError: If a name is not among the responses, or a policy shares no prompt with the
            reference.

    Example:
        >>> from charm_rm.judge_formats import FORMATS
        >>> turns = [{"role": "user", "content": "Hi"}]
        >>> rows = [("p", turns, name, 0, name) for name in ("a", "b")]
        >>> names = ["prompt_id", "prompt", "policy", "sample", "response"]
        >>> table = pl.DataFrame(rows, schema=names, orient="row")
        >>> both = pair_up(table, reference="b", how=FORMATS["letter"], order="both")
        >>> [battle.policy_first for battle in both]
        [True, False]
    """
    known = responses["policy"].unique().sort().to_list()
    chosen = list(dict.fromkeys(policies)) or [name for name in known if name != reference]
    for what, name in (("reference", reference), *(("policy", name) for name in chosen)):
        if name not in known:
            raise not_found(what, name, names=known, where="responses")
    if reference in chosen:
        raise DataError(f"{reference!r} can't meet itself; leave it out of the policies")
    columns = ["prompt_id", "sample", "prompt", "response"]
    theirs = responses.filter(pl.col("policy") == reference).select(columns)
    for policy in chosen:
        ours = responses.filter(pl.col("policy") == policy).select(columns)
        shared = ours.join(theirs.drop("prompt"), on=["prompt_id", "sample"]).sort(
            "prompt_id", "sample"
        )
        if shared.is_empty():
            raise DataError(f"{policy!r} and {reference!r} answer no prompt both; judge others")
        for prompt_id, sample, prompt, own, other in shared.iter_rows():
            drawn = _drawn_first(seed, prompt_id, sample, policy)
            for policy_first in (True, False) if order == "both" else (drawn,):
                answers = (own, other) if policy_first else (other, own)
                messages = tuple(ask_judge(prompt, *answers, how=how))
                yield Matchup(prompt_id, sample, policy, reference, policy_first, messages)


def _drawn_first(seed: int, prompt_id: str, sample: int, policy: str) -> bool:
    name = f"{seed}\n{sample}\n{policy}\n{prompt_id}".encode()
    return hashlib.sha256(name).digest()[0] % 2 == 0


def count_verdicts(
    verdicts: pl.DataFrame, *, n_resamples: int = 10_000, seed: int = 0
) -> list[JudgeCounts]:
    """Won, lost, tied and invalid for each policy, with position bias and consistency (Table 8).

    Args:
        verdicts: Columns ``prompt_id, sample, policy, policy_first`` and ``verdict``
            (``"first"``, ``"second"``, ``"tie"``, or null for a reply that is none).
        n_resamples: Bootstrap resamples; prompts are drawn again, all verdicts on one together.
        seed: Of the bootstrap.

    Returns:
        The counts, by policy.

    Example:
        >>> rows = [("p1", 0, "a", True, "first"), ("p2", 0, "a", False, None)]
        >>> names = ["prompt_id", "sample", "policy", "policy_first", "verdict"]
        >>> found = count_verdicts(pl.DataFrame(rows, schema=names, orient="row"))[0]
        >>> found.n_won, found.n_invalid, found.win_rate.value
        (1, 1, 1.0)
    """
    decided = pl.col("verdict").is_in(["first", "second"])
    first = pl.col("verdict") == "first"
    table = verdicts.with_columns(
        decided=decided.fill_null(value=False),
        first=pl.when(decided).then(first.cast(pl.Float64)),
        won=pl.when(decided).then((first == pl.col("policy_first")).cast(pl.Float64)),
    )
    found = []
    for policy in table["policy"].unique().sort().to_list():
        own = table.filter(pl.col("policy") == policy)
        won = own["won"].drop_nulls()
        found.append(
            JudgeCounts(
                policy=policy,
                n_asked=len(own),
                n_won=int(won.sum()),
                n_lost=len(won) - int(won.sum()),
                n_tied=int((own["verdict"] == "tie").sum()),
                n_invalid=own["verdict"].null_count(),
                win_rate=_share(own, "won", n_resamples=n_resamples, seed=seed),
                first_rate=_share(own, "first", n_resamples=n_resamples, seed=seed),
                consistency=_share(_agreements(own), "agrees", n_resamples=n_resamples, seed=seed),
            )
        )
    return found


def _agreements(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Whether the two orders of a battle favour one answer, where both are decided."""
    both = verdicts.filter(pl.col("decided")).group_by("prompt_id", "sample", maintain_order=True)
    pairs = both.agg(pl.len().alias("n"), agrees=(pl.col("won").n_unique() == 1).cast(pl.Float64))
    return pairs.filter(pl.col("n") == 2)


def _share(frame: pl.DataFrame, column: str, *, n_resamples: int, seed: int) -> Share | None:
    """Mean of a column of 0 and 1 with its interval, the rows of one prompt drawn together."""
    known = frame.drop_nulls(column)
    if known.is_empty():
        return None
    sums = known.group_by("prompt_id", maintain_order=True).agg(
        pl.col(column).sum().alias("sum"), pl.len().alias("n")
    )
    value, n_prompts = float(known[column].mean()), len(sums)  # type: ignore[arg-type]
    if n_prompts < 2:
        return Share(value, None, None, len(known))
    columns: Floats = sums.select("sum", "n").cast(pl.Float64).to_numpy()
    rng = np.random.default_rng(seed)
    blocks = resample_counts(n_prompts, n_resamples=n_resamples, rng=rng)
    means = np.concatenate([resampled_means(columns, counts) for counts in blocks])
    low, high = percentile_interval(means[:, 0] / means[:, 1], n_prompts=n_prompts, level=LEVEL)
    return Share(value, float(low), float(high), len(known))


def score_verdicts(verdicts: pl.DataFrame, *, judge: str) -> pl.DataFrame:
    """Verdicts as scores that audit and calibrate take: log-odds against the reference, who has 0.

    A policy's score on a prompt is logit(p), p the judge's probability that its answer is the
    better one: read from the first token where that is known, else 1 or 0, averaged over the two
    orders, and kept within [0.001, 0.999]. The sigmoid win rate against the reference (Eq. 3) is
    then the mean of p, and the hard one the share of prompts won. Ties and replies that are no
    verdict are left out. Differences between two other policies go through the reference.

    Args:
        verdicts: Columns of ``VERDICT_SCHEMA``, of one reference.
        judge: Its name, for the column ``reward_model``.

    Returns:
        Columns ``prompt_id, policy, sample, score, reward_model``.

    Raises:
        DataError: If there is more than one reference, or no verdict at all.

    Example:
        >>> row = ("p", 0, "a", "b", False, "second", None)
        >>> table = pl.DataFrame([row], schema=VERDICT_SCHEMA, orient="row")
        >>> score_verdicts(table, judge="j").select("policy", pl.col("score").round(2)).rows()
        [('a', 6.91), ('b', 0.0)]
    """
    references = verdicts["reference"].unique().sort().to_list()
    if len(references) > 1:
        raise DataError(f"verdicts against {len(references)} references; give those of one")
    said = (pl.col("verdict") == "first").cast(pl.Float64)
    decided = pl.col("verdict").is_in(["first", "second"])
    p_first = pl.when(decided).then(pl.coalesce("p_first", said))
    p = pl.when(pl.col("policy_first")).then(p_first).otherwise(1.0 - p_first)
    keys = ["prompt_id", "policy", "sample"]
    means = (
        verdicts.with_columns(p=p)
        .filter(pl.col("p").is_not_null())
        .group_by(keys, maintain_order=True)
        .agg(pl.col("p").mean())
    )
    if means.is_empty():
        raise DataError("no verdict among the replies: nothing to score; try another format")
    odds = logit(np.clip(means["p"].to_numpy(), 1.0 - SUREST, SUREST))
    own = means.select(keys).with_columns(score=pl.Series(odds))
    zero = own.select("prompt_id", "sample").unique(maintain_order=True)
    zero = zero.select(
        "prompt_id", pl.lit(references[0]).alias("policy"), "sample", score=pl.lit(0.0)
    )
    return pl.concat([own, zero]).with_columns(reward_model=pl.lit(judge))
