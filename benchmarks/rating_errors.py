"""What it costs to take the errors of fitted ratings as independent, on people's real votes.

    python benchmarks/rating_errors.py DATA [--repetitions N] [--json PATH]

DATA is a folder with arena/ in it: 3,355 MT-Bench votes on 6 models and 8,931 LLMFAO votes on 59.
Ratings are fitted to them as ``charm elo`` does, once with the mean of all models held and once
with the best model as the anchor. Every two models have an expected win rate, whose standard
error follows from the covariance of their ratings, or from their intervals alone. How often 95%
intervals of the difference of two ratings hold the truth is counted on votes drawn from the fitted
ratings: the same pairs of models as often as in the data, ties as frequent as there.
"""

import argparse
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import polars as pl
from rich.console import Console
from rich.table import Table

from charm_rm.core.elo import NORMAL_95, expected_win_rate
from charm_rm.core.win_rates import Floats
from charm_rm.data.arena import EloTable, elo_table
from charm_rm.data.battles import read_battles
from charm_rm.data.fitted_elo import fit_elo

VOTES = {"MT-Bench": ("mt_bench_votes", "human"), "LLMFAO": ("llmfao_battles", "crowd")}


@dataclass(frozen=True)
class RatingErrors:
    """Errors of the differences of all pairs of ratings of one fit.

    Attributes:
        votes: Which votes.
        held: What was held: ``"mean"`` or the anchor.
        n_models: Number of models.
        ratio: Standard error of a difference with independent ratings, over that with their
            covariance: median over the pairs.
        ratio_low: Smallest of the pairs.
        ratio_high: Largest.
        coverage: Share of 95% intervals that hold the true difference, with the covariance.
        coverage_independent: The same as if errors were independent.
    """

    votes: str
    held: str
    n_models: int
    ratio: float
    ratio_low: float
    ratio_high: float
    coverage: float
    coverage_independent: float


def without_covariance(elo: EloTable) -> EloTable:
    """The same ratings and intervals, as a board would publish them."""
    return elo_table(elo.frame.drop(pl.selectors.starts_with("elo_error_")), name=elo.name)


def difference_errors(elo: EloTable) -> Floats:
    """Standard error of every difference of two ratings, in Elo points, (n_pairs,)."""
    factor = elo.error_factor(sorted(elo.models))
    first, second = np.triu_indices(len(factor), 1)
    return np.asarray(np.linalg.norm(factor[first] - factor[second], axis=1))


def differences(elo: EloTable) -> Floats:
    """Every difference of two ratings, in the same order."""
    ratings = elo.ratings(sorted(elo.models))[:, 0]
    first, second = np.triu_indices(len(ratings), 1)
    return np.asarray(ratings[first] - ratings[second])


def draw_outcomes(battles: pl.DataFrame, elo: EloTable, rng: np.random.Generator) -> pl.DataFrame:
    """The battles with outcomes by the ratings; a tie takes as much from either side."""
    first, second = (elo.ratings(battles[side].to_list())[:, 0] for side in ("model_a", "model_b"))
    rate = expected_win_rate(first, second)
    n_ties = (battles["outcome"] == 0.5).sum()
    # A tie is likeliest between equals; scaled so that as many are expected as there were.
    even = 4.0 * rate * (1.0 - rate)
    tie = np.minimum(n_ties / even.sum() * even, 2.0 * np.minimum(rate, 1.0 - rate))
    drawn = rng.random(len(rate))
    won = drawn < rate - 0.5 * tie
    tied = ~won & (drawn < rate + 0.5 * tie)
    return battles.with_columns(outcome=pl.Series(np.where(won, 1.0, np.where(tied, 0.5, 0.0))))


def measure(data: Path, votes: str, *, anchored: bool, n_repetitions: int) -> RatingErrors:
    """The errors of one fit, and the coverage on votes drawn from it."""
    file, vote_type = VOTES[votes]
    battles = read_battles([data / f"arena/{file}.parquet"], vote_type=vote_type)
    best = fit_elo(battles, board=votes).table.models[0]
    anchor = best if anchored else None
    fitted = fit_elo(battles, board=votes, anchor=anchor).table
    ratios = difference_errors(without_covariance(fitted)) / difference_errors(fitted)
    rng, held = np.random.default_rng(0), []
    for _ in range(n_repetitions):
        drawn = fit_elo(draw_outcomes(battles, fitted, rng), board=votes, anchor=anchor).table
        off = np.abs(differences(drawn) - differences(fitted))
        errors = (difference_errors(drawn), difference_errors(without_covariance(drawn)))
        held.append([np.mean(off <= NORMAL_95 * error) for error in errors])
    coverage = np.mean(held, axis=0)
    return RatingErrors(
        votes=votes,
        held=anchor or "mean",
        n_models=len(fitted.models),
        ratio=float(np.median(ratios)),
        ratio_low=float(ratios.min()),
        ratio_high=float(ratios.max()),
        coverage=float(coverage[0]),
        coverage_independent=float(coverage[1]),
    )


def main() -> None:
    """Measure, print, and write the figures if asked."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path, metavar="DATA")
    parser.add_argument("--repetitions", type=int, default=1000, metavar="N")
    parser.add_argument("--json", type=Path, metavar="PATH", help="also write the figures here")
    arguments = parser.parse_args()
    rows = [
        measure(arguments.data, votes, anchored=anchored, n_repetitions=arguments.repetitions)
        for votes in VOTES
        for anchored in (False, True)
    ]
    table = Table(
        *("votes", "models", "held", "independent / joint error", "covered", "as if independent"),
        box=None,
        pad_edge=False,
    )
    for row in rows:
        table.add_row(
            *(row.votes, str(row.n_models), row.held),
            f"{row.ratio:.2f} ({row.ratio_low:.2f} to {row.ratio_high:.2f})",
            *(f"{row.coverage:.3f}", f"{row.coverage_independent:.3f}"),
        )
    console = Console(highlight=False, width=110)
    console.print(table)
    console.print(
        f"\nOver all pairs of models: standard error of the difference of two ratings, median and "
        f"range; share of 95% intervals that hold the truth, {arguments.repetitions} sets of votes."
    )
    if arguments.json:
        text = json.dumps({"rows": [asdict(row) for row in rows]}, indent=2)
        arguments.json.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
