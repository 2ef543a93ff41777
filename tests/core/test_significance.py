"""What standard errors say: tables, the scipy twin, and simulated samples."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import binomtest, false_discovery_control, norm
from scipy.stats import t as student

from charm_rm.core.significance import (
    benjamini_hochberg,
    student_interval,
    two_sided_p_value,
    unanimous_interval,
    widen_unanimous,
    win_rate_p_value,
)
from charm_rm.core.win_rates import Floats

p_values = arrays(np.float64, st.integers(1, 30), elements=st.floats(0, 1))


def test_a_95_percent_interval_reaches_1_96_errors_to_each_side() -> None:
    low, high = student_interval([1.0, 2.0], standard_error=[1.0, 0.0])
    assert low == pytest.approx([1 - 1.959964, 2.0])
    assert high == pytest.approx([1 + 1.959964, 2.0])


def test_an_interval_leaves_0_out_where_the_p_value_is_below_1_minus_its_level() -> None:
    estimates = np.linspace(-3, 3, 61)
    for level in (0.8, 0.95):
        low, high = student_interval(estimates, standard_error=1.0, level=level)
        significant = two_sided_p_value(estimates, standard_error=1.0) < 1 - level
        assert (((low > 0) | (high < 0)) == significant).all()


def test_p_values_are_those_of_the_normal() -> None:
    found = two_sided_p_value([-1.0, 2.0, 40.0], standard_error=1.0)
    assert found == pytest.approx(2 * norm.sf([1.0, 2.0, 40.0]))


def test_an_exact_estimate_is_certain_and_an_exact_zero_untested() -> None:
    found = two_sided_p_value([0.1, 0.0], standard_error=0.0)
    assert found[0] == 0.0
    assert np.isnan(found[1])


def test_of_decided_outcomes_it_is_the_score_test() -> None:
    wins, n, expected = np.arange(31), 30, 0.7
    rate = wins / n
    found = win_rate_p_value(
        rate, expected, win_rate_error=np.sqrt(rate * (1 - rate) / n), n_prompts=n
    )
    score = (rate - expected) / np.sqrt(expected * (1 - expected) / n)
    assert found == pytest.approx(2 * student.sf(np.abs(score), n - 1))


@pytest.mark.parametrize("expected", [0.04, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("n", [30, 120])
def test_a_rate_near_an_end_is_seldom_called_wrong_where_it_is_right(
    expected: float, n: int
) -> None:
    rng = np.random.default_rng(0)
    hard = (rng.random((20_000, n)) < expected).astype(np.float64)
    rates, errors = hard.mean(axis=1), hard.std(axis=1, ddof=1) / np.sqrt(n)
    found = win_rate_p_value(rates, expected, win_rate_error=errors, n_prompts=n)
    assert np.mean(found <= 0.05) <= 0.06
    plain = two_sided_p_value(rates - expected, standard_error=errors, n_prompts=n)
    if expected == 0.04 and n == 30:
        assert np.mean(np.nan_to_num(plain) <= 0.05) > 0.25


def test_an_error_of_the_expected_rate_makes_a_mismatch_less_sure() -> None:
    settings = {"win_rate_error": 0.05, "n_prompts": 100}
    exact = win_rate_p_value(0.6, 0.45, **settings)
    alike = win_rate_p_value(0.6, 0.45, expected_error=0.05, **settings)
    assert exact < alike < 4 * two_sided_p_value(0.15, standard_error=np.hypot(0.05, 0.05))


@pytest.mark.parametrize("rate", [0.0, 1e-30, 0.5, 1.0])
def test_outcomes_that_are_all_equal_count_as_a_coins(rate: float) -> None:
    """However sure they look: ties alone, or the sigmoid of margins of -70."""
    coin = np.sqrt(0.2 * 0.8 / 30)
    exact = two_sided_p_value(rate - 0.2, standard_error=coin, n_prompts=30)
    found = win_rate_p_value(rate, 0.2, win_rate_error=1e-17 * rate, n_prompts=30)
    assert found == pytest.approx(float(exact))
    assert win_rate_p_value(0.5, 0.5, win_rate_error=0.0, n_prompts=30) == 1.0


@given(p_values)
def test_adjusted_p_values_equal_scipys(values: Floats) -> None:
    assert benjamini_hochberg(values) == pytest.approx(false_discovery_control(values))


@given(p_values)
def test_what_was_not_tested_does_not_count(values: Floats) -> None:
    with_gaps = np.insert(values, [0, len(values)], np.nan)
    found = benjamini_hochberg(with_gaps)
    assert np.isnan(found[[0, -1]]).all()
    assert found[1:-1] == pytest.approx(benjamini_hochberg(values))


def test_a_single_test_is_not_adjusted() -> None:
    assert benjamini_hochberg([0.03]) == 0.03


def test_nothing_planted_gives_few_discoveries() -> None:
    rng = np.random.default_rng(0)
    null = two_sided_p_value(rng.normal(size=(2000, 20)), standard_error=1.0)
    found = [np.any(benjamini_hochberg(row) <= 0.05) for row in null]
    assert 0.035 < np.mean(found) < 0.065


def test_bad_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="level must lie"):
        student_interval(0.0, standard_error=1.0, level=95)
    with pytest.raises(ValueError, match="negative"):
        two_sided_p_value(0.0, standard_error=-1.0)
    with pytest.raises(ValueError, match="standard error is negative"):
        win_rate_p_value(0.5, 0.5, win_rate_error=-1.0, n_prompts=30)
    with pytest.raises(ValueError, match="strictly between 0 and 1"):
        win_rate_p_value(0.5, 1.0, win_rate_error=0.1, n_prompts=30)
    with pytest.raises(ValueError, match="between 0 and 1"):
        benjamini_hochberg([0.5, 1.5])


def test_the_interval_of_wins_alone_is_the_exact_binomial_one() -> None:
    for n in (1, 30, 805):
        low, high = unanimous_interval([1.0, 0.0], n_prompts=n)
        exact = binomtest(n, n).proportion_ci(method="exact")
        assert low[0] == pytest.approx(exact.low)
        assert high[1] == pytest.approx(1.0 - exact.low)
        assert (high[0], low[1]) == (1.0, 0.0)


def test_the_interval_of_ties_alone_has_room_on_both_sides() -> None:
    low, high = unanimous_interval(0.5, n_prompts=40)
    assert 0.5 - low == pytest.approx(high - 0.5)
    assert float(low) == pytest.approx(0.5 * 0.025 ** (1 / 40))


def test_outcomes_that_differ_keep_their_interval_and_equal_ones_only_widen_it() -> None:
    outcomes = np.array([0.0, np.nan, *[0.0] * 29])
    one = widen_unanimous((-0.3, 0.4), outcomes, expected=0.2, n_prompts=30)
    most = binomtest(0, 30).proportion_ci(method="exact").high
    assert one == pytest.approx((-0.3, 0.4))
    narrow = widen_unanimous((-0.25, -0.25), outcomes, expected=0.2, n_prompts=30)
    assert narrow == pytest.approx((-0.25, (most - 0.2) / 0.8))
    outcomes[0] = 1.0
    assert widen_unanimous((-0.25, -0.25), outcomes, expected=0.2, n_prompts=30) == (-0.25, -0.25)
