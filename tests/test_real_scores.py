"""The bundled real scores: both kinds of uncertainty agree, and pairs are what a hand makes."""

from importlib.resources import files
from itertools import combinations

import numpy as np
import polars as pl
import pytest

from charm_rm.calibrate import PairedMargins, pair_policies
from charm_rm.calibrate_many import calibrate_jointly
from charm_rm.core.elo import draw_elo, elo_standard_error, expected_win_rate
from charm_rm.core.intervals import resample_counts, resampled_means
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.offsets import solve_resampled_hard_offsets, solve_resampled_offsets
from charm_rm.core.uncertainty import (
    joint_offset_standard_errors,
    mean_covariance,
    mismatch_standard_error,
    offset_standard_error,
    win_rate_standard_error,
)
from charm_rm.core.win_rates import Floats, WinRateKind, wins
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import Calibration
from charm_rm.data.scores import read_scores, score_matrix
from charm_rm.pairs import build_pairs

ELO = read_elo("table7")
MINI = "gpt-4o-mini-2024-07-18"


@pytest.fixture(scope="module")
def scores() -> pl.DataFrame:
    """Of the instructions that the reward model's training did not see."""
    path = str(files("charm_rm.data") / "snapshots" / "demo_scores.parquet")
    bundled = read_scores([path], by="half")
    return bundled.filter(pl.col("category") == "audit").drop("category")


@pytest.fixture(scope="module")
def pairs(scores: pl.DataFrame) -> list[PairedMargins]:
    others = sorted(set(scores["policy"]) - {MINI})
    return [pair_policies(scores, ELO, over_valued=name, reference=MINI) for name in others]


def resamples(pair: PairedMargins) -> tuple[Floats, Floats]:
    """Counts of prompts, and targets from drawn ratings."""
    rng = np.random.default_rng(0)
    drawn = draw_elo(pair.elo, pair.elo_factor, n_draws=2000, rng=rng)
    counts = np.concatenate(list(resample_counts(pair.n_prompts, n_resamples=2000, rng=rng)))
    return counts, expected_win_rate(drawn[:, 0], drawn[:, 1])


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_delta_method_and_bootstrap_agree_within_10_percent(
    pairs: list[PairedMargins], kind: WinRateKind
) -> None:
    ratios = []
    for pair in pairs:
        counts, targets = resamples(pair)
        if kind == "hard":
            offsets = solve_resampled_hard_offsets(pair.margins, counts, targets=targets)
        else:
            offsets = solve_resampled_offsets(pair.margins, counts, targets=targets)
        outcomes = wins(pair.margins, kind=kind)
        rates = resampled_means(outcomes[:, None], counts)[:, 0]
        own = win_rate_standard_error(pair.margins, kind=kind)
        of_mismatch = mismatch_standard_error(
            outcomes.mean(), pair.target, win_rate_error=own, expected_error=pair.target_error
        )
        of_offset = offset_standard_error(
            pair.margins, pair.target, kind=kind, target_error=pair.target_error
        )
        ratios += [
            own / rates.std(),
            float(of_mismatch) / signed_mismatch(rates, targets).std(),
            of_offset / offsets.std(),
        ]
    assert len(ratios) >= 3 * 15
    assert np.array(ratios) == pytest.approx(1.0, abs=0.1)


def test_joint_offsets_err_by_the_delta_method_as_by_the_bootstrap(scores: pl.DataFrame) -> None:
    matrix = score_matrix(scores, [MINI, *sorted(set(scores["policy"]) - {MINI})[:5]])
    ratings = ELO.ratings(matrix.policies)
    error = elo_standard_error(ratings[:, 1], ratings[:, 2])
    rng = np.random.default_rng(0)
    drawn = draw_elo(ratings[:, 0], error, n_draws=600, rng=rng)
    n = len(matrix.values)
    resampled = [
        solve_joint_offsets(matrix.values[rng.integers(0, n, n)], elo, reference=0).offsets
        for elo in drawn
    ]
    found = joint_offset_standard_errors(
        matrix.values,
        ratings[:, 0],
        offsets=solve_joint_offsets(matrix.values, ratings[:, 0], reference=0).offsets,
        reference=0,
        elo_covariance=np.diag(error**2),
    )
    assert found[1:] == pytest.approx(np.std(resampled, axis=0)[1:], rel=0.1)


