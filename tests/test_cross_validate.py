"""Cross-validation: no prompt is measured by a fit that saw it, and what the methods are worth."""

import numpy as np
import polars as pl
import pytest
from builders import MINI, SIMPO, make_scores

from charm_rm.core.alternatives import remove_length_trend
from charm_rm.core.elo import expected_win_rate
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.offsets import solve_offset
from charm_rm.core.temperature import fit_temperature
from charm_rm.core.win_rates import sigmoid_win_rate
from charm_rm.cross_validate import CrossValidation, HeldOut, cross_validate
from charm_rm.data.arena import read_elo
from charm_rm.data.scores import score_matrix
from charm_rm.data.tables import DataError

ELO = read_elo("table7")


def held_out(scores: pl.DataFrame, **options: object) -> CrossValidation:
    names = {"over_valued": SIMPO, "reference": MINI} | options
    return cross_validate(scores, ELO, **names)  # type: ignore[arg-type]


def row(result: CrossValidation, method: str, kind: str = "sigmoid") -> HeldOut:
    return next(r for r in result.rows if (r.method, r.win_rate) == (method, kind))


def test_one_offset_equals_a_loop_over_the_folds() -> None:
    scores = make_scores(50)
    wide = scores.pivot(on="policy", index="prompt_id", values="score").sort("prompt_id")
    margins = (wide[SIMPO] - wide[MINI]).to_numpy()
    folds = np.random.default_rng(0).permutation(50) % 5
    target = float(expected_win_rate(1216, 1272))
    moved = margins.copy()
    for fold in range(5):
        moved[folds == fold] += solve_offset(margins[folds != fold], target)
    expected = signed_mismatch(sigmoid_win_rate(moved), target)
    assert row(held_out(scores), "one offset").signed_mismatch == pytest.approx(float(expected))


def test_categories_too_small_for_an_offset_are_said_to_have_none() -> None:
    scores = make_scores(90)
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    many = scores.with_columns(category=(number % 3).cast(pl.String))  # 30 each, 24 to fit on
    result = held_out(many)
    assert len(result.warnings) == 1
    assert "no category has 30 prompts to fit on" in result.warnings[0]
    for kind in ("sigmoid", "hard"):
        one, by_category = (row(result, name, kind) for name in ("one offset", "by category"))
        assert by_category.signed_mismatch == one.signed_mismatch
    two = scores.with_columns(category=(number % 2).cast(pl.String))
    assert held_out(two).warnings == held_out(scores).warnings == ()


def test_without_calibration_nothing_is_moved() -> None:
    result = held_out(make_scores(80))
    wide = make_scores(80).pivot(on="policy", index="prompt_id", values="score")
    rate = sigmoid_win_rate((wide[SIMPO] - wide[MINI]).to_numpy())
    expected = signed_mismatch(rate, expected_win_rate(1216, 1272))
    assert row(result, "none").signed_mismatch == pytest.approx(float(expected))


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_calibration_brings_the_held_out_mismatch_near_zero(kind: str) -> None:
    result = held_out(make_scores(300))
    before, one, joint = (row(result, name, kind) for name in ("none", "one offset", "joint"))
    assert before.mismatch_low > 0.3
    assert one.mismatch_low < 0 < one.mismatch_high
    assert joint.matrix_rmse < 0.5 * before.matrix_rmse
    assert one.others_mismatch == before.others_mismatch


def test_offsets_by_category_mend_what_one_offset_cannot() -> None:
    scores = make_scores(600)
    number = pl.col("prompt_id").str.slice(1).cast(pl.Int64)
    favoured = (pl.col("policy") == SIMPO) & (number % 2 == 0)
    scores = scores.with_columns(
        pl.when(favoured).then(pl.col("score") + 2).otherwise("score").alias("score"),
        (number % 2).cast(pl.String).alias("category"),
    )
    result = held_out(scores)
    one, each = row(result, "one offset"), row(result, "by category")
    assert one.category_mismatch is not None
    assert each.category_mismatch is not None
    assert each.category_mismatch < 0.4 * one.category_mismatch
    shrunk = row(result, "by category, shrunk").category_mismatch
    assert shrunk == pytest.approx(each.category_mismatch, abs=0.02)


