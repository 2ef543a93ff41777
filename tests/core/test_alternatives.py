"""The corrections that an offset is compared with: closed forms, twins, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.alternatives import (
    lowess,
    probit_offset,
    remove_length_trend,
    solve_resampled_probit_offsets,
    standardize_scores,
)
from charm_rm.core.offsets import solve_offset
from charm_rm.core.win_rates import Floats, hard_win_rate, sigmoid_win_rate, win_rate_matrix

margins = arrays(np.float64, st.integers(2, 60), elements=st.floats(-30, 30, width=32))


def test_standard_scores_have_mean_0_and_spread_1_per_policy() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal([0.0, 10.0, -5.0], [1.0, 5.0, 0.01], size=(200, 3))
    scores[rng.random(scores.shape) < 0.2] = np.nan
    found = standardize_scores(scores)
    assert (np.isnan(found) == np.isnan(scores)).all()
    assert np.nanmean(found, axis=0) == pytest.approx(0.0, abs=1e-12)
    assert np.nanstd(found, axis=0) == pytest.approx(1.0)


def test_standard_scores_of_new_prompts_use_the_mean_and_spread_of_the_fitted_ones() -> None:
    scores = np.array([[1.0, 10.0], [3.0, 30.0], [7.0, np.nan]])
    found = standardize_scores(scores, fit=np.array([True, True, False]))
    assert found == pytest.approx(np.array([[-1, -1], [1, 1], [5, np.nan]]), nan_ok=True)


def test_standard_scores_forget_which_policy_is_better() -> None:
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(400, 3)) + np.array([0.0, 2.0, 8.0])
    assert win_rate_matrix(standardize_scores(scores)) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("column", [[2.0, 2.0], [np.nan, np.nan]])
def test_scores_without_spread_have_no_standard_scores(column: list[float]) -> None:
    scores = np.array([[1.0, 2.0], column]).T
    with pytest.raises(ValueError, match="policy 1 have no spread"):
        standardize_scores(scores)


def plain_lowess(x: Floats, y: Floats, span: float, n_reweightings: int) -> Floats:
    """Cleveland's algorithm as his paper states it: one weighted line per point."""
    n_near = int(span * len(x) + 1e-10)
    trust, curve = np.ones(len(x)), np.zeros(len(x))
    for _ in range(n_reweightings + 1):
        for point, at in enumerate(x):
            distance = np.abs(x - at)
            width = np.sort(distance)[n_near - 1]
            weights = trust * np.where(distance < width, (1 - (distance / width) ** 3) ** 3, 0.0)
            curve[point] = np.polyval(np.polyfit(x - at, y, 1, w=np.sqrt(weights)), 0.0)
        scaled = np.abs(y - curve) / (6.0 * np.median(np.abs(y - curve)))
        trust = np.where(scaled < 1.0, (1 - scaled**2) ** 2, 0.0)
    return curve


def curved_data(n: int, seed: int = 0) -> tuple[Floats, Floats]:
    """Skewed lengths, and scores that rise with their logarithm, with outliers."""
    rng = np.random.default_rng(seed)
    x = np.exp(rng.normal(6.5, 0.7, size=n)).round()
    return x, 2.0 * np.log(x) + 1.5 * rng.standard_t(2, size=n)


@pytest.mark.parametrize(("span", "n_reweightings"), [(0.3, 0), (0.3, 3), (2 / 3, 3), (1.0, 1)])
def test_lowess_equals_one_weighted_line_per_point(span: float, n_reweightings: int) -> None:
    x, y = curved_data(150)
    found = lowess(x, y, span=span, n_reweightings=n_reweightings)
    assert found == pytest.approx(plain_lowess(x, y, span, n_reweightings), abs=1e-8)


