"""Calibration: the score offsets that bring policies to their Elo-expected win rates.

An offset moves all scores of one policy by the same amount. It corrects how that policy stands
to others; it changes nothing in the order of the policy's own responses.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import polars as pl
from numpy.typing import NDArray

from charm_rm.audit import LEVEL
from charm_rm.core.alternatives import probit_offset, solve_resampled_probit_offsets
from charm_rm.core.elo import draw_elo, expected_win_rate
from charm_rm.core.intervals import percentile_interval, resample_counts, resampled_means
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.offsets import (
    reach_win_rate,
    solve_resampled_hard_offsets,
    solve_resampled_offsets,
)
from charm_rm.core.significance import student_interval, widen_unanimous
from charm_rm.core.uncertainty import (
    expected_win_rate_standard_error,
    mismatch_standard_error,
    win_rate_standard_error,
)
from charm_rm.core.win_rates import Floats, WinRateKind, hard_win_rate, sigmoid_win_rate, wins
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.offsets import Calibration, Offset, OffsetMethod
from charm_rm.data.scores import require_shared_prompts, require_two_policies, score_matrix


@dataclass(frozen=True)
class PairedMargins:
    """Two policies on the prompts that both answered.

    Attributes:
        policy: The one whose scores the offset moves.
        margins: Its score minus the reference's, in score points, shape (n_rows,).
        prompts: Which distinct prompt each row belongs to, shape (n_rows,).
        prompt_ids: Its id, length n_rows.
        elo: Ratings of the policy and of the reference, in Elo points, shape (2,).
        elo_factor: Their errors, as `charm_rm.core.elo.draw_elo` takes them, shape (2, n_factors).
    """

    policy: str
    margins: Floats
    prompts: NDArray[np.int64]
    prompt_ids: tuple[str, ...]
    elo: Floats
    elo_factor: Floats

    @property
    def target(self) -> float:
        """Win rate that Elo expects of the policy (Eq. 2).

        Example:
            >>> elo, exact = np.array([1216.0, 1273.0]), np.zeros((2, 1))
            >>> pair = PairedMargins("a", np.zeros(1), np.zeros(1, int), ("p",), elo, exact)
            >>> round(pair.target, 4)
            0.4187
        """
        return float(expected_win_rate(self.elo[0], self.elo[1]))

    @property
    def target_error(self) -> float:
        """Standard error of the target: what the two ratings err by together leaves it alone.

        Example:
            >>> elo, errors = np.array([1216.0, 1273.0]), np.array([[2.5, 0.0], [0.0, 1.5]])
            >>> pair = PairedMargins("a", np.zeros(1), np.zeros(1, int), ("p",), elo, errors)
            >>> round(pair.target_error, 4)
            0.0041
        """
        error = expected_win_rate_standard_error(
            *self.elo,
            elo_error=np.linalg.norm(self.elo_factor[0] - self.elo_factor[1]),
            opponent_error=0.0,  # it is in that of the difference
        )
        return float(error)

    @property
    def n_prompts(self) -> int:
        """Number of distinct prompts.

        Example:
            >>> prompts, ids, elo = np.array([0, 0, 1]), ("p", "p", "q"), np.ones(2)
            >>> PairedMargins("a", np.zeros(3), prompts, ids, elo, np.eye(2)).n_prompts
            2
        """
        return int(self.prompts.max(initial=-1)) + 1


def calibrate_pair(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    over_valued: str,
    reference: str,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    method: OffsetMethod = "offset",
    n_resamples: int = 1000,
    seed: int = 0,
    made_by: Mapping[str, Any] | None = None,
) -> Calibration:
    """Offset that brings one policy to its Elo-expected win rate against another (Eq. 4).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold both policies.
        over_valued: The policy whose scores the offset moves.
        reference: The trusted opponent, which stays.
        win_rate: Which win rate is to meet the target: ``"sigmoid"`` exactly, ``"hard"`` to the
            nearest step.
        temperature: Score points per unit of log-odds.
        method: ``"offset"``, the root of Eq. 4; or ``"probit"``, its closed form for normal
            margins (`charm_rm.core.alternatives.probit_offset`), to compare it with.
        n_resamples: Bootstrap resamples.
        seed: Of the bootstrap.
        made_by: What to record of how this came about.

    Returns:
        The calibration, with one offset.

    Raises:
        DataError: If a policy is not in the scores or has no Elo, both are the same, or they
            share fewer than 30 prompts.
        ValueError: If ``win_rate``, ``temperature`` or ``method`` is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, float(i % 3 + 2 * (policy == "gemma-2-9b-it-SimPO")), "rm")
        ...     for i in range(40)
        ...     for policy in ("gemma-2-9b-it-SimPO", "gpt4_0613")
        ... ]
        >>> names = ["prompt_id", "policy", "sample", "score", "reward_model"]
        >>> calibration = calibrate_pair(
        ...     pl.DataFrame(rows, schema=names, orient="row"),
        ...     read_elo("table7"),
        ...     over_valued="gemma-2-9b-it-SimPO",
        ...     reference="gpt4_0613",
        ... )
        >>> round(calibration.offsets[0].offset, 4)  # 2 points too many, 53 Elo points deserved
        -1.6949
    """
    if method not in ("offset", "probit"):
        raise ValueError(f"method must be 'offset' or 'probit', got {method!r}")
    if n_resamples < 2:
        raise ValueError(f"an interval needs at least 2 resamples, got {n_resamples}")
    pair = pair_policies(scores, elo, over_valued=over_valued, reference=reference)
    settings = _Settings(win_rate, temperature, method)
    offset = _solve_pair(pair, settings, n_resamples=n_resamples, seed=seed)
    return Calibration(
        reward_model=scores["reward_model"][0],
        elo=elo.to_json(),
        reference=reference,
        win_rate=win_rate,
        temperature=temperature,
        offsets=(offset,),
        warnings=_warnings(offset, settings, n_rows=pair.margins.size),
        made_by={"seed": seed, **(made_by or {})},
        method=method,
    )


class _Settings(NamedTuple):
    kind: WinRateKind
    temperature: float
    method: OffsetMethod


def pair_policies(
    scores: pl.DataFrame, elo: EloTable, *, over_valued: str, reference: str
) -> PairedMargins:
    """The margins of two policies, with what is needed to calibrate them.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold both policies.
        over_valued: The policy whose scores an offset moves.
        reference: The policy that stays.

    Returns:
        Margins and ratings, on the prompts that both answered.

    Raises:
        DataError: If a policy is not in the scores or has no Elo, both are the same, or they
            share fewer than 30 prompts.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [
        ...     (str(i), policy, 0, 1.0) for i in range(30) for policy in ("vicuna-7b", "gpt4_0613")
        ... ]
        >>> scores = pl.DataFrame(
        ...     rows, schema=["prompt_id", "policy", "sample", "score"], orient="row"
        ... )
        >>> names = {"over_valued": "vicuna-7b", "reference": "gpt4_0613"}
        >>> pair = pair_policies(scores, read_elo("table7"), **names)
        >>> pair.n_prompts, round(pair.target, 3)
        (30, 0.287)
    """
    require_two_policies(over_valued, reference)
    matrix = score_matrix(scores, [over_valued, reference])
    require_ratings(elo, matrix.policies)
    both = np.isfinite(matrix.values).all(axis=1)
    pair = PairedMargins(
        policy=over_valued,
        margins=matrix.values[both, 0] - matrix.values[both, 1],
        prompts=np.unique(matrix.prompts[both], return_inverse=True)[1],
        prompt_ids=tuple(np.array(matrix.prompt_ids, dtype=object)[both]),
        elo=elo.ratings(matrix.policies)[:, 0],
        elo_factor=elo.error_factor(matrix.policies),
    )
    require_shared_prompts(pair.n_prompts, policy=over_valued, reference=reference)
    return pair


def _solve_pair(pair: PairedMargins, settings: _Settings, *, n_resamples: int, seed: int) -> Offset:
    """The offset of a pair, with its interval and with what it does to both win rates."""
    kind, temperature, method = settings
    solve = probit_offset if method == "probit" else reach_win_rate
    ends, mismatch_ends = _bootstrap(pair, settings, n_resamples=n_resamples, seed=seed)
    entry = describe_offset(
        pair,
        offset=solve(pair.margins, pair.target, kind=kind, temperature=temperature),
        ends=ends,
        category=None,
        kind=kind,
        temperature=temperature,
    )
    return replace(
        entry, mismatch_before_low=mismatch_ends[0], mismatch_before_high=mismatch_ends[1]
    )


def describe_offset(
    pair: PairedMargins,
    *,
    offset: float,
    ends: tuple[float, float],
    category: str | None,
    kind: WinRateKind,
    temperature: float,
) -> Offset:
    """What an offset does to a pair; the interval of the mismatch by the delta method.

    Args:
        pair: The two policies.
        offset: Score points added to the first one's scores.
        ends: Of the offset's interval.
        category: The prompts that it holds for; None for all.
        kind: Win rate that the mismatches are from.
        temperature: Score points per unit of log-odds.

    Returns:
        The entry of an offsets file.

    Example:
        >>> margins, prompts, ids = np.linspace(0.0, 4.0, 30), np.arange(30), ("p",) * 30
        >>> pair = PairedMargins("a", margins, prompts, ids, np.full(2, 1000.0), np.zeros((2, 1)))
        >>> settings = {"kind": "hard", "temperature": 1.0, "category": None}
        >>> describe_offset(pair, offset=-2.0, ends=(-3.0, -1.0), **settings).hard_win_rate_after
        0.5
    """
    margins, moved, target = pair.margins, pair.margins + offset, pair.target
    outcomes = wins(margins, kind=kind, temperature=temperature)
    before, after = float(outcomes.mean()), wins(moved, kind=kind, temperature=temperature).mean()
    mismatch, n_prompts = float(signed_mismatch(before, target)), len(np.unique(pair.prompts))
    error = mismatch_standard_error(
        before,
        target,
        win_rate_error=win_rate_standard_error(
            margins, kind=kind, temperature=temperature, prompts=pair.prompts
        ),
        expected_error=pair.target_error,
    )
    ends_before = student_interval(mismatch, standard_error=error, n_prompts=n_prompts)
    low, high = widen_unanimous(
        (float(ends_before[0]), float(ends_before[1])),
        outcomes,
        expected=target,
        n_prompts=n_prompts,
    )
    return Offset(
        policy=pair.policy,
        category=category,
        offset=offset,
        offset_low=ends[0],
        offset_high=ends[1],
        n_prompts=n_prompts,
        expected_win_rate=target,
        win_rate_before=sigmoid_win_rate(margins, temperature=temperature),
        win_rate_after=sigmoid_win_rate(moved, temperature=temperature),
        hard_win_rate_before=hard_win_rate(margins),
        hard_win_rate_after=hard_win_rate(moved),
        mismatch_before=mismatch,
        mismatch_before_low=low,
        mismatch_before_high=high,
        mismatch_after=float(signed_mismatch(after, target)),
    )


def _bootstrap(
    pair: PairedMargins, settings: _Settings, *, n_resamples: int, seed: int
) -> tuple[tuple[float, float], tuple[float, float]]:
    """Intervals of the offset and of the mismatch before it: prompts and ratings drawn again."""
    rng = np.random.default_rng(seed)
    drawn = draw_elo(pair.elo, pair.elo_factor, n_draws=n_resamples, rng=rng)
    targets = expected_win_rate(drawn[:, 0], drawn[:, 1])
    outcomes = wins(pair.margins, kind=settings.kind, temperature=settings.temperature)[:, None]
    offsets, rates, at = [], [], 0
    for block in resample_counts(pair.n_prompts, n_resamples=n_resamples, rng=rng):
        counts, aims = block[:, pair.prompts], targets[at : at + len(block)]
        rates.append(resampled_means(outcomes, counts)[:, 0])
        offsets.append(_solve_resamples(pair.margins, counts, targets=aims, settings=settings))
        at += len(block)
    mismatch = signed_mismatch(np.concatenate(rates), targets)
    n = pair.n_prompts
    ends = _interval(mismatch, n)
    ends = widen_unanimous(ends, outcomes[:, 0], expected=pair.target, n_prompts=n)
    return _interval(np.concatenate(offsets), n), ends


def _solve_resamples(
    margins: Floats, counts: Floats, *, targets: Floats, settings: _Settings
) -> Floats:
    kind, temperature, method = settings
    if method == "probit":
        return solve_resampled_probit_offsets(
            margins, counts, targets=targets, kind=kind, temperature=temperature
        )
    if kind == "hard":
        return solve_resampled_hard_offsets(margins, counts, targets=targets)
    return solve_resampled_offsets(margins, counts, targets=targets, temperature=temperature)


def _interval(samples: Floats, n_prompts: int) -> tuple[float, float]:
    low, high = percentile_interval(samples, n_prompts=n_prompts, level=LEVEL)
    return float(low), float(high)


def _warnings(offset: Offset, settings: _Settings, *, n_rows: int) -> tuple[str, ...]:
    # Half a step is what a hard win rate may miss by; a rounding error more is not a tie.
    after, target = offset.hard_win_rate_after, offset.expected_win_rate
    met = abs(after - target) <= 0.5 / n_rows + 1e-12
    if met or settings.kind == "sigmoid" or settings.method == "probit":
        return ()
    return (
        f"equal margins make the hard win rate jump over {target:.4f}; "
        f"{after:.4f} is the nearest it can reach",
    )
