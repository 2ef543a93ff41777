"""The audit: which policies a reward model over-values, by how much, and how surely.

Every policy is set against one reference on the prompts that both answered. Its win rate there
(Eq. 3) is compared with the one that Elo expects (Eq. 2); Eq. 5 gives the mismatch, a paired
bootstrap over prompts, with the ratings drawn from their errors, gives its uncertainty.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
from numpy.typing import NDArray
from scipy.special import ndtri

from charm_rm.core.correlation import correlation, resampled_correlation_interval
from charm_rm.core.elo import draw_elo, expected_win_rate
from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means
from charm_rm.core.mismatch import mismatch_degree, signed_mismatch
from charm_rm.core.significance import (
    ROUNDING,
    benjamini_hochberg,
    unanimous_interval,
    widen_unanimous,
    win_rate_p_value,
)
from charm_rm.core.win_rates import Floats, WinRateKind, wins
from charm_rm.data.arena import EloErrors, EloTable, require_ratings
from charm_rm.data.scores import ScoreMatrix, require_comparable, score_matrix

MAX_DISAGREEMENT = 0.05  # between sigmoid and hard win rate, before a user is warned
LEVEL = 0.95
SIGNIFICANCE = 0.05  # share of false discoveries among the policies called over- or under-valued
POWER = 0.8
LEAST_MISMATCH = 0.1  # a Mismatch Degree that an audit should not miss
Verdict = Literal["over-valued", "under-valued", "not shown", "too few prompts", "reference"]


@dataclass(frozen=True)
class PolicyAudit:
    """What the audit found for one policy, against the reference.

    Attributes:
        policy: Its name.
        elo: Its rating in Elo points.
        elo_low: Lower end of the rating's 95% interval; None where unknown.
        elo_high: Upper end; None where unknown.
        n_prompts: Prompts that it shares with the reference.
        mean_score: Mean of all its scores, in score points.
        expected_win_rate: Win rate against the reference that Elo predicts (Eq. 2).
        win_rate: Empirical win rate of the chosen kind (Eq. 3).
        sigmoid_win_rate: Eq. 3 at the audit's temperature.
        hard_win_rate: Share of prompts won, ties half.
        signed_mismatch: Eq. 5 with its sign, from ``win_rate``.
        mismatch_degree: Eq. 5.
        mismatch_low: Lower end of the 95% interval of the *signed* mismatch.
        mismatch_high: Its upper end.
        over_valued: Whether the verdict is ``"over-valued"``.
        hard_win_rate_low: Lower end of the 95% interval of the hard win rate.
        hard_win_rate_high: Its upper end.
        adjusted_p_value: Of a mismatch of 0 (`charm_rm.core.significance.win_rate_p_value`), by
            the bootstrap's standard errors; adjusted for the number of policies
            (Benjamini-Hochberg).
        detectable_mismatch: Smallest Mismatch Degree that would be found at 5% with a chance of
            80%, given these prompts and ratings, were this the only policy.
        verdict: ``"over-valued"`` or ``"under-valued"`` where the adjusted p-value is at most 0.05;
            else ``"not shown"``, or ``"too few prompts"`` where ``detectable_mismatch`` is over
            0.1: even that could have been missed (by the prompts or, where they are many, by the
            ratings); ``"reference"`` for the reference.
    """

    policy: str
    elo: float
    elo_low: float | None
    elo_high: float | None
    n_prompts: int
    mean_score: float
    expected_win_rate: float
    win_rate: float
    sigmoid_win_rate: float
    hard_win_rate: float
    signed_mismatch: float
    mismatch_degree: float
    mismatch_low: float
    mismatch_high: float
    over_valued: bool
    hard_win_rate_low: float
    hard_win_rate_high: float
    adjusted_p_value: float
    detectable_mismatch: float
    verdict: Verdict


@dataclass(frozen=True)
class SuggestedPair:
    """The pair most worth calibrating: the over-valued policy with the highest mismatch."""

    over_valued: str
    reference: str
    mismatch_degree: float


@dataclass(frozen=True)
class Audit:
    """The result of `audit_scores`, with the settings that led to it.

    Attributes:
        reference: The policy that all others are set against.
        reward_model: Whose scores these are.
        elo_board: Name of the board of the ratings.
        elo_date: Their date.
        elo_errors: How they were drawn: from a ``"covariance"``, ``"independent"`` of each other
            from their intervals, or not at all (``"none"``).
        win_rate_kind: Which win rate the mismatches are from.
        temperature: Score points per unit of log-odds.
        n_resamples: Bootstrap resamples behind the intervals.
        seed: Of the bootstrap.
        policies: One entry per policy, by mean score, highest first; the reference is among
            them, with win rates of 0.5.
        pearson: Correlation of mean score and Elo over the policies; None where all scores or
            all ratings are equal.
        pearson_low: Lower end of its 95% interval, prompts and ratings drawn again.
        pearson_high: Upper end.
        spearman: The same of their ranks.
        suggested_pair: None where no policy lies above its expected win rate.
        warnings: Sentences for the user.
    """

    reference: str
    reward_model: str
    elo_board: str
    elo_date: str
    elo_errors: EloErrors
    win_rate_kind: WinRateKind
    temperature: float
    n_resamples: int
    seed: int
    policies: tuple[PolicyAudit, ...]
    pearson: float | None
    pearson_low: float | None
    pearson_high: float | None
    spearman: float | None
    suggested_pair: SuggestedPair | None
    warnings: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The audit as the document that ``charm audit --json`` prints.

        Example:
            >>> fixed = ("rm", "text", "2025-03-03", "none", "sigmoid", 1.0, 1000, 0, ())
            >>> Audit("gpt-4o-mini", *fixed, *[None] * 5, ()).to_json()["elo"]["date"]
            '2025-03-03'
        """
        document = asdict(self)
        parts = ("board", "date", "errors")
        document["elo"] = {part: document.pop(f"elo_{part}") for part in parts}
        document["win_rate"] = document.pop("win_rate_kind")
        return document


