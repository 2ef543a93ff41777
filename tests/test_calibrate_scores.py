"""Corrections of every score: what they do to the scores, to the policy and to the others."""

import numpy as np
import polars as pl
import pytest
from builders import MINI, POLICIES, SIMPO, make_responses, make_scores

from charm_rm.audit import audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.calibrate_scores import CalibratedScores, calibrate_scores, length_matrix
from charm_rm.core.alternatives import remove_length_trend
from charm_rm.data.arena import read_elo
from charm_rm.data.offsets import apply_offsets
from charm_rm.data.scores import score_matrix
from charm_rm.data.tables import DataError
from charm_rm.pairs import build_pairs

ELO = read_elo("table7")


def with_lengths(scores: pl.DataFrame) -> pl.DataFrame:
    """Longer responses of the first policy, which score higher for it."""
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    longer = pl.when(pl.col("policy") == SIMPO).then(300).otherwise(0)
    return scores.with_columns(n_tokens=(100 + 7 * (number % 23) + longer).cast(pl.Int64))


def calibrated(scores: pl.DataFrame, method: str, **options: object) -> CalibratedScores:
    names = {"over_valued": SIMPO, "reference": MINI, "n_resamples": 50} | options
    return calibrate_scores(scores, ELO, method=method, **names)  # type: ignore[arg-type]


def test_z_scores_have_mean_0_and_spread_1_and_keep_the_raw_scores() -> None:
    scores = make_scores(80)
    found = calibrated(scores, "z-score")
    by_policy = found.frame.group_by("policy").agg(
        pl.col("score").mean().alias("mean"), pl.col("score").std(ddof=0).alias("sd")
    )
    assert by_policy["mean"].to_numpy() == pytest.approx(np.zeros(4), abs=1e-12)
    assert by_policy["sd"].to_numpy() == pytest.approx(np.ones(4))
    assert found.frame["raw_score"].to_list() == scores["score"].to_list()
    assert found.frame.select("prompt_id", "policy").equals(scores.select("prompt_id", "policy"))


def test_the_effect_is_that_of_two_audits() -> None:
    scores = make_scores(80)
    found = calibrated(scores, "z-score")
    for side, table in ((found.before, scores), (found.after, found.frame)):
        audit = audit_scores(table, ELO, reference=MINI, n_resamples=50)
        degrees = {entry.policy: entry.mismatch_degree for entry in audit.policies}
        simpo = next(entry for entry in audit.policies if entry.policy == SIMPO)
        assert side.signed_mismatch == simpo.signed_mismatch
        assert side.mismatch_low == simpo.mismatch_low
        others = [degrees[name] for name in POLICIES if name not in (SIMPO, MINI)]
        assert side.others_mismatch == pytest.approx(np.mean(others))


def test_a_length_trend_goes_with_the_points_that_it_brought() -> None:
    scores = with_lengths(make_scores(200))
    found = calibrated(scores, "length")
    assert found.after.signed_mismatch < 0.5 * found.before.signed_mismatch
    assert found.reward_model == "toy-rm, less length trend"
    matrix = score_matrix(scores)
    lengths = score_matrix(scores.with_columns(score=pl.col("n_tokens").cast(pl.Float64))).values
    expected = remove_length_trend(matrix.values, lengths)
    assert score_matrix(found.frame).values == pytest.approx(expected)


def test_lengths_of_responses_are_their_characters() -> None:
    scores = make_scores(40)
    responses = make_responses(scores).sample(fraction=1.0, shuffle=True, seed=2)
    found = length_matrix(scores, score_matrix(scores), responses=responses)
    by_policy = [len(f"{name} says: it is p000") for name in sorted(POLICIES)]
    assert found[0].tolist() == by_policy


def test_what_it_writes_is_a_score_table_for_audit_calibrate_and_pairs() -> None:
    scores = make_scores(120)
    found = calibrated(scores, "z-score")
    pairs = build_pairs(found.frame, policies=[SIMPO, MINI])
    raw = build_pairs(scores, policies=[SIMPO, MINI], uncalibrated=True)
    differ = (pairs.frame["chosen_policy"] != raw.frame["chosen_policy"]).sum()
    assert pairs.n_flipped == differ > 0
    assert build_pairs(found.frame, policies=[SIMPO, MINI], uncalibrated=True).frame.equals(
        raw.frame
    )
    again = calibrate_pair(found.frame, ELO, over_valued=SIMPO, reference=MINI, n_resamples=10)
    assert build_pairs(found.frame, again).n_flipped > 0
    with pytest.raises(DataError, match="offset holds for the reward model that it was solved for"):
        apply_offsets(scores, again)


def test_a_correction_of_corrected_scores_keeps_the_first_raw_scores() -> None:
    scores = with_lengths(make_scores(60))
    twice = calibrated(calibrated(scores, "z-score").frame, "length")
    assert twice.frame["raw_score"].to_list() == scores["score"].to_list()
    assert twice.reward_model == "toy-rm, z-scores, less length trend"


def test_scores_that_have_no_correction_are_refused() -> None:
    scores = make_scores(60)
    with pytest.raises(DataError, match="no column 'n_tokens'"):
        calibrated(scores, "length")
    gap = with_lengths(scores).with_columns(
        pl.when(pl.col("policy") != SIMPO).then("n_tokens").alias("n_tokens")
    )
    with pytest.raises(DataError, match="no length of the response of 'gemma-2-9b-it-SimPO'"):
        calibrated(gap, "length")
    with pytest.raises(DataError, match=r"\(4 missing\)"):
        calibrated(scores, "length", responses=make_responses(scores)[:-4])
    flat = scores.with_columns(
        pl.when(pl.col("policy") == MINI).then(1.5).otherwise("score").alias("score")
    )
    with pytest.raises(DataError, match="all of 'gpt-4o-mini-2024-07-18' are equal"):
        calibrated(flat, "z-score")
    with pytest.raises(DataError, match="no policy 'SimPO'; nearest"):
        calibrated(scores, "z-score", over_valued="SimPO")
    with pytest.raises(ValueError, match="method must be one of z-score, length, got 'none'"):
        calibrated(scores, "none")