def test_the_error_of_a_mean_score_is_that_of_the_bootstrap(scores: pl.DataFrame) -> None:
    values = score_matrix(scores).values
    rng = np.random.default_rng(0)
    counts = np.concatenate(list(resample_counts(len(values), n_resamples=2000, rng=rng)))
    found = np.sqrt(np.diag(mean_covariance(values)))
    assert found == pytest.approx(resampled_means(values, counts).std(axis=0), rel=0.1)


@pytest.fixture(scope="module")
def joint(scores: pl.DataFrame) -> Calibration:
    return calibrate_jointly(scores, ELO, reference=MINI)


def by_hand(
    scores: pl.DataFrame, joint: Calibration, prompt_id: str
) -> list[tuple[float, str, str, bool]]:
    """Every two candidates of a prompt: margin, chosen, rejected, flipped; the widest first."""
    offsets = {entry.policy: entry.offset for entry in joint.offsets} | {MINI: 0.0}
    raw = dict(scores.filter(pl.col("prompt_id") == prompt_id)["policy", "score"].iter_rows())
    found = []
    for one, other in combinations(sorted(raw), 2):
        margin = raw[one] + offsets[one] - raw[other] - offsets[other]
        chosen, rejected = (one, other) if margin > 0 else (other, one)
        found.append((abs(margin), chosen, rejected, raw[chosen] < raw[rejected]))
    return sorted(found, reverse=True)


def made(frame: pl.DataFrame, prompt_id: str) -> list[tuple[float, str, str, bool]]:
    columns = ("margin", "chosen_policy", "rejected_policy", "flipped")
    return frame.filter(pl.col("prompt_id") == prompt_id).select(columns).rows()


def same(
    found: list[tuple[float, str, str, bool]], expected: list[tuple[float, str, str, bool]]
) -> bool:
    margins = [row[0] for row in expected]
    assert [row[1:] for row in found] == [row[1:] for row in expected]
    return [row[0] for row in found] == pytest.approx(margins)


def test_pairs_of_many_candidates_are_those_made_by_hand(
    scores: pl.DataFrame, joint: Calibration
) -> None:
    three = sorted(set(scores["prompt_id"]))[:3]
    few = scores.filter(pl.col("prompt_id").is_in(three))
    hand = {prompt_id: by_hand(scores, joint, prompt_id) for prompt_id in three}
    n_all = {len(rows) for rows in hand.values()}
    assert n_all == {scores["policy"].n_unique() * (scores["policy"].n_unique() - 1) // 2}
    best = build_pairs(few, joint)
    every = build_pairs(few, joint, select="all")
    banded = build_pairs(few, joint, select="all", min_margin=0.5, max_margin=1.0)
    capped = build_pairs(few, joint, select="all", max_margin=1.0, per_prompt=4)
    for prompt_id, rows in hand.items():
        inside = [row for row in rows if 0.5 <= row[0] <= 1.0]
        assert same(made(best.frame, prompt_id), rows[:1])
        assert same(made(every.frame, prompt_id), rows)
        assert same(made(banded.frame, prompt_id), inside)
        assert same(made(capped.frame, prompt_id), [row for row in rows if row[0] <= 1.0][:4])
    flipped = [row for rows in hand.values() for row in rows if row[3]]
    assert every.n_flipped == len(flipped) > 0
    assert every.flips == {
        policy: sum(policy in row[1:3] for row in flipped) for policy in sorted(set(few["policy"]))
    }
    assert banded.n_outside + len(banded.frame) == sum(map(len, hand.values()))
    assert len(capped.frame) == 3 * 4
    assert capped.n_capped + capped.n_outside + 12 == sum(map(len, hand.values()))


def test_the_uncalibrated_twin_of_many_candidates_ranks_by_the_raw_scores(
    scores: pl.DataFrame, joint: Calibration
) -> None:
    twin = build_pairs(scores, joint, uncalibrated=True)
    ends = scores.group_by("prompt_id").agg(
        pl.col("score").max().alias("best"), pl.col("score").min().alias("worst")
    )
    joined = twin.frame.join(ends, on="prompt_id")
    assert len(joined) == scores["prompt_id"].n_unique()
    assert (joined["chosen_score"] == joined["best"]).all()
    assert (joined["rejected_score"] == joined["worst"]).all()
    assert twin.n_flipped == 0
