"""How the policies stand by their scores alone, and against each other.

A ranking needs no ratings: it is what the paper's Figures 3 to 7 show of many policies. The
matrix of win rates sets every policy against every other, not only against one reference, beside
the matrix that Elo expects.
"""

import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from charm_rm.core.elo import expected_win_rate
from charm_rm.core.significance import student_interval
from charm_rm.core.win_rates import Floats, WinRateKind, win_rate_matrix
from charm_rm.data.arena import EloTable, require_ratings
from charm_rm.data.scores import ScoreMatrix, score_matrix
from charm_rm.data.tables import DataError

# Words in a policy's name that say it was optimised on preferences. The name is all the evidence
# there is: zephyr-7b-beta was trained with DPO and does not say so.
PREFERENCE_WORDS = (
    *("dpo", "simpo", "sppo", "wpo", "orpo", "kto", "ipo", "ppo", "cpo", "gpo", "rpo", "rloo"),
    *("grpo", "rainbowpo", "rebel", "remax", "expo", "rlhf", "rahf", "pairrm"),
)


@dataclass(frozen=True)
class RankedPolicy:
    """One policy of a ranking.

    Attributes:
        policy: Its name.
        mean_score: Mean of its scores, in score points.
        mean_low: Lower end of the 95% interval of the mean score: how far the policy stands from
            the mean of all policies on the same prompts, drawn around its mean score. What moves
            all policies alike, such as hard prompts, widens no interval.
        mean_high: Upper end.
        n_prompts: Prompts that it answered.
        preference_word: What in its name says that it was optimised on preferences; None.
    """

    policy: str
    mean_score: float
    mean_low: float
    mean_high: float
    n_prompts: int
    preference_word: str | None


@dataclass(frozen=True)
class Ranking:
    """The policies by mean score, highest first.

    Attributes:
        reward_model: Whose scores these are.
        n_prompts: Prompts that at least one policy answered.
        policies: One entry each.
        preference_words: What names were searched for.
    """

    reward_model: str
    n_prompts: int
    policies: tuple[RankedPolicy, ...]
    preference_words: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """The ranking as a document.

        Example:
            >>> Ranking("rm", 0, (), ("dpo",)).to_json()["preference_words"]
            ('dpo',)
        """
        return asdict(self)


@dataclass(frozen=True)
class WinRateMatrices:
    """Win rates of every policy (row) against every other (column), by the scores and by Elo.

    Attributes:
        policies: Names of rows and columns, by Elo, highest first.
        n_shared: Prompts (and samples) that two policies share.
        expected: What Elo predicts (Eq. 2).
        before: By the scores (Eq. 3); None where two share nothing.
        after: By the calibrated scores; None where there are none.
        win_rate: Kind of win rate.
        temperature: Score points per unit of log-odds.
    """

    policies: tuple[str, ...]
    n_shared: tuple[tuple[int, ...], ...]
    expected: tuple[tuple[float, ...], ...]
    before: tuple[tuple[float | None, ...], ...]
    after: tuple[tuple[float | None, ...], ...] | None
    win_rate: WinRateKind
    temperature: float

    def to_json(self) -> dict[str, Any]:
        """The matrices as a document.

        Example:
            >>> WinRateMatrices((), (), (), (), None, "sigmoid", 1.0).to_json()["after"] is None
            True
        """
        return asdict(self)


def rank_policies(
    scores: pl.DataFrame, *, preference_words: Sequence[str] = PREFERENCE_WORDS
) -> Ranking:
    """Policies by mean score, those marked whose name says they were optimised on preferences.

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        preference_words: Words, in any case, that stand in a name by themselves: between
            hyphens, underscores, dots, spaces or digits.

    Returns:
        The ranking.

    Example:
        >>> rows = [(str(i), p, 0, i + s) for i in range(9) for p, s in (("a", 0), ("b-DPO", 2))]
        >>> names = ["prompt_id", "policy", "sample", "score"]
        >>> table = pl.DataFrame(rows, schema=names, orient="row")
        >>> found = rank_policies(table.with_columns(reward_model=pl.lit("toy")))
        >>> [(p.policy, p.mean_score, p.preference_word) for p in found.policies]
        [('b-DPO', 6.0, 'DPO'), ('a', 4.0, None)]
    """
    matrix = score_matrix(scores)
    means = np.nanmean(matrix.values, axis=0)
    low, high = _mean_intervals(matrix, means)
    pattern = _pattern(preference_words)
    found = []
    for at, policy in enumerate(matrix.policies):
        word = pattern.search(policy)
        answered = matrix.prompts[np.isfinite(matrix.values[:, at])]
        found.append(
            RankedPolicy(
                policy=policy,
                mean_score=float(means[at]),
                mean_low=float(low[at]),
                mean_high=float(high[at]),
                n_prompts=len(np.unique(answered)),
                preference_word=word.group() if word else None,
            )
        )
    return Ranking(
        reward_model=str(scores["reward_model"][0]),
        n_prompts=int(matrix.prompts.max()) + 1,
        policies=tuple(sorted(found, key=lambda entry: (-entry.mean_score, entry.policy))),
        preference_words=tuple(preference_words),
    )


