"""Planted scores: their truth is the truth, and an instrument that errs is found out."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from scipy.optimize import brentq
from scipy.special import expit

import charm_rm.planted
from charm_rm.audit import Audit, audit_scores
from charm_rm.calibrate import calibrate_pair
from charm_rm.cli.selftest import coverage_band, find_faults, most_false_discoveries
from charm_rm.core.elo import expected_win_rate
from charm_rm.data.arena import EloTable
from charm_rm.data.offsets import Calibration, Offset
from charm_rm.data.scores import score_matrix
from charm_rm.planted import (
    ANCHOR,
    PLANTED,
    QUALITIES,
    REFERENCE,
    SCENARIOS,
    Recovery,
    Scenario,
    plant_elo,
    plant_scores,
    run_scenario,
    true_values,
)

BY_NAME = {scenario.name: scenario for scenario in SCENARIOS}
each_scenario = pytest.mark.parametrize("scenario", SCENARIOS, ids=BY_NAME)


def sample(scenario: Scenario, *, seed: int = 0, **changes: Any) -> pl.DataFrame:
    return plant_scores(replace(scenario, **changes), rng=np.random.default_rng(seed))


def normal_win_rate(mean: float) -> float:
    """Mean of sigmoid over margins from N(mean, 2), by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(80)
    return float(expit(mean + np.sqrt(2.0) * nodes) @ weights / weights.sum())


@pytest.mark.parametrize("name", ["nothing planted", "prompt effects", "tiny scale", "huge scale"])
def test_the_truth_agrees_with_quadrature(name: str) -> None:
    truth, (stratum,) = true_values(BY_NAME[name]), BY_NAME[name].strata
    deserved = normal_win_rate(QUALITIES[PLANTED])
    rate = normal_win_rate(QUALITIES[PLANTED] + stratum.bias)
    mismatch = (rate - deserved) / max(deserved, 1.0 - deserved)
    assert truth.signed_mismatch == pytest.approx(mismatch, abs=3e-5)


def test_the_true_offset_of_two_categories_agrees_with_quadrature() -> None:
    scenario = BY_NAME["bias by category"]

    def excess(offset: float) -> float:
        centres = [QUALITIES[PLANTED] + stratum.bias + offset for stratum in scenario.strata]
        rates = [normal_win_rate(centre) for centre in centres]
        shares = [stratum.share for stratum in scenario.strata]
        return float(np.dot(shares, rates)) - normal_win_rate(QUALITIES[PLANTED])

    assert true_values(scenario).offset == pytest.approx(brentq(excess, -5.0, 5.0), abs=2e-4)


@each_scenario
def test_a_bias_that_is_the_same_everywhere_has_its_negative_as_offset(scenario: Scenario) -> None:
    categories = scenario.parts[-len(scenario.strata) :]
    for category, stratum in zip(categories, scenario.strata, strict=True):
        truth = true_values(scenario, category)
        assert truth.bias == pytest.approx(stratum.bias * scenario.scale)
        assert truth.offset == pytest.approx(-truth.bias, abs=1e-3 * scenario.scale)


@each_scenario
def test_a_huge_sample_shows_the_truth(scenario: Scenario) -> None:
    n = 40_000
    known = replace(scenario, n_prompts=n, n_samples=1, elo_error=0.0)
    scores, elo = sample(known), plant_elo(known, rng=np.random.default_rng(0))
    settings: dict[str, Any] = {
        "reference": REFERENCE,
        "win_rate": scenario.win_rate,
        "temperature": scenario.scale,
        "n_resamples": 40,
    }
    for category in scenario.parts:
        part = scores if category is None else scores.filter(pl.col("category") == category)
        truth = true_values(scenario, category)
        for entry in audit_scores(part, elo, **settings).policies:
            true = truth.signed_mismatch if entry.policy == PLANTED else 0.0
            error = (entry.mismatch_high - entry.mismatch_low) / 4
            assert abs(entry.signed_mismatch - true) <= 5.0 * error, entry.policy
        (offset,) = calibrate_pair(part, elo, over_valued=PLANTED, **settings).offsets
        error = (offset.offset_high - offset.offset_low) / 4
        assert abs(offset.offset - truth.offset) <= 5.0 * error


def test_a_category_that_is_not_there_has_no_truth() -> None:
    with pytest.raises(ValueError, match="'ties' has no category 'maths'"):
        true_values(BY_NAME["ties"], "maths")


