"""Offsets: closed forms, laws, and brute-force twins."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.offsets import (
    solve_hard_offset,
    solve_offset,
    solve_resampled_hard_offsets,
    solve_resampled_offsets,
)
from charm_rm.core.win_rates import Floats, hard_win_rate, sigmoid_win_rate

margins = arrays(np.float64, st.integers(1, 60), elements=st.floats(-30, 30, width=32))
targets = st.floats(0.001, 0.999)


def test_one_prompt_has_a_closed_form() -> None:
    # sigmoid(m + offset) = p  =>  offset = log(p / (1 - p)) - m
    assert solve_offset(np.array([2.0]), 0.25) == pytest.approx(np.log(1 / 3) - 2.0)


@given(margins, targets)
def test_the_win_rate_with_the_offset_meets_the_target(values: Floats, target: float) -> None:
    assert abs(sigmoid_win_rate(values + solve_offset(values, target)) - target) <= 1e-10


@given(margins, targets)
def test_swapping_the_models_negates_the_offset(values: Floats, target: float) -> None:
    swapped = solve_offset(-values, 1 - target)
    assert swapped == pytest.approx(-solve_offset(values, target), abs=1e-6)


@given(margins, targets, st.floats(0.01, 100))
def test_scaling_scores_and_temperature_scales_the_offset(
    values: Floats, target: float, scale: float
) -> None:
    scaled = solve_offset(values * scale, target, temperature=scale)
    assert scaled == pytest.approx(scale * solve_offset(values, target), rel=1e-6, abs=1e-6 * scale)


@given(margins, targets, st.floats(-20, 20))
def test_a_constant_added_to_the_margins_is_taken_off_the_offset(
    values: Floats, target: float, shift: float
) -> None:
    shifted = solve_offset(values + shift, target)
    assert shifted == pytest.approx(solve_offset(values, target) - shift, abs=1e-6)


@given(arrays(np.int64, st.integers(1, 40), elements=st.integers(-5, 5)), targets)
def test_the_hard_offset_reaches_the_nearest_rate_that_any_offset_reaches(
    values: np.ndarray, target: float
) -> None:
    steps = np.unique(-values.astype(np.float64))
    tried = np.concatenate([steps, steps - 0.25, steps + 0.25])
    best = min(abs(hard_win_rate(values + offset) - target) for offset in tried)
    found = hard_win_rate(values + solve_hard_offset(values.astype(np.float64), target))
    assert abs(found - target) <= max(best, 0.5 / len(values)) + 1e-12


@given(arrays(np.float64, st.integers(1, 60), elements=st.floats(-30, 30), unique=True), targets)
def test_without_equal_margins_the_hard_rate_is_within_half_a_step(
    values: Floats, target: float
) -> None:
    separated = np.arange(len(values)) + 0.4 * np.tanh(values)
    offset = solve_hard_offset(separated, target)
    assert abs(hard_win_rate(separated + offset) - target) <= 0.5 / len(values) + 1e-12


def test_equal_margins_stop_the_hard_offset_on_the_tie() -> None:
    values = np.full(10, 3.0)
    assert solve_hard_offset(values, 0.45) == -3.0
    assert hard_win_rate(values - 3.0) == 0.5


@pytest.mark.parametrize("temperature", [1.0, 0.05, 40.0])
def test_resampled_roots_equal_one_root_at_a_time(temperature: float) -> None:
    rng = np.random.default_rng(0)
    values = temperature * rng.standard_t(2, size=37)
    counts = rng.integers(0, 4, size=(25, 37)).astype(np.float64)
    aims = rng.uniform(0.02, 0.98, size=25)
    roots = solve_resampled_offsets(values, counts, targets=aims, temperature=temperature)
    for row, aim, root in zip(counts, aims, roots, strict=True):
        drawn = np.repeat(values, row.astype(int))
        assert root == pytest.approx(
            solve_offset(drawn, aim, temperature=temperature), rel=1e-7, abs=1e-7 * temperature
        )


def test_resampled_roots_survive_two_far_clusters_of_margins() -> None:
    # between the clusters the win rate is flat, where plain Newton steps run away
    values = np.concatenate([np.full(20, -25.0), np.full(20, 25.0)])
    roots = solve_resampled_offsets(values, np.ones((3, 40)), targets=np.array([0.25, 0.5, 0.999]))
    for root, aim in zip(roots, (0.25, 0.5, 0.999), strict=True):
        assert sigmoid_win_rate(values + root) == pytest.approx(aim, abs=1e-9)


@pytest.mark.parametrize("decimals", [0, 1, 8])
def test_resampled_hard_offsets_equal_one_resample_at_a_time(decimals: int) -> None:
    rng = np.random.default_rng(1)
    values = np.round(rng.normal(size=51), decimals)
    counts = rng.integers(0, 4, size=(60, 51)).astype(np.float64)
    aims = rng.uniform(0.05, 0.95, size=60)
    offsets = solve_resampled_hard_offsets(values, counts, targets=aims)
    for row, aim, offset in zip(counts, aims, offsets, strict=True):
        drawn = np.repeat(values, row.astype(int))
        alone = solve_hard_offset(drawn, aim)
        assert hard_win_rate(drawn + offset) == pytest.approx(hard_win_rate(drawn + alone))
        if abs(hard_win_rate(drawn + offset) - aim) <= 0.5 / len(drawn) and row.min(initial=1) > 0:
            assert offset == pytest.approx(alone)


def test_the_step_of_a_resample_does_not_end_at_a_prompt_that_was_not_drawn() -> None:
    values = np.array([0.0, 1.0, 2.0, 3.0])
    counts = np.array([[1.0, 0.0, 0.0, 1.0]])
    assert solve_resampled_hard_offsets(values, counts, targets=np.array([0.5])) == -1.5


def test_scores_in_tenths_tie_whatever_their_rounding() -> None:
    rng = np.random.default_rng(0)
    other = rng.integers(-50, 50, 200) / 10
    margins = (other + 0.3) - other  # 0.3, and numbers next to it
    assert len(np.unique(margins)) > 1
    offset = solve_hard_offset(margins, 0.42)
    assert offset == pytest.approx(-0.3)
    assert hard_win_rate(margins + offset) == 0.5


@pytest.mark.parametrize("target", [0.0, 1.0, np.nan])
def test_a_target_outside_the_open_interval_is_refused(target: float) -> None:
    for solve in (solve_offset, solve_hard_offset):
        with pytest.raises(ValueError, match="target win rate"):
            solve(np.array([1.0, 2.0]), target)
    with pytest.raises(ValueError, match="target win rates"):
        solve_resampled_offsets(np.array([1.0]), np.ones((1, 1)), targets=np.array([target]))


def test_margins_with_nan_are_refused() -> None:
    for solve in (solve_offset, solve_hard_offset):
        with pytest.raises(ValueError, match="need finite margins, got 2 with 1"):
            solve(np.array([1.0, np.nan]), 0.5)


def test_a_temperature_of_zero_is_refused() -> None:
    with pytest.raises(ValueError, match="temperature must be positive"):
        solve_offset(np.array([1.0]), 0.5, temperature=0.0)