def _pattern(words: Sequence[str]) -> re.Pattern[str]:
    if not words or not all(words):
        raise DataError("no word to search names for; give at least one, such as dpo")
    alternatives = "|".join(re.escape(word) for word in sorted(words, key=len, reverse=True))
    return re.compile(f"(?<![a-z])(?:{alternatives})(?![a-z])", flags=re.IGNORECASE)


def _mean_intervals(matrix: ScoreMatrix, means: Floats) -> tuple[Floats, Floats]:
    """Ends of the intervals of the mean scores, the mean policy of each prompt taken off."""
    apart = matrix.values - np.nanmean(matrix.values, axis=1, keepdims=True)
    n_prompts = int(matrix.prompts.max()) + 1
    known = np.isfinite(apart)
    sums, counts = np.zeros((n_prompts, len(means))), np.zeros((n_prompts, len(means)))
    np.add.at(sums, matrix.prompts, np.where(known, apart, 0.0))
    np.add.at(counts, matrix.prompts, known)
    by_prompt = np.divide(sums, counts, out=np.full_like(sums, np.nan), where=counts > 0)
    n = np.isfinite(by_prompt).sum(axis=0)
    errors = np.full(len(means), np.nan)
    several = n > 1
    errors[several] = np.nanstd(by_prompt[:, several], axis=0, ddof=1) / np.sqrt(n[several])
    low, high = student_interval(means, standard_error=errors, n_prompts=np.maximum(n, 2))
    return np.where(several, low, means), np.where(several, high, means)


def win_rate_matrices(
    scores: pl.DataFrame,
    elo: EloTable,
    *,
    after: pl.DataFrame | None = None,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
) -> WinRateMatrices:
    """Win rates of all policies against each other: by the scores, and by Elo (Eqs. 2 and 3).

    Args:
        scores: As `charm_rm.data.scores.read_scores` returns them.
        elo: Ratings that hold every policy in the scores.
        after: Calibrated scores of the same policies.
        win_rate: ``"sigmoid"`` (Eq. 3) or ``"hard"``.
        temperature: Score points per unit of log-odds.

    Returns:
        The matrices.

    Raises:
        DataError: If there is a single policy, one has no Elo, or ``after`` is of other policies.
        ValueError: If ``win_rate`` or ``temperature`` is invalid.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> both = ("vicuna-7b", "vicuna-13b")
        >>> rows = [(str(i), p, 0, float(i + len(p))) for i in range(4) for p in both]
        >>> names = ["prompt_id", "policy", "sample", "score"]
        >>> table = pl.DataFrame(rows, schema=names, orient="row")
        >>> found = win_rate_matrices(table, read_elo("table7"), win_rate="hard")
        >>> found.policies, found.before[0], round(found.expected[0][1], 3)
        (('vicuna-13b', 'vicuna-7b'), (0.5, 1.0), 0.553)
    """
    known = scores["policy"].unique().to_list()
    require_ratings(elo, known)
    ratings = dict(zip(known, elo.ratings(known)[:, 0], strict=True))
    policies = sorted(known, key=lambda policy: (-ratings[policy], policy))
    matrix = score_matrix(scores, policies)
    column = np.array([[ratings[policy]] for policy in policies])
    answered = np.isfinite(matrix.values).astype(np.int64)
    settings: dict[str, Any] = {"kind": win_rate, "temperature": temperature}
    moved = None if after is None else score_matrix(after, policies).values
    return WinRateMatrices(
        policies=tuple(policies),
        n_shared=tuple(tuple(map(int, row)) for row in answered.T @ answered),
        expected=tuple(tuple(map(float, row)) for row in expected_win_rate(column, column.T)),
        before=_rates(win_rate_matrix(matrix.values, **settings)),
        after=None if moved is None else _rates(win_rate_matrix(moved, **settings)),
        win_rate=win_rate,
        temperature=temperature,
    )


def _rates(matrix: Floats) -> tuple[tuple[float | None, ...], ...]:
    return tuple(tuple(float(x) if np.isfinite(x) else None for x in row) for row in matrix)
