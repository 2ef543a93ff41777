"""Mismatches of several score tables of the same responses, drawn again together.

What `charm_rm.benchmarks.battles` and `charm_rm.benchmarks.model_table` have in common.
"""

from collections.abc import Sequence

import numpy as np
import polars as pl

from charm_rm.core.elo import draw_elo, expected_win_rate
from charm_rm.core.intervals import resample_counts, resampled_means
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.win_rates import Floats, WinRateKind, wins
from charm_rm.data.arena import EloTable
from charm_rm.data.scores import score_matrix
from charm_rm.data.tables import DataError, not_found


def resample_mismatches(
    tables: Sequence[pl.DataFrame],
    elo: EloTable,
    *,
    opponent: str,
    win_rate: WinRateKind = "sigmoid",
    temperature: float = 1.0,
    n_resamples: int = 1000,
    seed: int = 0,
) -> tuple[tuple[str, ...], list[Floats]]:
    """Signed mismatches (Eq. 5) of each score table, with prompts and ratings drawn again.

    All tables get the same draws, so that differences between them are paired.

    Args:
        tables: Scores of the same responses.
        elo: Ratings that hold every policy in them.
        opponent: The policy that the others meet.
        win_rate: ``"sigmoid"`` (Eq. 3) or ``"hard"``.
        temperature: Score points per unit of log-odds.
        n_resamples: Bootstrap resamples.
        seed: Of the bootstrap.

    Returns:
        The policies, and for each table their mismatches, shape (n_resamples, n_policies).

    Raises:
        DataError: If a policy has no Elo, or the opponent no scores.

    Example:
        >>> from charm_rm.data.arena import read_elo
        >>> rows = [(str(i), p, 0, float(i)) for i in range(9) for p in ("vicuna-7b", "gpt4_0613")]
        >>> names = ["prompt_id", "policy", "sample", "score"]
        >>> scores = pl.DataFrame(rows, schema=names, orient="row")
        >>> policies, (drawn,) = resample_mismatches(
        ...     [scores], read_elo("table7"), opponent="gpt4_0613", n_resamples=50
        ... )
        >>> policies, drawn.shape, bool((drawn[:, 1] > 0.2).all())  # equal scores, unequal Elo
        (('gpt4_0613', 'vicuna-7b'), (50, 2), True)
    """
    matrices = [score_matrix(table) for table in tables]
    first = matrices[0]
    if opponent not in first.policies:
        raise not_found("opponent", opponent, names=list(first.policies), where="scores")
    ratings = elo.ratings(first.policies)[:, 0]
    at = first.policies.index(opponent)
    stream = np.random.default_rng([seed, 1])  # as an audit draws them
    factor = elo.error_factor(first.policies)
    drawn = draw_elo(ratings, factor, n_draws=n_resamples, rng=stream)
    expected = expected_win_rate(drawn, drawn[:, [at]])
    margins = [matrix.values - matrix.values[:, [at]] for matrix in matrices]
    columns = np.hstack([wins(m, kind=win_rate, temperature=temperature) for m in margins])
    rng = np.random.default_rng(seed)
    blocks = resample_counts(int(first.prompts.max()) + 1, n_resamples=n_resamples, rng=rng)
    rates = np.concatenate([resampled_means(columns, c[:, first.prompts]) for c in blocks])
    sides = np.hsplit(rates, len(tables))
    return first.policies, [signed_mismatch(side, expected) for side in sides]


def require_same_responses(before: pl.DataFrame, after: pl.DataFrame) -> None:
    """A change between other prompts would be no change of the reward model.

    Args:
        before: Scores of one reward model.
        after: Scores of another.

    Raises:
        DataError: If a response has a score in one of them alone.

    Example:
        >>> rows = {"prompt_id": ["p"], "policy": ["a"], "sample": [0], "score": [1.0]}
        >>> require_same_responses(pl.DataFrame(rows), pl.DataFrame(rows))
    """
    key = ["prompt_id", "policy", "sample"]
    for first, second, name in ((before, after, "after"), (after, before, "before")):
        lost = first.join(second, on=key, how="anti")
        if not lost.is_empty():
            prompt_id, policy = lost.sort(key).select("prompt_id", "policy").row(0)
            raise DataError(
                f"scores {name}: {len(lost)} responses have none there, first of {policy!r} to "
                f"prompt {prompt_id!r}; before and after must score the same responses"
            )