def test_z_scores_take_the_elo_away_with_the_mismatch() -> None:
    result = held_out(make_scores(300))
    assert abs(row(result, "z-scores").signed_mismatch) > 0.1
    rate = 0.5  # all policies alike
    expected = float(signed_mismatch(rate, expected_win_rate(1216, 1272)))
    assert row(result, "z-scores").signed_mismatch == pytest.approx(expected, abs=0.05)


def test_a_trend_in_length_is_taken_out_where_lengths_are_known() -> None:
    scores = make_scores(200, boost=0.0).with_columns(n_tokens=pl.lit(100, dtype=pl.Int64))
    longer = pl.col("policy") == SIMPO
    scores = scores.with_columns(
        pl.when(longer).then(400).otherwise("n_tokens").cast(pl.Int64).alias("n_tokens"),
        pl.when(longer).then(pl.col("score") + 4).otherwise("score").alias("score"),
    )
    result = held_out(scores)
    before, after = row(result, "none"), row(result, "less length trend")
    assert after.signed_mismatch < before.signed_mismatch - 0.2


def test_a_temperature_is_fitted_to_labels_of_the_other_folds() -> None:
    scores = make_scores(100, boost=1.0)
    wide = scores.pivot(on="policy", index="prompt_id", values="score").sort("prompt_id")
    margins = (wide[SIMPO] - wide[MINI]).to_numpy()
    labels = (np.random.default_rng(1).random(100) < 1 / (1 + np.exp(-margins / 3))).astype(float)
    table = wide.select("prompt_id").with_columns(
        sample=pl.lit(0, dtype=pl.Int64),
        policy_a=pl.lit(SIMPO),
        policy_b=pl.lit(MINI),
        outcome=pl.Series(labels),
    )
    result = held_out(scores, labels=table)
    folds = np.random.default_rng(0).permutation(100) % 5
    scaled = margins.copy()
    for fold in range(5):
        fit = folds != fold
        scaled[~fit] /= fit_temperature(margins[fit], outcomes=labels[fit])
    target = float(expected_win_rate(1216, 1272))
    expected = float(signed_mismatch(sigmoid_win_rate(scaled), target))
    assert row(result, "temperature").signed_mismatch == pytest.approx(expected)
    both = row(result, "temperature, one offset")
    assert abs(both.signed_mismatch) < 0.05 < abs(expected)
    assert {r.method for r in result.rows if r.win_rate == "hard"}.isdisjoint(
        {"temperature", "temperature, one offset"}
    )


def test_a_length_trend_is_fitted_to_the_other_folds() -> None:
    scores = make_scores(60).with_columns(
        n_tokens=pl.col("prompt_id").str.slice(1).cast(pl.Int64) * 7 + 50
    )
    matrix = score_matrix(scores)
    lengths = np.repeat(np.arange(60.0)[:, None] * 7 + 50, 4, axis=1)
    folds = np.random.default_rng(0).permutation(60) % 5
    moved = matrix.values.copy()
    for fold in range(5):
        fit = folds != fold
        moved[~fit] = remove_length_trend(matrix.values, lengths, fit=fit)[~fit]
    margins = moved[:, matrix.policies.index(SIMPO)] - moved[:, matrix.policies.index(MINI)]
    expected = signed_mismatch(sigmoid_win_rate(margins), expected_win_rate(1216, 1272))
    found = row(held_out(scores), "less length trend").signed_mismatch
    assert found == pytest.approx(float(expected))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"n_folds": 1}, "folds must be 2 to 60"),
        ({"over_valued": "SimPO"}, "no policy 'SimPO'; nearest: gemma-2-9b-it-SimPO"),
    ],
)
def test_a_validation_that_cannot_be_made_is_refused(
    options: dict[str, object], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        held_out(make_scores(60), **options)
    with pytest.raises(DataError, match="share 20 prompts"):
        held_out(make_scores(20))


def test_policies_that_some_method_cannot_take_are_named() -> None:
    scores = make_scores(60)
    apart = scores.with_columns(
        pl.when(pl.col("policy") == "vicuna-7b")
        .then(pl.concat_str(pl.lit("other "), "prompt_id"))
        .otherwise("prompt_id")
        .alias("prompt_id")
    )
    with pytest.raises(DataError, match="'vicuna-7b' and 'gpt-4o-mini-2024-07-18' share 0 prompts"):
        held_out(apart)
    flat = pl.when(pl.col("policy") == "vicuna-7b").then(1.0).otherwise("score")
    with pytest.raises(DataError, match="all of 'vicuna-7b' are equal"):
        held_out(scores.with_columns(score=flat))