def audit_scores(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    reference: str | None = None,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> Audit:
    """Audit of every policy in the scores against one reference (Eqs. 2, 3 and 5).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        reference: The trusted opponent; by default the policy with the highest Elo.
        win_rate: ``"sigmoid"`` (Eq. 3) or ``"hard"``.
        temperature: Score points per unit of log-odds.
        n_resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Returns:
        The audit.

    Raises:
        DataError: If there is a single policy, one has no Elo, the reference is unknown, or a
            policy shares fewer than 30 prompts with the reference.
        ValueError: If ``win_rate`` or ``temperature`` is invalid, or there are fewer than two
            resamples.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, float(i % 3 + 2 * (policy == "gemma-2-9b-it-SimPO")), "rm")
        ...     for i in range(40)
        ...     for policy in ("gemma-2-9b-it-SimPO", "gpt4_0613")
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> audit = audit_scores(pl.DataFrame(rows, schema=names, orient="row"), read_elo("table7"))
        >>> audit.reference, audit.policies[0].hard_win_rate
        ('gemma-2-9b-it-SimPO', 0.5)
    """
    matrix = score_matrix(scores)
    require_ratings(elo, matrix.policies)
    ratings = elo.ratings(matrix.policies)
    strongest = matrix.policies[int(np.argmax(ratings[:, 0]))]
    chosen = strongest if reference is None else reference
    require_comparable(matrix, chosen)
    at = matrix.policies.index(chosen)
    margins = matrix.values - matrix.values[:, [at]]
    outcomes = {
        "chosen": wins(margins, kind=win_rate, temperature=temperature),
        "sigmoid": wins(margins, kind="sigmoid", temperature=temperature),
        "hard": wins(margins, kind="hard"),
    }
    columns = np.hstack([outcomes["chosen"], outcomes["hard"], matrix.values])
    drawn = _draw_ratings(elo, matrix.policies, n_resamples=n_resamples, seed=seed)
    draws = _draw(columns, drawn, prompts=matrix.prompts, seed=seed)
    found = _audit_policies(matrix, ratings, outcomes=outcomes, draws=draws, reference=at)
    policies = tuple(sorted(found, key=lambda entry: -entry.mean_score))
    pearson_low, pearson_high = resampled_correlation_interval(
        draws.mean_scores, draws.ratings, level=LEVEL
    )
    means = [entry.mean_score for entry in found]
    return Audit(
        reference=chosen,
        reward_model=scores["reward_model"][0],
        elo_board=elo.board,
        elo_date=elo.date,
        elo_errors=elo.errors,
        win_rate_kind=win_rate,
        temperature=temperature,
        n_resamples=n_resamples,
        seed=seed,
        policies=policies,
        pearson=correlation(means, ratings[:, 0]),
        pearson_low=pearson_low,
        pearson_high=pearson_high,
        spearman=correlation(means, ratings[:, 0], ranks=True),
        suggested_pair=_suggest(policies, chosen),
        warnings=_warnings(policies),
    )


@dataclass(frozen=True)
class _Draws:
    """What comes out with the prompts and the ratings drawn again, (n_resamples, n_policies)."""

    rates: Floats
    hard_rates: Floats
    mean_scores: Floats
    ratings: Floats


def _draw_ratings(elo: EloTable, policies: Sequence[str], *, n_resamples: int, seed: int) -> Floats:
    if n_resamples < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {n_resamples}")
    stream = np.random.default_rng([seed, 1])  # of its own, apart from the prompts'
    ratings = elo.ratings(policies)[:, 0]
    return draw_elo(ratings, elo.error_factor(policies), n_draws=n_resamples, rng=stream)


def _draw(columns: Floats, ratings: Floats, *, prompts: NDArray[np.int64], seed: int) -> _Draws:
    """Resampled means of outcomes, hard outcomes and scores, side by side in ``columns``."""
    rng = np.random.default_rng(seed)
    blocks = resample_counts(int(prompts.max()) + 1, n_resamples=len(ratings), rng=rng)
    means = np.concatenate([resampled_means(columns, counts[:, prompts]) for counts in blocks])
    rates, hard_rates, mean_scores = np.hsplit(means, 3)
    return _Draws(rates, hard_rates, mean_scores, ratings)


def _audit_policies(
    matrix: ScoreMatrix,
    ratings: Floats,
    *,
    outcomes: Mapping[str, Floats],
    draws: _Draws,
    reference: int,
) -> list[PolicyAudit]:
    """One entry per policy of the matrix, in its order."""
    answered = np.isfinite(outcomes["chosen"])
    n = np.array([len(np.unique(matrix.prompts[column])) for column in answered.T])
    columns = _measure(ratings, draws, outcomes=outcomes, n_prompts=n, reference=reference)
    columns |= {"elo": ratings[:, 0], "mean_score": np.nanmean(matrix.values, axis=0)}
    found = []
    for at, policy in enumerate(matrix.policies):
        own: dict[str, Any] = {name: float(column[at]) for name, column in columns.items()}
        verdict: Verdict = "reference" if at == reference else _verdict(own)
        found.append(
            PolicyAudit(
                policy=policy,
                elo_low=_known(ratings[at, 1]),
                elo_high=_known(ratings[at, 2]),
                n_prompts=int(n[at]),
                over_valued=verdict == "over-valued",
                verdict=verdict,
                **own,
            )
        )
    return found


def _measure(
    ratings: Floats,
    draws: _Draws,
    *,
    outcomes: Mapping[str, Floats],
    n_prompts: NDArray[np.int64],
    reference: int,
) -> dict[str, Floats]:
    """Rates and mismatches against the reference, by the name of the field, (n_policies,) each."""
    expected = expected_win_rate(ratings[:, 0], ratings[reference, 0])
    rates, sigmoid, hard = (np.nanmean(values, axis=0) for values in outcomes.values())
    signed = signed_mismatch(rates, expected)
    drawn_expected = expected_win_rate(draws.ratings, draws.ratings[:, [reference]])
    drawn = signed_mismatch(draws.rates, drawn_expected)
    low, high = percentile_interval(drawn, n_prompts=n_prompts, level=LEVEL)
    hard_low, hard_high = percentile_interval(draws.hard_rates, n_prompts=n_prompts, level=LEVEL)
    few = np.sqrt(n_prompts / (n_prompts - 1.0))  # resamples spread by 1/n
    errors = few * drawn.std(axis=0, ddof=1)
    p_values = win_rate_p_value(
        rates,
        expected,
        win_rate_error=few * draws.rates.std(axis=0, ddof=1),
        n_prompts=n_prompts,
        expected_error=drawn_expected.std(axis=0, ddof=1),
    )
    p_values[reference] = np.nan  # which is not tested
    for at in _unanimous(outcomes["chosen"], reference=reference):
        low[at], high[at] = widen_unanimous(
            (low[at], high[at]),
            outcomes["chosen"][:, at],
            expected=float(expected[at]),
            n_prompts=int(n_prompts[at]),
        )
        # what the outcomes would vary by, were Elo right
        spread = np.sqrt(expected[at] * (1.0 - expected[at]) / n_prompts[at])
        errors[at] = np.hypot(errors[at], spread / max(expected[at], 1.0 - expected[at]))
    for at in _unanimous(outcomes["hard"], reference=reference):
        hard_low[at], hard_high[at] = unanimous_interval(hard[at], n_prompts=n_prompts[at])
    return {
        "expected_win_rate": expected,
        "win_rate": rates,
        "sigmoid_win_rate": sigmoid,
        "hard_win_rate": hard,
        "signed_mismatch": signed,
        "mismatch_degree": mismatch_degree(rates, expected),
        "mismatch_low": low,
        "mismatch_high": high,
        "hard_win_rate_low": hard_low,
        "hard_win_rate_high": hard_high,
        "adjusted_p_value": np.nan_to_num(benjamini_hochberg(p_values), nan=1.0),
        "detectable_mismatch": (ndtri(0.5 * (1.0 + LEVEL)) + ndtri(POWER)) * errors,
    }


def _unanimous(outcomes: Floats, *, reference: int) -> NDArray[np.int64]:
    """The policies but the reference whose outcomes are all equal, as then are all resamples."""
    equal = np.nanmax(outcomes, axis=0) - np.nanmin(outcomes, axis=0) <= ROUNDING
    equal[reference] = False
    return np.flatnonzero(equal)


def _verdict(own: Mapping[str, float]) -> Verdict:
    if own["adjusted_p_value"] <= SIGNIFICANCE:
        return "over-valued" if own["signed_mismatch"] > 0.0 else "under-valued"
    return "too few prompts" if own["detectable_mismatch"] > LEAST_MISMATCH else "not shown"


def _suggest(policies: Sequence[PolicyAudit], reference: str) -> SuggestedPair | None:
    above = [entry for entry in policies if entry.signed_mismatch > 0.0]
    if not above:
        return None
    worst = max(above, key=lambda entry: entry.mismatch_degree)
    return SuggestedPair(worst.policy, reference, worst.mismatch_degree)


def _warnings(policies: Sequence[PolicyAudit]) -> tuple[str, ...]:
    apart = [
        entry
        for entry in policies
        if abs(entry.sigmoid_win_rate - entry.hard_win_rate) > MAX_DISAGREEMENT
    ]
    if not apart:
        return ()
    worst = max(apart, key=lambda entry: abs(entry.sigmoid_win_rate - entry.hard_win_rate))
    return (
        f"sigmoid and hard win rates differ by more than {MAX_DISAGREEMENT} for {len(apart)} of "
        f"{len(policies)} policies, most for {worst.policy} ({worst.sigmoid_win_rate:.3f} and "
        f"{worst.hard_win_rate:.3f}): what is found depends on which one is used, so see both",
    )


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
