"""Standard errors: by hand, against finite differences, and against the paired bootstrap."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from charm_rm.core.elo import draw_elo, expected_win_rate
from charm_rm.core.intervals import resample_counts, resampled_means
from charm_rm.core.joint import solve_joint_offsets
from charm_rm.core.mismatch import signed_mismatch
from charm_rm.core.offsets import (
    solve_hard_offset,
    solve_offset,
    solve_resampled_hard_offsets,
    solve_resampled_offsets,
)
from charm_rm.core.uncertainty import (
    expected_win_rate_standard_error,
    joint_offset_standard_errors,
    mean_covariance,
    mismatch_standard_error,
    offset_standard_error,
    win_rate_standard_error,
)
from charm_rm.core.win_rates import Floats, WinRateKind, hard_win_rate, sigmoid_win_rate, wins

N_PROMPTS = 805
ELO, ELO_ERRORS = np.array([1216.0, 1273.0]), np.array([4.0, 3.0])
TARGET = float(expected_win_rate(*ELO))

margins = arrays(np.float64, st.integers(2, 60), elements=st.floats(-30, 30, width=32))


def realistic_margins(seed: int = 0, n_prompts: int = N_PROMPTS) -> Floats:
    """As of a reward model that over-values a policy: skewed, heavy tails, some exact ties."""
    rng = np.random.default_rng(seed)
    values = 1.5 + 2.5 * rng.standard_t(3, size=n_prompts) + rng.exponential(1.0, size=n_prompts)
    return np.where(rng.random(n_prompts) < 0.02, 0.0, values)


def target_error() -> float:
    error = expected_win_rate_standard_error(
        *ELO, elo_error=ELO_ERRORS[0], opponent_error=ELO_ERRORS[1]
    )
    return float(error)


def bootstrap(values: Floats, n_resamples: int = 2000) -> tuple[Floats, Floats]:
    """Counts of resampled prompts, and targets drawn from the ratings' errors."""
    rng = np.random.default_rng(1)
    counts = np.concatenate(list(resample_counts(len(values), n_resamples=n_resamples, rng=rng)))
    elo = draw_elo(ELO, ELO_ERRORS, n_draws=n_resamples, rng=rng)
    return counts, expected_win_rate(elo[:, 0], elo[:, 1])


def test_the_variance_of_two_values_by_hand() -> None:
    # mean 2, residuals -1 and 1, sample variance 2, over two prompts
    assert mean_covariance(np.array([[1.0], [3.0]])) == pytest.approx(1.0)


@pytest.mark.parametrize("n_columns", [1, 3])
def test_without_gaps_it_is_the_sample_covariance_over_n(n_columns: int) -> None:
    values = np.random.default_rng(0).normal(size=(20, n_columns))
    expected = np.cov(values, rowvar=False) / 20
    assert mean_covariance(values) == pytest.approx(np.atleast_2d(expected))


def test_samples_of_one_prompt_are_one_observation() -> None:
    values = np.random.default_rng(0).normal(size=(30, 2))
    doubled, prompts = np.repeat(values, 2, axis=0), np.repeat(np.arange(30), 2)
    clustered = mean_covariance(doubled, prompts=prompts)
    assert clustered == pytest.approx(mean_covariance(values))
    assert (np.diag(clustered) > 1.5 * np.diag(mean_covariance(doubled))).all()


def test_columns_with_gaps_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(0)
    values = rng.normal(size=(200, 1)) + rng.normal(size=(200, 2))
    values[:80, 0] = np.nan
    counts = np.concatenate(list(resample_counts(200, n_resamples=4000, rng=rng)))
    found = mean_covariance(values)
    assert found == pytest.approx(np.cov(resampled_means(values, counts), rowvar=False), rel=0.1)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_win_rate_agrees_with_the_bootstrap(kind: WinRateKind) -> None:
    values = realistic_margins()
    counts, _ = bootstrap(values)
    resampled = resampled_means(wins(values, kind=kind)[:, None], counts)
    found = win_rate_standard_error(values, kind=kind)
    assert found == pytest.approx(resampled.std(), rel=0.1)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_mismatch_agrees_with_the_bootstrap(kind: WinRateKind) -> None:
    values = realistic_margins()
    counts, targets = bootstrap(values)
    outcomes = wins(values, kind=kind)
    resampled = signed_mismatch(resampled_means(outcomes[:, None], counts)[:, 0], targets)
    found = mismatch_standard_error(
        outcomes.mean(),
        TARGET,
        win_rate_error=win_rate_standard_error(values, kind=kind),
        expected_error=target_error(),
    )
    assert float(found) == pytest.approx(resampled.std(), rel=0.1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 5.0])