def test_lowess_equals_statsmodels_on_a_kept_case() -> None:
    # statsmodels 0.15.0: lowess(y, x, frac=0.75, it=3), return_sorted=False
    x = np.arange(12.0) ** 2
    noise = np.array([0.0, 0.3, -0.2, 0.5, -0.4, 0.1, 9.0, -0.3, 0.2, -0.1, 0.4, -0.5])
    kept = [
        1.2076088578,
        1.3551811082,
        1.7921519538,
        2.5010991691,
        3.4505272868,
        4.5730452045,
        5.6899565310,
        6.7572606305,
        7.8663415625,
        8.8660583808,
        9.8606407350,
        10.9332016532,
    ]
    assert lowess(x, np.sqrt(x) + noise, span=0.75) == pytest.approx(np.array(kept), abs=1e-9)


def test_straight_pieces_between_anchors_stay_near_the_full_curve() -> None:
    x, y = curved_data(1500)
    full = plain_lowess(x, y, 0.3, 0)
    assert np.max(np.abs(lowess(x, y, span=0.3, n_reweightings=0) - full)) < 0.02 * np.std(full)


@given(st.integers(2, 60), st.floats(-5, 5), st.floats(-100, 100), st.floats(0.2, 1.0))
def test_a_straight_line_is_its_own_curve(n: int, slope: float, level: float, span: float) -> None:
    x = np.sort(np.random.default_rng(n).normal(size=n)).cumsum()
    if span * n >= 4:
        assert lowess(x, slope * x + level, span=span) == pytest.approx(slope * x + level, abs=1e-6)


def test_the_curve_of_some_points_is_given_at_others_and_level_beyond_them() -> None:
    x, y = curved_data(150)
    order = np.argsort(x)
    wanted = np.array([x.min() - 50.0, x[order[70]], x.max() + 50.0])
    found = lowess(x, y, span=0.5, at=wanted)
    assert found == pytest.approx(lowess(x, y, span=0.5)[order[[0, 70, -1]]])


def test_a_length_trend_is_that_of_the_fitted_rows_alone() -> None:
    lengths, scores = curved_data(300)
    table, sizes = scores.reshape(100, 3), lengths.reshape(100, 3)
    fit = np.arange(100) < 60
    found = remove_length_trend(table, sizes, fit=fit)
    assert found[fit] == pytest.approx(remove_length_trend(table[fit], sizes[fit]))
    spoilt = np.where(fit[:, None], table, table + 99.0)
    assert remove_length_trend(spoilt, sizes, fit=fit)[fit] == pytest.approx(found[fit])
    assert remove_length_trend(spoilt, sizes, fit=fit)[~fit] == pytest.approx(found[~fit] + 99.0)


def test_an_outlier_does_not_bend_the_robust_curve() -> None:
    x = np.linspace(0.0, 10.0, 50)
    y = x + 0.1 * np.sin(37.0 * x)
    spoilt = y.copy()
    spoilt[25] += 100.0
    assert np.max(np.abs(lowess(x, spoilt, span=0.4) - lowess(x, y, span=0.4))) < 0.05
    plain = lowess(x, spoilt, span=0.4, n_reweightings=0)
    assert np.max(np.abs(plain - lowess(x, y, span=0.4))) > 2.0


def test_equal_lengths_give_their_mean() -> None:
    found = lowess(np.full(5, 3.0), np.array([1.0, 2.0, 3.0, 4.0, 10.0]), n_reweightings=0)
    assert found == pytest.approx(4.0)
    assert lowess(np.array([1.0]), np.array([7.0])) == pytest.approx(7.0)


def test_a_length_trend_is_taken_off_and_the_rest_kept() -> None:
    rng = np.random.default_rng(0)
    lengths = np.exp(rng.normal(6.5, 0.5, size=(300, 4)))
    quality = rng.normal(size=(300, 4))
    found = remove_length_trend(quality + 3.0 * np.log(lengths), lengths)
    assert abs(np.corrcoef(found.ravel(), lengths.ravel())[0, 1]) < 0.05
    assert np.corrcoef(found.ravel(), quality.ravel())[0, 1] > 0.98