def test_the_ratings_are_those_that_the_scores_without_the_bias_deserve() -> None:
    elo = plant_elo(BY_NAME["prompt effects"], rng=np.random.default_rng(0))
    for policy, quality in QUALITIES.items():
        rating = elo.ratings([policy])[0, 0]
        expected = float(expected_win_rate(rating, ANCHOR))
        assert expected == pytest.approx(normal_win_rate(quality), abs=3e-5)


def test_published_ratings_err_as_much_as_their_intervals_say() -> None:
    scenario, rng = BY_NAME["uncertain Elo"], np.random.default_rng(0)
    drawn = np.array([plant_elo(scenario, rng=rng).ratings([PLANTED])[0] for _ in range(400)])
    true = plant_elo(replace(scenario, elo_error=0.0), rng=rng).ratings([PLANTED])[0, 0]
    assert drawn[:, 0].std() == pytest.approx(scenario.elo_error, rel=0.15)
    assert np.mean((drawn[:, 1] <= true) & (true <= drawn[:, 2])) == pytest.approx(0.95, abs=0.04)


def test_ratings_that_err_together_differ_by_less_as_their_table_says() -> None:
    scenario, rng = BY_NAME["Elo uncertain together"], np.random.default_rng(0)
    tables = [plant_elo(scenario, rng=rng) for _ in range(400)]
    drawn = np.array([elo.ratings([PLANTED, REFERENCE])[:, 0] for elo in tables])
    assert drawn.std(axis=0) == pytest.approx([scenario.elo_error] * 2, rel=0.1)
    first, second = tables[0].error_factor([PLANTED, REFERENCE])
    assert np.diff(drawn).std() == pytest.approx(np.linalg.norm(first - second), rel=0.1)
    assert np.linalg.norm(first) == pytest.approx(scenario.elo_error)


def test_scores_on_a_grid_tie() -> None:
    scenario = BY_NAME["all at once"]
    steps = sample(scenario)["score"].to_numpy() / (scenario.grid * scenario.scale)
    np.testing.assert_allclose(steps, np.rint(steps), rtol=0.0, atol=1e-9)
    matrix = score_matrix(sample(BY_NAME["ties"]), [PLANTED, REFERENCE])
    assert 0.05 < np.mean(matrix.values[:, 0] == matrix.values[:, 1]) < 0.4


def test_responses_are_missing_where_prompts_are_hard() -> None:
    scenario = BY_NAME["missing responses"]
    matrix = score_matrix(sample(scenario, n_prompts=4000))
    missing = np.isnan(matrix.values).mean(axis=1)
    assert missing.mean() == pytest.approx(scenario.missing, abs=0.02)
    easy = np.nanmean(matrix.values, axis=1) > 0.0
    assert missing[~easy].mean() > 2.0 * missing[easy].mean()


def test_equal_samples_are_equal_and_of_the_same_prompt() -> None:
    scores = sample(BY_NAME["equal samples"])
    spread = scores.group_by("prompt_id", "policy").agg(pl.len(), pl.col("score").n_unique())
    assert spread["len"].unique().to_list() == [3]
    assert spread["score"].unique().to_list() == [1]


def test_the_scale_of_the_scores_is_that_of_the_scenario() -> None:
    plain, huge = sample(BY_NAME["tiny scale"], scale=1.0), sample(BY_NAME["huge scale"])
    np.testing.assert_allclose(huge["score"], 5000.0 * plain["score"].to_numpy())


def test_one_seed_gives_one_result_and_two_scenarios_never_share_samples() -> None:
    tiny, huge = BY_NAME["tiny scale"], BY_NAME["huge scale"]
    first = run_scenario(tiny, repetitions=3, n_resamples=20, seed=4)
    assert first == run_scenario(tiny, repetitions=3, n_resamples=20, seed=4)
    assert first != run_scenario(tiny, repetitions=3, n_resamples=20, seed=5)
    (other,) = run_scenario(huge, repetitions=3, n_resamples=20, seed=4)
    assert other.mean_offset / huge.scale != pytest.approx(first[0].mean_offset / tiny.scale)


def test_a_single_repetition_is_refused() -> None:
    with pytest.raises(ValueError, match="need at least two repetitions, got 1"):
        run_scenario(BY_NAME["ties"], repetitions=1)


# What follows breaks the instrument in one way each: a test that can't fail tests nothing.
REPETITIONS = 60
N_CHECKS = 80  # of the whole command