def test_offset_agrees_with_the_bootstrap(temperature: float) -> None:
    values = realistic_margins()
    counts, targets = bootstrap(values, n_resamples=1000)
    resampled = solve_resampled_offsets(values, counts, targets=targets, temperature=temperature)
    found = offset_standard_error(
        values, TARGET, temperature=temperature, target_error=target_error()
    )
    assert found == pytest.approx(resampled.std(), rel=0.1)


def test_hard_offset_agrees_with_the_bootstrap() -> None:
    values = realistic_margins(seed=1)
    counts, targets = bootstrap(values)
    resampled = solve_resampled_hard_offsets(values, counts, targets=targets)
    found = offset_standard_error(values, TARGET, kind="hard", target_error=target_error())
    assert found == pytest.approx(resampled.std(), rel=0.1)


def test_joint_offsets_agree_with_the_bootstrap() -> None:
    rng = np.random.default_rng(2)
    elo, elo_errors = np.array([1050.0, 1100.0, 1200.0, 1150.0]), np.array([5.0, 20.0, 10.0, 5.0])
    scores = 2.0 * rng.normal(size=(200, 1)) + 2.0 * rng.standard_t(4, size=(200, 4))
    scores[rng.random(scores.shape) < 0.1] = np.nan
    drawn = draw_elo(elo, elo_errors, n_draws=400, rng=rng)
    resampled = [
        solve_joint_offsets(scores[rng.integers(0, 200, 200)], ratings, reference=2).offsets
        for ratings in drawn
    ]
    found = joint_offset_standard_errors(
        scores,
        elo,
        offsets=solve_joint_offsets(scores, elo, reference=2).offsets,
        reference=2,
        elo_covariance=np.diag(elo_errors**2),
    )
    assert found[2] == pytest.approx(0.0, abs=1e-6)
    others = [0, 1, 3]
    assert found[others] == pytest.approx(np.std(resampled, axis=0)[others], rel=0.12)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_joint_offset_of_two_policies_errs_as_that_of_their_pair(temperature: float) -> None:
    values = realistic_margins(n_prompts=100)
    scores = np.stack([values, np.zeros(100)], axis=1)
    prompts = np.arange(100) // 2
    found = joint_offset_standard_errors(
        scores,
        ELO,
        offsets=[solve_offset(values, TARGET, temperature=temperature), 0.0],
        reference=1,
        temperature=temperature,
        elo_covariance=np.diag(ELO_ERRORS**2),
        prompts=prompts,
    )
    pair = offset_standard_error(
        values, TARGET, temperature=temperature, target_error=target_error(), prompts=prompts
    )
    assert found[0] == pytest.approx(pair, rel=1e-6)


@pytest.mark.parametrize("far", [[-3000.0], [-4000.0], [-3000.0, -2980.0], [-3200.0, -3180.0]])
def test_joint_offsets_of_ratings_far_apart_agree_with_the_jackknife(far: list[float]) -> None:
    elo = np.array([0.0, 10.0, *far])
    rng = np.random.default_rng(5)
    scores = rng.normal(size=(60, 1)) + 0.5 * rng.normal(size=(60, elo.size))
    found = solve_joint_offsets(scores, elo, reference=0).offsets
    errors = joint_offset_standard_errors(scores, elo, offsets=found, reference=0)
    without = [
        solve_joint_offsets(np.delete(scores, row, axis=0), elo, reference=0).offsets
        for row in range(60)
    ]
    np.testing.assert_allclose(errors, np.sqrt(59.0) * np.std(without, axis=0), rtol=0.05)


def test_win_rates_that_do_not_move_are_refused() -> None:
    scores = np.array([[0.0, 1e4], [0.0, -1e4], [0.0, 1e4]])
    with pytest.raises(ValueError, match="hardly move"):
        joint_offset_standard_errors(scores, [1000.0, 1000.0], offsets=[0.0, 0.0], reference=0)


def test_the_error_of_an_expected_win_rate_is_slope_times_error() -> None:
    step = 1e-3
    slope = float(expected_win_rate(1216 + step, 1273) - expected_win_rate(1216, 1273)) / step
    found = expected_win_rate_standard_error(1216, 1273, elo_error=3.0, opponent_error=4.0)
    assert float(found) == pytest.approx(5.0 * slope, rel=1e-4)