def test_adding_a_constant_to_all_scores_changes_no_calibrated_score() -> None:
    lengths, scores = curved_data(200)
    found = remove_length_trend(scores + 50.0, lengths)
    assert found == pytest.approx(remove_length_trend(scores, lengths), abs=1e-9)


def test_a_missing_score_or_length_stays_missing() -> None:
    lengths, scores = curved_data(40)
    scores[3], lengths[5] = np.nan, np.nan
    found = remove_length_trend(scores, lengths)
    assert np.flatnonzero(np.isnan(found)).tolist() == [3, 5]


@pytest.mark.parametrize(
    ("x", "y", "span", "message"),
    [
        ([1.0, 2.0], [1.0], 0.5, "equal length"),
        ([], [], 0.5, "equal length"),
        ([1.0, np.nan], [1.0, 2.0], 0.5, "finite"),
        ([1.0, 2.0], [1.0, 2.0], 0.0, "span must lie"),
        ([1.0, 2.0], [1.0, 2.0], 1.1, "span must lie"),
    ],
)
def test_what_cannot_be_smoothed_is_refused(
    x: list[float], y: list[float], span: float, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        lowess(np.array(x), np.array(y), span=span)


def test_lengths_of_another_shape_are_refused() -> None:
    with pytest.raises(ValueError, match="one length per score"):
        remove_length_trend(np.zeros((2, 2)), np.zeros(4))


@pytest.mark.parametrize("spread", [0.01, 1.0, 10.0])
@pytest.mark.parametrize("target", [0.1, 0.42, 0.9])
def test_for_normal_margins_the_probit_shift_is_nearly_the_root(
    spread: float, target: float
) -> None:
    values = np.random.default_rng(0).normal(2.0, spread, size=20_000)
    rate = sigmoid_win_rate(values + probit_offset(values, target))
    assert rate == pytest.approx(target, abs=0.0095 + 0.005)
    hard = hard_win_rate(values + probit_offset(values, target, kind="hard"))
    assert hard == pytest.approx(target, abs=0.01)


def test_for_skewed_margins_the_probit_shift_misses() -> None:
    values = np.random.default_rng(0).exponential(10.0, size=5000)
    missed = sigmoid_win_rate(values + probit_offset(values, 0.42)) - 0.42
    assert abs(missed) > 0.02
    assert sigmoid_win_rate(values + solve_offset(values, 0.42)) == pytest.approx(0.42)


@given(margins, st.floats(0.01, 0.99), st.floats(0.01, 100))
def test_swapping_and_scaling_act_on_the_probit_shift_as_on_the_root(
    values: Floats, target: float, scale: float
) -> None:
    shift = probit_offset(values, target)
    assert probit_offset(-values, 1 - target) == pytest.approx(-shift, abs=1e-9)
    scaled = probit_offset(scale * values, target, temperature=scale)
    assert scaled == pytest.approx(scale * shift, rel=1e-9, abs=1e-9 * scale)


def test_resampled_probit_shifts_equal_one_resample_at_a_time() -> None:
    rng = np.random.default_rng(0)
    values = 1e4 + rng.normal(size=37)
    counts = rng.integers(0, 4, size=(20, 37)).astype(np.float64)
    aims = rng.uniform(0.1, 0.9, size=20)
    for kind in ("sigmoid", "hard"):
        found = solve_resampled_probit_offsets(values, counts, targets=aims, kind=kind)
        for row, aim, offset in zip(counts, aims, found, strict=True):
            drawn = np.repeat(values, row.astype(int))
            assert offset == pytest.approx(probit_offset(drawn, aim, kind=kind), abs=1e-9)


def test_bad_probit_settings_are_refused() -> None:
    values = np.array([1.0, 2.0])
    with pytest.raises(ValueError, match="target win rate"):
        probit_offset(values, 1.0)
    with pytest.raises(ValueError, match="temperature must be positive"):
        probit_offset(values, 0.5, temperature=0.0)
    with pytest.raises(ValueError, match="'sigmoid' or 'hard'"):
        probit_offset(values, 0.5, kind="median")  # type: ignore[arg-type]