def faults_of(name: str, *, repetitions: int = REPETITIONS) -> tuple[str, ...]:
    (recovery,) = run_scenario(BY_NAME[name], repetitions=repetitions, n_resamples=200)
    return find_faults(recovery, n_checks=N_CHECKS)


def change_offsets(change: Callable[[Offset], Offset]) -> Callable[..., Calibration]:
    def calibrate(scores: pl.DataFrame, elo: EloTable, **settings: Any) -> Calibration:
        made = calibrate_pair(scores, elo, **settings)
        return replace(made, offsets=(change(made.offsets[0]),))

    return calibrate


@pytest.mark.parametrize("name", ["prompt effects", "ties", "equal samples"])
def test_a_sound_instrument_has_no_faults(name: str) -> None:
    assert faults_of(name) == ()


def test_intervals_of_half_their_width_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    narrow = change_offsets(
        lambda entry: replace(
            entry,
            offset_low=0.5 * (entry.offset_low + entry.offset),
            offset_high=0.5 * (entry.offset_high + entry.offset),
        )
    )
    monkeypatch.setattr(charm_rm.planted, "calibrate_pair", narrow)
    assert faults_of("prompt effects") == ("offset coverage",)


def test_an_offset_that_leans_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    leaning = change_offsets(lambda entry: replace(entry, offset=0.9 * entry.offset))
    monkeypatch.setattr(charm_rm.planted, "calibrate_pair", leaning)
    assert faults_of("prompt effects") == ("offset leans",)


def test_rows_taken_for_prompts_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def forget_samples(scores: pl.DataFrame, elo: EloTable, **settings: Any) -> Audit:
        each = pl.concat_str("prompt_id", pl.lit("/"), "sample")
        apart = scores.with_columns(prompt_id=each, sample=pl.lit(0, dtype=pl.Int64))
        return audit_scores(apart, elo, **settings)

    monkeypatch.setattr(charm_rm.planted, "audit_scores", forget_samples)
    assert "mismatch coverage" in faults_of("equal samples")


def test_pairing_by_position_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def pair_by_position(scores: pl.DataFrame, elo: EloTable, **settings: Any) -> Audit:
        position = pl.int_range(pl.len()).over("policy").cast(pl.String)
        fewest = scores.group_by("policy").len()["len"].min()
        rows = scores.with_columns(prompt_id=position)
        kept = rows.filter(pl.col("prompt_id").cast(pl.Int64) < fewest)
        return audit_scores(kept, elo, **settings)

    monkeypatch.setattr(charm_rm.planted, "audit_scores", pair_by_position)
    assert "mismatch coverage" in faults_of("missing responses")


def test_verdicts_without_a_correction_for_many_policies_are_found_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def call_each_alone(scores: pl.DataFrame, elo: EloTable, **settings: Any) -> Audit:
        audit = audit_scores(scores, elo, **settings)
        alone = [
            replace(entry, verdict="over-valued")
            if entry.mismatch_low > 0.0 or entry.mismatch_high < 0.0
            else replace(entry, verdict="not shown")
            for entry in audit.policies
        ]
        return replace(audit, policies=tuple(alone))

    monkeypatch.setattr(charm_rm.planted, "audit_scores", call_each_alone)
    assert faults_of("nothing planted", repetitions=300) == ("false discoveries",)


def test_many_repetitions_leave_chance_no_room_beyond_what_is_wanted() -> None:
    assert coverage_band(5000, n_checks=N_CHECKS) == (0.93, 0.97)
    low, high = coverage_band(20, n_checks=N_CHECKS)
    assert low < 0.8
    assert high == 1.0
    assert 0.05 < most_false_discoveries(100_000, n_checks=N_CHECKS) < 0.053


def test_a_sound_instrument_seldom_fails() -> None:
    # 2,000 runs of 80 checks, each on 1,000 intervals that cover with 95%: 5% may fail
    low, high = coverage_band(1000, n_checks=N_CHECKS)
    covered = np.random.default_rng(0).binomial(1000, 0.95, size=(2000, N_CHECKS)) / 1000
    assert np.mean(((covered < low) | (covered > high)).any(axis=1)) < 0.06


def test_a_recovery_says_which_prompts_it_is_of() -> None:
    found = run_scenario(BY_NAME["bias by category"], repetitions=2, n_resamples=20)
    assert all(isinstance(recovery, Recovery) for recovery in found)
    assert [recovery.category for recovery in found] == [None, "chat", "math"]
    whole, chat, math = (recovery.n_prompts for recovery in found)
    assert whole == chat + math == 240