def test_ratings_that_err_together_leave_the_win_rate_exact() -> None:
    found = expected_win_rate_standard_error(
        [1200.0], [1000.0], elo_error=5.0, opponent_error=5.0, covariance=25.0
    )
    assert found == pytest.approx(0.0)


@given(st.floats(0.05, 0.95), st.floats(0.05, 0.95))
def test_mismatch_error_is_the_slope_by_finite_differences(rate: float, expected: float) -> None:
    step = 1e-7
    if abs(expected - 0.5) < 2 * step:
        return  # the kink has two slopes
    by_rate = float(signed_mismatch(rate + step, expected) - signed_mismatch(rate, expected))
    by_target = float(signed_mismatch(rate, expected + step) - signed_mismatch(rate, expected))
    found = mismatch_standard_error(
        rate, expected, win_rate_error=[1.0, 0.0], expected_error=[0, 1]
    )
    assert found == pytest.approx([by_rate / step, abs(by_target) / step], rel=1e-4)


def test_at_the_kink_the_larger_slope_holds() -> None:
    found = mismatch_standard_error([0.9, 0.1], 0.5, win_rate_error=0.0, expected_error=1.0)
    assert found == pytest.approx([3.6, 3.6])


@given(margins, st.floats(0.05, 0.95))
def test_swapping_the_models_keeps_the_error_of_the_offset(values: Floats, target: float) -> None:
    swapped = offset_standard_error(-values, 1 - target)
    assert swapped == pytest.approx(offset_standard_error(values, target), rel=1e-4, abs=1e-7)


@given(margins, st.floats(0.1, 0.9), st.floats(0.01, 100))
def test_scaling_scores_and_temperature_scales_the_error(
    values: Floats, target: float, scale: float
) -> None:
    scaled = offset_standard_error(values * scale, target, temperature=scale)
    assert scaled == pytest.approx(scale * offset_standard_error(values, target), rel=1e-5)


@given(margins, st.floats(0.1, 0.9), st.floats(-20, 20))
def test_a_shift_and_the_order_of_prompts_change_no_error(
    values: Floats, target: float, shift: float
) -> None:
    moved = np.sort(values) + shift
    found = offset_standard_error(moved, target)
    assert found == pytest.approx(offset_standard_error(values, target), rel=1e-5)


@pytest.mark.parametrize("kind", ["sigmoid", "hard"])
def test_more_prompts_narrow_the_interval(kind: WinRateKind) -> None:
    # nested samples; one more prompt may widen an interval, a fourfold sample does not
    values = realistic_margins(seed=3, n_prompts=6400)
    errors = [offset_standard_error(values[:n], TARGET, kind=kind) for n in (100, 400, 1600, 6400)]
    assert (np.diff(errors) < 0).all()
    assert errors[-1] == pytest.approx(errors[0] / 8, rel=0.35)


def test_the_error_belongs_to_the_offset_that_is_solved() -> None:
    values = realistic_margins(n_prompts=400)
    soft = offset_standard_error(values, TARGET)
    moved = sigmoid_win_rate(values + solve_offset(values, TARGET) + soft)
    own = win_rate_standard_error(values + solve_offset(values, TARGET))
    assert moved - TARGET == pytest.approx(own, rel=0.02)
    hard = offset_standard_error(values, TARGET, kind="hard")
    moved = hard_win_rate(values + solve_hard_offset(values, TARGET) + hard)
    assert moved - TARGET == pytest.approx(np.sqrt(TARGET * (1 - TARGET) / 400), rel=0.3)


def test_what_has_no_error_is_refused() -> None:
    with pytest.raises(ValueError, match="at least two prompts, got 1"):
        win_rate_standard_error(np.array([1.0]))
    with pytest.raises(ValueError, match="at least two prompts, got 1"):
        win_rate_standard_error(np.array([1.0, 2.0]), prompts=np.array([7, 7]))
    with pytest.raises(ValueError, match="column 1 holds no value"):
        mean_covariance(np.array([[1.0, np.nan], [2.0, np.nan]]))
    with pytest.raises(ValueError, match=r"2 rows, codes of shape \(3,\)"):
        mean_covariance(np.ones((2, 1)), prompts=np.arange(3))
    with pytest.raises(ValueError, match="exceeds the product"):
        expected_win_rate_standard_error(1, 2, elo_error=1, opponent_error=1, covariance=1.5)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        mismatch_standard_error(0.5, 1.0, win_rate_error=0.1)
